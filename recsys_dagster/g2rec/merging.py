"""Hard clusters as they are kept: small ones merged, numbered by size; and their modularity (G2Rec Eq. 3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components


def hard_modularity(matrix: sparse.csr_array, labels: NDArray[np.int64], gamma: float) -> float:
    """Q_hard of G2Rec Eq. 3 with weights: |E| is the sum of all degrees (every edge in both directions).

    Args:
        matrix: symmetric adjacency [N, N].
        labels: [N] cluster of each item, from 0.
        gamma: resolution.
    """
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    total = degree.sum()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    inside = matrix.data[labels[rows] == labels[matrix.indices]].sum()
    return float(inside / total - gamma * (np.bincount(labels, weights=degree) ** 2).sum() / total**2)


def merge_small(
    matrix: sparse.csr_array, labels: NDArray[np.int64], min_size: int, gamma: float, *, n_kept: int = 0
) -> NDArray[np.int64]:
    """Merge clusters of fewer than `min_size` items into the cluster they are tied to most strongly.

    The strength of a tie is its gain in modularity, weight minus ``gamma * k_a * k_b / |E|``: by weight alone every
    small cluster would fall to the nearest giant. A cluster whose degree is that of `min_size` average items or more
    is no small cluster: at a fine resolution very popular items rightly stand alone, and merging them turns
    modularity negative.

    Args:
        matrix: symmetric adjacency [N, N].
        labels: [N] clusters, from 0.
        min_size: least number of items.
        gamma: resolution.
        n_kept: labels below this number are never merged, and keep their numbers.

    Returns:
        int64 [N] labels from 0, without gaps above `n_kept`. Small clusters without any tie end up in
        one remainder cluster.
    """
    from recsys_dagster.g2rec.leiden_kernels import aggregated

    labels = _without_gaps(labels, n_kept)
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    n = max(int(labels.max()) + 1, n_kept)
    sizes = np.bincount(labels, minlength=n)
    graph = aggregated(matrix.indptr, matrix.indices, matrix.data, degree, labels, n)
    while True:
        indptr, ends, weights, mass = graph
        small = (sizes > 0) & (sizes < min_size) & (mass < min_size * degree.mean())
        small[:n_kept] = False
        rows = np.repeat(np.arange(n), np.diff(indptr))
        near = small[rows]
        rows, others = rows[near], ends[near]
        gain = weights[near] - gamma * mass[rows] * mass[others] / degree.sum()
        order = np.lexsort((others, -gain, rows))  # ties go to the smallest cluster
        movers, first = np.unique(rows[order], return_index=True)
        best = others[order][first]
        if len(movers) == 0:
            break
        # Each mover points at one cluster, so a component has at most one that does not move; it gives the name.
        links = sparse.coo_array((np.ones(len(movers)), (movers, best)), shape=(n, n))
        component = connected_components(links, directed=False)[1]
        name = np.full(int(component.max()) + 1, -1, dtype=np.int64)
        still = np.setdiff1d(np.arange(n), movers)
        name[component[still]] = still
        name[name < 0] = n + np.arange(int((name < 0).sum()))
        merged = _without_gaps(name[component], n_kept)
        n = max(int(merged.max()) + 1, n_kept)
        labels, sizes = merged[labels], np.bincount(merged, weights=sizes, minlength=n).astype(np.int64)
        graph = aggregated(indptr, ends, weights, mass, merged, n)
    rest = np.flatnonzero(small)
    if len(rest) > 1:
        labels = np.where(np.isin(labels, rest), rest[0], labels)
    return _without_gaps(labels, n_kept)


def _without_gaps(labels: NDArray[np.int64], n_kept: int) -> NDArray[np.int64]:
    """Labels renumbered without gaps; those below `n_kept` stay as they are."""
    labels = labels.astype(np.int64)
    later = labels >= n_kept
    labels[later] = n_kept + np.unique(labels[later], return_inverse=True)[1]
    return labels


def dense_by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber labels 0..C-1 by falling size (ties: by the smallest item id)."""
    _, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse]
