"""What one night leaves for the next: memberships, resolutions, temperatures; and the guard against a collapse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.g2rec.tokens import membership_matrix


@dataclass(frozen=True)
class LastNight:
    """The published clustering that a new one starts from and is compared with.

    Attributes:
        memberships: item_id (in today's ids), level, prototype_id, probability.
        next_id: the smallest prototype id never used so far.
        resolutions: what each level was asked for by (see `SoftConfig.resolutions`).
        gammas: resolution of each level.
        temperatures: T of each level.
        levels: a dict each of q_soft, largest_share and more, as `soft_memberships` reports them.
    """

    memberships: pd.DataFrame
    next_id: int
    resolutions: list[float]
    gammas: list[float]
    temperatures: list[float]
    levels: list[Mapping[str, Any]]

    def carried(self, level: int, n_items: int) -> sparse.csr_array:
        """P of a level, CSR [N, C], prototypes in the order of their ids; new items have no entry."""
        rows = self.memberships[self.memberships["level"] == level]
        matrix, _ = membership_matrix(rows, n_items)
        return matrix


def row_argmax(matrix: sparse.csr_array) -> NDArray[np.int64]:
    """Column of the largest entry of each row (ties: the smallest column), -1 where a row has none; int64 [rows]."""
    counts = np.diff(matrix.indptr)
    rows = np.repeat(np.arange(matrix.shape[0]), counts)
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    best = np.full(matrix.shape[0], -1, dtype=np.int64)
    best[counts > 0] = matrix.indices[order[matrix.indptr[:-1][counts > 0]]]
    return best


def hard_labels(memberships: pd.DataFrame, n_items: int, level: int) -> NDArray[np.int64]:
    """The most probable prototype [N] of each item at one level (ties: the smallest id), -1 where it has none."""
    rows = memberships[(memberships["level"] == level) & (memberships["item_id"] < n_items)]
    matrix, ids = membership_matrix(rows, n_items)
    best = row_argmax(matrix)
    labels = np.full(n_items, -1, dtype=np.int64)
    labels[best >= 0] = ids[best[best >= 0]]
    return labels


def collapse(levels: Sequence[Mapping[str, Any]], last: LastNight, *, max_share: float, max_drop: float) -> list[str]:
    """Reasons not to publish tonight's clustering in place of last night's; none if it is as sound.

    Args:
        levels: tonight's levels, as `soft_memberships` reports them.
        last: last night.
        max_share: a prototype that holds a larger share of all degree is a giant, unless it was one last night.
        max_drop: largest relative fall of a level's soft modularity.
    """
    found = []
    for number, (now, before) in enumerate(zip(levels, last.levels, strict=False)):
        share, previous = float(now["largest_share"]), float(before["largest_share"])
        if share > max_share and previous <= max_share:
            found.append(
                f"level {number}: one prototype holds {share:.0%} of all co-engagement, {previous:.0%} last night; "
                f"expected at most {max_share:.0%}"
            )
        q, q_before = float(now["q_soft"]), float(before["q_soft"])
        if q < q_before - max_drop * abs(q_before):
            found.append(
                f"level {number}: soft modularity is {q:.4f}, {q_before:.4f} last night; expected a fall of at most "
                f"{max_drop:.0%}"
            )
    return found
