"""What every asset shares: its decorator settings, the train split, and metadata in one form."""

import hashlib
import itertools
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import BaseModel

from assets.partitions import datasets
from recsys_dagster.data.registry import get_dataset
from resources.stored_table import StoredTable

if TYPE_CHECKING:
    import pandas as pd

    from recsys_dagster.data.histories import Histories
    from recsys_dagster.training.data import SequenceData
    from resources.gpu import GpuResource

OWNERS = ["team:recsys"]
ONE_RUN_EACH = dg.BackfillPolicy.multi_run(1)


def on_ray(**resources: float) -> dict[str, Any]:
    """Op tags that say what a step takes of a Ray cluster (docs/ray.md); nothing else reads them.

    A step without any would run on the head node.
    """
    return {"dagster-ray/config": {"num_cpus": 1, **resources}}


ON_A_GPU = on_ray(num_gpus=1)
ON_A_LARGE_NODE = on_ray(memory=8 * 2**30)
"""Of the co-engagement graph and its clusters: what 10^7 interactions take, with room (docs/scale.md)."""

MULTI: dict[str, Any] = {"partitions_def": datasets, "backfill_policy": ONE_RUN_EACH, "op_tags": on_ray()}
"""Arguments of every multi-asset (owners stand on its outputs)."""

COMMON: dict[str, Any] = {**MULTI, "owners": OWNERS}
"""Arguments of every single asset."""


def train_histories(interactions: "pd.DataFrame", users: "pd.DataFrame", items: "pd.DataFrame") -> "Histories":
    """The train split as sequences: the only part of the data that graphs, clusters and cliques may see."""
    from recsys_dagster.data.histories import Histories

    return Histories.from_interactions(interactions, n_users=len(users), n_items=len(items))


def sequence_data(
    partition: str, interactions: "pd.DataFrame", users: "pd.DataFrame", items: "pd.DataFrame"
) -> "SequenceData":
    """All splits as sequences, cut to the longest history that the dataset's protocol lets a model read."""
    from recsys_dagster.training.data import SequenceData

    length = get_dataset(partition).max_length
    return SequenceData.from_tables(interactions, n_users=len(users), n_items=len(items), max_length=length)


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits that change when any setting does."""
    plain = [part.model_dump(mode="json") if isinstance(part, BaseModel) else part for part in parts]
    text = json.dumps(plain, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def data_fingerprint(*frames: "pd.DataFrame | StoredTable") -> str:
    """Twelve hexadecimal digits that change when any number or text in the tables does (not columns of lists).

    A stored table of numbers, read in pieces, has the digits of its DataFrame.
    """
    import numpy as np
    import pandas as pd

    digest = hashlib.sha256()
    for frame in frames:
        if isinstance(frame, StoredTable):
            for name in frame.columns():
                pieces = frame.values(name)
                first = next(pieces)
                digest.update(f"{name}{first.dtype}{(len(frame),)}".encode())
                for piece in itertools.chain([first], pieces):
                    digest.update(np.ascontiguousarray(piece).tobytes())
            continue
        for name in frame.columns:
            texts = isinstance(frame[name].dtype, pd.StringDtype)
            values = pd.util.hash_array(frame[name].to_numpy()) if texts else frame[name].to_numpy()
            if values.dtype != object:
                digest.update(f"{name}{values.dtype}{values.shape}".encode())
                digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:12]


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata values that Dagster can store: numpy scalars unwrapped, figures that are not finite left out."""
    kept: dict[str, Any] = {}
    for name, value in metadata.items():
        value = value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            continue
        if isinstance(value, dg.MetadataValue):  # some of them are tuples
            pass
        elif isinstance(value, Mapping | list | tuple):
            value = dg.MetadataValue.json(json.loads(json.dumps(value, default=lambda other: other.item())))
        elif isinstance(value, Path):
            value = dg.MetadataValue.path(str(value))
        kept[name] = value
    return kept


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds so far, to the millisecond."""
        return round(time.perf_counter() - self._started, 3)


def materialized(
    value: Any,
    metadata: Mapping[str, Any],
    watch: Stopwatch,
    *settings: object,
    asset: str | None = None,
    version: str | None = None,
) -> dg.MaterializeResult[Any]:
    """The value of an asset with its metadata, seconds and the fingerprint of the settings that made it.

    `version` is its data version where Dagster's own (code version and versions of the inputs) would not tell a change:
    where data comes in from outside.
    """
    tag_run()
    extra: dict[str, Any] = {"seconds": watch.seconds}
    if settings:
        extra["config_fingerprint"] = fingerprint(*settings)
        for part in settings:
            if isinstance(part, BaseModel) and type(part).model_fields:
                extra[f"config_{type(part).__name__}"] = part.model_dump(mode="json")
    key = None if asset is None else dg.AssetKey(asset)
    data_version = None if version is None else dg.DataVersion(version)
    return dg.MaterializeResult(
        asset_key=key, value=value, metadata=plain({**metadata, **extra}), data_version=data_version
    )


def tag_run(**tags: object) -> None:
    """Tag the run that is under way, so that the UI can filter runs by dataset, model and seed.

    The dataset is told in any case; values that several steps give to one tag stand side by side (``g2rec,larmi``).
    Outside a run, as in tests of single functions, there is nothing to tag.
    """
    try:
        context = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return
    run = context.instance.get_run_by_id(context.run_id)
    if run is None or not context.has_partition_key:
        return
    told = {}
    for name, value in {"dataset": context.partition_key, **tags}.items():
        key = f"recsys/{name}"
        before = run.tags[key].split(",") if key in run.tags else []
        told[key] = ",".join(sorted({*before, str(value)}))
    if any(run.tags.get(key) != value for key, value in told.items()):
        context.instance.add_run_tags(context.run_id, told)


def picture(draw: Any, *args: Any, **kwargs: Any) -> dg.MarkdownMetadataValue:
    """Call a plot function of `recsys_dagster.evaluation.plots` and wrap its figure for the UI."""
    from recsys_dagster.evaluation.plots import png_markdown

    return dg.MetadataValue.md(png_markdown(draw(*args, **kwargs)))


def runtime_of(gpu: "GpuResource") -> Any:
    """The resource's settings as the `Runtime` that training code takes."""
    from recsys_dagster.training.runtime import Runtime

    return Runtime(**gpu.runtime())
