"""Nights, weeks and arrivals under a real daemon, for which the last tick of every schedule is still to be made."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pandas as pd
import pytest
from dagster._core.scheduler.instigation import ScheduleInstigatorData
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from operated import GROUPS, MIXED, ONE_HEAP, World, wait_for, write_log

from recsys_dagster.automation.history import made

ENTRY = '[{name}]\nreader = "table"\nsource = "{name}.csv"\nk_core_users = 3\nk_core_items = 3\n'
SHOPS = ("calm", "drifting", "collapsing", "arriving")
TABLES = ("coengagement_graph", "soft_memberships", "prototypes")


class Alarms:
    """A webhook on this machine that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/services/secret-token"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    entries = "".join(ENTRY.format(name=name) for name in SHOPS)
    # The training is asked for, which is what is to be shown; it would take as long as all the rest.
    world = World(tmp_path_factory.mktemp("nights"), entries, held="weekly_drifting")
    for name in SHOPS:
        write_log(world.folder / f"{name}.csv", GROUPS)
    selection = [part for name in TABLES for part in ("-s", name)]
    world.run("materialize", *(part for name in SHOPS for part in ("-d", name)), "-s", "data", *selection)
    return world


@pytest.fixture(scope="module")
def instance(world):
    with dg.DagsterInstance.from_config(str(world.home / "dagster")) as instance:
        yield instance


def overdue(instance: dg.DagsterInstance, schedule) -> None:
    """Switch a schedule on as if that had been done just before its last tick, so that the daemon has to make it."""
    state = instance.start_schedule(schedule)
    since = (datetime.now(UTC) - timedelta(days=8 if schedule.name.startswith("weekly") else 1)).timestamp()
    data = ScheduleInstigatorData(schedule.cron_schedule, start_timestamp=since)
    instance.update_instigator_state(state.with_data(data))


def runs_of(instance, job: str, dataset: str) -> list[dg.DagsterRun]:
    return instance.get_runs(dg.RunsFilter(job_name=job, tags={"dagster/partition": dataset}))


@pytest.mark.timeout(900)  # minutes of a daemon; on a busy machine several
def test_nights_weeks_and_arrivals(world, instance, monkeypatch):
    for variable, value in world.env.items():
        if variable.startswith(("RECSYS_", "DAGSTER_")):
            monkeypatch.setenv(variable, value)
    stored = {name: world.home / "assets" / "soft_memberships" / f"{name}.parquet" for name in SHOPS}
    before = {name: path.read_bytes() for name, path in stored.items()}
    for name in ("calm", "drifting"):  # as if G2Rec had been trained now
        instance.report_runless_asset_event(dg.AssetMaterialization("g2rec_model", partition=name))
    write_log(world.folder / "calm.csv", GROUPS, users=126)
    write_log(world.folder / "drifting.csv", MIXED)
    write_log(world.folder / "collapsing.csv", ONE_HEAP)
    alarms = Alarms()
    target = WorkspaceFileTarget(paths=[str(world.home / "dagster" / "workspace.yaml")])
    with WorkspaceProcessContext(instance, target) as workspace:
        (location,) = workspace.create_request_context().code_locations
        (repository,) = location.get_repositories().values()
        schedules = {schedule.name: schedule for schedule in repository.get_schedules()}
        (sensor,) = [sensor for sensor in repository.get_sensors() if sensor.name == "source_arrivals"]

        for name in SHOPS:
            overdue(instance, schedules[f"nightly_{name}"])
        with world.daemon(RECSYS_ALERT_WEBHOOK=alarms.url) as log:
            # The night: two datasets are renewed, one collapses, and one whose source did not change is skipped.
            for name in ("calm", "drifting", "collapsing"):
                wait_for(
                    lambda n=name: [r for r in runs_of(instance, "refresh", n) if r.is_finished],
                    f"night of {name}",
                    log,
                )
            status = {name: [run.status for run in runs_of(instance, "refresh", name)] for name in SHOPS}
            assert status == {
                "calm": [dg.DagsterRunStatus.SUCCESS], "drifting": [dg.DagsterRunStatus.SUCCESS],
                "collapsing": [dg.DagsterRunStatus.FAILURE], "arriving": [],
            }  # fmt: skip
            (tick,) = ticks(instance, "nightly_arriving")
            assert "the source did not change" in tick.skip_reason
            for name in ("calm", "drifting"):
                assert stored[name].read_bytes() != before[name]
            # What collapsed was not published: last night's clustering is there, and can be read.
            assert stored["collapsing"].read_bytes() == before["collapsing"]
            assert len(pd.read_parquet(stored["collapsing"])) > 0
            assert len(runs_of(instance, "train", "calm") + runs_of(instance, "train", "drifting")) == 0

            # The week: the daemon looks at schedules every minute, so its tick comes while the sources are watched.
            for name in ("calm", "drifting"):
                overdue(instance, schedules[f"weekly_{name}"])

            # An arrival: one run for one change, and none for the same content again.
            instance.start_sensor(sensor)
            wait_for(lambda: sensor_ticks(instance), "the first look at the sources", log)
            assert runs_of(instance, "refresh", "arriving") == []
            write_log(world.folder / "arriving.csv", GROUPS, users=130)
            wait_for(lambda: runs_of(instance, "refresh", "arriving"), "the run of what arrived", log)
            write_log(world.folder / "arriving.csv", GROUPS, users=130)  # written again, with nothing new in it
            looks = len(sensor_ticks(instance))
            wait_for(lambda: len(sensor_ticks(instance)) >= looks + 2, "two more looks at the sources", log)
            wait_for(lambda: finished(instance, "arriving"), "the arrival's run", log)

            # Who drifted is trained again, who stayed calm is not.
            wait_for(lambda: runs_of(instance, "train", "drifting"), "the retraining", log)
            wait_for(lambda: ticks(instance, "weekly_calm"), "the week of calm", log)
            wait_for(lambda: alarms.told, "the alarm", log)

    drift = {name: made(instance, "soft_memberships", name).metadata["drift"] for name in ("calm", "drifting")}
    assert drift["calm"] < 0.2 < drift["drifting"]
    (tick,) = ticks(instance, "weekly_calm")
    assert f"{drift['calm']:.3f} of the memberships moved, retraining starts at 0.2" in tick.skip_reason
    (training,) = runs_of(instance, "train", "drifting")
    assert training.tags["recsys/reason"] == f"drift {drift['drifting']:.3f} since the last training"
    assert runs_of(instance, "train", "calm") == []
    (arrival,) = runs_of(instance, "refresh", "arriving")
    assert arrival.status == dg.DagsterRunStatus.SUCCESS
    assert made(instance, "users", "arriving").metadata["users"] == 130
    (alarm,) = alarms.told  # one run failed, and it was told once
    assert (alarm["dataset"], alarm["job"]) == ("collapsing", "refresh")
    assert "Not published, the stored clustering stays" in alarm["errors"][0]
    assert "secret-token" not in log.read_text()


def finished(instance, name: str) -> bool:
    return any(run.is_finished for run in runs_of(instance, "refresh", name))


def ticks(instance, name: str) -> list:
    """The ticks of a schedule or sensor that are over."""
    (state,) = [state for state in instance.all_instigator_state() if state.instigator_name == name]
    found = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    return [tick for tick in found if tick.status.value != "STARTED"]


def sensor_ticks(instance) -> list:
    return ticks(instance, "source_arrivals")


def test_a_new_entry_is_a_partition_after_a_reload(world, instance, monkeypatch):
    for variable, value in world.env.items():
        if variable.startswith(("RECSYS_", "DAGSTER_")):
            monkeypatch.setenv(variable, value)

    def partitions(workspace) -> list[str]:
        (location,) = workspace.create_request_context().code_locations
        (repository,) = location.get_repositories().values()
        return list(repository.asset_graph.get(dg.AssetKey("users")).partitions_def.get_partition_keys())

    target = WorkspaceFileTarget(paths=[str(world.home / "dagster" / "workspace.yaml")])
    with WorkspaceProcessContext(instance, target) as workspace:
        assert partitions(workspace) == list(SHOPS)
        write_log(world.folder / "new_shop.csv", GROUPS)
        world.run("datasets", "add", "new_shop.csv", "--yes")
        workspace.reload_code_location("recsys_dagster")
        assert partitions(workspace) == [*SHOPS, "new_shop"]
