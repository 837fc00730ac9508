"""Sums of sparse matrices in a fixed order, and the table of edges that they end as."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from recsys_dagster.g2rec.sampling import CoengagementConfig


def edge_table(sums: sparse.csr_array, first: int, config: CoengagementConfig) -> pd.DataFrame:
    """The edges of a summed matrix whose first row is item `first`, as `build_graph` returns them."""
    weight = sums.data.astype(np.float32)
    source = np.repeat(np.arange(first, first + sums.shape[0], dtype=np.int32), np.diff(sums.indptr))
    target = sums.indices.astype(np.int32, copy=False)
    if config.weighting == "binary":
        weight[:] = 1.0
    return pd.DataFrame({"source": source, "target": target, "weight": weight}, copy=False)


class PartialSums:
    """Matrices added up in a tree that depends on nothing but their order, so that rounding is the same everywhere.

    Each sum is of 1, 2, 4, ... neighbours, so an edge is copied O(log parts) times.
    """

    def __init__(self) -> None:
        self._stack: list[tuple[int, sparse.csr_array]] = []

    def __bool__(self) -> bool:
        return bool(self._stack)

    def push(self, part: sparse.csr_array) -> None:
        """Add the next part."""
        rank = 0
        while self._stack and self._stack[-1][0] == rank:
            part, rank = self._stack.pop()[1] + part, rank + 1
        self._stack.append((rank, part))

    def total(self) -> sparse.csr_array:
        """The sum of all parts; there is none afterwards."""
        _, total = self._stack.pop()
        while self._stack:
            total = self._stack.pop()[1] + total
        return total
