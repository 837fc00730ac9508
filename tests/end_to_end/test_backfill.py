"""Backfills through the command line: one process a partition, and what is left to do afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from operated import GROUPS, World, write_log

SHOPS = [f"shop_{number}" for number in range(8)]
SELECT = ("--select", "raw_items", "users")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    entry = '[{0}]\nreader = "table"\nsource = "{0}.csv"\nk_core_users = 3\nk_core_items = 3\n'
    world = World(tmp_path_factory.mktemp("backfill"), "".join(entry.format(name) for name in SHOPS))
    for seed, name in enumerate(SHOPS):
        write_log(world.folder / f"{name}.csv", GROUPS, seed=seed)
    return world


def statuses(world: World) -> dict[str, list[str]]:
    with dg.DagsterInstance.from_config(str(world.home / "dagster")) as instance:
        found: dict[str, list[str]] = {name: [] for name in SHOPS}
        for run in instance.get_runs():
            found[run.tags["recsys/dataset"]].append(run.status.value)
            assert run.tags["dagster/priority"] == "-10"
        return found


def test_one_poisoned_source_of_eight(world):
    poisoned = world.folder / "shop_5.csv"
    with poisoned.open("a") as log:
        log.write("u3,,7\n")
    done = world.run("backfill", "--datasets", ",".join(SHOPS), *SELECT, "--parallel", "2", "--json", code=1)
    results = json.loads(done.stdout)["results"]
    assert {result["dataset"] for result in results if result["success"]} == {*SHOPS} - {"shop_5"}
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(
        "error: shop_5: raw_data: dataset 'shop_5': shop_5.csv, line 842: column 'item' is empty"
    )
    assert "To mend: " in errors[0]
    assert "Traceback" not in done.stderr
    assert "7 of 8 succeeded" in done.stderr
    assert statuses(world) == {name: ["FAILURE" if name == "shop_5" else "SUCCESS"] for name in SHOPS}

    again = world.run("backfill", "--resume", code=1)  # not mended: it fails again, and only it is tried
    assert "for 1 of 8 datasets" in again.stdout
    write_log(poisoned, GROUPS, seed=5)
    mended = world.run("backfill", "--resume")
    assert "for 1 of 8 datasets" in mended.stdout
    assert "8 of 8 succeeded" in mended.stdout
    assert statuses(world)["shop_5"] == ["SUCCESS", "FAILURE", "FAILURE"]
    assert sum(map(len, statuses(world).values())) == 10
    for name in SHOPS:
        assert len(pd.read_parquet(world.home / "assets" / "users" / f"{name}.parquet")) == 120
    assert "for 0 of 8 datasets" in world.run("backfill", "--resume").stdout


def test_a_killed_partition_does_not_stop_the_others(world, tmp_path):
    """SIGKILL for the process of one partition, as the kernel does when memory is out."""
    os.mkfifo(tmp_path / "pipe.csv")  # nobody writes to it, so its reader hangs
    entry = f'[hanging]\nreader = "table"\nsource = "{tmp_path / "pipe.csv"}"\n[fine]\nextends = "shop_0"\n'
    registry = tmp_path / "datasets.toml"
    registry.write_text(world.registry.read_text().replace('source = "', f'source = "{world.folder}/') + entry)
    env = {**world.env, "RECSYS_DATASETS": str(registry)}
    command = [sys.executable, "-m", "recsys_dagster.cli", "backfill", "-d", "hanging,fine", *SELECT]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        victim = wait_for_run(world, "hanging")
        os.kill(victim, signal.SIGKILL)
        out, err = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "error: hanging: its process was killed by signal 9 (out of memory?" in err
    assert "1 of 2 succeeded" in out
    with dg.DagsterInstance.from_config(str(world.home / "dagster")) as instance:
        found = {run.tags["recsys/dataset"]: run.status.value for run in instance.get_runs(limit=2)}
    assert found == {"hanging": "FAILURE", "fine": "SUCCESS"}


def wait_for_run(world: World, dataset: str) -> int:
    """The process that executes the run of a dataset, once there is one."""
    end = time.monotonic() + 240
    with dg.DagsterInstance.from_config(str(world.home / "dagster")) as instance:
        while time.monotonic() < end:
            wanted = dg.RunsFilter(tags={"recsys/dataset": dataset}, statuses=[dg.DagsterRunStatus.STARTED])
            for run in instance.get_runs(wanted):
                return int(run.tags["recsys/process"].partition(":")[0])
            time.sleep(0.2)
    raise AssertionError(f"no run of {dataset} began")


def test_what_makes_no_sense_is_one_line(world):
    for arguments, message in (
        (("--datasets", "shop_9"), "there is no dataset 'shop_9'"),
        ((), "--datasets is missing"),
        (("--resume", "--datasets", "shop_1"), "--resume goes on with the last backfill as it was planned"),
    ):
        error = world.run("backfill", *arguments, code=1).stderr
        assert message in error
        assert error.count("\n") == 1
    assert Path(world.home / "backfills").is_dir()
