import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from recsys_dagster import cli, runs
from recsys_dagster.errors import RecsysError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)
    return tmp_path / "home"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return int(stop.value.code or 0), out, err


def error_line(capsys, *arguments: str) -> str:
    code, out, err = run(capsys, *arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def test_datasets_list_and_describe(capsys):
    code, out, _ = run(capsys, "datasets", "list", "--json")
    assert code == 0
    names = [entry["name"] for entry in json.loads(out)]
    assert names[:2] == ["sample", "sample_622"]
    assert "sample_622" in run(capsys, "datasets", "list")[1]
    described = json.loads(run(capsys, "datasets", "describe", "sample", "--json")[1])
    assert described["protocol"] == "leave_one_out"
    assert described["materialized"] == {}
    assert "nothing to fetch" in run(capsys, "datasets", "fetch", "sample")[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ("datasets", "describe", "smaple"),
        ("datasets", "fetch", "smaple"),
        ("materialize", "--dataset", "smaple"),
        ("materialize", "--dataset", "sample", "--dataset", "smaple"),
        ("leaderboard", "--dataset", "smaple"),
        ("recommend", "--dataset", "smaple", "--user", "u"),
    ],
)
def test_unknown_dataset_is_one_line_with_the_nearest_name(capsys, arguments):
    assert "there is no dataset 'smaple'" in (line := error_line(capsys, *arguments))
    assert "did you mean 'sample'?" in line


def test_unknown_selection_names_groups_and_assets(capsys):
    line = error_line(capsys, "materialize", "-d", "sample", "-s", "grph")
    assert "--select grph: neither an asset nor a group" in line
    assert "g2rec" in line
    assert "coengagement_graph" in line


def test_several_names_may_follow_one_select(capsys):
    assert "--select grph: neither" in error_line(capsys, "materialize", "-d", "sample", "-s", "g2rec", "grph")
    assert "grph: no option takes it" in error_line(capsys, "materialize", "-d", "sample", "grph")


def test_selection_takes_groups_and_siblings_of_one_step():
    names = [key.to_user_string() for key in runs.select_assets(["users"])]
    assert names == ["interactions", "items", "users"]
    assert len(runs.select_assets(["data"])) == 6
    assert runs.select_assets([]) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "there is no such file"), ("a: [", "is not valid YAML"), ("- 1", "holds list")],
)
def test_bad_config_files_are_one_line(capsys, tmp_path, text, message):
    path = tmp_path / "config.yaml"
    if text is not None:
        path.write_text(text)
    assert message in error_line(capsys, "materialize", "-d", "sample", "-c", str(path))


def test_nothing_materialized_says_what_to_run(capsys):
    mend = "run: recsys-dagster materialize --dataset sample"
    assert mend in error_line(capsys, "leaderboard", "--dataset", "sample")
    assert mend in error_line(capsys, "leaderboard")
    assert mend in error_line(capsys, "recommend", "--dataset", "sample", "--user", "u0")


def test_leaderboard_reads_what_is_stored(capsys, home):
    rows = [
        {"model": "larmi", "protocol": "leave_one_out", "candidates": "full", "metric": "MRR", "k": 0, "value": 0.5}
    ]
    path = home / "assets" / "leaderboard" / "sample.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"markdown": "### sample\n\n| model | MRR |\n|---|---|\n| larmi | 0.5 |", "rows": rows}))
    for arguments in (["leaderboard", "--json"], ["leaderboard", "--dataset", "sample", "--json"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert json.loads(out) == rows
    assert "larmi" in run(capsys, "leaderboard")[1]


def test_materialize_shows_assets_and_keeps_a_run(capsys, home):
    code, out, err = run(capsys, "materialize", "-d", "sample", "-s", "raw_items", "-s", "users")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert [line[1] for line in lines if line[0] == "done"] == [
        "raw_interactions", "raw_items", "interactions", "users", "items",
    ]  # fmt: skip
    assert "rows" in out
    assert err == ""
    users = pd.read_parquet(home / "assets" / "users" / "sample.parquet")
    assert json.loads(run(capsys, "datasets", "describe", "sample", "--json")[1])["materialized"]["users"] == len(users)
    with dg.DagsterInstance.get() as instance:
        (record,) = instance.get_runs()
        assert record.status == dg.DagsterRunStatus.SUCCESS
        assert record.job_name == "full_lineage"
        assert record.tags["dagster/partition"] == "sample"
        assert instance.get_materialized_partitions(dg.AssetKey("users")) == {"sample"}


def test_error_inside_an_asset_is_one_line_and_does_not_stop_the_next_dataset(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RECSYS_DATA_DIR", str(tmp_path))
    code, out, err = run(capsys, "materialize", "-d", "office", "-d", "sample", "-s", "raw_interactions")
    assert code == 1
    assert "office failed" in out
    assert "sample finished" in out
    assert err.startswith("error: office: raw_data: ")
    assert "office.csv" in err
    assert "To mend: " in err
    assert err.count("\n") == 1
    assert "Traceback" not in err + out


def test_missing_input_is_one_line(capsys):
    code, out, err = run(capsys, "materialize", "-d", "sample", "-s", "coengagement_graph")
    assert code == 1
    assert "interactions has not been materialized for sample" in err
    assert err.count("\n") == 1
    assert "Traceback" not in err + out


def test_wrong_setting_is_one_line(capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("ops: {negatives: {config: {n: 0}}}")
    run(capsys, "materialize", "-d", "sample", "-s", "raw_items", "-s", "users")
    code, _, err = run(capsys, "materialize", "-d", "sample", "-s", "negatives", "-c", str(path))
    assert code == 1
    assert "greater than or equal to 1" in err
    assert err.count("\n") == 1
    # Settings of steps that are not selected do no harm; wrong ones of those that are do.
    path.write_text("ops: {sasrec_model: {config: {epochs: 3}}, negatives: {config: {n: 9}}}")
    assert run(capsys, "materialize", "-d", "sample", "-s", "negatives", "-c", str(path))[0] == 0
    path.write_text("ops: {negatives: {config: {nn: 3}}}")
    code, _, err = run(capsys, "materialize", "-d", "sample", "-s", "negatives", "-c", str(path))
    assert code == 1
    assert 'unexpected config entry "nn"' in err
    assert err.startswith("error: the run config is not valid")
    assert err.count("\n") == 1


def test_broken_registry_is_one_line_even_where_it_is_read_on_import(tmp_path):
    path = tmp_path / "datasets.toml"
    path.write_text("[sample")
    for arguments in (["datasets", "list"], ["materialize", "-d", "sample"]):
        done = subprocess.run(
            [sys.executable, "-m", "recsys_dagster.cli", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "RECSYS_DATASETS": str(path)},
        )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


class _Error:
    def __init__(self, cls_name, message, cause=None):
        self.cls_name, self.message, self.cause = cls_name, message, cause


def test_one_line_finds_the_error_that_counts():
    inner = _Error("KeyError", "KeyError: 'x'\n")
    ours = _Error("RecsysError", "recsys_dagster.errors.RecsysError: file x:\n is empty. To mend: fill it.\n", inner)
    outer = _Error("DagsterExecutionStepExecutionError", "dagster...Error: Error occurred", ours)
    assert runs.one_line(outer) == "file x: is empty. To mend: fill it."
    foreign = _Error("DagsterExecutionStepExecutionError", "no", _Error("ValueError", "ValueError: bad value\n", inner))
    assert runs.one_line(foreign) == "ValueError: bad value"


def test_main_turns_an_error_into_one_line(monkeypatch, capsys):
    def broken(_):
        raise RecsysError("line one\nline two.", mend="do this")

    monkeypatch.setattr(cli, "app", broken)
    code, _, err = run(capsys)
    assert (code, err) == (1, "error: line one line two. To mend: do this\n")
