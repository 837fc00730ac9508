"""The language-model clusterer against a real HTTP server that speaks the OpenAI format."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from asking import USERS, clusterer, items

from benchmarks.openai_server import OpenAIServer, Reply
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi import clusters
from recsys_dagster.larmi.clusters import Catalogue, cluster_users
from recsys_dagster.larmi.llm.cache import AnswerCache
from recsys_dagster.larmi.llm.cache_admin import prune
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.progress import Progress


def test_good_answers_become_the_table_and_are_never_asked_again(cache: Path) -> None:
    with OpenAIServer() as server:
        table, statistics = cluster_users(USERS, items(30), clusterer(server, cache, concurrency=4))
        assert len(server.bodies) == 20
        assert server.most_in_flight <= 4
        first = table[table["user_id"] == 3]
        assert {label: own["item_id"].tolist() for label, own in first.groupby("label")} == {
            "part 0": [3, 5],
            "part 1": [4, 6],
        }
        assert set(table["source"]) == {"openai"}
        assert (statistics["llm_calls"], statistics["prompt_tokens"], statistics["completion_tokens"]) == (20, 200, 100)

        again, statistics = cluster_users(USERS, items(30), clusterer(server, cache))
        pd.testing.assert_frame_equal(again, table)
        assert len(server.bodies) == 20
        assert (statistics["llm_calls"], statistics["llm_cached"]) == (0, 20)

        changed = [*USERS[:19], (19, [19, 20, 21, 25])]
        cluster_users(changed, items(30), clusterer(server, cache))
        assert len(server.bodies) == 21
        cluster_users(USERS[:2], items(30), clusterer(server, cache, model="other"))
        assert len(server.bodies) == 23


def test_request_is_deterministic_structured_and_titled(cache: Path) -> None:
    with OpenAIServer() as server:
        cluster_users(USERS[:1], items(30), clusterer(server, cache))
    (body,) = server.bodies
    assert body["temperature"] == 0
    assert body["model"] == "m"
    assert body["response_format"]["type"] == "json_schema"
    schema = body["response_format"]["json_schema"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["InterestCluster"]["required"] == ["label", "reason", "items"]
    assert '1: "title 0"\n2: "title 1"' in body["messages"][1]["content"]


def test_users_with_the_same_titles_share_one_question(cache: Path) -> None:
    with OpenAIServer() as server:
        table, _ = cluster_users([(0, [0, 1]), (1, [0, 1])], items(2), clusterer(server, cache))
        assert len(server.bodies) == 1
    assert table["user_id"].tolist() == [0, 0, 1, 1]


def test_a_long_history_is_asked_in_pieces(cache: Path) -> None:
    with OpenAIServer() as server:
        table, _ = cluster_users([(0, range(50))], items(50), clusterer(server, cache, max_items=20))
        assert len(server.bodies) == 3
    assert sorted(table["item_id"]) == list(range(50))
    assert table["cluster"].nunique() == 2


def test_broken_answer_is_asked_again_with_the_error_stated(cache: Path) -> None:
    def reply(number: int, body: dict, headers: dict) -> Reply:
        return Reply('{"clusters": [{"label": "x"') if number == 0 else Reply()

    with OpenAIServer(reply) as server:
        table, statistics = cluster_users(USERS[:1], items(30), clusterer(server, cache))
    assert set(table["source"]) == {"openai"}
    assert statistics["llm_second_tries"] == 1
    second = server.bodies[1]["messages"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert "Invalid JSON" in second[3]["content"]


@pytest.mark.parametrize("content", ["no json", "{}", '{"clusters": []}', '{"clusters": [{"label": 1}]}', ""])
def test_always_broken_falls_back_says_so_and_is_not_paid_again(cache: Path, content: str) -> None:
    with OpenAIServer(lambda number, body, headers: Reply(content)) as server:
        table, statistics = cluster_users(USERS[:1], items(30), clusterer(server, cache))
        assert set(table["source"]) == {"fallback"}
        assert set(table["item_id"]) == {0, 1, 2, 3}
        assert (len(server.bodies), statistics["llm_fallbacks"], statistics["users_fallback"]) == (2, 1, 1)
        again, _ = cluster_users(USERS[:1], items(30), clusterer(server, cache))
        pd.testing.assert_frame_equal(again, table)
        assert len(server.bodies) == 2
    with AnswerCache(cache) as answers:
        assert prune(answers, unusable=True) == 1


def test_unknown_numbers_are_dropped_not_believed(cache: Path) -> None:
    content = '{"clusters": [{"label": "x", "reason": "", "items": [1, 99, 1]}]}'
    with OpenAIServer(lambda number, body, headers: Reply(content)) as server:
        table, statistics = cluster_users(USERS[:1], items(30), clusterer(server, cache))
    assert set(table["item_id"]) == {0, 1, 2, 3}
    assert (statistics["unknown_items"], statistics["missing_items"], statistics["duplicate_items"]) == (1, 3, 1)
    assert "title 2" in set(table["label"])


def test_rejected_question_falls_back_but_is_asked_another_day(cache: Path) -> None:
    with OpenAIServer(lambda number, body, headers: Reply("too long", 400)) as server:
        table, _ = cluster_users(USERS[:1], items(30), clusterer(server, cache))
        assert set(table["source"]) == {"fallback"}
        cluster_users(USERS[:1], items(30), clusterer(server, cache))
        assert len(server.bodies) == 2


def test_missing_key_and_missing_titles_are_clear_errors(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer() as server:
        untitled = items(3).assign(title="")
        with pytest.raises(RecsysError, match="no titles"):
            cluster_users([(0, [0, 1])], untitled, clusterer(server, cache))
        monkeypatch.delenv("TEST_LLM_KEY")
        with pytest.raises(RecsysError, match="TEST_LLM_KEY"):
            cluster_users([(0, [0, 1])], items(3), clusterer(server, cache))
        assert not server.bodies
        table, _ = cluster_users([(0, [0, 1])], items(3), clusterer(server, cache, api_key_env=""))
    assert set(table["source"]) == {"openai"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("base_url", "http://user:secret@host/v1"), ("base_url", "ftp://host"), ("api_key_env", "sk-secret-1")],
)
def test_settings_refuse_secrets_and_do_not_repeat_them(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        LlmSettings(**{field: value})
    assert value not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_progress_counts_users_and_tells_the_money(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, str]] = []

    class Recorder(Progress):
        def update(self, steps: int = 1, note: str = "") -> None:
            told.append((steps, note))

    monkeypatch.setattr(clusters, "Progress", Recorder)
    with OpenAIServer() as server:
        asking = clusterer(server, cache, concurrency=1, input_price=2.0, output_price=10.0)
        cluster_users([*USERS, (20, [0, 1, 2, 3])], items(30), asking, block_users=7)
    assert sum(steps for steps, _ in told) == 21
    notes = [note for _, note in told if note]
    assert notes[0] == "0.0000 spent"
    assert notes[-1] == "0.0014 spent"  # 20 calls of 10 and 5 tokens


def test_works_inside_a_running_event_loop(cache: Path) -> None:
    async def inside(server: OpenAIServer) -> int:
        return len(clusterer(server, cache).cluster(Catalogue(["a", "b"], ["a", "b"]), [np.arange(2)]))

    with OpenAIServer() as server:
        assert asyncio.run(inside(server)) == 1
