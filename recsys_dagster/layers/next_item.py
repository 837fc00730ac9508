"""From states to scores of the next item, and the loss that trains them."""

from __future__ import annotations

import torch
from torch import nn

from recsys_dagster.layers.similarity import Similarity
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.candidates import Candidates, draw_candidates
from recsys_dagster.training.config import NextItemConfig
from recsys_dagster.training.distributed import share_of_mean
from recsys_dagster.training.loss import ScoreBias, catalogue_cross_entropy


class NextItem(nn.Module):
    """Similarity of states and items, and the cross-entropy of the item that came."""

    def __init__(self, config: NextItemConfig) -> None:
        super().__init__()
        self.similarity = Similarity(config.similarity)
        self.negatives, self.smoothing = config.negatives, config.label_smoothing

    def scores(self, states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Float [batch, N] from states [batch, d] and item vectors [N, d]."""
        return self.similarity.queries(states) @ self.similarity.items(vectors).T

    def candidates(self, batch: SequenceBatch, n_items: int) -> Candidates:
        """The items that the loss of a batch is over: all N, or a sample with `negatives` beside the batch's."""
        return draw_candidates(n_items, self.negatives, batch)

    def loss(
        self,
        states: torch.Tensor,
        vectors: torch.Tensor,
        targets: torch.Tensor,
        bias: ScoreBias | None = None,
        stands_for: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cross-entropy over the catalogue, estimated on candidates where `stands_for` says what they stand for.

        With label smoothing e the wanted distribution is 1 - e on the target and e spread over all items, which adds
        ``e (s_target - mean of all s)``.

        Args:
            states: float [positions, d].
            vectors: of the catalogue or of candidates, float [N, d].
            targets: int64 [positions], rows of `vectors`.
            bias: added to the scores of some pairs, by rows of `vectors`.
            stands_for: see `Candidates`.
        """
        queries, items = self.similarity.queries(states), self.similarity.items(vectors)
        loss = catalogue_cross_entropy(queries, items, targets, bias=bias, stands_for=stands_for)
        if self.smoothing:
            counts = torch.ones_like(items[:, 0]) if stands_for is None else stands_for
            own = (queries * items[targets]).sum(1).mean()
            mean = (queries @ (counts @ items / counts.sum())).mean()
            if bias is not None:
                is_own = bias.items == targets[bias.positions]
                own = own + bias.values[is_own].sum() / len(targets)
                mean = mean + (bias.values * counts[bias.items]).sum() / (len(targets) * counts.sum())
            loss = loss + share_of_mean(self.smoothing * (own - mean), len(targets))
        return loss
