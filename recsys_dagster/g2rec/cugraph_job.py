"""A job for machines with NVIDIA GPUs: hard clusters of the stored co-engagement graph by cuGraph's multi-GPU Leiden.

Run by the asset `soft_memberships` through Dagster Pipes (engine `cugraph`). It needs RAPIDS (`cugraph`, `dask-cuda`)
and `dagster-pipes`, and nothing of this project: the file is copied to where it runs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

from dagster_pipes import PipesContext, open_dagster_pipes

NEEDED = ("cugraph", "dask_cuda", "dask_cudf")
MAX_LEVELS = 100
"""cuGraph's own limit of aggregation levels (`max_iter`); it ends by itself long before."""


def clustered(graph: str, gammas: list[float], seed: int) -> Iterator[tuple[Any, float, float]]:
    """Clusters of a graph at several resolutions, on all GPUs that this process sees.

    A resolution that the graph does not support (modularity at or below 0) is halved, down to 1.

    Args:
        graph: Parquet file with columns source, target, weight, each undirected edge once.
        gammas: wanted resolutions.
        seed: of Leiden's random refinement.

    Yields:
        A pandas table (vertex, partition) without the items that have no edge, the gamma, and the modularity.
    """
    import cugraph
    import cugraph.dask as multi_gpu
    import dask_cudf
    from cugraph.dask.comms import comms
    from dask.distributed import Client
    from dask_cuda import LocalCUDACluster

    with LocalCUDACluster() as cluster, Client(cluster):
        comms.initialize(p2p=True)
        try:
            edges = dask_cudf.read_parquet(graph, columns=["source", "target", "weight"])
            network = cugraph.Graph(directed=False)
            network.from_dask_cudf_edgelist(edges, source="source", destination="target", edge_attr="weight")
            for wanted in gammas:
                gamma = wanted
                while True:
                    parts, modularity = multi_gpu.leiden(
                        network, max_iter=MAX_LEVELS, resolution=gamma, random_state=seed
                    )  # fmt: skip
                    if gamma <= 1 or float(modularity) > 0:
                        break
                    gamma = max(gamma / 2, 1.0)
                yield parts.compute().to_pandas(), gamma, float(modularity)
        finally:
            comms.destroy()


def work(pipes: PipesContext) -> None:
    """Write the table of partitions that the asset asked for: level, gamma, item_id, cluster."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pipes.report_custom_message({"missing": missing})
        return
    import pandas as pd

    tables = []
    gammas = pipes.get_extra("gammas")
    for level, (parts, gamma, modularity) in enumerate(
        clustered(pipes.get_extra("graph"), gammas, pipes.get_extra("seed"))
    ):
        n = parts["partition"].nunique()
        pipes.log.info(f"cugraph: gamma {gamma:g}, {n:,} clusters of {len(parts):,} items, modularity {modularity:.4f}")
        columns = {"item_id": parts["vertex"].astype("int32"), "cluster": parts["partition"].astype("int64")}
        tables.append(pd.DataFrame({"level": level, "gamma": gamma, **columns}))
    pd.concat(tables, ignore_index=True).to_parquet(pipes.get_extra("partitions"))
    pipes.report_custom_message({"levels": len(tables)})


if __name__ == "__main__":  # the workers of the cluster import this file
    with open_dagster_pipes() as context:
        work(context)
