"""A lineage with its runs in a real Postgres, its source and its assets in a real S3 store.

``RECSYS_DEPLOYMENT=1`` takes the whole lineage in place of its first half, and runs the four processes of a deployment.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request

import dagster as dg
import pytest
import services
from operated import GROUPS, MIXED, World, wait_for, write_log
from upath import UPath

from recsys_dagster.automation.arrivals import Seen, arrived
from recsys_dagster.cli import main
from recsys_dagster.data.registry import load_registry
from recsys_dagster.definitions import defs
from recsys_dagster.runs import select_assets
from resources.files import write_atomically, write_text
from resources.instance import open_instance
from resources.reports import ReportServer
from resources.storage import AssetStore

WHOLE = os.environ.get("RECSYS_DEPLOYMENT") == "1"
GRAPH = ("soft_memberships", "prototypes")
SELECTED = ("data", "popularity_model", "coengagement_graph", *GRAPH)
QUICK = """
ops:
  representative_users: {config: {solver: greedy, search_moves: 0}}
  sasrec_model: {config: {epochs: 2, learning_rate: 0.01, dimension: 16}}
  larmi_model: {config: {epochs: 2, learning_rate: 0.01, dimension: 16}}
  g2rec_model: {config: {epochs: 1, dimension: 16, decoding: false}}
"""
"""Training as short as the planted groups allow: where things lie is tested here, not what is learned."""


class Deployed(World):
    """A world whose state directory holds no runs and no assets."""

    def __init__(self, folder, postgres: services.Postgres, s3: services.S3) -> None:
        self.bucket, self.postgres, self.said = f"s3://{s3.bucket}", postgres, ""
        self.source = UPath(f"{self.bucket}/incoming/shop.csv.gz")
        entry = f'[shop]\nreader = "table"\nsource = "{self.source}"\nk_core_users = 3\nk_core_items = 3\n'
        super().__init__(folder, entry)
        (self.home / "dagster" / "dagster.yaml").unlink()  # the project is to write it
        self.settings = {
            **s3.env, "RECSYS_HOME": str(self.home), "DAGSTER_HOME": str(self.home / "dagster"),
            "RECSYS_DATASETS": str(self.registry), "RECSYS_ASSETS": f"{self.bucket}/assets",
            "RECSYS_POSTGRES_URL": postgres.url,
        }  # fmt: skip
        self.env |= self.settings

    def deliver(self, groups) -> None:
        """Put a log into the bucket."""
        log = self.folder / "shop.csv"
        write_log(log, groups)
        self.source.write_bytes(gzip.compress(log.read_bytes(), mtime=0))


@pytest.fixture(scope="module")
def postgres():
    if reason := services.why_no_postgres():
        pytest.skip(reason)
    with services.postgres() as server:
        yield server


@pytest.fixture(scope="module")
def deployed(tmp_path_factory, postgres, s3_store) -> Deployed:
    world = Deployed(tmp_path_factory.mktemp("deployed"), postgres, s3_store)
    world.deliver(GROUPS)
    (world.folder / "quick.yaml").write_text(QUICK)
    select = () if WHOLE else ("--select", *SELECTED)
    done = world.run("materialize", "--dataset", "shop", "--config", "quick.yaml", *select)
    world.said = done.stdout + done.stderr
    return world


@pytest.fixture
def here(deployed, monkeypatch) -> Deployed:
    """The same environment in this process."""
    for name, value in deployed.settings.items():
        monkeypatch.setenv(name, value)
    return deployed


@pytest.fixture
def command(here, capsys):
    """The command line in this process: what it printed as JSON."""

    def run(*arguments: str, code: int = 0):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--json"])
        said = capsys.readouterr()
        assert (stop.value.code or 0) == code, said.out + said.err
        assert services.PASSWORD not in said.out + said.err
        return json.loads(said.out)

    return run


def test_runs_are_in_postgres_and_assets_in_the_bucket(deployed, here):
    whole = set(defs.resolve_job_def("full_lineage").asset_layer.selected_asset_keys)
    lineage = {key.to_user_string() for key in (whole if WHOLE else select_assets(SELECTED) or ())}
    assert deployed.postgres.query("SELECT status FROM runs") == [("SUCCESS",)]
    made = deployed.postgres.query("SELECT asset_key FROM asset_keys WHERE last_materialization IS NOT NULL")
    assert {json.loads(key)[0] for (key,) in made} == lineage
    base = AssetStore().base()
    keys = {str(path).removeprefix(f"{base}/") for path in base.rglob("*") if path.is_file()}
    assert {key.partition("/")[0] for key in keys} == lineage
    assert {"users/shop.parquet", "popularity_model/shop/current"} <= keys
    assert not (deployed.home / "assets").exists()
    assert not list(deployed.home.rglob("*.db"))


def test_secrets_are_in_no_file_and_no_event(deployed):
    files = [path for path in deployed.folder.rglob("*") if path.is_file()]
    assert {"dagster.yaml", "datasets.toml"} <= {path.name for path in files}
    assert not [path for path in files if services.PASSWORD.encode() in path.read_bytes()]
    assert services.PASSWORD not in deployed.said
    for table, column in (("event_logs", "event"), ("runs", "run_body")):
        statement = f"SELECT count(*), count(*) FILTER (WHERE {column} LIKE '%{services.PASSWORD}%') FROM {table}"
        ((rows, told),) = deployed.postgres.query(statement)
        assert rows > 0
        assert told == 0


def put(asset: str, extension: str, text: str) -> None:
    """Store what the short lineage does not make."""
    if not WHOLE:
        write_atomically(AssetStore().path(asset, "shop", extension), lambda local: write_text(local, text))


def test_commands_read_from_the_bucket(command):
    put("leaderboard", ".json", json.dumps({"rows": [{"model": "popularity"}], "markdown": "| popularity |"}))
    assert "popularity" in {row["model"] for row in command("leaderboard", "--dataset", "shop")}
    found = command("recommend", "--dataset", "shop", "--model", "popularity", "--user", "u7")
    users, items, log = (AssetStore().previous_table(name, "shop") for name in ("users", "items", "interactions"))
    (user,) = users.index[users["source_key"] == "u7"]
    seen = items["source_key"].to_numpy()[log.loc[log["user_id"] == user, "item_id"]]
    assert len(found) == 10
    assert not {row["item"] for row in found} & set(seen)


@pytest.mark.skipif(not WHOLE, reason="takes minutes: RECSYS_DEPLOYMENT=1")
def test_recommendations_are_those_that_the_run_stored(command):
    found = command("recommend", "--dataset", "shop", "--model", "g2rec", "--user", "u7")
    stored, users, items = (AssetStore().previous_table(name, "shop") for name in ("recommendations", "users", "items"))
    (user,) = users.index[users["source_key"] == "u7"]
    wanted = stored[(stored["model"] == "g2rec") & (stored["user_id"] == user)].head(10)["item_id"]
    assert [row["item"] for row in found] == items["source_key"].to_numpy()[wanted].tolist()


def test_the_report_is_served_from_the_bucket(here):
    put("interest_report", ".html", "<!DOCTYPE html><html lang='en'></html>")
    server = ReportServer(AssetStore(), "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", "/shop.html")
    answer = connection.getresponse()
    assert answer.status == 200
    assert "<html" in answer.read().decode()
    server.shutdown()
    server.server_close()


def test_a_replaced_object_is_one_arrival(deployed, here):
    spec, seen = load_registry(deployed.registry)["shop"], Seen(None)
    with open_instance() as instance:
        assert arrived(instance, spec, None, seen) is None  # it is what was read
        deployed.deliver(GROUPS)
        assert arrived(instance, spec, None, seen) is None  # the same again
        deployed.deliver(MIXED)
        assert arrived(instance, spec, None, seen) is not None
        assert arrived(instance, spec, None, seen) is None


def test_a_night_starts_from_the_one_before_it(deployed, here):
    before = AssetStore().previous_table("prototypes", "shop")
    deployed.run("materialize", "--dataset", "shop", "--select", *GRAPH)
    assert AssetStore().previous_table("prototypes", "shop")["prototype_id"].equals(before["prototype_id"])
    with open_instance() as instance:
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("soft_memberships"), asset_partitions=["shop"])
        records = instance.fetch_materializations(wanted, limit=2).records
    tonight, first = (record.asset_materialization.metadata for record in records)
    assert "drift" not in first
    assert tonight["drift"].value < 0.01


def test_doctor_says_what_is_used_and_what_does_not_answer(deployed, command, monkeypatch):
    found = {finding["what"]: finding for finding in command("doctor")}
    place = deployed.postgres.url.replace(services.PASSWORD, "***")
    assert found["instance storage"]["found"].startswith(f"{place}, answers in ")
    assert found["storage"]["found"] == f"{deployed.bucket}/assets can be written to"
    assert not list(AssetStore().base().glob(".doctor*"))

    deployed.postgres.stop()
    try:
        with monkeypatch.context() as patch:
            patch.setenv("RECSYS_ASSETS", "s3://no-such-bucket/assets")
            patch.setattr("time.sleep", lambda seconds: None)  # Dagster tries for ten seconds
            found = {finding["what"]: finding for finding in command("doctor", code=1)}
    finally:
        deployed.postgres.start()
    assert found["storage"]["state"] == "broken"
    assert "make the bucket" in found["storage"]["mend"]
    assert "Postgres of the Dagster instance refused (connection to server" in found["Dagster instance"]["found"]
    assert "RECSYS_POSTGRES_URL" in found["Dagster instance"]["mend"]


LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchPipelineExecution(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on InvalidSubsetError { message }
    ... on PythonError { message }
  }
}
"""


@pytest.mark.skipif(not WHOLE, reason="takes minutes: RECSYS_DEPLOYMENT=1")
def test_the_four_processes_of_a_deployment_run_what_the_ui_asks_for(deployed, here):
    code, web, reports = services.free_ports(3)
    roles = {
        "code": ["--port", str(code)],
        "webserver": ["--port", str(web), "--code", f"127.0.0.1:{code}"],
        "daemon": ["--code", f"127.0.0.1:{code}"],
        "reports": ["--port", str(reports)],
    }
    log, processes, address = deployed.folder / "deployment.log", [], f"http://127.0.0.1:{web}"
    try:
        for role, options in roles.items():
            command = [sys.executable, "-m", "recsys_dagster.cli", "serve", role, *options]
            with log.open("ab") as out:
                process = subprocess.Popen(command, env=deployed.env, cwd=deployed.folder, stdout=out, stderr=out)
            processes.append(process)
            if role == "code":
                wait_for(lambda: connects(code), "the code location", log)
        wait_for(lambda: answers(f"{address}/server_info"), "the webserver", log)
        wait_for(lambda: answers(f"http://127.0.0.1:{reports}/shop.html"), "the report server", log)
        selector = {
            "repositoryLocationName": "recsys_dagster", "repositoryName": "__repository__",
            "pipelineName": "everything", "assetSelection": [{"path": [name]} for name in GRAPH],
            "assetCheckSelection": None,
        }  # fmt: skip
        params = {
            "selector": selector, "mode": "default", "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "shop"}]},
        }  # fmt: skip
        asked = json.dumps({"query": LAUNCH, "variables": {"params": params}}).encode()
        request = urllib.request.Request(f"{address}/graphql", asked, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            launched = json.load(answer)["data"]["launchPipelineExecution"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        query = f"SELECT status FROM runs WHERE run_id = '{launched['run']['runId']}'"
        wait_for(lambda: deployed.postgres.query(query)[0][0] in ("SUCCESS", "FAILURE"), "the run", log)
        assert deployed.postgres.query(query) == [("SUCCESS",)]
        assert services.PASSWORD not in log.read_text()
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def connects(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
