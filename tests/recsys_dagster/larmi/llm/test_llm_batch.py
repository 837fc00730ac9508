"""The backend `openai_batch` against a server with files and batches."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from asking import USERS, batch_clusterer, clusterer, items, users
from openai.resources import AsyncBatches

from benchmarks.openai_server import OpenAIServer, Reply
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.clusters import cluster_users
from recsys_dagster.larmi.llm import batch
from recsys_dagster.larmi.llm.cache import AnswerCache
from recsys_dagster.larmi.llm.cache_admin import prune, stats
from recsys_dagster.larmi.llm.submissions import Submissions

PRICED = {"input_price": 2.0, "output_price": 10.0, "max_output_tokens": 200}


def created(server: OpenAIServer) -> int:
    return server.calls.count(("POST", "/v1/batches"))


def under_way(cache: Path) -> tuple[int, int]:
    with sqlite3.connect(cache) as connection:
        counts = [connection.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in ("submissions", "batch_lines")]
    return counts[0], counts[1]


def test_one_file_one_batch_and_the_same_table_as_chat(cache: Path, tmp_path: Path) -> None:
    with OpenAIServer() as server:
        server.batch_looks = 3
        table, statistics = cluster_users(USERS, items(30), batch_clusterer(server, cache, **PRICED))
        assert (created(server), len(server.files), len(server.bodies)) == (1, 2, 20)
        lines = [json.loads(line) for line in server.files["file-0"].splitlines()]
        assert {line["url"] for line in lines} == {"/v1/chat/completions"}
        assert {line["method"] for line in lines} == {"POST"}
        assert len({line["custom_id"] for line in lines}) == 20
        chat, _ = cluster_users(USERS, items(30), clusterer(server, tmp_path / "other.sqlite", **PRICED))
        pd.testing.assert_frame_equal(table, chat)
        assert server.bodies[0] == server.bodies[20], "the very question that chat asks"
        asked = len(server.bodies)
        _, again = cluster_users(USERS, items(30), clusterer(server, cache, **PRICED))
        assert len(server.bodies) == asked, "both backends share the cache"
    assert again["llm_cached"] == 20
    assert (statistics["llm_calls"], statistics["prompt_tokens"]) == (20, 200)
    assert statistics["llm_spent"] == pytest.approx(20 * (10 * 2 + 5 * 10) / 1e6)
    assert under_way(cache) == (0, 0)


def test_files_hold_no_more_than_the_service_takes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_LINES", 8)
    with OpenAIServer() as server:
        cluster_users(USERS, items(30), batch_clusterer(server, cache))
        sizes = [server.files[b.file_id].count(b"\n") for b in server.batches.values()]
        assert sizes == [8, 8, 4]
        monkeypatch.setattr(batch, "MAX_BYTES", 3 * len(server.files["file-0"].splitlines()[0]) + 100)
        cluster_users(USERS, items(30), batch_clusterer(server, cache, model="n"))
        sizes = [len(server.files[b.file_id]) for b in list(server.batches.values())[3:]]
    assert len(sizes) == 7
    assert max(sizes) <= batch.MAX_BYTES


class Killed(BaseException):
    pass


STEPS = ["plan", "uploaded", "creating", "created", "finish"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_run_killed_at_any_step_never_submits_twice(
    cache: Path, monkeypatch: pytest.MonkeyPatch, step: str, when: str
) -> None:
    real = getattr(Submissions, step)

    def deadly(self: Submissions, *args: object, **kwargs: object) -> object:
        if when == "before":
            raise Killed
        real(self, *args, **kwargs)
        raise Killed

    with OpenAIServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(Submissions, step, deadly)
            with pytest.raises(Killed):
                cluster_users(USERS, items(30), batch_clusterer(server, cache))
        table, _ = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert created(server) == 1
        assert len(server.bodies) == 20
    assert set(table["source"]) == {"openai"}
    assert under_way(cache) == (0, 0)


def test_a_run_killed_between_the_creation_and_its_note_finds_the_batch(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AsyncBatches.create

    async def deadly(*args: object, **kwargs: object) -> None:
        await real(*args, **kwargs)  # type: ignore[arg-type]
        raise Killed

    with OpenAIServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(AsyncBatches, "create", deadly)
            with pytest.raises(Killed):
                cluster_users(USERS, items(30), batch_clusterer(server, cache))
        for _ in range(130):  # batches of others came after it
            server.batches[f"other_{len(server.batches)}"] = batch_of_another(server)
        cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert created(server) == 1
        assert len(server.bodies) == 20


def batch_of_another(server: OpenAIServer):
    from benchmarks.openai_server import Batch

    return Batch(f"other_{len(server.batches)}", "file-x", {}, 1, "completed")


def test_a_submission_is_taken_over_only_when_its_process_has_ended(cache: Path) -> None:
    with AnswerCache(cache) as other:
        with AnswerCache(cache) as one:
            name, own = Submissions(one).plan({"a": (3, 100), "b": (2, 90)}, 0.5)
            assert own == ["a", "b"]
            assert Submissions(other).plan({"b": (2, 90), "c": (1, 80)}, 0.5)[1] == ["c"], "b is spoken for"
            assert not Submissions(other).adopt(name)
        assert Submissions(other).adopt(name)
        assert {line.items for line in Submissions(other).lines_of(name).values()} == {2, 3}


def test_a_creation_whose_answer_is_lost_is_looked_for_before_another(cache: Path) -> None:
    with OpenAIServer() as server:
        server.lose_creations = 1
        cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert created(server) == 1
        assert server.calls.count(("GET", "/v1/batches")) == 1


def test_uploads_and_looks_are_repeated_by_the_client(cache: Path) -> None:
    with OpenAIServer() as server:
        server.fail_first = 1
        table, _ = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert (server.calls.count(("POST", "/v1/files")), created(server), len(server.bodies)) == (2, 1, 20)
        assert server.files["file-0"].count(b"\n") == 20, "the whole file, the second time too"
    assert set(table["source"]) == {"openai"}


@pytest.mark.parametrize(
    "rubbish", [b"", b"[]", b"null", b'"text"', b"{", b'{"id": 3}', b'{"id": "../x"}', b'{"data": 1}']
)
@pytest.mark.parametrize("call", ["POST /v1/files", "POST /v1/batches", "GET /v1/batches", "GET /v1/batches/batch_0"])
def test_rubbish_in_place_of_a_file_or_batch_is_a_clear_error(cache: Path, call: str, rubbish: bytes) -> None:
    with OpenAIServer() as server:
        server.lose_creations = int(call == "GET /v1/batches")
        server.rubbish = {call: rubbish}
        with pytest.raises(RecsysError, match="answered with status 200"):
            cluster_users(USERS, items(30), batch_clusterer(server, cache, max_retries=1))
        server.rubbish = {}
        cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert len(server.bodies) == 20


def test_a_server_without_keys_is_asked_without_the_variable(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_LLM_KEY")
    with OpenAIServer() as server:
        table, _ = cluster_users(USERS, items(30), batch_clusterer(server, cache, api_key_env=""))
    assert set(table["source"]) == {"openai"}


def test_an_expired_batch_keeps_what_it_answered_and_the_rest_is_submitted_again(cache: Path) -> None:
    with OpenAIServer() as server:
        server.batch_ends = ["expired"]
        table, statistics = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert created(server) == 2
        assert len(server.bodies) == 20, "no question is answered twice"
    assert set(table["source"]) == {"openai"}
    assert statistics["llm_calls"] == 20


def test_a_cancelled_batch_stops_the_run_and_keeps_its_answers(cache: Path) -> None:
    with OpenAIServer() as server:
        server.batch_ends = ["cancelled"]
        with pytest.raises(RecsysError, match="was cancelled at the service"):
            cluster_users(USERS, items(30), batch_clusterer(server, cache))
        _, statistics = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert len(server.bodies) == 20
    assert statistics["llm_cached"] == 10


def test_a_failed_batch_says_why_and_may_be_tried_again(cache: Path) -> None:
    with OpenAIServer() as server:
        server.batch_ends = ["failed"]
        with pytest.raises(RecsysError, match=r"refused batch_0 \(token_limit_exceeded\)"):
            cluster_users(USERS, items(30), batch_clusterer(server, cache))
        cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert len(server.bodies) == 20


def test_a_full_queue_at_the_service_waits_for_other_batches(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MAX_LINES", 10)
    with OpenAIServer() as server:
        server.batch_looks, server.batch_ends = 4, ["completed", "failed"]
        table, _ = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert created(server) == 3
        assert len(server.bodies) == 20
    assert set(table["source"]) == {"openai"}


def test_broken_answers_are_asked_again_in_a_second_batch_with_the_error_stated(cache: Path) -> None:
    with OpenAIServer(lambda number, body, headers: Reply("rubbish" if number in (3, 20) else None)) as server:
        table, statistics = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert created(server) == 2
        assert [message["role"] for message in server.bodies[20]["messages"]] == ["system", "user", "assistant", "user"]
        assert "Invalid JSON" in server.bodies[20]["messages"][3]["content"]
        assert server.bodies[20]["messages"][2]["content"] == "rubbish"
        cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert len(server.bodies) == 21
    assert statistics["llm_second_tries"] == statistics["users_fallback"] == 1
    assert set(table.loc[table["source"] == "fallback", "user_id"]) == {3}


def test_lines_that_fail_fall_back_today_and_are_asked_another_day(cache: Path) -> None:
    with OpenAIServer(lambda number, body, headers: Reply("bad", 400) if number == 5 else Reply()) as server:
        table, _ = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert set(table.loc[table["source"] == "fallback", "user_id"]) == {5}
        table, _ = cluster_users(USERS, items(30), batch_clusterer(server, cache))
        assert len(server.bodies) == 21
    assert set(table["source"]) == {"openai"}


def test_other_users_collect_what_an_earlier_run_has_submitted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenAIServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(Submissions, "finish", lambda *args: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                cluster_users(users(20), items(30), batch_clusterer(server, cache))
        table, _ = cluster_users(users(25)[15:], items(30), batch_clusterer(server, cache))
        assert len(server.bodies) == 25
        assert set(table["source"]) == {"openai"}
        _, statistics = cluster_users(users(15), items(30), batch_clusterer(server, cache))
    assert statistics["llm_cached"] == 15, "answers about users who are not in this run are kept too"


def test_the_cap_bounds_what_is_submitted_at_a_time(cache: Path) -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 100}  # 0.003 a call; at most about 0.009
    with OpenAIServer(lambda number, body, headers: Reply(usage=usage)) as server:
        table, statistics = cluster_users(USERS, items(30), batch_clusterer(server, cache, spending_cap=0.08, **PRICED))
        assert created(server) > 1
        assert set(table["source"]) == {"openai"}
        assert statistics["llm_spent"] == pytest.approx(0.06)
        with pytest.raises(RecsysError, match="spending cap"):
            cluster_users(USERS, items(30), batch_clusterer(server, cache, model="n", spending_cap=0.03, **PRICED))
        kept = len(server.bodies) - 20
        assert 1 <= kept <= 10
    with AnswerCache(cache) as answers:
        assert stats(answers)["answers"] == 20 + kept


def test_a_batch_that_the_service_does_not_know_is_an_error_until_forgotten(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with OpenAIServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(Submissions, "created", lambda self, *args: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                cluster_users(USERS, items(30), batch_clusterer(server, cache))
        with sqlite3.connect(cache) as connection:
            connection.execute("UPDATE submissions SET batch_id = 'batch_gone'")
        with pytest.raises(RecsysError, match="does not know batch_gone"):
            cluster_users(USERS, items(30), batch_clusterer(server, cache))
        with AnswerCache(cache) as answers:
            assert [row["questions"] for row in stats(answers)["batches"]] == [20]
            assert prune(answers, batches=True) == 1
        table, _ = cluster_users(USERS, items(30), batch_clusterer(server, cache))
    assert set(table["source"]) == {"openai"}
