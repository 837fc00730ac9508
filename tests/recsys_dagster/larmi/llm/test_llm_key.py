"""The key, and every part of it, is nowhere but in the requests."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from asking import KEY, USERS, batch_clusterer, clusterer, items
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.openai_server import OpenAIServer, Reply, good_answer
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.clusters import cluster_users
from recsys_dagster.larmi.llm import cache_admin
from recsys_dagster.larmi.llm.cache import AnswerCache
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.llm.wire import WINDOW, redact

PARTS = [KEY[start : start + WINDOW] for start in range(len(KEY) - WINDOW + 1)]


def leaks(text: str) -> list[str]:
    return [part for part in PARTS if part in text]


def echo(number: int, body: dict, headers: dict) -> Reply:
    """A server that repeats the key wherever it can, whole, cut short and escaped."""
    key = headers["authorization"]
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in key)
    kind = number % 5
    if kind == 0:
        return Reply(f"rubbish with {key} and {key[7:20]}***")
    if kind == 1:
        return Reply(good_answer(body).replace("part 0", key).replace("part 1", key[10:24]))
    if kind == 2:
        return Reply(good_answer(body).replace("part 0", escaped))
    if kind == 3:
        return Reply(f"rejected: {key}", 400)
    return Reply(f"failed: {key}", 500, {"Retry-After": "0", "X-Echo": key})


@pytest.mark.parametrize("make", [clusterer, batch_clusterer])
def test_a_server_that_echoes_the_key_finds_no_place_to_leave_it(
    make, cache: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    used: list[str] = []

    def rule(number: int, body: dict, headers: dict) -> Reply:
        used.append(headers["authorization"])
        return echo(number, body, headers)

    with OpenAIServer(rule) as server:
        asking = make(server, cache, concurrency=2, max_retries=9)
        table, statistics = cluster_users(USERS, items(30), asking)
        assert set(used) == {f"Bearer {KEY}"}
        assert "[key]" in table.to_csv()
        sent = json.dumps(server.bodies) + "".join(name.decode() for name in server.files.values() if make is clusterer)
        server.rule = lambda number, body, headers: Reply(f"Incorrect API key provided: {KEY}", 401)
        server.refuse = 401
        with pytest.raises(RecsysError, match="status 401") as caught:
            cluster_users(USERS, items(30), make(server, cache, model="other"))
    exported = cache.parent / "answers.jsonl"
    with AnswerCache(cache) as answers:
        cache_admin.export(answers, exported)
        seen = repr(cache_admin.stats(answers))
    chain: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
    output = capfd.readouterr()
    places = {
        "questions": sent, "table": table.to_csv(), "statistics": repr(statistics), "errors": repr(chain),
        "log": caplog.text, "out": output.out, "err": output.err, "settings": repr(asking.settings),
        "object": repr(vars(asking)), "stats": seen,
    } | {path.name: path.read_bytes().decode("latin-1") for path in cache.parent.iterdir()}  # fmt: skip
    assert {name: leaks(text) for name, text in places.items() if leaks(text)} == {}
    assert exported.stat().st_size > 0


RUN = """
import json, sys
from resources.storage import AssetStore
import dagster as dg
from recsys_dagster.definitions import build_definitions
from resources.llm import LlmResource
from resources.instance import open_instance
from recsys_dagster.runs import lineage_job

llm = LlmResource(backend="openai", base_url=sys.argv[1], model=sys.argv[2], api_key_env="TEST_LLM_KEY", max_retries=0)
defs = build_definitions({"llm": llm})
names = ["raw_interactions", "raw_items", "interactions", "users", "items", "negatives", "user_clusters"]
with open_instance() as instance:
    result = dg.materialize(
        [asset for asset in defs.assets], selection=names, partition_key="sample", instance=instance,
        resources=dict(defs.resources), raise_on_error=False,
    )
if result.success:
    (made,) = result.asset_materializations_for_node("user_clusters")
    print(json.dumps(sorted(made.metadata)))
    print(made.metadata["examples"].value)
print(result.success)
"""


def test_a_dagster_run_leaves_no_key_behind(tmp_path: Path) -> None:
    home = tmp_path / "home"
    env = {
        **os.environ, "RECSYS_HOME": str(home), "DAGSTER_HOME": str(home / "dagster"), "TEST_LLM_KEY": KEY,
    }  # fmt: skip
    said = io.StringIO()
    with OpenAIServer(lambda number, body, headers: Reply() if number % 3 else echo(1, body, headers)) as server:
        for model in ("good", "refused"):
            command = [sys.executable, "-c", RUN, server.url, model]
            done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
            said.write(done.stdout + done.stderr)
            if model == "good":
                metadata = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
                assert {"interests_of_users", "cluster_sizes", "llm_calls", "llm_spent"} <= set(metadata)
                assert "| user | interest | items | titles | answered by |" in done.stdout
                assert "| openai |" in done.stdout
            assert done.stdout.strip().endswith("True" if model == "good" else "False"), done.stderr[-2_000:]
            server.rule = lambda number, body, headers: Reply(f"Incorrect API key provided: {KEY}", 401)
        assert len(server.bodies) >= 600
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.name == "llm.sqlite" for path in files)
    found = {str(path): leaks(path.read_bytes().decode("latin-1")) for path in files}
    found["output"] = leaks(said.getvalue())
    assert {name: parts for name, parts in found.items() if parts} == {}
    assert "status 401" in said.getvalue()


@given(st.text(max_size=60), st.text("abcdef0123456789-", min_size=WINDOW, max_size=40), st.integers(0, 40))
def test_redacted_text_shares_nothing_with_the_key(text: str, key: str, cut: int) -> None:
    for dirty in (text + key + text, text + key[: cut % len(key) + 1] + text, key + key):
        clean = redact(dirty, key).replace("[key]", "\x00")
        assert not [key[k : k + WINDOW] for k in range(len(key) - WINDOW + 1) if key[k : k + WINDOW] in clean]
    assert redact("nothing of it", "q" * 20) == "nothing of it"


@pytest.mark.parametrize("value", ["sk-secret-1", "AbCdEf123456", "two words"])
def test_a_key_in_place_of_its_name_is_not_repeated(value: str) -> None:
    with pytest.raises(ValueError, match="NAME of an environment variable") as caught:
        LlmSettings(api_key_env=value)
    assert value not in str(caught.value)


@pytest.mark.parametrize("value", ["", "   ", "line\nbreak", "ключ"])
def test_a_key_that_cannot_be_one_is_a_clear_error(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", value)
    with pytest.raises(RecsysError, match="TEST_LLM_KEY"):
        LlmSettings(backend="openai", api_key_env="TEST_LLM_KEY").api_key()
