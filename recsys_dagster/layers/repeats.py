"""How much more or less likely people are to come back to an item of their history."""

from __future__ import annotations

import torch
from torch import nn

from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.loss import ScoreBias

UNIT = 10.0
"""Biases are parameters times this: a number that must travel by whole units would crawl at the vectors' step size."""
NEAR = 8
"""Lags below this have a bias each; beyond, two an octave share one."""
GROUPS = 16


class RepeatBias(nn.Module):
    """A learned number added to the score of every item of the history, by how long ago and how often it was there.

    Item vectors are shared by history and catalogue, so an inner product alone can neither leave out items that people
    never come back to nor put first those that they do. Both are facts of a dataset that a few numbers can hold.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_lag, self.by_count = nn.Parameter(torch.zeros(GROUPS)), nn.Parameter(torch.zeros(1))
        self.register_buffer("offset", torch.zeros(()))  # set after training, for ranking: `choose_repeat_offset`
        self.offset: torch.Tensor

    def prefixes(self, batch: SequenceBatch) -> ScoreBias:
        """The bias of every prefix: one pair for each real position (counted over the batch) and distinct item."""
        mask, items = batch.mask, batch.items
        order, same, upper = _occurrences(batch)
        again = torch.where(same & upper, order, len(order)).amin(2)  # the next position of the same item
        counts = (same & ~upper).sum(2)  # how often the item was there by then
        # an item of a prefix stands at its last occurrence there
        last = ~upper & mask[:, :, None] & (again[:, None, :] > order[None, :, None])  # [batch, prefix, position]
        row, prefix, position = last.nonzero(as_tuple=True)
        ordinal = mask.flatten().cumsum(0).view_as(mask) - 1
        values = self._values(prefix - position, counts[row, position])
        return ScoreBias(ordinal[row, prefix], items[row, position], values)

    def add_to(self, scores: torch.Tensor, batch: SequenceBatch) -> torch.Tensor:
        """Add the bias of whole histories, and `offset`, to scores float [batch, N], in place."""
        mask, items = batch.mask, batch.items
        _, same, upper = _occurrences(batch)
        row, position = (mask & ~(same & upper).any(2)).nonzero(as_tuple=True)
        counts = same.sum(2)[row, position]
        values = self._values(batch.lengths[row] - 1 - position, counts) + self.offset
        scores[row, items[row, position]] += values.to(scores)
        return scores

    def _values(self, lag: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        far = NEAR + (2 * torch.log2(lag.clamp(min=NEAR) / NEAR)).long()
        group = torch.where(lag < NEAR, lag, far).clamp(max=GROUPS - 1)
        values: torch.Tensor = UNIT * (self.by_lag[group] + self.by_count * counts.log())
        return values


def _occurrences(batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Which positions of a history hold one item.

    Returns:
        order int64 [length], 0, 1, 2, ...; same bool [batch, length, length], both positions are real and hold the same
        item; upper bool [length, length], the second position is the later one.
    """
    mask, items = batch.mask, batch.items
    order = torch.arange(items.shape[1], device=items.device)
    same = (items[:, :, None] == items[:, None, :]) & mask[:, :, None] & mask[:, None, :]
    return order, same, order[None, :] > order[:, None]
