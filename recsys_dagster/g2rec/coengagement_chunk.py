"""What the co-engagement graph is summed from: users' distinct items, and rows of sums that close up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.parallel import parallel_rows


@dataclass(frozen=True)
class Chunk:
    """Distinct items of some users one after the other, what their pairs weigh, and in what proportion to draw them."""

    items: NDArray[np.int32]
    lengths: NDArray[np.int64]
    share: NDArray[np.float64]
    decay: NDArray[np.float64]
    first_end: NDArray[np.float64]
    draws: NDArray[np.int64]
    exact: NDArray[np.bool_]
    users: NDArray[np.int64]

    def between(self, first: int, last: int) -> Chunk:
        """Users first..last-1 of it."""
        if first == 0 and last == len(self.lengths):
            return self
        chosen = np.zeros(len(self.lengths), dtype=bool)
        chosen[first:last] = True
        return self.of(chosen)

    def of(self, chosen: NDArray[np.bool_]) -> Chunk:
        """The same for some of the users."""
        if chosen.all():
            return self
        rows = np.repeat(chosen, self.lengths)
        return Chunk(
            self.items[rows],
            self.lengths[chosen],
            self.share[chosen],
            self.decay[rows] if len(self.decay) else self.decay,
            self.first_end[rows] if len(self.first_end) else self.first_end,
            self.draws[chosen],
            self.exact[chosen],
            self.users[chosen],
        )


def running(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The running sum of [n] numbers from 0 on, int64 [n + 1]."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


Entries = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Columns and values of a sparse matrix."""


def append_rows(starts: NDArray[np.int64], counts: NDArray[np.int64], rows: Entries, kept: Entries) -> None:
    """Append rows that have `counts` entries from `starts` on, without the gaps between them.

    The arrays grow in place: a large one is moved by its page table, where a copy would cost more than all the sums.
    """
    from recsys_dagster.g2rec import pair_kernels as kernels

    indptr = len(kept[0]) + running(counts)
    for array in kept:
        array.resize(int(indptr[-1]), refcheck=False)  # nobody else has them yet

    def work(first: int, last: int) -> None:
        kernels.compact_rows(first, last, starts, counts, *rows, indptr, *kept)

    parallel_rows(work, indptr - indptr[0])
