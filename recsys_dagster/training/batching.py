"""Batches of sequences of about the same length: no padding to the longest user of the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories

CHUNK_BATCHES = 24
"""Users are shuffled, then sorted by length inside chunks of this many batches: little padding, little order."""


@dataclass(frozen=True)
class SequenceBatch:
    """A batch of histories, padded on the right.

    Attributes:
        users: int64 [batch].
        items: int64 [batch, length]; padding is 0 and is told by `lengths` alone.
        lengths: int64 [batch].
        targets: int64 [batch, length]; the item after each position while training, None while scoring.
    """

    users: torch.Tensor
    items: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor | None = None

    @property
    def mask(self) -> torch.Tensor:
        """bool [batch, length]: True at real positions."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    def to(self, device: str) -> SequenceBatch:
        """The same batch on another device."""
        targets = None if self.targets is None else self.targets.to(device)
        return SequenceBatch(self.users.to(device), self.items.to(device), self.lengths.to(device), targets)


def pad(histories: Histories, users: NDArray[np.int64], max_length: int) -> SequenceBatch:
    """The latest `max_length` items of each user, padded on the right to the longest of them (at least one column)."""
    lengths = np.minimum(histories.lengths[users], max_length)
    width = max(int(lengths.max(initial=0)), 1)
    starts = histories.indptr[users + 1] - lengths
    positions = np.arange(width)
    real = positions < lengths[:, None]
    index = np.where(real, starts[:, None] + positions, 0)
    items = np.where(real, histories.items[index] if len(histories.items) else 0, 0).astype(np.int64)
    return SequenceBatch(
        torch.from_numpy(users.astype(np.int64)), torch.from_numpy(items), torch.from_numpy(lengths.astype(np.int64))
    )


STEPS_AN_EPOCH = 100
"""A small dataset takes smaller batches, so that an epoch has at least about this many steps to learn in."""


class TrainBatches:
    """Every train sequence once an epoch, in batches of about equal numbers of positions.

    A user of n train items gives one sequence: inputs are all but the last, targets all but the first, so every
    position is an example. Users with fewer than two train items give none. Batches hold about as many positions as
    `batch_size` average users do (fewer where an epoch would have less than `STEPS_AN_EPOCH` steps), so a batch of
    short sequences has more users and each step weighs about the same.

    Args:
        histories: the train split.
        batch_size: average number of users in a batch, at most.
        max_length: longest input.
    """

    def __init__(self, histories: Histories, batch_size: int, max_length: int) -> None:
        self.histories, self.max_length = histories, max_length
        self.users = np.flatnonzero(histories.lengths >= 2)
        self.lengths = np.minimum(histories.lengths[self.users] - 1, max_length)
        self.positions = int(self.lengths.sum())
        wanted = int(batch_size * self.lengths.mean()) if len(self.users) else 1
        self.positions_per_batch = max(min(wanted, self.positions // STEPS_AN_EPOCH), 1)

    def __len__(self) -> int:
        """About how many batches an epoch has."""
        return max(round(self.positions / self.positions_per_batch), 1) if self.positions else 0

    def epoch(self, generator: np.random.Generator) -> Iterator[SequenceBatch]:
        """Yield the batches of one epoch, in an order drawn from `generator`."""
        order = generator.permutation(len(self.users))
        chunk_of = np.cumsum(self.lengths[order]) // (self.positions_per_batch * CHUNK_BATCHES)
        order = order[np.lexsort((self.lengths[order], chunk_of))]
        batch_of = (np.cumsum(self.lengths[order]) - 1) // self.positions_per_batch
        batches = np.split(order, np.flatnonzero(np.diff(batch_of)) + 1)
        for index in generator.permutation(len(batches)):
            if len(batches[index]):
                yield self._batch(batches[index])

    def _batch(self, rows: NDArray[np.int64]) -> SequenceBatch:
        whole = pad(self.histories, self.users[rows], self.max_length + 1)
        lengths = whole.lengths - 1
        return SequenceBatch(whole.users, whole.items[:, :-1], lengths, whole.items[:, 1:])
