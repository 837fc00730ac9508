"""Backfills through the command line: one process a partition, and what is left to do afterwards."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

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

    write_log(poisoned, GROUPS, seed=5)
    mended = world.run("backfill", "--resume")
    assert "for 1 of 8 datasets" in mended.stdout
    assert "8 of 8 succeeded" in mended.stdout
    assert statuses(world)["shop_5"] == ["SUCCESS", "FAILURE"]
    assert sum(map(len, statuses(world).values())) == 9
    for name in SHOPS:
        assert len(pd.read_parquet(world.home / "assets" / "users" / f"{name}.parquet")) == 120


def test_a_killed_partition_does_not_stop_the_others(world, tmp_path):
    """SIGKILL for the process of one partition, as the kernel does when memory is out."""
    silent = socket.create_server(("127.0.0.1", 0))  # takes calls and says nothing, so the reader hangs
    place = f"http://127.0.0.1:{silent.getsockname()[1]}/log.csv"
    registry = tmp_path / "datasets.toml"
    entries = world.registry.read_text().replace('source = "', f'source = "{world.folder}/')
    registry.write_text(f'{entries}[hanging]\nreader = "table"\nsource = "{place}"\n[fine]\nextends = "shop_0"\n')
    env = {**world.env, "RECSYS_DATASETS": str(registry)}
    command = [sys.executable, "-m", "recsys_dagster.cli", "backfill", "-d", "hanging,fine", *SELECT]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        silent.settimeout(240)
        call, _ = silent.accept()
        with dg.DagsterInstance.from_config(str(world.home / "dagster")) as instance:
            (run,) = instance.get_runs(dg.RunsFilter(tags={"recsys/dataset": "hanging"}))
            os.kill(int(run.tags["recsys/process"].partition(":")[0]), signal.SIGKILL)
            out, err = process.communicate(timeout=240)
            found = {run.tags["recsys/dataset"]: run.status.value for run in instance.get_runs(limit=2)}
    call.close()
    silent.close()
    assert process.returncode == 1
    assert "error: hanging: its process was killed by signal 9 (out of memory?" in err
    assert "1 of 2 succeeded" in out
    assert found == {"hanging": "FAILURE", "fine": "SUCCESS"}
