"""Users' item sequences as one compressed-row pair of arrays, the form that every method reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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


def stream_histories(
    tables: Iterable[pd.DataFrame], *, n_items: int, splits: Iterable[int] = (TRAIN,), times: bool = False
) -> Iterator[Histories]:
    """The sequences of a log that is read piece by piece, as one `Histories` a piece.

    Users are numbered from 0 within each piece, in the order of the log; a user cut by the end of a piece is held back
    for the next one, so that every user is in one piece.

    Args:
        tables: consecutive pieces of `interactions`, sorted by user and position.
        n_items: number of items in the dataset.
        splits: values of `split` to keep.
        times: keep the column timestamp too.
    """
    held: pd.DataFrame | None = None
    for table in tables:
        table = table if held is None or held.empty else pd.concat([held, table], ignore_index=True)
        users = table["user_id"].to_numpy()
        if len(users) == 0:
            continue
        cut = int(np.searchsorted(users, users[-1]))
        held = table.iloc[cut:]
        if cut:
            yield _renumbered(table.iloc[:cut], n_items, splits, times)
    if held is not None and not held.empty:
        yield _renumbered(held, n_items, splits, times)


def _renumbered(table: pd.DataFrame, n_items: int, splits: Iterable[int], times: bool) -> Histories:
    users = table["user_id"].to_numpy()
    if (np.diff(users) < 0).any():
        raise ValueError("interactions must be sorted by user_id and position")
    numbers = np.concatenate([[0], np.cumsum(np.diff(users) > 0)])
    return Histories.from_interactions(
        table.assign(user_id=numbers), n_users=int(numbers[-1]) + 1, n_items=n_items, splits=splits, times=times
    )
