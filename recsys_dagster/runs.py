"""Execute the lineage for one dataset from the command line, and tell what happens while it does."""

import logging
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg
from rich.console import Console

from recsys_dagster.automation import everything, full_lineage
from recsys_dagster.automation.failures import one_line
from recsys_dagster.definitions import defs
from recsys_dagster.errors import RecsysError, disk_told, is_disk_full
from recsys_dagster.run_config import relevant
from resources.instance import PROCESS_TAG, process_mark
from resources.storage import home

KEY_FIGURES = (
    "dagster/row_count", "validation_recall", "best_epoch", "users", "items", "edges", "clusters", "prototypes",
    "levels", "selected", "covered_share", "models", "peak_memory_mb",
)  # fmt: skip
"""Metadata shown on an asset's line, where it has them."""

POLL_S = 0.25
"""Seconds between two looks at the event log."""

RECOVERY = "adjusted_mutual_information"
"""Metadata of the one check whose figure is worth a line when it passes: were the planted interests found again?"""


def lineage_job() -> dg.JobDefinition:
    """The real job, found again by name so that Dagster can rebuild it."""
    return defs.resolve_job_def(full_lineage.name)


def every_asset() -> dg.JobDefinition:
    """The job that any selection of assets can be taken from."""
    return defs.resolve_job_def(everything.name)


def in_lineage(selection: Sequence[dg.AssetKey] | None) -> bool:
    """Whether `full_lineage` holds all that is selected (None: the whole of it)."""
    return selection is None or set(selection) <= set(lineage_job().asset_layer.selected_asset_keys)


def select_assets(names: Sequence[str]) -> list[dg.AssetKey] | None:
    """Assets named one by one or by group, with the siblings that are made in the same step.

    Args:
        names: asset names and group names; none means every asset.

    Raises:
        RecsysError: a name is neither.
    """
    if not names:
        return None
    graph = defs.resolve_asset_graph()
    groups: dict[str, set[dg.AssetKey]] = {}
    for node in graph.asset_nodes:
        groups.setdefault(str(node.group_name), set()).add(node.key)
    known = {key.to_user_string(): key for key in graph.get_all_asset_keys()}
    chosen: set[dg.AssetKey] = set()
    for name in names:
        if name not in groups and name not in known:
            raise RecsysError(
                f"--select {name}: neither an asset nor a group.",
                mend=f"choose groups ({', '.join(sorted(groups))}) or assets ({', '.join(sorted(known))}).",
            )
        chosen |= groups[name] if name in groups else {known[name]}
    for key in list(chosen):
        chosen |= graph.get(key).execution_set_asset_keys
    return sorted(chosen)


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        success: every selected asset was made and no blocking check failed.
        run_id: of the Dagster run; None if there was none.
        errors: one line for each failed step, blocking check first.
        seconds: wall time.
    """

    success: bool
    run_id: str | None
    errors: list[str]
    seconds: float


def execute(
    instance: dg.DagsterInstance,
    dataset: str,
    console: Console,
    *,
    select: Sequence[str] = (),
    config: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    label: str = "",
) -> Outcome:
    """Run the lineage job of one dataset in this process and report each asset as it is done.

    Args:
        instance: the persistent instance.
        dataset: partition key.
        console: where progress goes.
        select: assets or groups; everything unless given.
        config: Dagster run config (``ops``, ``resources``).
        tags: further tags of the run.
        label: what each line of progress starts with.
    """
    started = time.perf_counter()
    token = uuid.uuid4().hex
    tags = {**(tags or {}), "dagster/partition": dataset, "recsys/dataset": dataset, "recsys/token": token}
    tags[PROCESS_TAG] = process_mark() or str(os.getpid())
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    selection = select_assets(select)
    reporter = Reporter(instance, token, console, label)
    try:
        with reporter, disk_told(f"the log of the run, under {home()},"):
            result = dg.execute_job(
                dg.reconstructable(lineage_job if in_lineage(selection) else every_asset),
                instance=instance,
                run_config={**quiet, **relevant(config or {}, steps(), selection)},
                tags=tags,
                asset_selection=selection,
            )
    except dg.DagsterInvalidConfigError as error:
        first = " ".join(error.errors[0].message.split())
        raise RecsysError(
            f"the run config is not valid: {first}", mend="correct that entry of the config file."
        ) from None
    return Outcome(result.success, result.run_id, reporter.errors, time.perf_counter() - started)


def steps() -> dict[dg.AssetKey, str]:
    """The step that makes each asset."""
    return {key: defs.resolve_assets_def(key).op.name for key in defs.resolve_all_asset_keys()}


class Reporter:
    """Follows the event log of a run from a thread: one line per asset, one per failed check or step."""

    def __init__(self, instance: dg.DagsterInstance, token: str, console: Console, label: str = "") -> None:
        self._instance, self._token, self._console, self._label = instance, token, console, label
        self._done, self._thread = threading.Event(), threading.Thread(target=self._follow, daemon=True)
        self._run_id: str | None = None
        self._cursor: str | None = None
        self._starts: dict[str, float] = {}
        self._status = console.status("starting", spinner="dots") if console.is_terminal and not label else None
        self.errors: list[str] = []

    def __enter__(self) -> "Reporter":
        if self._status is not None:
            self._status.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if self._status is not None:
            self._status.stop()

    def _follow(self) -> None:
        try:
            while not self._done.wait(POLL_S):
                self._read()
            self._read()
        except Exception as error:
            if not is_disk_full(error):  # the run itself tells that
                raise

    def _read(self) -> None:
        if self._run_id is None:
            runs = self._instance.get_runs(filters=dg.RunsFilter(tags={"recsys/token": self._token}), limit=1)
            if not runs:
                return
            self._run_id = runs[0].run_id
        more = True
        while more:
            page = self._instance.get_records_for_run(self._run_id, cursor=self._cursor)
            self._cursor, more = page.cursor, page.has_more
            for record in page.records:
                entry = record.event_log_entry
                if entry.dagster_event is not None:
                    self._show(entry.dagster_event, entry.timestamp)
                elif entry.level == logging.WARNING:  # Dagster's own are errors, and have events
                    self._line("note", "yellow", " ".join(entry.user_message.split()), None, "")

    def _show(self, event: dg.DagsterEvent, timestamp: float) -> None:
        kind, step = event.event_type_value, event.step_key or ""
        if kind == "STEP_START":
            self._starts[step] = timestamp
            if self._status is not None:
                self._status.update(step)
        elif kind == "ASSET_MATERIALIZATION":
            materialization = event.step_materialization_data.materialization
            took = timestamp - self._starts.get(step, timestamp)
            figures = key_figures(materialization.metadata)
            self._line("done", "green", materialization.asset_key.to_user_string(), took, figures)
        elif kind == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            if check.passed and (recovered := check.metadata.get(RECOVERY)) is not None:
                name = f"{check.asset_key.to_user_string()}: {check.check_name}"
                self._line("check", "green", name, None, f"{RECOVERY.replace('_', ' ')} {recovered.value:.3f}")
            if not check.passed:
                name = f"{check.asset_key.to_user_string()}: {check.check_name}"
                text = f"check failed: {name}: {check.description or 'no description'}"
                if check.blocking:
                    self.errors.insert(0, text)
                colour = "red" if check.blocking else "yellow"
                self._line("check", colour, name, None, "failed")
        elif kind == "STEP_FAILURE":
            text = one_line(event.step_failure_data.error)
            if "DagsterAssetCheckFailedError" not in text:
                self.errors.append(f"{step}: {text}")
                self._line("failed", "red", step, timestamp - self._starts.get(step, timestamp), "")
        elif kind == "PIPELINE_FAILURE" and not self.errors:
            failure = event.job_failure_data.error
            self.errors.append(one_line(failure) if failure is not None else str(event.message))

    def _line(self, mark: str, colour: str, name: str, seconds: float | None, figures: str) -> None:
        took = "" if seconds is None else f"{seconds:.1f} s"
        rest = f"  [dim]{figures}[/]" if figures else ""
        self._console.print(
            f"{self._label}  [{colour}]{mark:<6}[/]  {name:<28} {took:>9}{rest}", highlight=False, soft_wrap=True
        )


def key_figures(metadata: Mapping[str, Any]) -> str:
    """The few figures of an asset that fit on its line."""
    parts = []
    for name in KEY_FIGURES:
        value = getattr(metadata.get(name), "value", None)
        if isinstance(value, int | float):
            shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            parts.append(f"{name.removeprefix('dagster/').replace('_', ' ').replace('row count', 'rows')} {shown}")
    return ", ".join(parts[:4])
