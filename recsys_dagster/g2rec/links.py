"""Held-out links: the test that memberships must pass, and on which their temperature is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.errors import RecsysError


def validation_links(interactions: pd.DataFrame) -> NDArray[np.int64]:
    """Each user's last train item with the first validation item: what the temperature is chosen on; int64 [L, 2].

    This is the one use of the validation split before training; like every choice of a setting it uses nothing else.
    """
    train = interactions[interactions["split"] == 0].groupby("user_id")["item_id"].last()
    validation = interactions[interactions["split"] == 1].groupby("user_id")["item_id"].first()
    return pd.concat([train, validation], axis=1, join="inner").to_numpy(dtype=np.int64)


@dataclass(frozen=True)
class LinkTest:
    """Held-out links and, for each, an unlinked pair with an end of about the same degree.

    Attributes:
        links: int64 [L, 2], pairs that are no edges of the graph.
        negatives: int64 [L, 2], pairs that are no edges and no links either.
    """

    links: NDArray[np.int64]
    negatives: NDArray[np.int64]

    def scores(self, memberships: sparse.csr_array) -> NDArray[np.float64]:
        """Cosine of ``p_i`` and ``p_j`` of every link, then of every negative; [2 L].

        Of hard memberships that is ``p_i . p_j``, 1 or 0. Of soft ones it is not lower for items with several
        interests, so that levels count alike however soft they are.
        """
        pairs = np.concatenate([self.links, self.negatives])
        norms = np.sqrt(np.asarray((memberships * memberships).sum(axis=1)).ravel())
        products = np.asarray((memberships[pairs[:, 0]] * memberships[pairs[:, 1]]).sum(axis=1)).ravel()
        return products / np.maximum(norms[pairs[:, 0]] * norms[pairs[:, 1]], 1e-300)

    def quality(self, score: NDArray[np.float64]) -> dict[str, float]:
        """AUC and average precision of scores as from `scores`; ties count half in the AUC."""
        from scipy.stats import rankdata  # slow to import: not while definitions load

        n = len(self.links)
        auc = (rankdata(score)[:n].sum() - n * (n + 1) / 2) / (n * len(self.negatives))
        # Precision at each distinct score, so that the order of ties does not matter.
        values, place = np.unique(-score, return_inverse=True)
        hits = np.bincount(place[:n], minlength=len(values))
        found = np.cumsum(hits)
        precision = found / np.cumsum(np.bincount(place, minlength=len(values)))
        return {"auc": float(auc), "average_precision": float((hits * precision).sum() / n)}


def link_test(
    matrix: sparse.csr_array, validation_links: NDArray[Any], *, seed: int, window: int = 50
) -> LinkTest | None:
    """Pair every held-out link with a negative whose second end is a near neighbour in the order of degrees.

    Args:
        matrix: symmetric adjacency [N, N] of the train split.
        validation_links: [L, 2] item pairs: a user's last train item with the validation item.
        seed: of the negatives.
        window: how far a negative's degree rank may be from that of the item it stands for.

    Returns:
        The test, or None if no link is left after edges of the graph and pairs of one item are taken out.

    Raises:
        RecsysError: the array has another shape, or an item id is outside the catalogue.
    """
    n_items = matrix.shape[0]
    links = np.asarray(validation_links, dtype=np.int64)
    if links.ndim != 2 or links.shape[1] != 2 or (links.size and (links.min() < 0 or links.max() >= n_items)):
        raise RecsysError(
            f"The validation links have shape {links.shape} or name items outside 0..{n_items - 1}; expected [L, 2].",
            mend="pass pairs of item ids of this dataset.",
        )
    edges = np.repeat(np.arange(n_items), np.diff(matrix.indptr)) * n_items + matrix.indices
    edges.sort()
    links = links[(links[:, 0] != links[:, 1]) & ~_in_sorted(links @ [n_items, 1], edges)]
    held_out = np.sort(np.concatenate([links @ [n_items, 1], links[:, ::-1] @ [n_items, 1]]))
    rng = np.random.default_rng(seed)
    by_degree = np.argsort(np.asarray(matrix.sum(axis=1)).ravel(), kind="stable")
    rank = np.argsort(by_degree)
    negatives = links.copy()
    open_rows = np.arange(len(links))
    for _ in range(20):
        near = rank[links[open_rows, 1]] + rng.integers(-window, window + 1, len(open_rows))
        negatives[open_rows, 1] = by_degree[np.clip(near, 0, n_items - 1)]
        trial = negatives[open_rows]
        keys = trial @ [n_items, 1]
        open_rows = open_rows[(trial[:, 0] == trial[:, 1]) | _in_sorted(keys, edges) | _in_sorted(keys, held_out)]
        if len(open_rows) == 0:
            break
    keep = np.ones(len(links), dtype=bool)
    keep[open_rows] = False  # a pair around which everything is linked has no fair negative
    return LinkTest(links[keep], negatives[keep]) if keep.any() else None


def _in_sorted(keys: NDArray[np.int64], table: NDArray[np.int64]) -> NDArray[np.bool_]:
    if len(table) == 0:
        return np.zeros(len(keys), dtype=bool)
    return np.asarray(table[np.minimum(np.searchsorted(table, keys), len(table) - 1)] == keys)
