"""What Dagster remembers of an asset of a dataset: when it was made, from what, and with which figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

VERSION_TAG = "dagster/data_version"


@dataclass(frozen=True)
class Made:
    """One materialization of an asset of a dataset.

    Attributes:
        at: when, in seconds since 1970.
        version: its data version, None where there is none.
        metadata: its values by name.
    """

    at: float
    version: str | None
    metadata: Mapping[str, Any]


def made(instance: dg.DagsterInstance, asset: str, dataset: str, *, before: float | None = None) -> Made | None:
    """The last materialization (before a moment), None where there is none."""
    return next(_history(instance, asset, dataset, before=before), None)


def made_in_order(instance: dg.DagsterInstance, dataset: str, assets: Sequence[str]) -> bool:
    """Whether each of some assets was made after those before it: false where a run died among them."""
    last = float("-inf")
    for asset in assets:
        found = made(instance, asset, dataset)
        if found is None or found.at < last:
            return False
        last = found.at
    return True


def made_since(instance: dg.DagsterInstance, asset: str, dataset: str, since: float) -> Iterator[Made]:
    """The materializations after a moment, the last one first."""
    return _history(instance, asset, dataset, after=since)


def _history(
    instance: dg.DagsterInstance, asset: str, dataset: str, *, before: float | None = None, after: float | None = None
) -> Iterator[Made]:
    wanted = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey(asset), asset_partitions=[dataset], before_timestamp=before, after_timestamp=after
    )
    cursor = None
    while True:
        page = instance.fetch_materializations(wanted, limit=1 if after is None else 50, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            if event is not None:
                metadata = {name: value.value for name, value in event.metadata.items()}
                yield Made(record.timestamp, (event.tags or {}).get(VERSION_TAG), metadata)
        if not page.has_more:
            return
        cursor = page.cursor


def check_failed_since(instance: dg.DagsterInstance, asset: str, check: str, dataset: str, since: float) -> bool:
    """Whether a check of an asset failed for a dataset after a moment."""
    key = dg.AssetCheckKey(dg.AssetKey(asset), check)
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=500):
        if record.event is None:  # planned, and not evaluated yet
            continue
        if record.event.timestamp < since:
            return False
        if record.partition == dataset and record.status.value == "FAILED":
            return True
    return False


def under_way(instance: dg.DagsterInstance, job: str, dataset: str) -> bool:
    """Whether a run of a job for a dataset waits or is at work; what is a day old is taken for dead."""
    statuses = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    day_ago = datetime.now(UTC) - timedelta(days=1)
    wanted = dg.RunsFilter(job_name=job, tags={"dagster/partition": dataset}, statuses=statuses, created_after=day_ago)
    return bool(instance.get_runs(wanted, limit=1))
