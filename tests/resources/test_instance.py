import os
import platform
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from recsys_dagster.errors import RecsysError
from resources.instance import PROCESS_TAG, fail_dead_runs, is_alive, open_instance, prepare_home, process_mark


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


URL = "postgresql+psycopg2://recsys:s%40cret@127.0.0.1:5432/recsys"


def test_postgres_by_the_environment(monkeypatch, tmp_path):
    settings = at_home(monkeypatch, tmp_path) / "dagster.yaml"
    prepare_home()
    before = settings.read_text()
    monkeypatch.setenv("RECSYS_POSTGRES_URL", URL)
    for _ in range(2):
        prepare_home()
        assert yaml.safe_load(settings.read_text())["storage"] == {
            "postgres": {"postgres_url": {"env": "RECSYS_POSTGRES_URL"}}
        }
    assert settings.read_text().startswith(before)
    assert "cret" not in settings.read_text()
    # Without it no run may go to another place.
    monkeypatch.delenv("RECSYS_POSTGRES_URL")
    with pytest.raises(RecsysError, match="which is not set"):
        prepare_home()


@pytest.mark.parametrize("address", ["postgresql://u:cret@host/db", "mysql://u:cret@host/db", "cret"])
def test_an_address_that_is_none_of_postgres_is_refused_and_not_told(monkeypatch, tmp_path, address):
    settings = at_home(monkeypatch, tmp_path) / "dagster.yaml"
    monkeypatch.setenv("RECSYS_POSTGRES_URL", address)
    with pytest.raises(RecsysError, match=r"no address of the form postgresql\+psycopg2://") as told:
        prepare_home()
    assert "cret" not in str(told.value)
    assert "storage" not in yaml.safe_load(settings.read_text())


def test_settings_of_the_user_have_to_name_the_variable(monkeypatch, tmp_path):
    settings = at_home(monkeypatch, tmp_path) / "dagster.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("RECSYS_POSTGRES_URL", URL)
    with pytest.raises(RecsysError, match=r"does not use it.*add the line: (storage: \{.*)") as told:
        prepare_home()
    settings.write_text(settings.read_text() + told.value.mend.partition("line: ")[2])
    own = settings.read_text()
    prepare_home()
    assert settings.read_text() == own
    monkeypatch.setattr("resources.instance.find_spec", lambda name: None)
    with pytest.raises(RecsysError, match=r"pip install 'recsys-dagster\[postgres\]'"):
        prepare_home()


def test_mark_tells_living_from_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = process_mark(child.pid)
    assert mark is not None
    assert mark.startswith(f"{child.pid}:")
    assert is_alive(mark) is True
    assert is_alive(mark + "-elsewhere") is None
    child.communicate(b"\n")
    assert process_mark(child.pid) is None
    assert is_alive(mark) is False
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
