"""The Dagster instance under RECSYS_HOME: its settings, and runs that died without saying so."""

import os
import platform
from importlib.util import find_spec
from pathlib import Path

import dagster as dg

from recsys_dagster.errors import RecsysError
from resources.files import write_atomically, write_text
from resources.storage import home

POSTGRES_ENVIRONMENT = "RECSYS_POSTGRES_URL"
POSTGRES_DRIVER = "postgresql+psycopg2"
"""Since SQLAlchemy 2.1 plain ``postgresql://`` means psycopg 3; dagster-postgres brings psycopg 2."""

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

POSTGRES_SETTINGS = f"""
# Runs and events are kept in Postgres. Its address, with the password, stays in the environment.
storage:
  postgres:
    postgres_url: {{env: {POSTGRES_ENVIRONMENT}}}
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
"""Run tag with the process id, its start time and its machine; the process that executes the run can end it."""


def prepare_home() -> Path:
    """Make the state directory with `dagster.yaml` and `workspace.yaml`; point DAGSTER_HOME at it unless it is set.

    With RECSYS_POSTGRES_URL in the environment runs and events are kept there, from then on. A `dagster.yaml` that
    somebody has edited is left alone.

    Returns:
        The folder of the Dagster instance.

    Raises:
        RecsysError: RECSYS_POSTGRES_URL and `dagster.yaml` do not fit, or a package is missing.
    """
    root = home()
    os.environ["RECSYS_HOME"] = str(root)
    folder = Path(os.environ.setdefault("DAGSTER_HOME", str(root / "dagster"))).absolute()
    os.environ["DAGSTER_HOME"] = str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("dagster.yaml", SETTINGS), ("workspace.yaml", WORKSPACE)):
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")
    _choose_storage(folder / "dagster.yaml")
    return folder


def _choose_storage(settings: Path) -> None:
    """Let a `dagster.yaml` that nobody has edited follow RECSYS_POSTGRES_URL; see that an edited one can."""
    address = os.environ.get(POSTGRES_ENVIRONMENT, "")
    text = settings.read_text(encoding="utf-8")
    if address and not _is_postgres(address):
        raise RecsysError(
            f"{POSTGRES_ENVIRONMENT} is no address of the form {POSTGRES_DRIVER}://USER:PASSWORD@HOST:5432/DATABASE.",
            mend="correct it; characters such as @ / : # in the password are written as %40 %2F %3A %23.",
        )
    if address and text == SETTINGS:
        from upath import UPath

        text += POSTGRES_SETTINGS
        write_atomically(UPath(settings), lambda path: write_text(path, text))
    used = POSTGRES_ENVIRONMENT in text
    if address and not used:
        raise RecsysError(
            f"{POSTGRES_ENVIRONMENT} is set, but {settings} is not as this version writes it, and does not use it.",
            mend=f"unset it, or add the line: storage: {{postgres: {{postgres_url: {{env: {POSTGRES_ENVIRONMENT}}}}}}}",
        )
    if used and not address:
        raise RecsysError(
            f"{settings} keeps runs in the Postgres database that {POSTGRES_ENVIRONMENT} names, which is not set.",
            mend="set it as where the daemon runs (docs/deploy.md).",
        )
    if used and find_spec("dagster_postgres") is None:
        raise RecsysError(
            f"{settings} keeps runs in Postgres, and dagster-postgres is not installed.",
            mend="pip install 'recsys-dagster[postgres]'",
        )


def _is_postgres(address: str) -> bool:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(address).drivername == POSTGRES_DRIVER
    except (ArgumentError, ValueError):
        return False


def open_instance() -> dg.DagsterInstance:
    """The persistent instance, where runs, events and materializations are kept."""
    prepare_home()
    return dg.DagsterInstance.get()


def process_mark(pid: int | None = None) -> str | None:
    """``pid:start:machine`` of a living process here (this one unless told), or None if there is none with that id."""
    pid, machine = os.getpid() if pid is None else pid, platform.node()
    stat = Path(f"/proc/{pid}/stat")
    if stat.exists():
        # Field 22, counted after the command name, which may itself hold spaces and brackets.
        return f"{pid}:{stat.read_text().rpartition(')')[2].split()[19]}:{machine}"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return f"{pid}:0:{machine}"


def is_alive(mark: str) -> bool | None:
    """Whether the process of a `process_mark` is there; None where it is one of another machine or container."""
    pid, _, rest = mark.partition(":")
    machine = rest.partition(":")[2]
    return None if machine != platform.node() else process_mark(int(pid)) == mark


def runs_without_process(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Runs that were never ended and whose process was one of this machine and is gone."""
    unfinished = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    dead = []
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=unfinished)):
        mark = run.tags.get(PROCESS_TAG)
        if mark is not None and is_alive(mark) is False:
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
