"""Tokens, money, the cap, and the estimate."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from asking import KEY, USERS, clusterer, items, users
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.openai_server import OpenAIServer, Reply
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.answers import build_messages
from recsys_dagster.larmi.clusters import Catalogue, cluster_users
from recsys_dagster.larmi.llm.client import question_size
from recsys_dagster.larmi.llm.cost import Budget, TokenEstimate
from recsys_dagster.larmi.llm.estimate import estimate
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.llm.wire import schema_size

PRICED = LlmSettings(input_price=2.0, output_price=10.0, max_output_tokens=100)


def test_first_figures_and_then_what_the_server_reports() -> None:
    tokens = TokenEstimate()
    assert tokens.prompt(3_000) == 1_000
    assert tokens.completion(10) == 160
    for _ in range(1_000):
        tokens.learn(prompt_bytes=3_000, n_items=10, prompt_tokens=600, completion_tokens=80)
    assert tokens.prompt(3_000) == pytest.approx(600, rel=0.02)
    assert tokens.completion(10) == pytest.approx(80, rel=0.03)
    assert tokens.completion(20) == pytest.approx(140, rel=0.03)


def test_size_of_a_question_counts_bytes_and_schema() -> None:
    messages = [{"role": "user", "content": "жук"}]
    assert question_size(messages, LlmSettings()) == 6 + schema_size("json_schema")
    assert question_size(messages, LlmSettings(response_format="json_object")) == 6 + len('{"type": "json_object"}')


def test_price_of_a_call_by_hand() -> None:
    budget = Budget(PRICED)
    assert budget.cost(1_000_000, 100_000) == 3.0
    # 1,000 bytes are at most 1,064 tokens; 100 tokens come back at most
    assert budget.bound(1_000) == pytest.approx((1_064 * 2 + 100 * 10) / 1e6)


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0, 1)), max_size=40), st.floats(0.5, 5))
def test_spent_and_reserved_never_pass_the_cap(calls: list[tuple[float, float]], cap: float) -> None:
    async def run() -> None:
        budget = Budget(PRICED.model_copy(update={"spending_cap": cap}))
        stopped = 0

        async def call(bound: float, share: float) -> None:
            nonlocal stopped
            try:
                await budget.reserve(bound)
            except RecsysError:
                stopped += 1
                assert budget.spent + bound > cap
                return
            assert budget.spent + budget.reserved <= cap + 1e-9
            await asyncio.sleep(0)
            budget.settle(bound, bound * share)

        await asyncio.wait_for(asyncio.gather(*(call(*one) for one in calls)), 10)
        assert budget.spent <= cap + 1e-9
        assert budget.reserved == 0.0
        assert stopped or budget.spent == pytest.approx(sum(bound * share for bound, share in calls))

    asyncio.run(run())


def test_cap_stops_before_it_is_passed_keeps_answers_and_says_how_to_go_on(cache: Path) -> None:
    usage = {"prompt_tokens": 1_000, "completion_tokens": 100}  # 0.003 a call
    priced = {"input_price": 2.0, "output_price": 10.0, "max_output_tokens": 200, "concurrency": 4}
    with OpenAIServer(lambda number, body, headers: Reply(usage=usage)) as server:
        first = clusterer(server, cache, spending_cap=0.03, **priced)
        with pytest.raises(RecsysError, match=r"could pass the spending cap of 0\.0300") as caught:
            cluster_users(USERS, items(30), first)
        asked = len(server.bodies)
        assert first.statistics()["llm_spent"] == pytest.approx(asked * 0.003)
        assert 6 <= asked <= 10
        assert "raise spending_cap" in str(caught.value)
        _, statistics = cluster_users(USERS, items(30), clusterer(server, cache, spending_cap=10.0, **priced))
        assert len(server.bodies) == 20
    assert statistics["llm_cached"] == asked
    assert statistics["llm_spent"] == pytest.approx((20 - asked) * 0.003)


def test_a_call_that_was_sent_and_not_answered_counts_at_its_dearest(cache: Path) -> None:
    priced = {"input_price": 2.0, "output_price": 10.0, "max_output_tokens": 200, "concurrency": 1, "timeout_s": 0.2}
    with OpenAIServer(lambda number, body, headers: Reply(hang_up=number == 0)) as server:
        asking = clusterer(server, cache, **priced)
        cluster_users(USERS[:1], items(30), asking)
        assert len(server.bodies) == 2
    size = question_size(build_messages([f"title {k}" for k in range(4)]), asking.settings)
    answered = (10 * 2 + 5 * 10) / 1e6
    assert asking.budget.spent == pytest.approx(asking.budget.bound(size) + answered)


def test_estimate_counts_what_a_run_would_send(cache: Path) -> None:
    lists = [np.array(ids) for _, ids in users(12)] + [np.array([0, 1, 2, 3]), np.arange(9), np.array([], dtype=int)]
    catalogue = Catalogue.from_items(items(30))
    settings = LlmSettings(model="m", input_price=2.0, output_price=10.0, max_items=5)
    before = estimate(lists, catalogue, settings, cache)
    assert (before.users, before.questions, before.cached, before.calls) == (
        14,
        13,
        0,
        13,
    )  # the first four twice, and the second half of the nine
    assert not before.calibrated
    assert not cache.exists()
    assert before.cost == pytest.approx((before.input_tokens * 2 + before.output_tokens * 10) / 1e6)
    usage = {"prompt_tokens": 700, "completion_tokens": 60}
    with OpenAIServer(lambda number, body, headers: Reply(usage=usage)) as server:
        cluster_users(users(5), items(30), clusterer(server, cache, max_items=5))
        after = estimate(lists, catalogue, settings, cache)
        assert (after.cached, after.calls, after.calibrated) == (5, 8, True)
        _, statistics = cluster_users(
            list(enumerate(lists)), items(30), clusterer(server, cache, max_items=5, input_price=2.0, output_price=10.0)
        )
    assert statistics["llm_calls"] == after.calls
    assert after.most >= statistics["llm_spent"]
    assert KEY not in repr(after)
