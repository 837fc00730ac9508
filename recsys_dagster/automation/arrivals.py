"""Arrivals: a sensor that sees new and replaced source files and asks for one run of the dataset's partition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import datasets
from recsys_dagster.automation.history import made
from recsys_dagster.automation.jobs import LINEAGE, REFRESH, full_lineage, refresh
from recsys_dagster.automation.nights import NEED_EMBEDDINGS
from recsys_dagster.automation.requests import run_request
from recsys_dagster.data.registry import DatasetSpec, load_registry
from recsys_dagster.data.sources import data_directory
from recsys_dagster.data.versions import current_fingerprint, is_settled, is_watched, marks
from recsys_dagster.errors import RecsysError

INTERVAL_S = 15


class Seen:
    """What the sensor remembers between ticks, by dataset; the sensor's cursor.

    Each dataset has the marks of its files when they were last read through, the fingerprint of their content then,
    and how many changes there have been.
    """

    def __init__(self, cursor: str | None) -> None:
        self._datasets: dict[str, dict[str, Any]] = json.loads(cursor) if cursor else {}

    def cursor(self) -> str:
        """As text."""
        return json.dumps(self._datasets, sort_keys=True)

    def marks(self, dataset: str) -> dict[str, str] | None:
        """The marks when the content was last looked at."""
        return self._datasets.get(dataset, {}).get("marks")

    def fingerprint(self, dataset: str) -> str | None:
        """The content then."""
        return self._datasets.get(dataset, {}).get("fingerprint")

    def changes(self, dataset: str) -> int:
        """How many changes there have been."""
        return int(self._datasets.get(dataset, {}).get("changes", 0))

    def remember(self, dataset: str, marks: Any, fingerprint: str, *, changed: bool) -> None:
        """Take the state of a dataset's files in."""
        changes = self.changes(dataset) + changed
        self._datasets[dataset] = {"marks": dict(marks), "fingerprint": fingerprint, "changes": changes}


def arrived(instance: dg.DagsterInstance, spec: DatasetSpec, data_dir: Path | None, seen: Seen) -> str | None:
    """The fingerprint of content that nobody has asked a run for yet; None where there is none.

    Raises:
        RecsysError: a store cannot be reached, or a file is not whole.
    """
    now = marks(spec, data_dir)
    if now is None or now == seen.marks(spec.name) or not is_settled(spec, data_dir):
        return None
    content = current_fingerprint(spec, data_dir)
    stored = made(instance, "raw_interactions", spec.name)
    known = content == seen.fingerprint(spec.name) or (stored is not None and stored.version == content)
    seen.remember(spec.name, now, content, changed=not known)
    return None if known else content


@dg.sensor(
    name="source_arrivals",
    jobs=[refresh, full_lineage],
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Watches the source files of all datasets (local, or in an object store; published files with a sha256 "
    "or from a web server do not change and are not watched). New or other content: one run of `refresh`, or of "
    "`full_lineage` for a dataset that has never been materialized. The same content is never run twice.",
)
def source_arrivals(context: dg.SensorEvaluationContext) -> Iterator[dg.SensorResult]:
    """Ask for one run for each dataset whose source has new content."""
    seen, requests, notes, data_dir = Seen(context.cursor), [], [], data_directory()
    partitions = set(datasets.get_partition_keys())
    for spec in load_registry().values():
        if not is_watched(spec):
            continue
        if spec.name not in partitions:
            notes.append(f"{spec.name} is new in datasets.toml: reload the code location")
            continue
        try:
            content = arrived(context.instance, spec, data_dir, seen)
            if content is not None:
                requests.append(_request(context, spec, content, seen.changes(spec.name)))
        except RecsysError as error:
            notes.append(str(error))
    for note in notes:
        context.log.warning(note)
    yield dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else "; ".join(["no new content", *notes]),
        cursor=seen.cursor(),
    )


def _request(context: dg.SensorEvaluationContext, spec: DatasetSpec, content: str, changes: int) -> dg.RunRequest:
    # The number of the change is part of the key: content that comes back after other content is new again.
    key, repository = f"{spec.name}-{content}-{changes}", context.repository_def
    if made(context.instance, "interactions", spec.name) is None:
        job, assets, reason = full_lineage, _lineage(repository), "first file"
    else:
        leave_out = set() if made(context.instance, "sasrec_model", spec.name) else NEED_EMBEDDINGS
        job, assets, reason = refresh, [name for name in REFRESH if name not in leave_out], "source changed"
    return run_request(repository, spec, job.name, assets, run_key=key, reason=reason, name_job=True)


def _lineage(repository: dg.RepositoryDefinition | None) -> list[str]:
    assert repository is not None
    graph = repository.asset_graph
    kept = LINEAGE.resolve(graph)
    return sorted(key.to_user_string() for key in kept)
