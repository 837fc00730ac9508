"""The Dagster instance under RECSYS_HOME: its settings, and runs that died without saying so."""

import os
from pathlib import Path

import dagster as dg

from resources.storage import home

SETTINGS = """\
# Written by recsys-dagster when it was absent; yours to change.
telemetry:
  enabled: false
nux:
  enabled: false

concurrency:
  # The pools `gpu` and `llm` let one step at a time through, over all runs.
  pools:
    granularity: op
    default_limit: 1
  # Datasets of a backfill that are worked on at the same time.
  runs:
    max_concurrent_runs: 2
    # A dataset has one run at a time: two would write the same tables. The others wait.
    tag_concurrency_limits:
      - key: dagster/partition
        value: {applyLimitPerUniqueValue: true}
        limit: 1

run_monitoring:
  enabled: true
  free_slots_after_run_end_seconds: 60

# Progress and warnings of the methods go to the run's log.
python_logs:
  managed_python_loggers: [recsys_dagster]
  python_log_level: INFO
"""

WORKSPACE = """\
# Written by recsys-dagster when it was absent. The name is the one in the project's own workspace.yaml and
# pyproject.toml, so that backfills and schedules find the code wherever the UI was started from.
load_from:
  - python_module:
      module_name: recsys_dagster.definitions
      location_name: recsys_dagster
"""

PROCESS_TAG = "recsys/process"
"""Run tag with the process id and its start time; the process that executes the run is the one that can end it."""


def prepare_home() -> Path:
    """Make the state directory with `dagster.yaml` and `workspace.yaml`; point DAGSTER_HOME at it unless it is set.

    Returns:
        The folder of the Dagster instance.
    """
    root = home()
    os.environ["RECSYS_HOME"] = str(root)
    folder = Path(os.environ.setdefault("DAGSTER_HOME", str(root / "dagster"))).absolute()
    os.environ["DAGSTER_HOME"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("dagster.yaml", SETTINGS), ("workspace.yaml", WORKSPACE)):
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def open_instance() -> dg.DagsterInstance:
    """The persistent instance, where runs, events and materializations are kept."""
    prepare_home()
    return dg.DagsterInstance.get()


def process_mark(pid: int | None = None) -> str | None:
    """``pid:start`` of a living process (this one unless told), or None if there is none with that id."""
    pid = os.getpid() if pid is None else pid
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        # Field 22, counted after the command name, which may itself hold spaces and brackets.
        return f"{pid}:{stat.read_text().rpartition(')')[2].split()[19]}"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return f"{pid}:0"


def runs_without_process(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs that were never ended and whose process is gone."""
    unfinished = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    dead = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=unfinished)):
        mark = run.tags.get(PROCESS_TAG)
        if mark is not None and process_mark(int(mark.partition(":")[0])) != mark:
            dead.append(run)
    return dead


def fail_dead_runs(instance: dg.DagsterInstance) -> int:
    """Mark runs as failed whose process was killed, and free the pool slots that they held.

    Without this a killed training would keep the `gpu` pool closed until somebody frees it by hand.

    Returns:
        Number of runs that were found dead.
    """
    dead = runs_without_process(instance)
    for run in dead:
        process = run.tags[PROCESS_TAG].partition(":")[0]
        message = (
            f"The process {process} that executed this run is gone: it was killed, perhaps because memory was out. "
            "What it had stored is whole. To mend: run the same again."
        )
        instance.report_run_failed(run, message=message)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    return len(dead)
