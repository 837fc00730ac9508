"""What a model may see, split by split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from recsys_dagster.data.histories import TEST, TRAIN, VALIDATION, Histories


@dataclass(frozen=True)
class SequenceData:
    """The three splits of a dataset as sequences, and how they are ranked.

    Attributes:
        train: each user's train items.
        validation: each user's validation items, the targets of the epoch choice.
        test: each user's test items, the targets of the final figures.
        max_length: models read at most this many of the latest items.
        mask_seen: items of a user's history are no candidates when ranking. True unless the train split repeats items
            within a user: where people do come back to an item, leaving it out would make some targets unreachable,
            and leaving out all history but the target would tell the model the answer.
    """

    train: Histories
    validation: Histories
    test: Histories
    max_length: int
    mask_seen: bool

    @classmethod
    def from_tables(cls, interactions: pd.DataFrame, *, n_users: int, n_items: int, max_length: int) -> SequenceData:
        """Cut the `interactions` table by its `split` column."""
        train, validation, test = (
            Histories.from_interactions(interactions, n_users=n_users, n_items=n_items, splits=(split,))
            for split in (TRAIN, VALIDATION, TEST)
        )
        pairs = train.users.astype(np.int64) * n_items + train.items
        repeats = len(np.unique(pairs)) < len(pairs)
        return cls(train, validation, test, max_length, mask_seen=not repeats)

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self.train.n_items

    @property
    def n_users(self) -> int:
        """Number of users."""
        return self.train.n_users

    def history(self, split: int) -> Histories:
        """What a model may look at when it is asked for the targets of `split`: everything before it."""
        if split == VALIDATION:
            return self.train
        if split == TEST:
            return concatenate(self.train, self.validation)
        raise ValueError(f"split must be {VALIDATION} (validation) or {TEST} (test), found {split}")

    def whole(self) -> Histories:
        """All that is known of each user, as it is in use: what comes after it is recommended."""
        return concatenate(self.history(TEST), self.test)

    def targets(self, split: int) -> Histories:
        """The distinct items to be found for each user in `split`."""
        return distinct({VALIDATION: self.validation, TEST: self.test}[split])


def concatenate(first: Histories, second: Histories) -> Histories:
    """Append each user's items of `second` to those of `first`."""
    indptr = first.indptr + second.indptr
    items = np.empty(indptr[-1], dtype=np.int32)
    starts = indptr[:-1]
    for part, offset in ((first, np.zeros_like(first.lengths)), (second, first.lengths)):
        within = np.arange(len(part.items)) - np.repeat(part.indptr[:-1], part.lengths)
        items[np.repeat(starts + offset, part.lengths) + within] = part.items
    return Histories(indptr, items, first.n_items)


def distinct(histories: Histories) -> Histories:
    """Each user's items without repeats, in the order of first occurrence."""
    pairs = histories.users.astype(np.int64) * histories.n_items + histories.items
    first = np.sort(np.unique(pairs, return_index=True)[1])
    lengths = np.bincount(histories.users[first], minlength=histories.n_users)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(indptr, histories.items[first], histories.n_items)
