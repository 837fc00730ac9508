"""From states to scores of the next item, and the loss that trains them."""

from __future__ import annotations

import torch
from torch import nn

from recsys_dagster.layers.similarity import Similarity
from recsys_dagster.training.batching import Place
from recsys_dagster.training.config import NextItemConfig
from recsys_dagster.training.distributed import share_of_mean
from recsys_dagster.training.loss import ScoreBias, catalogue_cross_entropy
from recsys_dagster.training.sampled import draw_negatives, sampled_cross_entropy


class NextItem(nn.Module):
    """Similarity of states and items, and the cross-entropy of the item that came."""

    def __init__(self, config: NextItemConfig) -> None:
        super().__init__()
        self.similarity = Similarity(config.similarity)
        self.negatives, self.smoothing = config.negatives, config.label_smoothing

    def scores(self, states: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        """Float [batch, N] from states [batch, d] and item vectors [N, d]."""
        return self.similarity.queries(states) @ self.similarity.items(vectors).T

    def loss(
        self,
        states: torch.Tensor,
        vectors: torch.Tensor,
        targets: torch.Tensor,
        bias: ScoreBias | None = None,
        part_of: Place | None = None,
    ) -> torch.Tensor:
        """Cross-entropy over the catalogue, or over a sample of it where it is larger than `negatives`.

        With label smoothing e the wanted distribution is 1 - e on the target and e spread over all items, which adds
        ``e (s_target - mean of all s)``.

        Args:
            states: float [positions, d].
            vectors: float [N, d].
            targets: int64 [positions].
            bias: added to the scores of some pairs.
            part_of: the larger batch that the positions are a part of, if they are: a sample is drawn for all of it.
        """
        queries, items = self.similarity.queries(states), self.similarity.items(vectors)
        if 0 < self.negatives < len(items):
            wanted, draws = targets, None
            if part_of is not None and part_of.whole.targets is not None:
                wanted, draws = part_of.whole.targets[part_of.whole.mask], part_of.draws
            drawn = draw_negatives(len(items), self.negatives, wanted, draws)
            loss = sampled_cross_entropy(queries, items, targets, drawn, bias)
        else:
            loss = catalogue_cross_entropy(queries, items, targets, bias=bias)
        if self.smoothing:
            own, mean = (queries * items[targets]).sum(1).mean(), (queries @ items.mean(0)).mean()
            if bias is not None:
                is_own = bias.items == targets[bias.positions]
                own = own + bias.values[is_own].sum() / len(targets)
                mean = mean + bias.values.sum() / (len(targets) * len(items))
            loss = loss + share_of_mean(self.smoothing * (own - mean), len(targets))
        return loss
