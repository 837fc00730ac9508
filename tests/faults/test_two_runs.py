"""Two runs of one dataset at once: the second waits, says for whom, and goes on when the first is done or dead."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pandas as pd

from resources.lock import locked

HOLD = """
import sys, time
from pathlib import Path
from resources.lock import locked
with locked(Path(sys.argv[1]), "run-1", print):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_waited_for_and_ends_with_its_process(tmp_path):
    path, told = tmp_path / "locks" / "a.json", []
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        waiting = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        assert waiting.stdout.readline() == f"run run-1 (process {process.pid})\n"
        process.kill()
        assert waiting.stdout.readline() == "held\n"
        waiting.kill()
        waiting.communicate()
    with locked(path, "run-2", told.append), locked(path, "run-2", told.append):  # resources are set up twice
        pass
    assert told == []


def test_the_second_of_two_runs_waits(world):
    """Two processes of the command line; the source of the first answers when the second is already waiting."""
    log = (world.folder / "shop.csv").read_bytes()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(240)
    place = f"http://127.0.0.1:{server.getsockname()[1]}/log.csv"
    world.registry.write_text(world.registry.read_text().replace("shop.csv", place))
    select = ("-s", "raw_items", "users")
    command = [sys.executable, "-m", "recsys_dagster.cli", "materialize", "-d", "shop", *select]

    def start(name: str) -> tuple[subprocess.Popen, Path]:
        said = world.folder / name
        with said.open("w") as out:
            return subprocess.Popen(command, env=world.env, cwd=world.folder, stdout=out, stderr=out), said

    first, _ = start("first")
    calls = [server.accept()[0]]
    second, said = start("second")
    until(lambda: "is at work on shop; this run waits until it is done" in said.read_text())
    assert f"(process {first.pid})" in said.read_text()
    assert first.poll() is None
    assert second.poll() is None
    server.settimeout(0.2)
    while first.poll() is None:  # each asks for its head, then for the whole
        for call in calls:
            answer(call, log)
        try:
            calls = [server.accept()[0]]
        except TimeoutError:
            calls = []
    assert first.returncode == 0, (world.folder / "first").read_text()
    assert second.wait(240) == 0, said.read_text()
    server.close()
    with dg.DagsterInstance.from_config(str(world.home / "dagster")) as instance:
        late, early = instance.get_run_records()
        assert {late.dagster_run.status, early.dagster_run.status} == {dg.DagsterRunStatus.SUCCESS}
        steps = instance.get_records_for_run(late.dagster_run.run_id, of_type=dg.DagsterEventType.STEP_START).records
        assert min(step.event_log_entry.timestamp for step in steps) >= early.end_time - 0.5
    assert len(pd.read_parquet(world.home / "assets" / "users" / "shop.parquet")) == 120


def answer(call: socket.socket, body: bytes) -> None:
    """Answer the request on a connection, whole or its head."""
    with call:
        call.settimeout(5)
        asked = call.recv(65536)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
        call.sendall(head if asked.startswith(b"HEAD") else head + body)


def until(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
