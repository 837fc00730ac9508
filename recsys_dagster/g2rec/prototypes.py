"""Prototypes as people see them: labels, sizes, parents, top items, overlap."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.night import hard_labels, row_argmax
from recsys_dagster.g2rec.tokens import membership_matrix

_TERM = re.compile(r"attribute \d+|[^\W\d_][\w'-]+")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by for from in into is it its new no not of on or our per set that the their this to up "
        "with your you pack oz ml ounce ounces inch inches size count",
    )
)


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
            parent = coarser[1][row_argmax(shared)]
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


def prototype_overlap(memberships: pd.DataFrame, prototypes: pd.DataFrame, n_pairs: int = 10) -> list[dict[str, Any]]:
    """The pairs of prototypes of one level that share most, by the cosine of their columns of P.

    Args:
        memberships: soft_memberships.
        prototypes: their table, for the labels.
        n_pairs: how many pairs a level.

    Returns:
        level, prototypes (both ids), labels, cosine; by level, then falling cosine.
    """
    label = dict(zip(prototypes["prototype_id"].tolist(), prototypes["label"], strict=True))
    n_items, pairs = int(memberships["item_id"].max()) + 1, []
    for level in sorted(memberships["level"].unique().tolist()):
        matrix, ids = membership_matrix(memberships[memberships["level"] == level], n_items)
        norm = np.sqrt(np.asarray((matrix * matrix).sum(axis=0)).ravel())
        shared = sparse.triu(matrix.T @ matrix, k=1).tocoo()
        cosine = shared.data / (norm[shared.row] * norm[shared.col])
        for place in np.lexsort((shared.col, shared.row, -cosine))[:n_pairs]:
            both = [int(ids[shared.row[place]]), int(ids[shared.col[place]])]
            of = [label.get(each, "") for each in both]
            pairs.append({"level": level, "prototypes": both, "labels": of, "cosine": round(float(cosine[place]), 4)})
    return pairs


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
