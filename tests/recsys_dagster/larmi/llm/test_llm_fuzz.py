"""Whatever a model answers: it is refused with a reason, or becomes clusters of the asked items that cover them all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asking import items
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.openai_server import OpenAIServer, Reply
from recsys_dagster.larmi.answers import validate_answer
from recsys_dagster.larmi.clusters import cluster_users
from recsys_dagster.larmi.llm.clusterer import BrokenAnswer, parse_answer
from recsys_dagster.larmi.llm.openai import OpenAIClusterer
from recsys_dagster.larmi.llm.settings import LlmSettings
from recsys_dagster.larmi.llm.wire import parse_completion

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5)
)
numbers = st.integers(-3, 15) | st.integers() | st.floats() | st.sampled_from(["1", "2", "x", True, None])
clusters = st.fixed_dictionaries(
    {"label": st.text(max_size=200) | scalars, "reason": st.text(max_size=5), "items": st.lists(numbers, max_size=20)},
    optional={"extra": scalars},
)
nearly_right = st.fixed_dictionaries({"clusters": st.lists(clusters, max_size=8)}, optional={"extra": scalars})
answers = (
    st.text(max_size=80)
    | anything.map(json.dumps)
    | nearly_right.map(json.dumps)
    | st.tuples(nearly_right.map(json.dumps), st.integers(0, 60)).map(lambda pair: pair[0][: pair[1]])
)


@settings(max_examples=300, deadline=None)
@given(answers, st.integers(1, 12))
def test_an_answer_is_refused_or_covers_exactly_the_items(text: str, n_items: int) -> None:
    try:
        answer = parse_answer(text, n_items)
    except BrokenAnswer:
        return
    found, repairs = validate_answer(answer, n_items)
    assert {position for cluster in found for position in cluster.positions} == set(range(n_items))
    for cluster in found:
        assert cluster.positions
        assert len(set(cluster.positions)) == len(cluster.positions)
        assert len(cluster.label) <= 80
        assert len(cluster.label.splitlines()) <= 1
    named = [number for cluster in answer.clusters for number in cluster.items]
    kept = sum(len(cluster.positions) for cluster in found) - repairs.missing_items
    assert len(named) == kept + repairs.unknown_items + repairs.duplicate_items
    assert len(answer.clusters) == len(found) - repairs.missing_items + repairs.empty_clusters


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["choices", "usage", "error"]), anything, max_size=3))
def test_a_completion_of_any_shape_is_a_text_and_counts(document: dict) -> None:
    completion = parse_completion(document)
    assert isinstance(completion.text, str)
    assert completion.prompt_tokens >= 0
    assert completion.completion_tokens >= 0


@pytest.fixture(scope="module")
def server():
    with OpenAIServer() as server:
        yield server


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(answers, min_size=2, max_size=8), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_a_run_over_any_answers_gives_every_user_their_own_items(
    server: OpenAIServer, tmp_path: Path, said: list[str], lengths: list[int]
) -> None:
    server.rule = lambda number, body, headers: Reply(said[number % len(said)])
    settings = LlmSettings(backend="openai", base_url=server.url, model="m", api_key_env="", max_items=5)
    cache = tmp_path / f"{len(server.bodies)}.sqlite"
    users = [(user, list(range(user, user + n))) for user, n in enumerate(lengths)]
    table, statistics = cluster_users(users, items(20), OpenAIClusterer(settings, cache))
    for user, own in users:
        rows = table[table["user_id"] == user]
        assert set(rows["item_id"]) == set(own)
        assert not rows.duplicated(["cluster", "item_id"]).any()
        assert (rows["label"] != "").all()
    assert set(table["source"]) <= {"openai", "fallback"}
    assert statistics["users"] == len(users)
