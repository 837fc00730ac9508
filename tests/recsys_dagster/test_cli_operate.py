"""`datasets add`, `doctor`, what backfill refuses, JSON and completion; backfills run in tests/end_to_end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys_dagster import cli
from recsys_dagster.cli_common import complete_dataset, complete_selection, names
from recsys_dagster.data.registry import load_registry

LOG = "customer,sku,ordered_at\n" + "".join(f"{user},{item},2026-01-0{item}\n" for user in "abc" for item in "123")


@pytest.fixture(autouse=True)
def shop(tmp_path, monkeypatch) -> Path:
    for name, value in (
        ("RECSYS_HOME", "home"),
        ("DAGSTER_HOME", "home/dagster"),
        ("RECSYS_DATASETS", "datasets.toml"),
    ):
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)
    (tmp_path / "datasets.toml").write_text('[sample]\nreader = "sample"\n')
    (tmp_path / "orders.csv").write_text(LOG)
    return tmp_path


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def test_add_shows_what_it_guessed_and_writes_it(capsys, shop):
    code, out, err = run(capsys, "datasets", "add", str(shop / "orders.csv"), "--yes")
    assert (code, err) == (0, "")
    assert ["timestamp", "ordered_at", "2026-01-01,", "2026-01-02,", "2026-01-03"] in [
        line.split() for line in out.splitlines()
    ]
    assert 'columns = { user = "customer", item = "sku", timestamp = "ordered_at" }' in out
    spec = load_registry(shop / "datasets.toml")["orders"]
    assert (spec.source, spec.reader, spec.columns.user) == ("orders.csv", "table", "customer")
    assert (shop / "datasets.toml").read_text().startswith('[sample]\nreader = "sample"\n\n[orders]\n')


def test_add_with_everything_given(capsys, shop):
    (shop / "products.csv").write_text("sku,name\n1,Lamp\n")
    arguments = (
        "--name",
        "shop-de",
        "--items",
        str(shop / "products.csv"),
        "--protocol",
        "chronological_622",
        "-y",
        "--json",
    )
    code, out, _ = run(capsys, "datasets", "add", str(shop / "orders.csv"), *arguments)
    assert code == 0
    found = json.loads(out)
    assert (found["name"], found["items_source"], found["protocol"]) == ("shop-de", "products.csv", "chronological_622")
    assert found["columns"]["title"] == "name"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("datasets", "add", "orders.csv", "--name", "sample", "--yes"), "there is a dataset 'sample' already"),
        (("datasets", "add", "orders.csv", "--protocol", "none", "--yes"), "[orders] 'protocol': Input should be"),
        (("datasets", "add", "absent.csv", "--yes"), "absent.csv cannot be read (FileNotFoundError"),
        (("datasets", "add", "orders.csv"), "nobody is there to confirm the entry. To mend: give --yes"),
        (("datasets", "add", "orders.csv", "--json"), "--json does not ask"),
        (("backfill", "--datasets", "sample,smaple"), "did you mean 'sample'?"),
        (("backfill", "--datasets", "sample", "--select", "grph"), "grph: neither an asset nor a group"),
        (("backfill",), "--datasets is missing"),
        (("backfill", "--resume"), "there is no backfill to go on with"),
        (("backfill", "--resume", "--datasets", "sample"), "--resume goes on with the last backfill as it was planned"),
    ],
)
def test_what_makes_no_sense_is_one_line(capsys, shop, monkeypatch, arguments, message):
    monkeypatch.chdir(shop)
    before = (shop / "datasets.toml").read_bytes()
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert (shop / "datasets.toml").read_bytes() == before


def test_the_question_can_be_answered_with_no(shop):
    """At a terminal (here a pseudo-terminal) the entry is written only after a yes."""
    import pty

    for answer, there in ((b"n\n", False), (b"y\n", True)):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "recsys_dagster.cli", "datasets", "add", "orders.csv"]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, cwd=shop, env=env) as process:
            os.write(ours, answer)
            out, _ = process.communicate(timeout=120)
        os.close(ours)
        os.close(theirs)
        assert b"Write this to" in out
        assert (process.returncode == 0) is there
        assert ("orders" in load_registry(shop / "datasets.toml")) is there


def doctor(capsys) -> tuple[int, dict[str, dict[str, str]]]:
    code, out, _ = run(capsys, "doctor", "--json")
    return code, {finding["what"]: finding for finding in json.loads(out)}


def test_doctor_tells_what_is_there_and_no_secret(capsys, shop, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-s3cret")
    monkeypatch.delenv("RECSYS_SLACK_WEBHOOK", raising=False)
    with (shop / "datasets.toml").open("a") as file:
        file.write('[orders]\nreader = "table"\nsource = "orders.csv"\n[gone]\nreader = "table"\nsource = "gone.csv"\n')
    code, found = doctor(capsys)
    assert code == 0
    assert found["key OPENAI_API_KEY"]["found"] == "yes"
    assert found["key RECSYS_SLACK_WEBHOOK"]["found"] == "no"
    assert "s3cret" not in json.dumps(found)
    assert found["torch"]["state"] == found["storage"]["state"] == found["dataset orders"]["state"] == "ok"
    assert (found["dataset gone"]["state"], found["dataset gone"]["found"]) == ("note", "gone.csv is not here")
    assert found["pools"]["found"] == "default limit 1"
    assert found["daemon"]["found"] == "not running"
    assert [path for path in (shop / "home" / "assets").iterdir() if path.name.startswith(".doctor")] == []
    assert all(finding["mend"] for finding in found.values() if finding["state"] != "ok")
    plain = run(capsys, "doctor")[1]
    assert "pip install 'recsys-dagster[ray]'" in plain or "ray" in plain


def test_doctor_finds_what_is_broken(capsys, shop, monkeypatch):
    (shop / "orders.csv").write_text("")
    with (shop / "datasets.toml").open("a") as file:
        file.write('[orders]\nreader = "table"\nsource = "orders.csv"\n')
    (shop / "home").mkdir()
    (shop / "home" / "assets").write_text("a file where the folder should be")
    code, found = doctor(capsys)
    assert code == 1
    assert found["dataset orders"]["state"] == found["storage"]["state"] == "broken"
    assert "RECSYS_HOME" in found["storage"]["mend"]
    (shop / "datasets.toml").write_text("[orders")
    code, found = doctor(capsys)
    assert code == 1
    assert "is not valid TOML" in found["datasets"]["found"]


def test_materialize_in_json(capsys):
    code, out, err = run(capsys, "materialize", "-d", "sample", "-s", "raw_items", "--json")
    assert code == 0
    (outcome,) = json.loads(out)
    assert (outcome["dataset"], outcome["success"], outcome["errors"]) == ("sample", True, [])
    assert "raw_items" in err


def test_completion(shop):
    assert complete_dataset("sa") == ["sample"]
    assert complete_dataset("x,sa") == ["x,sample"]
    assert complete_selection("soft") == ["soft_memberships"]
    assert "g2rec" in complete_selection("g2")
    assert names(["a,b", "b", " c "]) == ["a", "b", "c"]
    (shop / "datasets.toml").write_text("[broken")
    assert complete_dataset("sa") == []
