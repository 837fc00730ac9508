"""The co-engagement graph as engines of Leiden read it, and the engines."""

from __future__ import annotations

import random
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.g2rec.graph import adjacency

SMALLEST_RISE = 1e-5
"""Rise of modularity below which our Leiden stops repeating."""


class Network:
    """The graph as Leiden's engines read it; made once for all resolutions.

    Attributes:
        matrix: symmetric adjacency A, CSR [N, N].
        degree: float64 [N], its row sums k, unless given: nodes that stand for many items bring all their degree.
    """

    def __init__(self, matrix: sparse.csr_array, degree: NDArray[np.float64] | None = None) -> None:
        self.matrix = matrix
        self.degree = np.asarray(matrix.sum(axis=1)).ravel() if degree is None else degree

    @classmethod
    def of(cls, graph: pd.DataFrame, n_items: int) -> Network:
        """The network of a graph table, checked (see `adjacency`)."""
        return cls(adjacency(graph, n_items))

    def run(
        self, engine: str, gamma: float, iterations: int, seed: int, start: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Labels [N] that an engine finds, from a start without gaps if there is one."""
        if engine != "compiled":
            run = _run_igraph if engine == "igraph" else _run_leidenalg
            return run(*self._igraph, self.degree, gamma, iterations, start, seed)
        from recsys_dagster.g2rec import leiden_kernels

        total = self.degree.sum()
        matrix = self.matrix
        return leiden_kernels.leiden(
            matrix.indptr.astype(np.int64, copy=False), matrix.indices.astype(np.int32, copy=False),
            matrix.data.astype(np.float64, copy=False), self.degree, gamma / total,
            np.arange(len(self.degree)) if start is None else start, iterations, SMALLEST_RISE * total, seed,
        )  # fmt: skip

    @cached_property
    def _igraph(self) -> tuple[Any, list[float]]:
        import igraph

        upper = sparse.triu(self.matrix, k=1).tocoo()
        ends = list(zip(upper.row.tolist(), upper.col.tolist(), strict=True))  # faster than igraph reads an array
        return igraph.Graph(n=self.matrix.shape[0], edges=ends), upper.data.tolist()


def _run_igraph(
    network: Any, weights: list[float], mass: NDArray[np.float64], gamma: float, iterations: int,
    start: NDArray[np.int64] | None, seed: int,
) -> NDArray[np.int64]:  # fmt: skip
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        # CPM with degrees for node weights and gamma / |E| is modularity; contracted graphs need the general form.
        found = network.community_leiden(
            objective_function="CPM",
            weights=weights,
            node_weights=mass.tolist(),
            resolution=gamma / mass.sum(),
            n_iterations=iterations,
            initial_membership=None if start is None else start.tolist(),
        )
    finally:
        igraph.set_random_number_generator(random)  # the module that igraph starts with
    return np.asarray(found.membership, dtype=np.int64)


def _run_leidenalg(
    network: Any, weights: list[float], mass: NDArray[np.float64], gamma: float, iterations: int,
    start: NDArray[np.int64] | None, seed: int,
) -> NDArray[np.int64]:  # fmt: skip
    import leidenalg

    found = leidenalg.find_partition(
        network,
        leidenalg.RBConfigurationVertexPartition,  # takes its masses from the weights
        weights=weights,
        initial_membership=None if start is None else start.tolist(),
        resolution_parameter=gamma,
        n_iterations=iterations,
        seed=seed,
    )
    return np.asarray(found.membership, dtype=np.int64)
