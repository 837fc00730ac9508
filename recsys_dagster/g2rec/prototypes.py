"""Prototypes as people and downstream models see them: stable ids from night to night, labels, sizes, parents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.soft_modularity import hard_labels
from recsys_dagster.g2rec.tokens import membership_matrix

MIN_OVERLAP = 0.1
"""Least Jaccard overlap of mass at which a prototype counts as last night's under the same id."""

_TERM = re.compile(r"attribute \d+|[^\W\d_][\w'-]+")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by for from in into is it its new no not of on or our per set that the their this to up "
        "with your you pack oz ml ounce ounces inch inches size count",
    )
)


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


def prototype_table(
    memberships: pd.DataFrame,
    items: pd.DataFrame,
    previous: pd.DataFrame | None = None,
    *,
    gammas: Sequence[float] = (1.0, 10.0, 60.0),
    n_top: int = 10,
) -> pd.DataFrame:
    """Describe every prototype.

    Args:
        memberships: soft_memberships, under stable ids.
        items: item_id, title, categories, text, train_popularity.
        previous: last night's memberships under the same ids, for previous_id and drift.
        gammas: resolution of each level.
        n_top: how many top items to list.

    Returns:
        One row a prototype, sorted by id: prototype_id, level, gamma, parent (the prototype of the next coarser level
        with the largest shared mass, -1 at the coarsest), size (sum of probabilities), n_items (items whose most
        probable prototype it is), label (its most distinctive terms), top_items (by probability times popularity),
        previous_id (-1 if new), drift (share of last night's members that left, 0 if new).

    Raises:
        RecsysError: there are more levels than gammas.
    """
    levels = sorted(memberships["level"].unique().tolist())
    if levels and max(levels) >= len(gammas):
        raise RecsysError(
            f"The memberships have level {max(levels)}, but there are only {len(gammas)} gammas.",
            mend="pass the gammas that the memberships were built with.",
        )
    n_items = int(max(items["item_id"].max(), memberships["item_id"].max())) + 1
    popularity = np.zeros(n_items)
    popularity[items["item_id"].to_numpy()] = items["train_popularity"].to_numpy()
    words, vocabulary = _term_counts(items, n_items)
    tables, coarser = [], None
    for level in levels:
        matrix, ids = membership_matrix(memberships[memberships["level"] == level], n_items)
        best = hard_labels(memberships, n_items, level)
        parent = np.full(len(ids), -1, dtype=np.int32)
        if coarser is not None:
            shared = sparse.csr_array(matrix.T @ coarser[0])
            parent = coarser[1][_row_argmax(shared)]
        previous_id, drift = _history(best, ids, previous, n_items, level)
        table = {
            "prototype_id": ids,
            "level": np.full(len(ids), level, dtype=np.int8),
            "gamma": np.full(len(ids), gammas[level], dtype=np.float32),
            "parent": parent.astype(np.int32),
            "size": np.asarray(matrix.sum(axis=0)).ravel().astype(np.float32),
            "n_items": np.bincount(np.searchsorted(ids, best[best >= 0]), minlength=len(ids)).astype(np.int32),
            "label": _labels(matrix, words, vocabulary, ids),
            "top_items": _top_items(matrix, popularity, n_top),
            "previous_id": previous_id,
            "drift": drift,
        }
        tables.append(pd.DataFrame(table))
        coarser = matrix, ids
    return pd.concat(tables).sort_values("prototype_id", ignore_index=True)


def _match(old: sparse.csr_array, new: sparse.csr_array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from scipy.optimize import linear_sum_assignment  # slow to import: not while definitions load

    shared = (old.T @ new).toarray()
    rows, columns = linear_sum_assignment(shared, maximize=True)
    # Squared masses, so that an unchanged soft prototype has an overlap of exactly 1.
    old_mass = np.asarray((old * old).sum(axis=0)).ravel()[rows]
    new_mass = np.asarray((new * new).sum(axis=0)).ravel()[columns]
    together = shared[rows, columns]
    same = together >= MIN_OVERLAP * (old_mass + new_mass - together)
    same &= together > 0
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


def _history(
    best: NDArray[np.int64], ids: NDArray[np.int32], previous: pd.DataFrame | None, n_items: int, level: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    previous_id = np.full(len(ids), -1, dtype=np.int32)
    drift = np.zeros(len(ids), dtype=np.float32)
    if previous is None or len(previous) == 0:
        return previous_id, drift
    before = hard_labels(previous, n_items, level)
    known = np.isin(ids, previous.loc[previous["level"] == level, "prototype_id"])
    previous_id[known] = ids[known]
    members = np.isin(before, ids)
    column = np.searchsorted(ids, before[members])
    had = np.bincount(column, minlength=len(ids))
    left = np.bincount(column, weights=best[members] != before[members], minlength=len(ids))
    return previous_id, np.divide(left, had, out=drift, where=had > 0, casting="unsafe")


def _row_argmax(matrix: sparse.csr_array) -> NDArray[np.int64]:
    """Column of the largest entry of each row, which must have one (ties: the smallest column)."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    return matrix.indices[order[matrix.indptr[:-1]]].astype(np.int64)


def _top_items(matrix: sparse.csr_array, popularity: NDArray[np.float64], n_top: int) -> list[list[int]]:
    columns = matrix.tocsc()
    prototype = np.repeat(np.arange(matrix.shape[1]), np.diff(columns.indptr))
    order = np.lexsort((columns.indices, -columns.data, -columns.data * popularity[columns.indices], prototype))
    ranked = columns.indices[order]
    return [
        ranked[start : min(start + n_top, stop)].tolist()
        for start, stop in zip(columns.indptr, columns.indptr[1:], strict=False)
    ]


def _term_counts(items: pd.DataFrame, n_items: int) -> tuple[sparse.csr_array, list[str]]:
    """Terms of each item's text (CSR [N, terms]): words of its title (1) and its categories as whole phrases (2)."""
    index: dict[str, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    weights: list[float] = []
    fields = zip(items["item_id"], items["title"], items["categories"], items["text"], strict=True)
    for item, title, categories, text in fields:
        phrases = {phrase.strip().lower() for phrase in categories.split(",")} - {""}
        words = _TERM.findall((title or ("" if phrases else text)).lower())
        for term in sorted(phrases.union(words) - _STOP_WORDS):
            rows.append(item)
            columns.append(index.setdefault(term, len(index)))
            weights.append(2.0 if term in phrases else 1.0)  # a category says more about a group than a word of a title
    counts = sparse.coo_array((weights, (rows, columns)), shape=(n_items, max(len(index), 1)), dtype=np.float64)
    return counts.tocsr(), list(index)


def _labels(
    matrix: sparse.csr_array, words: sparse.csr_array, vocabulary: list[str], ids: NDArray[np.int32], n_terms: int = 3
) -> list[str]:
    """Top terms by class TF-IDF: the share of a prototype's mass that has the term, times log inverse frequency."""
    classes = sparse.csr_array(matrix.T @ words)
    frequency = np.asarray(classes.sum(axis=0)).ravel()
    mass = np.asarray(matrix.sum(axis=0)).ravel()
    rows = np.repeat(np.arange(len(ids)), np.diff(classes.indptr))
    inverse = np.log1p(classes.sum() / len(ids) / np.maximum(frequency, 1e-12))
    score = classes.data / mass[rows] * inverse[classes.indices]
    order = np.lexsort((classes.indices, -score, rows))
    labels = []
    for number, prototype in enumerate(ids.tolist()):
        chosen: list[str] = []
        for place in order[classes.indptr[number] : classes.indptr[number + 1]]:
            term = vocabulary[classes.indices[place]]
            if not any(term in other or other in term for other in chosen):
                chosen.append(term)
            if len(chosen) == n_terms:
                break
        labels.append(", ".join(chosen) or f"prototype {prototype}")
    return labels
