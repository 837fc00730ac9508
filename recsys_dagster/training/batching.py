"""Batches of sequences of about the same length, without padding to the longest user; batches of (user, item) pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories

CHUNK_BATCHES = 24
"""Users are shuffled, then sorted by length inside chunks of this many batches: little padding, little order."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a batch stand in a larger one that several processes share.

    Attributes:
        whole: the larger batch, of the same length.
        rows: of `whole`, those that the batch has.
        draws: random state that the processes have in common; None: torch's own.
    """

    whole: SequenceBatch
    rows: slice
    draws: torch.Generator | None

    def own(self, rows: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Those (row, position) pairs int64 [pairs] of the whole batch that the batch has, with its own row numbers."""
        first, step = self.rows.start or 0, self.rows.step or 1
        own = rows % step == first
        return rows[own] // step, positions[own]


def own_rows(n: int, index: int, of: int) -> slice:
    """Every `of`-th of n rows from the `index`-th on; all of them where there are too few for everyone."""
    return slice(index, None, of) if n >= of else slice(None)


@dataclass(frozen=True)
class SequenceBatch:
    """A batch of histories, padded on the right.

    Attributes:
        users: int64 [batch].
        items: int64 [batch, length]; padding is 0 and is told by `lengths` alone.
        lengths: int64 [batch].
        targets: int64 [batch, length]; the item after each position while training, None while scoring.
        part_of: the larger batch that these rows are a part of, if they are.
    """

    users: torch.Tensor
    items: torch.Tensor
    lengths: torch.Tensor
    targets: torch.Tensor | None = None
    part_of: Place | None = None

    @property
    def place(self) -> Place:
        """Where the rows stand in the batch that the step is about; that is this one, where no others share it."""
        return self.part_of or Place(self, slice(None), None)

    def part(self, index: int, of: int, draws: torch.Generator) -> SequenceBatch:
        """The rows of the `index`-th of several processes (see `own_rows`); long and short histories alike."""
        rows = own_rows(len(self.users), index, of)
        targets = None if self.targets is None else self.targets[rows]
        place = Place(self, rows, draws)
        return SequenceBatch(self.users[rows], self.items[rows], self.lengths[rows], targets, place)

    @property
    def mask(self) -> torch.Tensor:
        """bool [batch, length]: True at real positions."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    def last(self, states: torch.Tensor) -> torch.Tensor:
        """What stands at the last item of each history: [batch, ...] of [batch, length, ...].

        An empty history has no such place and gives what stands at its first padding.
        """
        place = (self.lengths - 1).clamp(min=0)
        return states[torch.arange(len(place), device=place.device), place]

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


@dataclass(frozen=True)
class PairBatch:
    """A batch of train interactions without their order, each beside an item that its user does not have.

    Attributes:
        users: int64 [batch].
        items: int64 [batch]; an item that the user has in the train split.
        negatives: int64 [batch]; one that the user does not have there.
    """

    users: torch.Tensor
    items: torch.Tensor
    negatives: torch.Tensor

    def part(self, index: int, of: int, draws: torch.Generator) -> PairBatch:
        """The pairs of the `index`-th of several processes (see `own_rows`); nothing is drawn."""
        rows = own_rows(len(self.users), index, of)
        return PairBatch(self.users[rows], self.items[rows], self.negatives[rows])

    def to(self, device: str) -> PairBatch:
        """The same batch on another device."""
        return PairBatch(self.users.to(device), self.items.to(device), self.negatives.to(device))


class Batches(Protocol):
    """What the training loop draws its steps from.

    Attributes:
        positions: examples in one epoch.
    """

    positions: int

    def __len__(self) -> int:
        """About how many batches an epoch has."""
        ...

    def epoch(self, generator: np.random.Generator) -> Iterator[SequenceBatch | PairBatch]:
        """Yield the batches of one epoch; all that is random comes from `generator`."""
        ...


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


class PairBatches:
    """Every train interaction once an epoch, each with a fresh negative.

    Negatives are uniform over the items that the user does not have in the train split. They are drawn without trial
    and error: user u with n_u distinct items draws a number r below N - n_u and gets the r-th of the missing items.
    Users who have the whole catalogue give no pairs.

    Args:
        histories: the train split.
        batch_size: pairs in a batch (fewer where an epoch would have less than `STEPS_AN_EPOCH` steps).
    """

    def __init__(self, histories: Histories, batch_size: int) -> None:
        n_items = histories.n_items
        users, items = histories.users.astype(np.int64), histories.items.astype(np.int64)
        pairs = np.unique(users * n_items + items)
        owned = np.bincount(pairs // n_items, minlength=histories.n_users)
        self.missing = n_items - owned
        self.starts = np.cumsum(owned) - owned
        self.stride = n_items + 1
        # of each owned item, how many missing ones are smaller: rising within a user, so that one search finds the r-th
        owner = pairs // n_items
        smaller_missing = pairs % n_items - (np.arange(len(pairs)) - self.starts[owner])
        self.keys = owner * self.stride + smaller_missing
        able = self.missing[users] > 0
        self.users, self.items = users[able], items[able]
        self.positions = len(self.users)
        self.pairs_per_batch = max(min(batch_size, self.positions // STEPS_AN_EPOCH), 1)

    def __len__(self) -> int:
        """How many batches an epoch has."""
        return -(-self.positions // self.pairs_per_batch)

    def epoch(self, generator: np.random.Generator) -> Iterator[PairBatch]:
        """Yield the batches of one epoch, in an order and with negatives drawn from `generator`."""
        order = generator.permutation(self.positions)
        for start in range(0, self.positions, self.pairs_per_batch):
            rows = order[start : start + self.pairs_per_batch]
            users = self.users[rows]
            negatives = self.negatives(users, generator)
            yield PairBatch(*(torch.from_numpy(part) for part in (users, self.items[rows], negatives)))

    def negatives(self, users: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """int64 [len(users)]: for each of `users` an item that the user does not have, uniformly."""
        ordinal = generator.integers(self.missing[users])
        smaller_owned = np.searchsorted(self.keys, users * self.stride + ordinal, side="right") - self.starts[users]
        chosen: NDArray[np.int64] = ordinal + smaller_owned
        return chosen
