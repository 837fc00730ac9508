"""The language-model clusterer against a real HTTP server that speaks the OpenAI format."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openai_server import OpenAIServer, one_interest

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answer_cache import AnswerCache, answer_key
from recsys_dagster.larmi.clusters import Catalogue, cluster_users
from recsys_dagster.larmi.openai_clusterer import OpenAIClusterer, OpenAISettings

KEY = "test-secret-8c1f0e7d2b"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", KEY)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "answers.sqlite"


def _clusterer(server: OpenAIServer, cache: Path, **changes: object) -> OpenAIClusterer:
    values = {"base_url": server.url, "model": "m", "api_key_env": "TEST_LLM_KEY", "max_retries": 3}
    return OpenAIClusterer(OpenAISettings(**(values | changes)), cache)


def _items(n: int, prefix: str = "title") -> pd.DataFrame:
    titles = [f"{prefix} {k}" for k in range(n)]
    return pd.DataFrame({"item_id": np.arange(n), "title": titles, "text": titles})


USERS = [(user, [user, user + 1, user + 2, user + 3]) for user in range(20)]


def test_good_answers_become_the_table_and_are_never_asked_again(cache: Path) -> None:
    with OpenAIServer() as server:
        table, statistics = cluster_users(USERS, _items(30), _clusterer(server, cache, concurrency=4))
        assert len(server.bodies) == 20
        assert server.most_in_flight <= 4
        first = table[table["user_id"] == 3]
        assert {label: own["item_id"].tolist() for label, own in first.groupby("label")} == {
            "part 0": [3, 5],
            "part 1": [4, 6],
        }
        assert set(table["source"]) == {"openai"}
        assert (statistics["llm_calls"], statistics["prompt_tokens"], statistics["completion_tokens"]) == (20, 200, 100)

        again, statistics = cluster_users(USERS, _items(30), _clusterer(server, cache))
        pd.testing.assert_frame_equal(again, table)
        assert len(server.bodies) == 20
        assert (statistics["llm_calls"], statistics["llm_cached"]) == (0, 20)

        changed = [*USERS[:19], (19, [19, 20, 21, 25])]
        cluster_users(changed, _items(30), _clusterer(server, cache))
        assert len(server.bodies) == 21
        cluster_users(USERS[:2], _items(30), _clusterer(server, cache, model="other"))
        assert len(server.bodies) == 23


def test_request_is_deterministic_structured_and_titled(cache: Path) -> None:
    with OpenAIServer() as server:
        cluster_users(USERS[:1], _items(30), _clusterer(server, cache))
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
        table, _ = cluster_users([(0, [0, 1]), (1, [0, 1])], _items(2), _clusterer(server, cache))
        assert len(server.bodies) == 1
    assert table["user_id"].tolist() == [0, 0, 1, 1]


def test_a_long_history_is_asked_in_pieces(cache: Path) -> None:
    with OpenAIServer() as server:
        table, _ = cluster_users([(0, range(50))], _items(50), _clusterer(server, cache, max_items=20))
        assert len(server.bodies) == 3
    assert sorted(table["item_id"]) == list(range(50))
    assert table["cluster"].nunique() == 2


def test_broken_answer_is_asked_again_with_the_error_stated(cache: Path) -> None:
    def reply(number: int, body: dict, headers: dict) -> tuple[int, dict, str]:
        return 200, {}, '{"clusters": [{"label": "x"' if number == 0 else one_interest(body)

    with OpenAIServer(reply) as server:
        table, statistics = cluster_users(USERS[:1], _items(30), _clusterer(server, cache))
    assert set(table["source"]) == {"openai"}
    assert statistics["llm_second_tries"] == 1
    second = server.bodies[1]["messages"]
    assert [message["role"] for message in second] == ["system", "user", "assistant", "user"]
    assert "Invalid JSON" in second[3]["content"]


@pytest.mark.parametrize("content", ["no json", "{}", '{"clusters": []}', '{"clusters": [{"label": 1}]}', ""])
def test_always_broken_falls_back_says_so_and_is_not_paid_again(cache: Path, content: str) -> None:
    with OpenAIServer(lambda number, body, headers: (200, {}, content)) as server:
        table, statistics = cluster_users(USERS[:1], _items(30), _clusterer(server, cache))
        assert set(table["source"]) == {"fallback"}
        assert set(table["item_id"]) == {0, 1, 2, 3}
        assert (len(server.bodies), statistics["llm_fallbacks"], statistics["users_fallback"]) == (2, 1, 1)
        again, _ = cluster_users(USERS[:1], _items(30), _clusterer(server, cache))
        pd.testing.assert_frame_equal(again, table)
        assert len(server.bodies) == 2
    with AnswerCache(cache) as answers:
        assert answers.forget_unusable() == 1


def test_unknown_numbers_are_dropped_not_believed(cache: Path) -> None:
    content = '{"clusters": [{"label": "x", "reason": "", "items": [1, 99, 1]}]}'
    with OpenAIServer(lambda number, body, headers: (200, {}, content)) as server:
        table, statistics = cluster_users(USERS[:1], _items(30), _clusterer(server, cache))
    assert set(table["item_id"]) == {0, 1, 2, 3}
    assert (statistics["unknown_items"], statistics["missing_items"], statistics["duplicate_items"]) == (1, 3, 1)
    assert "title 2" in set(table["label"])


def test_rate_limit_and_server_errors_lose_no_user(cache: Path) -> None:
    def reply(number: int, body: dict, headers: dict) -> tuple[int, dict, str]:
        if number % 5 == 0:
            return 429, {"Retry-After": "0"}, "slow down"
        return (500, {"Retry-After": "0"}, "oops") if number % 7 == 0 else (200, {}, one_interest(body))

    with OpenAIServer(reply) as server:
        table, statistics = cluster_users(USERS, _items(30), _clusterer(server, cache, max_retries=8))
    assert table["user_id"].nunique() == 20
    assert set(table["source"]) == {"openai"}
    assert statistics["llm_calls"] == 20
    assert len(server.bodies) <= 35


def test_rejected_question_falls_back_but_is_asked_another_day(cache: Path) -> None:
    with OpenAIServer(lambda number, body, headers: (400, {}, "too long")) as server:
        table, _ = cluster_users(USERS[:1], _items(30), _clusterer(server, cache))
        assert set(table["source"]) == {"fallback"}
        cluster_users(USERS[:1], _items(30), _clusterer(server, cache))
        assert len(server.bodies) == 2


def test_a_dead_service_ends_the_run_and_keeps_what_was_paid(cache: Path) -> None:
    def reply(number: int, body: dict, headers: dict) -> tuple[int, dict, str]:
        return (200, {}, one_interest(body)) if number < 5 else (503, {"Retry-After": "0"}, "down")

    with OpenAIServer(reply) as server:
        with pytest.raises(RecsysError, match="status 503") as caught:
            cluster_users(USERS, _items(30), _clusterer(server, cache, concurrency=1, max_retries=1))
        assert "\n" not in str(caught.value)
        assert len(server.bodies) == 7
        server.reply = lambda number, body, headers: (200, {}, one_interest(body))
        _, statistics = cluster_users(USERS, _items(30), _clusterer(server, cache))
    assert (statistics["llm_cached"], statistics["llm_calls"]) == (5, 15)


def test_the_key_is_nowhere_but_in_the_request(
    cache: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    seen = []

    def reply(number: int, body: dict, headers: dict) -> tuple[int, dict, str]:
        seen.append(headers["authorization"])
        if number == 0:
            return 200, {}, f"rubbish with {headers['authorization']}"
        if number == 1:
            return 200, {}, one_interest(body).replace("part 0", headers["authorization"])
        return 401, {}, f"Incorrect API key provided: {headers['authorization']}"

    with OpenAIServer(reply) as server:
        clusterer = _clusterer(server, cache, concurrency=1)
        table, _ = cluster_users(USERS[:1], _items(30), clusterer)
        with pytest.raises(RecsysError, match="AuthenticationError") as caught:
            cluster_users(USERS[:3], _items(30), clusterer)
        assert len(seen) == 3
        assert seen[0] == f"Bearer {KEY}"
        second_question = str(server.bodies[1])
    chain: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
    stored = b"".join(path.read_bytes() for path in cache.parent.iterdir())
    output = capfd.readouterr()
    places = [
        second_question,
        table.to_csv(),
        repr(chain),
        caplog.text,
        output.out,
        output.err,
        repr(clusterer.settings),
    ]
    assert len(stored) > 0
    assert KEY.encode() not in stored
    assert not [place for place in places if KEY in place]


def test_missing_key_and_missing_titles_are_clear_errors(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer() as server:
        untitled = _items(3).assign(title="")
        with pytest.raises(RecsysError, match="no titles"):
            cluster_users([(0, [0, 1])], untitled, _clusterer(server, cache))
        monkeypatch.delenv("TEST_LLM_KEY")
        with pytest.raises(RecsysError, match="TEST_LLM_KEY"):
            cluster_users([(0, [0, 1])], _items(3), _clusterer(server, cache))
        assert not server.bodies
        table, _ = cluster_users([(0, [0, 1])], _items(3), _clusterer(server, cache, api_key_env=""))
    assert set(table["source"]) == {"openai"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("base_url", "http://user:secret@host/v1"), ("base_url", "ftp://host"), ("api_key_env", "sk-secret-1")],
)
def test_settings_refuse_secrets_and_do_not_repeat_them(field: str, value: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        OpenAISettings(**{field: value})
    assert value not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_works_inside_a_running_event_loop(cache: Path) -> None:
    async def inside(server: OpenAIServer) -> int:
        return len(_clusterer(server, cache).cluster(Catalogue(["a", "b"], ["a", "b"]), [np.arange(2)]))

    with OpenAIServer() as server:
        assert asyncio.run(inside(server)) == 1


@pytest.fixture
def other_file(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("this is no database, and long enough to be read as one" * 20)
    return path


def test_cache_refuses_a_foreign_file_and_keys_depend_on_everything(other_file: Path) -> None:
    with pytest.raises(RecsysError, match="not a cache"):
        AnswerCache(other_file)
    keys = {answer_key({"model": m}, t) for m in ("a", "b") for t in (["x", "y"], ["y", "x"], ["x, y"])}
    assert len(keys) == 6
