import os
import platform
import subprocess
import sys
from pathlib import Path

import dagster as dg
import yaml

from resources.instance import PROCESS_TAG, fail_dead_runs, open_instance, prepare_home, process_mark


def at_home(monkeypatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    # prepare_home sets DAGSTER_HOME for child processes; monkeypatch takes it back afterwards.
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    return tmp_path / "home" / "dagster"


def test_home_is_made_with_settings_that_dagster_accepts(monkeypatch, tmp_path):
    folder = at_home(monkeypatch, tmp_path)
    assert prepare_home() == folder
    settings = yaml.safe_load((folder / "dagster.yaml").read_text())
    assert settings["telemetry"] == {"enabled": False}
    # One name for the code location everywhere, else runs that a backfill asks for are not found by the daemon.
    project = yaml.safe_load(Path("workspace.yaml").read_text())
    assert yaml.safe_load((folder / "workspace.yaml").read_text()) == project
    with open_instance() as instance:
        assert instance.telemetry_enabled is False
        assert instance.event_log_storage.get_pool_config().default_pool_limit == 1
        assert instance.managed_python_loggers == ["recsys_dagster"]
        assert instance.get_concurrency_config().pool_config.pool_granularity.value == "op"


def test_settings_of_the_user_are_left_alone(monkeypatch, tmp_path):
    folder = at_home(monkeypatch, tmp_path)
    folder.mkdir(parents=True)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: true}\n")
    prepare_home()
    assert (folder / "dagster.yaml").read_text() == "telemetry: {enabled: true}\n"


def test_mark_tells_living_from_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = process_mark(child.pid)
    assert mark is not None
    assert mark.startswith(f"{child.pid}:")
    child.communicate(b"\n")
    assert process_mark(child.pid) is None
    assert process_mark() == process_mark(os.getpid())


def test_a_killed_run_is_failed_and_its_pool_slot_freed(monkeypatch, tmp_path):
    at_home(monkeypatch, tmp_path)

    @dg.op
    def nothing() -> None: ...

    @dg.job
    def some_job() -> None:
        nothing()

    with open_instance() as instance:
        marks = {
            "dead": f"999999999:1:{platform.node()}",
            "alive": process_mark(),
            "launched": None,
            "elsewhere": "999999999:1:another-container",
        }
        runs = {}
        for name, mark in marks.items():
            tags = {} if mark is None else {PROCESS_TAG: mark}
            run = instance.create_run_for_job(some_job, tags=tags, status=dg.DagsterRunStatus.STARTED)
            runs[name] = run.run_id
        pools = instance.event_log_storage
        pools.initialize_concurrency_limit_to_default("gpu")
        assert pools.claim_concurrency_slot("gpu", runs["dead"], "step").is_claimed
        assert not pools.claim_concurrency_slot("gpu", runs["alive"], "step").is_claimed
        assert fail_dead_runs(instance) == 1
        status = {name: instance.get_run_by_id(run_id).status for name, run_id in runs.items()}
        assert status["dead"] == dg.DagsterRunStatus.FAILURE
        assert status["alive"] == status["launched"] == status["elsewhere"] == dg.DagsterRunStatus.STARTED
        assert pools.claim_concurrency_slot("gpu", runs["alive"], "step").is_claimed
