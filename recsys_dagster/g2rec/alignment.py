"""Prototype ids that stay with their members from night to night, and how far a night moved them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.night import hard_labels
from recsys_dagster.g2rec.tokens import membership_matrix

MIN_OVERLAP = 0.1
"""Least Jaccard overlap of mass at which a prototype counts as last night's under the same id."""


@dataclass(frozen=True)
class Alignment:
    """Memberships under stable ids, and how far they moved.

    Attributes:
        memberships: the new memberships with prototype ids carried over from last night.
        next_id: the smallest id never used so far; hand it to the next night.
        drift: one row a level: level, prototypes, kept (under an old id), births, deaths, kept_items (share of items
            whose most probable prototype kept its id), ari (adjusted Rand index of the most probable prototypes),
            moved_mass (share of probability that lies elsewhere than last night).
    """

    memberships: pd.DataFrame
    next_id: int
    drift: pd.DataFrame


def align(previous: pd.DataFrame, memberships: pd.DataFrame, *, next_id: int | None = None) -> Alignment:
    """Give prototypes the ids that they had last night.

    At each level old and new prototypes are matched one to one by the largest total shared mass
    ``sum_i p_old(i, a) p_new(i, b)`` (linear assignment); a match below `MIN_OVERLAP` is none. New prototypes without a
    match get ids that no prototype has had before.

    Args:
        previous: last night's memberships, in today's item ids.
        memberships: tonight's, with any ids.
        next_id: smallest id never used; one more than the largest id of last night if not given.

    Raises:
        RecsysError: next_id was used last night.
    """
    used = int(previous["prototype_id"].max()) + 1 if len(previous) else 0
    next_id = used if next_id is None else next_id
    if next_id < used:
        raise RecsysError(
            f"next_id is {next_id}, but last night's prototypes have ids up to {used - 1}.",
            mend="pass the next_id of the last alignment.",
        )
    n_items = int(max(previous["item_id"].max() if len(previous) else -1, memberships["item_id"].max())) + 1
    parts, drift = [], []
    for level in sorted(memberships["level"].unique().tolist()):
        new = memberships[memberships["level"] == level]
        old = previous[previous["level"] == level]
        new_matrix, new_ids = membership_matrix(new, n_items)
        old_matrix, old_ids = membership_matrix(old, n_items)
        ids = np.full(len(new_ids), -1, dtype=np.int64)
        if len(old_ids):
            rows, columns = _match(old_matrix, new_matrix)
            ids[columns] = old_ids[rows]
        births = np.flatnonzero(ids < 0)
        ids[births] = next_id + np.arange(len(births))
        next_id += len(births)
        renamed = new.assign(prototype_id=ids[np.searchsorted(new_ids, new["prototype_id"])].astype(np.int32))
        parts.append(renamed)
        drift.append(_drift(level, old, renamed, n_items, len(births)))
    table = pd.concat(parts).sort_values(["item_id", "level", "prototype_id"], ignore_index=True)
    return Alignment(table, next_id, pd.DataFrame(drift))


def adjusted_rand_index(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Agreement of two clusterings of the same items: 1 if equal, about 0 if independent (Hubert and Arabie 1985)."""
    a, b = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    both = np.unique(a.astype(np.int64) * (int(b.max(initial=0)) + 1) + b, return_counts=True)[1]

    def pairs(counts: NDArray[Any]) -> float:
        counts = counts.astype(np.float64)
        return float((counts * (counts - 1) / 2).sum())

    in_a, in_b, total = pairs(np.bincount(a)), pairs(np.bincount(b)), len(a) * (len(a) - 1) / 2
    expected = in_a * in_b / total if total else 0.0
    most = (in_a + in_b) / 2
    return 1.0 if most == expected else (pairs(both) - expected) / (most - expected)


def _match(old: sparse.csr_array, new: sparse.csr_array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shared = sparse.csr_array(old.T @ new).tocoo()
    rows_sum, columns_sum = (np.asarray(shared.sum(axis=axis)).ravel() for axis in (1, 0))
    # A pair whose shared mass is no less than all that both share with others belongs to a best assignment: taking it
    # in place of their two partners loses nothing. After a quiet night that settles nearly all of them.
    sure = np.flatnonzero(3 * shared.data >= rows_sum[shared.row] + columns_sum[shared.col])
    # Two such pairs in a row or column are possible at equality only; the first is taken.
    sure = sure[np.unique(shared.row[sure], return_index=True)[1]]
    sure = sure[np.unique(shared.col[sure], return_index=True)[1]]
    rows, columns, together = shared.row[sure], shared.col[sure], shared.data[sure]
    open_rows, open_columns = (
        np.setdiff1d(np.arange(n), taken) for n, taken in zip(shared.shape, (rows, columns), strict=True)
    )
    if len(open_rows) and len(open_columns):
        from scipy.optimize import linear_sum_assignment  # slow to import: only where it is needed

        rest = shared.tocsr()[open_rows][:, open_columns].toarray()
        more_rows, more_columns = linear_sum_assignment(rest, maximize=True)
        rows = np.concatenate([rows, open_rows[more_rows]])
        columns = np.concatenate([columns, open_columns[more_columns]])
        together = np.concatenate([together, rest[more_rows, more_columns]])
    # Squared masses, so that an unchanged soft prototype has an overlap of exactly 1.
    old_mass = np.asarray((old * old).sum(axis=0)).ravel()[rows]
    new_mass = np.asarray((new * new).sum(axis=0)).ravel()[columns]
    same = (together >= MIN_OVERLAP * (old_mass + new_mass - together)) & (together > 0)
    return rows[same], columns[same]


def _drift(level: int, old: pd.DataFrame, new: pd.DataFrame, n_items: int, births: int) -> dict[str, float]:
    before, after = hard_labels(old, n_items, level), hard_labels(new, n_items, level)
    both = (before >= 0) & (after >= 0)
    keys = ["item_id", "prototype_id"]
    stayed = old[[*keys, "probability"]].merge(new[[*keys, "probability"]], on=keys, suffixes=("_old", "_new"))
    stayed = stayed[both[stayed["item_id"]]]
    mass = float(stayed[["probability_old", "probability_new"]].min(axis=1).sum())
    prototypes = new["prototype_id"].nunique()
    return {
        "level": level,
        "prototypes": prototypes,
        "kept": prototypes - births,
        "births": births,
        "deaths": old["prototype_id"].nunique() - (prototypes - births),
        "kept_items": float((before == after)[both].mean()) if both.any() else 0.0,
        "ari": adjusted_rand_index(before[both], after[both]) if both.any() else 0.0,
        "moved_mass": max(0.0, 1.0 - mass / both.sum()) if both.any() else 1.0,
    }
