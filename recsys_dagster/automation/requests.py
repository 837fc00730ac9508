"""How nights and arrivals ask for runs."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.run_config import read_config, relevant

REASON_TAG = "recsys/reason"
"""Run tag: why the run was asked for, in a few words."""


def run_request(
    repository: dg.RepositoryDefinition | None,
    spec: DatasetSpec,
    job: str,
    assets: Sequence[str],
    *,
    run_key: str,
    reason: str,
    priority: int = 0,
    name_job: bool = False,
) -> dg.RunRequest:
    """One run of a dataset's partition, under the dataset's own run config (`run_config` of its entry).

    Args:
        repository: of the schedule or sensor; it knows which step makes which asset.
        spec: the dataset.
        job: the job that the run is of.
        assets: what to make, some of the job's assets.
        run_key: never two runs under one.
        reason: for the tag.
        priority: which waiting run goes first, the larger.
        name_job: whether the request names the job (a sensor has several, a schedule one).
    """
    keys = [dg.AssetKey(name) for name in assets]
    config = read_config(spec.run_config_path)
    if repository is not None:
        steps = {key: definition.node_def.name for key, definition in repository.assets_defs_by_key.items()}
        config = relevant(config, steps, keys)
    tags = {"recsys/dataset": spec.name, REASON_TAG: reason, "dagster/priority": str(priority)}
    return dg.RunRequest(
        run_key=run_key,
        run_config=config,
        partition_key=spec.name,
        asset_selection=keys,
        job_name=job if name_job else None,
        tags=tags,
    )
