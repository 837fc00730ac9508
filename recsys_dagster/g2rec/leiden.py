"""Hard clusters of the co-engagement graph by Leiden (the start of G2Rec's soft clustering, its Section 3.2)."""

from __future__ import annotations

import random
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.coengagement import adjacency


class LeidenConfig(BaseModel):
    """How hard clusters are found."""

    engine: Literal["igraph", "leidenalg"] = Field(
        default="igraph", description="Implementation: igraph's (fast) or leidenalg's (the authors' own)."
    )
    leiden_iterations: int = Field(default=-1, ge=-1, description="Rounds of Leiden; -1 repeats until nothing moves.")
    min_size: int = Field(
        default=3,
        ge=1,
        description="Clusters of fewer items (and less than that many average degrees) are merged by strongest tie.",
    )


def leiden(
    graph: pd.DataFrame,
    n_items: int,
    gamma: float,
    config: LeidenConfig | None = None,
    initial: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Cluster items by maximum modularity at resolution gamma (G2Rec Eq. 3).

    Small clusters join the cluster they are tied to most strongly (see `merge_small`). Small clusters without a tie to
    any other (items that nobody engaged with in the train split, most of all) are pooled in one remainder cluster,
    whatever its size, so that every item is in a cluster and no evidence-free item is in a real one.

    Args:
        graph: co-engagement graph.
        n_items: number N of items.
        gamma: resolution; larger gives more clusters.
        config: engine, rounds, least size.
        initial: labels [N] of a warm start (last night's); -1 where an item has none.
        seed: of the engine's random order.

    Returns:
        int64 [N] labels 0..C-1, by falling cluster size (ties: by the smallest item id).

    Raises:
        RecsysError: the graph is empty or not sound, gamma is not positive, or `initial` has the wrong length.
    """
    config = config or LeidenConfig()
    matrix = adjacency(graph, n_items)
    if not gamma > 0:
        raise RecsysError(f"Leiden's resolution gamma is {gamma}, expected a number above 0.", mend="set gammas > 0.")
    start = None if initial is None else _dense_start(np.asarray(initial), n_items)
    run = _run_igraph if config.engine == "igraph" else _run_leidenalg
    labels = run(graph, n_items, gamma, config.leiden_iterations, start, seed)
    return dense_by_size(merge_small(matrix, labels, config.min_size, gamma))


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


def merge_small(matrix: sparse.csr_array, labels: NDArray[np.int64], min_size: int, gamma: float) -> NDArray[np.int64]:
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

    Returns:
        int64 [N] labels from 0. Small clusters without any tie end up in one remainder cluster.
    """
    labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    while True:
        sizes = np.bincount(labels)
        mass = np.bincount(labels, weights=degree)
        small = (sizes < min_size) & (mass < min_size * degree.mean())
        ties = _cluster_ties(matrix, labels, len(sizes))
        rows = np.repeat(np.arange(len(sizes)), np.diff(ties.indptr))
        gain = ties.data - gamma * mass[rows] * mass[ties.indices] / degree.sum()
        best, has_tie = _strongest(ties, rows, gain)
        movers = np.flatnonzero(small & has_tie)
        if len(movers) == 0:
            break
        # Each mover points at one cluster, so a component holds at most one cluster that is already large enough.
        links = sparse.coo_array((np.ones(len(movers)), (movers, best[movers])), shape=ties.shape)
        labels = connected_components(links, directed=False)[1][labels].astype(np.int64)
    rest = np.flatnonzero(small)
    if len(rest) > 1:
        labels = np.where(np.isin(labels, rest), rest[0], labels)
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def dense_by_size(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber labels 0..C-1 by falling size (ties: by the smallest item id)."""
    _, first, inverse, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank[inverse]


def _cluster_ties(matrix: sparse.csr_array, labels: NDArray[np.int64], n_clusters: int) -> sparse.csr_array:
    rows = labels[np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))]
    columns = labels[matrix.indices]
    outside = rows != columns
    shape = (n_clusters, n_clusters)
    return sparse.coo_array((matrix.data[outside], (rows[outside], columns[outside])), shape=shape).tocsr()


def _strongest(
    ties: sparse.csr_array, rows: NDArray[np.int64], gain: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Column of each row's largest gain (ties: the smallest column) and whether the row has any."""
    order = np.lexsort((ties.indices, -gain, rows))
    has_tie = np.diff(ties.indptr) > 0
    best = np.zeros(ties.shape[0], dtype=np.int64)
    best[has_tie] = ties.indices[order[ties.indptr[:-1][has_tie]]]
    return best, has_tie


def _dense_start(initial: NDArray[np.int64], n_items: int) -> NDArray[np.int64]:
    if initial.shape != (n_items,):
        raise RecsysError(
            f"The warm start has shape {initial.shape}, expected ({n_items},): one label an item.",
            mend="pass labels of the same catalogue, -1 for new items, or none at all.",
        )
    # An item without a label starts on its own, as it would in a cold run.
    unknown = initial < 0
    start = initial.astype(np.int64)
    start[unknown] = max(int(initial.max(initial=-1)), -1) + 1 + np.arange(int(unknown.sum()))
    return np.unique(start, return_inverse=True)[1].astype(np.int64)


def _run_igraph(
    graph: pd.DataFrame, n_items: int, gamma: float, iterations: int, start: NDArray[np.int64] | None, seed: int
) -> NDArray[np.int64]:
    import igraph

    network = igraph.Graph(n=n_items, edges=graph[["source", "target"]].to_numpy())
    igraph.set_random_number_generator(random.Random(seed))
    try:
        found = network.community_leiden(
            objective_function="modularity",
            weights=graph["weight"].to_numpy(dtype=np.float64).tolist(),
            resolution=gamma,
            n_iterations=iterations,
            initial_membership=None if start is None else start.tolist(),
        )
    finally:
        igraph.set_random_number_generator(random)  # the module that igraph starts with
    return np.asarray(found.membership, dtype=np.int64)


def _run_leidenalg(
    graph: pd.DataFrame, n_items: int, gamma: float, iterations: int, start: NDArray[np.int64] | None, seed: int
) -> NDArray[np.int64]:
    import igraph
    import leidenalg

    found = leidenalg.find_partition(
        igraph.Graph(n=n_items, edges=graph[["source", "target"]].to_numpy()),
        leidenalg.RBConfigurationVertexPartition,
        weights=graph["weight"].to_numpy(dtype=np.float64).tolist(),
        initial_membership=None if start is None else start.tolist(),
        resolution_parameter=gamma,
        n_iterations=iterations,
        seed=seed,
    )
    return np.asarray(found.membership, dtype=np.int64)
