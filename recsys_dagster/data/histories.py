"""Users' item sequences as one compressed-row pair of arrays, the form that every method reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2
"""Values of the `split` column of `interactions`."""


@dataclass(frozen=True)
class Histories:
    """Item sequences of users 0..U-1 in time order.

    Attributes:
        indptr: int64 [U + 1]; user u owns ``items[indptr[u]:indptr[u + 1]]``.
        items: int32 [interactions]; item ids in time order within a user.
        n_items: size of the catalogue, so that matrices built from it have every item.
        times: int64 [interactions], seconds since 1970, where they were asked for.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    n_items: int
    times: NDArray[np.int64] | None = None

    @classmethod
    def from_interactions(
        cls,
        interactions: pd.DataFrame,
        *,
        n_users: int,
        n_items: int,
        splits: Iterable[int] = (TRAIN,),
        times: bool = False,
    ) -> Histories:
        """Take the rows of `interactions` in the given splits (the train split unless told otherwise).

        Args:
            interactions: columns user_id, item_id, split, sorted by user and position.
            n_users: number of users in the dataset (a user without a row gets an empty sequence).
            n_items: number of items in the dataset.
            splits: values of `split` to keep.
            times: keep the column timestamp too.
        """
        keep = np.isin(interactions["split"].to_numpy(), list(splits))
        users = interactions["user_id"].to_numpy()[keep]
        if len(users) and (np.diff(users) < 0).any():
            raise ValueError("interactions must be sorted by user_id and position")
        indptr = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=indptr[1:])
        when = interactions["timestamp"].to_numpy(dtype=np.int64)[keep] if times else None
        return cls(indptr, interactions["item_id"].to_numpy()[keep].astype(np.int32), n_items, when)

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.indptr) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [U]: number of interactions of each user."""
        return np.diff(self.indptr)

    @property
    def users(self) -> NDArray[np.int32]:
        """int32 [interactions]: the user of each interaction."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), self.lengths)

    def of(self, user: int) -> NDArray[np.int32]:
        """Items of one user, oldest first."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    def popularity(self) -> NDArray[np.int64]:
        """int64 [N]: how often each item occurs."""
        return np.bincount(self.items, minlength=self.n_items)


class UserLog(Protocol):
    """The stored table `interactions` (`resources.stored_table.StoredTable`), which workers read for themselves."""

    def __len__(self) -> int: ...

    def users(self, first: int, last: int, columns: Sequence[str]) -> pd.DataFrame:
        """The rows of users first to last - 1, sorted by user and position."""
        ...


def read_histories(
    log: UserLog, first: int, last: int, *, n_items: int, splits: Iterable[int] = (TRAIN,), times: bool = False
) -> Histories:
    """The sequences of users first to last - 1 of a stored log, numbered from 0.

    Args:
        log: `interactions`.
        first: first user.
        last: last user + 1.
        n_items: number of items in the dataset.
        splits: values of `split` to keep.
        times: keep the column timestamp too.
    """
    table = log.users(first, last, ["user_id", "item_id", "split", *(["timestamp"] if times else [])])
    table["user_id"] -= first
    return Histories.from_interactions(table, n_users=last - first, n_items=n_items, splits=splits, times=times)
