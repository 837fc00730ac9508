import json
from pathlib import Path

import pytest

from benchmarks.openai_server import OpenAIServer
from recsys_dagster import cli
from recsys_dagster.data.prepare import prepare
from recsys_dagster.data.readers import read_raw
from recsys_dagster.data.registry import get_dataset
from recsys_dagster.larmi.clusters import cluster_users
from recsys_dagster.larmi.llm.openai import OpenAIClusterer
from resources.llm import LlmResource
from resources.storage import AssetStore


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(capsys, *arguments: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert int(stop.value.code or 0) == code, err
    return out if code == 0 else err


@pytest.fixture
def sample(home):
    spec = get_dataset("sample")
    data = prepare(read_raw(spec, home, home), spec)
    for name in ("interactions", "users", "items"):
        path = AssetStore().path(name, "sample", ".parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        getattr(data, name).to_parquet(str(path))
    return data


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "resources: {llm: {config: {backend: openai, model: m, input_price: 2.5, output_price: 10, spending_cap: 5}}}"
    )
    return str(path)


def test_estimate_prints_calls_tokens_and_cost_and_sends_nothing(capsys, sample, config, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    found = json.loads(run(capsys, "llm", "estimate", "--dataset", "sample", "--config", config, "--json"))
    assert found["calls"] == found["assets"]["user_clusters"]["users"] == len(sample.users)
    assert found["cost"] == pytest.approx((found["input_tokens"] * 2.5 + found["output_tokens"] * 10) / 1e6)
    assert found["most"] > found["cost"]
    out = run(capsys, "llm", "estimate", "-d", "sample", "-c", config)
    assert "user_clusters" in out
    assert "spending_cap is 5.00 an asset and run" in out
    assert "representative_clusters is left out" in out
    out = run(capsys, "llm", "estimate", "-d", "sample")
    assert "the backend is local" in out
    assert "set input_price and output_price" in out


def test_estimate_without_tables_or_with_wrong_settings_is_one_line(capsys, config, tmp_path):
    err = run(capsys, "llm", "estimate", "-d", "sample", "-c", config, code=1)
    assert err.startswith("error: interactions has not been materialized")
    for text, said in (("modell: x", "no setting 'modell'"), ("concurrency: 0", "concurrency: Input should be")):
        (tmp_path / "bad.yaml").write_text(f"resources: {{llm: {{config: {{{text}}}}}}}")
        err = run(capsys, "llm", "estimate", "-d", "sample", "-c", str(tmp_path / "bad.yaml"), code=1)
        assert said in err
        assert err.count("\n") == 1


def test_cache_commands(capsys, sample, config, tmp_path):
    assert "there is no cache of answers" in run(capsys, "llm", "cache", "stats", code=1)
    with OpenAIServer() as server:
        llm = LlmResource(backend="openai", base_url=server.url, model="m", api_key_env="")
        users = [(user, [user, user + 1, user + 2]) for user in range(5)]
        cluster_users(users, sample.items, OpenAIClusterer(llm, llm.cache_path()))
    assert json.loads(run(capsys, "llm", "cache", "stats", "--json"))["answers"] == 5
    assert "5 answers" in run(capsys, "llm", "cache", "stats")
    assert "5 answers" in run(capsys, "llm", "cache", "export", str(tmp_path / "a.jsonl"))
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 5
    assert "nothing says which" in run(capsys, "llm", "cache", "prune", code=1)
    assert "0 answers dropped" in run(capsys, "llm", "cache", "prune", "--older-than", "1")
    assert "5 answers dropped" in run(capsys, "llm", "cache", "prune", "--model", "m")
