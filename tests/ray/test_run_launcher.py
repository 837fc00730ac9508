"""A real Ray cluster on this machine: a run by the run launcher, its steps by the executor, and a Pipes job."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from cugraph_stand_in import write_stand_in

from assets.tables import conform
from resources.instance import SETTINGS

pytest.importorskip("ray")
pytest.importorskip("dagster_ray")

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "ray"
BIN = Path(sys.executable).parent
WAIT_S = 240


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Cluster:
    """A head node, and a Dagster instance whose runs it executes."""

    def __init__(self, folder: Path) -> None:
        self.home, self.port = folder / "home", free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.dagster = self.home / "dagster"
        self.dagster.mkdir(parents=True)
        launcher = (DEPLOY / "run_launcher.yaml").read_text().replace("http://127.0.0.1:8265", self.address)
        # no daemon here: runs are launched at once
        at_once = "run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}\n"
        (self.dagster / "dagster.yaml").write_text(SETTINGS + launcher + at_once)
        (self.dagster / "workspace.yaml").write_text((DEPLOY / "workspace.yaml").read_text())
        self.env = {
            **os.environ, "RECSYS_HOME": str(self.home), "DAGSTER_HOME": str(self.dagster),
            "PYTHONPATH": f"{ROOT}:{folder / 'rapids'}",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }  # fmt: skip
        self.env.pop("RECSYS_DATASETS", None)
        self.token = secrets.token_hex(16)
        self.env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        self.scratch = tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp")  # sockets lie in it: a short path
        command = [
            BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={free_port()}",
            f"--dashboard-port={self.port}", f"--dashboard-agent-listen-port={free_port()}",
            f"--dashboard-agent-grpc-port={free_port()}", f"--ray-client-server-port={free_port()}",
            "--num-cpus=4", "--num-gpus=1", "--memory=10000000000", "--object-store-memory=100000000",
            f"--temp-dir={self.scratch.name}", "--disable-usage-stats",
        ]  # fmt: skip
        write_stand_in(folder / "rapids")
        self.log = folder / "ray.log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                command, env=self.env, cwd=folder, stdout=out, stderr=out, start_new_session=True
            )

    def wait(self) -> None:
        """Until the job server answers."""
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"})
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(request, timeout=5).read()
                return
            time.sleep(0.5)
        raise AssertionError(f"no job server: {self.log.read_text()[-4000:]}")

    def jobs(self) -> dict[str, dict]:
        """What the cluster knows of its jobs, by submission id. (Ray itself stays out of the process of the tests.)"""
        request = urllib.request.Request(f"{self.address}/api/jobs/", headers={"Authorization": f"Bearer {self.token}"})
        return {job["submission_id"]: job for job in json.load(urllib.request.urlopen(request, timeout=30))}

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, sign)
                self.process.wait(5)
        self.scratch.cleanup()

    def launch(self, *assets: str, config: dict[str, object]) -> str:
        """Launch a run of some assets of `sample` as the UI does, and return its id."""
        params = {
            "selector": {
                "repositoryLocationName": "recsys_dagster", "repositoryName": "__repository__",
                "jobName": "everything", "assetSelection": [{"path": [name]} for name in assets],
                "assetCheckSelection": [
                    {"assetKey": {"path": ["soft_memberships"]}, "name": "clustering_did_not_collapse"}
                ],
            },
            "runConfigData": config, "mode": "default",
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "sample"}]},
        }  # fmt: skip
        command = [BIN / "dagster-graphql", "-w", self.dagster / "workspace.yaml", "-p", "launchPipelineExecution"]
        command += ["-v", json.dumps({"executionParams": params})]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        answer = done.stdout[done.stdout.index('{"data"') :].splitlines()[0]
        told = json.loads(answer)["data"]["launchPipelineExecution"]
        assert told["__typename"] == "LaunchRunSuccess", told
        return str(told["run"]["runId"])

    def finished(self, instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
        end = time.monotonic() + WAIT_S
        while not (run := instance.get_run_by_id(run_id)).is_finished:
            assert time.monotonic() < end, [str(entry.message)[:300] for entry in instance.all_logs(run_id)][-10:]
            time.sleep(0.5)
        return run


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        cluster.wait()
        yield cluster
    finally:
        cluster.stop()


def write_inputs(folder: Path) -> None:
    """What `soft_memberships` reads, without the steps that make it: two groups of items, and users of each."""
    source, target = np.triu_indices(20, 1)
    inside = source // 10 == target // 10
    graph = pd.DataFrame({"source": source[inside], "target": target[inside], "weight": 1.0})
    rows = [(user, user % 2 * 10 + k, k, k, max(k - 2, 0)) for user in range(20) for k in range(5)]
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "position", "split"])
    items = pd.DataFrame({"item_id": range(20), "source_key": [f"i{k}" for k in range(20)]})
    items = items.assign(title="", categories="", text="", train_popularity=1)
    for name, table in (("coengagement_graph", graph), ("interactions", log), ("items", items)):
        (folder / name).mkdir(parents=True)
        conform(table, name).to_parquet(folder / name / "sample.parquet")


@pytest.mark.timeout(600)  # processes start processes, on a machine that may be busy
def test_a_run_its_step_and_a_pipes_job_are_jobs_of_the_cluster(cluster):
    stored = cluster.home / "assets"
    write_inputs(stored)
    interests = {"engine": "cugraph", "gammas": [1.0], "rho": 2}
    config = {
        "ops": {"interests": {"config": interests}},
        "resources": {"cugraph": {"config": {"ray_address": cluster.address}}},
    }
    run_id = cluster.launch("soft_memberships", "prototypes", config=config)
    with dg.DagsterInstance.from_config(str(cluster.dagster)) as instance:
        run = cluster.finished(instance, run_id)
        logs = instance.all_logs(run_id)
    assert run.status == dg.DagsterRunStatus.SUCCESS, [str(entry.message)[:500] for entry in logs][-10:]
    made = {}
    for entry in logs:
        if entry.dagster_event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            materialization = entry.dagster_event.step_materialization_data.materialization
            made[materialization.asset_key.to_user_string()] = materialization.metadata
    assert set(made) == {"soft_memberships", "prototypes"}
    assert len(pd.read_parquet(stored / "prototypes" / "sample.parquet")) == 2
    assert made["prototypes"]["prototypes"].value == 2
    # what the Pipes job logged is in the run's log
    assert any("cugraph: gamma 1, 2 clusters of 20 items" in entry.user_message for entry in logs)
    jobs = cluster.jobs()
    assert f"dagster-run-{run_id}" in jobs
    assert sum(name.startswith("dagster-step-") for name in jobs) == 1
    assert sum(name.startswith("pipes-") for name in jobs) == 1
    assert not [job for job in jobs.values() if job["status"] in ("FAILED", "STOPPED")]
