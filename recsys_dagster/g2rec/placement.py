"""Places for new items in an existing clustering, so that a night changes only what its new edges change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.g2rec.leiden import LeidenConfig
from recsys_dagster.g2rec.merging import merge_small
from recsys_dagster.g2rec.network import Network


def extend(
    network: Network,
    labels: NDArray[np.int64],
    n_old: int,
    gamma: float,
    config: LeidenConfig | None = None,
    *,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Find a place for items without a label; all others keep theirs.

    Items of a cluster without any weight inside, and not alone in it, count as new where they have edges: yesterday
    nobody had engaged with them. New items are clustered together with the existing clusters, each of these one node of
    its whole degree: so they join the cluster that gains most modularity by it, or form clusters of their own. Small
    new clusters are merged as in `merge_small`; items without any edge go to a cluster of their kind.

    Args:
        network: co-engagement graph.
        labels: [N] clusters below C, -1 where an item is new.
        n_old: C; a cluster may be without items (nobody's most probable prototype).
        gamma: resolution.
        config: engine, rounds, least size.
        seed: of the engine's random order.

    Returns:
        int64 [N] labels; 0..C-1 are the clusters given, larger ones are new.
    """
    config = config or LeidenConfig()
    matrix, degree, labels = network.matrix, network.degree, labels.copy()
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    inside = matrix.data * ((labels[rows] == labels[matrix.indices]) & (labels[rows] >= 0))
    weight = np.bincount(np.maximum(labels[rows], 0), weights=inside, minlength=n_old)
    asleep = (weight == 0) & (np.bincount(labels[labels >= 0], minlength=n_old) > 1)
    labels[(degree > 0) & (labels >= 0) & asleep[np.maximum(labels, 0)]] = -1
    new = np.flatnonzero((labels < 0) & (degree > 0))
    if len(new):
        node = labels.copy()
        node[new] = n_old + np.arange(len(new))
        edges = labels[rows] < 0
        left, right = node[rows[edges]], node[matrix.indices[edges]]
        shape = (n_old + len(new), n_old + len(new))
        ties = sparse.coo_array((matrix.data[edges], (left, right)), shape=shape).tocsr()
        ties = sparse.csr_array(ties.maximum(ties.T))  # an edge of two new items stands there from both sides already
        mass = np.bincount(node[node >= 0], weights=degree[node >= 0], minlength=shape[0]).astype(np.float64)
        found = Network(ties, mass).run("compiled", gamma, config.leiden_iterations, seed)
        labels[new] = _joined(ties, found, n_old)[n_old:]
    alone = np.flatnonzero(labels < 0)
    if len(alone):
        remainder = labels[(degree == 0) & (labels >= 0)]
        labels[alone] = remainder[0] if len(remainder) else max(int(labels.max(initial=-1)) + 1, n_old)
    return merge_small(matrix, labels, config.min_size, gamma, n_kept=n_old)


def _joined(ties: sparse.csr_array, found: NDArray[np.int64], n_old: int) -> NDArray[np.int64]:
    """Labels of the nodes of a contracted graph: an old cluster's own number, or a new one for a group without any.

    Where several old clusters are in one community, the strongest tie to one of them decides.
    """
    labels = np.concatenate([np.arange(n_old), np.full(len(found) - n_old, -1)])
    olds = np.bincount(found[:n_old], minlength=int(found.max()) + 1)
    host = np.full(len(olds), -1, dtype=np.int64)
    host[found[:n_old]] = np.arange(n_old)
    labels[n_old:] = host[found[n_old:]]
    for node in n_old + np.flatnonzero(olds[found[n_old:]] > 1):
        near = slice(ties.indptr[node], ties.indptr[node + 1])
        ends, weights = ties.indices[near], ties.data[near]
        mine = (ends < n_old) & (found[ends] == found[node])
        if mine.any():
            labels[node] = ends[mine][np.argmax(weights[mine])]
    lone = labels < 0
    labels[lone] = n_old + np.unique(found[lone], return_inverse=True)[1]
    return labels
