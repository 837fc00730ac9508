"""Leiden beyond one machine: the engine `cugraph` of `soft_memberships`, as one Pipes job beside the stored graph."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pandas as pd

from recsys_dagster.errors import RecsysError
from resources.cugraph import CugraphResource
from resources.storage import AssetStore

if TYPE_CHECKING:
    from recsys_dagster.g2rec.leiden import Partition
    from recsys_dagster.g2rec.soft_modularity import SoftConfig


def elsewhere(
    context: dg.AssetExecutionContext, store: AssetStore, cugraph: CugraphResource, config: "SoftConfig", seed: int
) -> "Callable[[], list[Partition]] | None":
    """What finds the hard clusters of all levels in one job, if the engine asks for it."""
    return partial(_by_cugraph, context, store, cugraph, config, seed) if config.engine == "cugraph" else None


def _by_cugraph(
    context: dg.AssetExecutionContext, store: AssetStore, cugraph: CugraphResource, config: "SoftConfig", seed: int
) -> "list[Partition]":
    from recsys_dagster.g2rec import cugraph_job
    from recsys_dagster.g2rec.leiden import Partition

    python = cugraph.python or "this Python"
    mend = (
        "install RAPIDS (cugraph and dask-cuda) and dagster-pipes for it or set resources.cugraph.config.python, see "
        "docs/ray.md; or choose engine: compiled and keep fewer edges."
    )
    if cugraph.python and not cugraph.ray_address and shutil.which(cugraph.python) is None:
        raise RecsysError(f"resources.cugraph.config.python is {cugraph.python!r}, no such program.", mend=mend)
    graph = store.path("coengagement_graph", context.partition_key)
    partitions = store.path("cugraph_partitions", context.partition_key)
    partitions.parent.mkdir(parents=True, exist_ok=True)
    extras = {"graph": str(graph), "partitions": str(partitions), "gammas": config.gammas, "seed": seed}
    messages = cugraph.run(context, Path(cugraph_job.__file__), extras)
    if missing := [name for message in messages for name in message.get("missing", [])]:
        raise RecsysError(f"engine is cugraph, but {python} has no {', '.join(missing)}.", mend=mend)
    with partitions.open("rb") as file:
        table = pd.read_parquet(file)
    levels = [rows for _, rows in table.groupby("level", sort=True)]
    return [
        Partition(rows["item_id"].to_numpy(), rows["cluster"].to_numpy(), float(rows["gamma"].iloc[0]))
        for rows in levels
    ]
