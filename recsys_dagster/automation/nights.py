"""Nights and weeks: for each dataset a schedule that renews its clustering, and one that lets the models follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from recsys_dagster.automation.history import check_failed_since, made, made_in_order, made_since, under_way
from recsys_dagster.automation.jobs import DATA, RECLUSTER, REFRESH, TRAIN, refresh, train
from recsys_dagster.automation.requests import run_request
from recsys_dagster.data.registry import DatasetSpec, load_registry
from recsys_dagster.data.sources import data_directory
from recsys_dagster.data.timetable import Nightly, Retraining
from recsys_dagster.data.versions import current_fingerprint
from recsys_dagster.errors import RecsysError

NEED_EMBEDDINGS = {"item_embeddings", "interest_tokens"}
"""What a night leaves out as long as no SASRec has been trained."""

READ = [name for name in DATA if name != "negatives"]
"""Made of each other, and at once."""


@dataclass(frozen=True)
class Night:
    """What a night has to do for one dataset.

    Attributes:
        assets: what to make; nothing means that the night is skipped.
        reason: why, or why not.
    """

    assets: tuple[str, ...]
    reason: str


def plan_night(instance: dg.DagsterInstance, spec: DatasetSpec, data_dir: Path | None) -> Night:
    """Compare a dataset's source and tables with what its clustering was made of.

    A source that cannot be read is not skipped: the run fails with the error that says how to mend it, and the alarm
    goes off.
    """
    interactions, raw = made(instance, "interactions", spec.name), made(instance, "raw_interactions", spec.name)
    if interactions is None or raw is None:
        return Night((), "never materialized: run full_lineage for it first")
    if under_way(instance, refresh.name, spec.name):
        return Night((), "a refresh waits or is at work")
    leave_out = set() if made(instance, "sasrec_model", spec.name) else NEED_EMBEDDINGS
    everything = tuple(name for name in REFRESH if name not in leave_out)
    try:
        changed = current_fingerprint(spec, data_dir) != raw.version
    except RecsysError:
        return Night(everything, "source cannot be read")
    if changed:
        return Night(everything, "source changed")
    if not made_in_order(instance, spec.name, READ):
        return Night(everything, "interactions are older than the source that was read")
    clustering = tuple(name for name in everything if name not in DATA)
    graph, memberships = made(instance, "coengagement_graph", spec.name), made(instance, "soft_memberships", spec.name)
    if graph is None or memberships is None:
        return Night(clustering, "never clustered")
    clustered = made(instance, "interactions", spec.name, before=graph.at)
    if clustered is None or clustered.version != interactions.version:
        return Night(clustering, "interactions changed")
    renewed = tuple(name for name in clustering if name in RECLUSTER)
    if memberships.at < graph.at and check_failed_since(
        instance, "soft_memberships", "clustering_did_not_collapse", spec.name, graph.at
    ):
        return Night((), "the source did not change since its clustering collapsed and was not published")
    if not made_in_order(instance, spec.name, renewed):
        return Night(renewed, "the last night did not end")
    return Night((), "the source did not change")


def drift_since_training(instance: dg.DagsterInstance, dataset: str) -> float | None:
    """Sum over the nights since the last training of the share of memberships that moved; None if never trained."""
    trained = made(instance, "g2rec_model", dataset)
    if trained is None:
        return None
    nights = made_since(instance, "soft_memberships", dataset, trained.at)
    return sum(float(night.metadata.get("drift", 0.0)) for night in nights)


def _night(spec: DatasetSpec) -> Callable[[Any], Iterator[dg.RunRequest | dg.SkipReason]]:
    def evaluate(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        night = plan_night(context.instance, spec, data_directory())
        if not night.assets:
            yield dg.SkipReason(f"{spec.name}: {night.reason}.")
            return
        yield run_request(
            context.repository_def, spec, refresh.name, night.assets,
            run_key=f"night-{spec.name}-{context.scheduled_execution_time:%Y-%m-%dT%H:%M}", reason=night.reason,
        )  # fmt: skip

    return evaluate


def _week(spec: DatasetSpec, threshold: float) -> Callable[[Any], Iterator[dg.RunRequest | dg.SkipReason]]:
    def evaluate(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        drift = drift_since_training(context.instance, spec.name)
        if drift is None:
            yield dg.SkipReason(f"{spec.name}: never trained: run full_lineage for it first.")
        elif drift < threshold:
            yield dg.SkipReason(f"{spec.name}: {drift:.3f} of the memberships moved, retraining starts at {threshold}.")
        elif under_way(context.instance, train.name, spec.name):
            yield dg.SkipReason(f"{spec.name}: a training waits or is at work.")
        else:
            yield run_request(
                context.repository_def, spec, train.name, TRAIN,
                run_key=f"week-{spec.name}-{context.scheduled_execution_time:%Y-%m-%dT%H:%M}",
                reason=f"drift {drift:.3f} since the last training", priority=-1,
            )  # fmt: skip

    return evaluate


def schedules(specs: Iterable[DatasetSpec]) -> list[dg.ScheduleDefinition]:
    """A nightly and a weekly schedule for each dataset; on where the dataset's entry sets a time, else off."""
    found = []
    for spec in specs:
        night, week = spec.nightly or Nightly(), spec.retraining or Retraining()
        suffix = spec.name.replace("-", "__")  # Dagster's names have no hyphen
        on = {True: dg.DefaultScheduleStatus.RUNNING, False: dg.DefaultScheduleStatus.STOPPED}
        found += [
            dg.ScheduleDefinition(
                name=f"nightly_{suffix}", job=refresh, cron_schedule=night.cron, execution_timezone=night.timezone,
                execution_fn=_night(spec), default_status=on[spec.nightly is not None], tags={"dataset": spec.name},
                description=f"At {night.hour:02}:{night.minute:02} {night.timezone}: if the source of {spec.name} "
                "changed, it is read again, and graph, memberships, prototypes and tokens are renewed (warm start, ids "
                "kept, a collapsed clustering is not published). Else the night is skipped, and says why.",
            ),
            dg.ScheduleDefinition(
                name=f"weekly_{suffix}", job=train, cron_schedule=week.cron, execution_timezone=week.timezone,
                execution_fn=_week(spec, week.drift), default_status=on[spec.retraining is not None],
                tags={"dataset": spec.name},
                description=f"On {week.weekday} at {week.hour:02}:{week.minute:02} {week.timezone}: the models of "
                f"{spec.name} are trained again if at least {week.drift:g} of all memberships have moved since they "
                "were (the sum of `drift` of soft_memberships over the nights).",
            ),
        ]  # fmt: skip
    return found


def with_freshness(assets: Iterable[Any], specs: Iterable[DatasetSpec]) -> list[Any]:
    """The assets, with a freshness policy on the clustering where some dataset has nights.

    Nights skip a source that did not change, so an overdue clustering means that no new data came, or that no night
    succeeded. Dagster keeps one policy an asset, not one a partition: the shortest `fresh_within_days` counts, and
    any dataset renews it.
    """
    days = [spec.nightly.fresh_within_days for spec in specs if spec.nightly is not None]
    if not days:
        return list(assets)
    window = timedelta(days=min(days))
    policy = dg.FreshnessPolicy.time_window(fail_window=window, warn_window=window / 2)
    renewed = {dg.AssetKey(name) for name in RECLUSTER if name not in NEED_EMBEDDINGS}

    def fresh(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(freshness_policy=policy) if spec.key in renewed else spec

    return list(dg.map_asset_specs(fresh, assets))


SCHEDULES = tuple(schedules(load_registry().values()))
