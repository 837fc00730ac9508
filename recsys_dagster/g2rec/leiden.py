"""Hard clusters of the co-engagement graph by Leiden (the start of G2Rec's soft clustering, its Section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.merging import dense_by_size, hard_modularity, merge_small
from recsys_dagster.g2rec.network import Network


class LeidenConfig(BaseModel):
    """How hard clusters are found."""

    engine: Literal["compiled", "igraph", "leidenalg", "cugraph"] = Field(
        default="compiled",
        description="Implementation: ours (compiled loops, the fastest and the smallest in memory), igraph's, "
        "leidenalg's (the authors' own), or cuGraph's in a job on GPUs (resource `cugraph`, docs/ray.md).",
    )
    leiden_iterations: int = Field(
        default=2, ge=-1, description="Rounds of Leiden; -1 repeats until one raises modularity by less than 1e-5."
    )
    min_size: int = Field(
        default=3,
        ge=1,
        description="Clusters of fewer items (and less than that many average degrees) are merged by strongest tie.",
    )


@dataclass(frozen=True)
class Partition:
    """Clusters that were found elsewhere, of the items that have edges.

    Attributes:
        items: int64 [n], distinct.
        labels: int64 [n], any numbers from 0.
        gamma: the resolution that they were found at.
    """

    items: NDArray[np.int64]
    labels: NDArray[np.int64]
    gamma: float


def adopted(network: Network, partition: Partition, config: LeidenConfig) -> NDArray[np.int64]:
    """Labels as from `leiden`, of clusters that were found elsewhere."""
    labels = np.full(network.matrix.shape[0], -1, dtype=np.int64)
    labels[partition.items] = partition.labels
    start = _dense_start(labels, len(labels))
    return dense_by_size(merge_small(network.matrix, start, config.min_size, partition.gamma))


def leiden(
    network: Network,
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
        network: co-engagement graph.
        gamma: resolution; larger gives more clusters.
        config: engine, rounds, least size.
        initial: labels [N] to start from; -1 where an item starts on its own.
        seed: of the engine's random order.

    Returns:
        int64 [N] labels 0..C-1, by falling cluster size (ties: by the smallest item id).

    Raises:
        RecsysError: gamma is not positive, `initial` has the wrong length, or the engine is no library but a job.
    """
    config = config or LeidenConfig()
    if config.engine == "cugraph":
        raise RecsysError(
            "engine is cugraph, which clusters the stored graph in a job of its own, by gammas.",
            mend="set gammas and not n_prototypes in the config of soft_memberships, or another engine.",
        )
    if not gamma > 0:
        raise RecsysError(f"Leiden's resolution gamma is {gamma}, expected a number above 0.", mend="set gammas > 0.")
    start = None if initial is None else _dense_start(np.asarray(initial, dtype=np.int64), network.matrix.shape[0])
    labels = network.run(config.engine, gamma, config.leiden_iterations, seed, start)
    return dense_by_size(merge_small(network.matrix, labels, config.min_size, gamma))


def leiden_supported(
    network: Network, gamma: float, config: LeidenConfig | None = None, *, seed: int = 0, most_runs: int = 10
) -> tuple[NDArray[np.int64], float]:
    """Cluster items at gamma, or at the finest resolution that the graph supports.

    Where clusters hold no more weight than chance would give them (modularity at or below 0), gamma is finer than the
    graph can tell: a small dense graph has no 60-fold structure. It is then halved until modularity is positive.

    Args:
        network: co-engagement graph.
        gamma: wanted resolution.
        config: engine, rounds, least size.
        seed: of the engine's random order.
        most_runs: most runs of Leiden; gamma 1 is not passed either.

    Returns:
        Labels as from `leiden`, and the gamma that they were found at.
    """
    for _ in range(most_runs):
        labels = leiden(network, gamma, config, seed=seed)
        if gamma <= 1 or hard_modularity(network.matrix, labels, gamma) > 0:
            break
        gamma = max(gamma / 2, 1.0)
    return labels, gamma


def leiden_of_size(
    network: Network,
    n_clusters: int,
    config: LeidenConfig | None = None,
    *,
    seed: int = 0,
    most_runs: int = 10,
    tolerance: float = 0.02,
) -> tuple[NDArray[np.int64], float]:
    """Cluster items into about a number of clusters, by bisection on the logarithm of gamma.

    Runs Leiden at most `most_runs` times: gamma rises or falls eightfold until the number is bracketed, then the
    bracket is narrowed by interpolation between the logarithms of both numbers. Every run starts from the nearest one
    before it.

    Args:
        network: co-engagement graph.
        n_clusters: wanted number of clusters.
        config: engine, rounds, least size.
        seed: of the engine's random order.
        most_runs: most runs of Leiden.
        tolerance: relative error of the number that ends the search.

    Returns:
        Labels as from `leiden`, of the run nearest to the wanted number, and its gamma.

    Raises:
        RecsysError: n_clusters is below 1 or above the number of items.
    """
    n_items = network.matrix.shape[0]
    if not 1 <= n_clusters <= n_items:
        raise RecsysError(
            f"{n_clusters} prototypes are wanted of {n_items} items.", mend=f"ask for 1 to {n_items} prototypes."
        )
    runs: dict[float, NDArray[np.int64]] = {}
    counts: dict[float, int] = {}

    def miss(gamma: float) -> float:
        return abs(np.log(counts[gamma] / n_clusters))

    gamma = 1.0
    while len(runs) < most_runs:
        nearest = min(runs, key=lambda other: abs(np.log(other / gamma)), default=None)
        runs[gamma] = leiden(network, gamma, config, None if nearest is None else runs[nearest], seed=seed)
        counts[gamma] = int(runs[gamma].max()) + 1
        if miss(gamma) <= np.log1p(tolerance):
            break
        below = [other for other in runs if counts[other] < n_clusters]
        above = [other for other in runs if counts[other] > n_clusters]
        if not above:
            gamma = max(runs) * 8
        elif not below:
            gamma = min(runs) / 8
        else:
            low, high = max(below), min(above)
            share = np.log(n_clusters / counts[low]) / np.log(counts[high] / counts[low])
            gamma = float(np.exp(np.log(low) + np.clip(share, 0.1, 0.9) * np.log(high / low)))
        if gamma in runs or not 1e-6 < gamma < 1e9:
            break
    best = min(runs, key=miss)
    return runs[best], best


def _dense_start(initial: NDArray[np.int64], n_items: int) -> NDArray[np.int64]:
    if initial.shape != (n_items,):
        raise RecsysError(
            f"The start has shape {initial.shape}, expected ({n_items},): one label an item.",
            mend="pass labels of the same catalogue, -1 for new items, or none at all.",
        )
    unknown = initial < 0
    start = initial.copy()
    start[unknown] = max(int(initial.max(initial=-1)), -1) + 1 + np.arange(int(unknown.sum()))
    return np.unique(start, return_inverse=True)[1].astype(np.int64)
