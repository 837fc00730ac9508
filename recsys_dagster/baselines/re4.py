"""Re4: attention as in ComiRec-SA, and three losses that look back from each interest to the items it was made of.

Zhang et al., "Re4: Learning to re-contrast, re-attend, re-construct for multi-interest recommendation", 2022. All three
are means over what they are taken of, where the paper sums.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from recsys_dagster.baselines.comirec import ComiRecSA
from recsys_dagster.baselines.config import Re4Config
from recsys_dagster.layers.interests import Interests
from recsys_dagster.layers.similarity import unit_vectors
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.distributed import share_of_mean
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class Re4(ComiRecSA):
    """z_k = sum_j a_kj W_2 x_j forward; re-contrast, re-attend and re-construct backward (its Section 3)."""

    def __init__(self, config: Re4Config, *, n_items: int, max_length: int) -> None:
        super().__init__(config, n_items=n_items, max_length=max_length)
        d = config.dimension
        self.config = config
        self.value_map = nn.Linear(d, d, bias=False)  # W_2
        nn.init.eye_(self.value_map.weight)  # an interest starts as a weighted sum of item vectors
        self.unfold = nn.Linear(d, max_length * d)  # an interest becomes a row for each place again
        self.rebuild_hidden = nn.Linear(d, d, bias=False)  # W_3
        self.rebuild_heads = nn.Linear(d, max_length, bias=False)  # w of each place
        self.rebuild_values = nn.Linear(d, d, bias=False)  # W_5

    def values(self, vectors: torch.Tensor) -> torch.Tensor:
        """W_2 x."""
        mapped: torch.Tensor = self.value_map(vectors)
        return mapped

    def regularisation(self, found: Interests, batch: SequenceBatch) -> tuple[torch.Tensor | None, dict[str, float]]:
        """The three backward flows, for every prefix."""
        mask = batch.mask
        row, place = mask.nonzero(as_tuple=True)
        z, weights = found.vectors[mask], found.weights[mask]  # [examples, K, d], [examples, K, length]
        seen = torch.arange(mask.shape[1], device=mask.device) <= place[:, None]  # [examples, length]
        x = self.items(batch.items)
        # the items that an interest stands for: those with more than an equal share of its weight
        chosen = (weights > 1 / (place + 1)[:, None, None]) & seen[:, None, :]
        # of the history before it in the batch, which another process may have
        whole, rows = batch.place.whole, batch.place.rows
        items, real = whole.items.roll(1, 0)[rows], whole.mask.roll(1, 0)[rows]
        others = self.items(items)[row], real[row] & (len(whole.users) > 1)
        parts = {
            "contrast_loss": self.config.contrast_weight
            * re_contrast(z, x[row], chosen, seen, *others, self.config.contrast_temperature),
            "attend_loss": self.config.attend_weight
            * re_attend(weights, self.similarity.queries(z) @ self.similarity.items(x[row]).transpose(1, 2), seen),
            "construct_loss": self.config.construct_weight * self.re_construct(z, x[row], chosen, seen),
        }
        return torch.stack(list(parts.values())).sum(), {name: part.item() for name, part in parts.items()}

    def re_construct(self, z: torch.Tensor, x: torch.Tensor, chosen: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Mean squared distance of the items that an interest stands for from what it rebuilds of them.

        Row c_j of the unfolded interest is W_u z; the item at place i is sum_j b_ij W_5 c_j with
        b_ij = softmax_j(w_i' tanh(W_3 c_j)).

        Args:
            z: float [examples, K, d].
            x: float [examples, length, d].
            chosen: bool [examples, K, length].
            seen: bool [examples, length].
        """
        n, k, d = z.shape
        length = x.shape[1]
        weight, bias = self.unfold.weight[: length * d], self.unfold.bias[: length * d]
        rows = functional.linear(z, weight, bias).view(n, k, length, d)
        scores = self.rebuild_heads(torch.tanh(self.rebuild_hidden(rows)))[..., :length].transpose(-1, -2)
        attention = scores.masked_fill(~seen[:, None, None, :], -torch.inf).softmax(-1)  # [examples, K, place, row]
        rebuilt = attention @ self.rebuild_values(rows)
        distance = (rebuilt - x[:, None]).square().sum(-1)
        count = chosen.sum()
        return share_of_mean((distance * chosen).sum() / count.clamp(min=1), count)


def re_contrast(
    z: torch.Tensor,
    x: torch.Tensor,
    chosen: torch.Tensor,
    seen: torch.Tensor,
    others: torch.Tensor,
    others_seen: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """InfoNCE of an interest and the items that it stands for (its Eq. 5 to 7).

    Its negatives are the history's other items, the user's other interests and the items of another user.

    Args:
        z: float [examples, K, d].
        x: float [examples, length, d], items of the history.
        chosen: bool [examples, K, length], the positives.
        seen: bool [examples, length].
        others: float [examples, m, d], items of another history.
        others_seen: bool [examples, m].
        temperature: tau.
    """
    z, x, others = (unit_vectors(part) for part in (z, x, others))
    own = z @ x.transpose(1, 2) / temperature  # [examples, K, length]
    between = (z @ z.transpose(1, 2) / temperature).diagonal_scatter(
        torch.full(z.shape[:2], -torch.inf, device=z.device), dim1=1, dim2=2
    )
    foreign = (z @ others.transpose(1, 2) / temperature).masked_fill(~others_seen[:, None], -torch.inf)
    rest = own.masked_fill(chosen | ~seen[:, None], -torch.inf)
    negatives = torch.cat([rest, between, foreign], dim=-1).logsumexp(-1, keepdim=True)
    n = chosen.sum()
    return share_of_mean((functional.softplus(negatives - own) * chosen).sum() / n.clamp(min=1), n)


def re_attend(weights: torch.Tensor, scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the attention under what the interest itself would give the items (its Eq. 8 and 9).

    Args:
        weights: a, float [examples, K, length].
        scores: of each item by the similarity that ranks the catalogue, float [examples, K, length].
        seen: bool [examples, length].
    """
    wanted = scores.masked_fill(~seen[:, None], -torch.inf).softmax(-1)
    return share_of_mean(-(wanted * weights.clamp(min=1e-9).log()).sum(-1).mean(), len(weights))


@data_parallel
def train_re4(
    data: SequenceData, config: Re4Config, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train Re4, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("re4", Re4, shape, data, config, runtime, output, checkpoint)
