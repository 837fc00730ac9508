from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg
from scipy.stats import binom

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.coengagement import GraphBuilder, build_graph
from recsys_dagster.g2rec.graph import GraphFigures, adjacency
from recsys_dagster.g2rec.graph_parts import LogGroups, build_graph_here, build_graph_parts
from recsys_dagster.g2rec.sampling import CoengagementConfig, degree_plan, draws_per_unit, sample_sizes
from recsys_dagster.g2rec.spectrum import measured_epsilon
from recsys_dagster.parallel import HERE, InMemory


def counted(**settings: Any) -> CoengagementConfig:
    """Edges that count users: weights that can be worked out by hand."""
    return CoengagementConfig(weighting="count", **settings)


def histories(sequences: list[list[int]], n_items: int) -> Histories:
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    return Histories(indptr, np.array([i for s in sequences for i in s], dtype=np.int32), n_items)


def as_dict(graph: pd.DataFrame) -> dict[tuple[int, int], float]:
    return {(s, t): w for s, t, w in graph.itertuples(index=False)}


def laplacian(graph: pd.DataFrame, n_items: int) -> np.ndarray:
    matrix = adjacency(graph, n_items).toarray()
    return np.diag(matrix.sum(axis=1)) - matrix


def test_hand_value() -> None:
    # User 0: {0, 1, 2}; user 1: {1, 2} with a repeat; user 2: one item, no pair.
    graph = build_graph(histories([[2, 0, 1], [1, 2, 1], [3]], 5), counted())
    assert as_dict(graph) == {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 2.0}
    assert graph.dtypes.astype(str).to_dict() == {"source": "int32", "target": "int32", "weight": "float32"}
    statistics = GraphFigures.of(graph, 5).statistics()
    assert statistics["isolated_items"] == 2
    assert statistics["total_weight"] == 4


def test_weighting_hand_values() -> None:
    log = histories([[2, 0, 1], [1, 2]], 3)
    normalised = build_graph(log, CoengagementConfig(weighting="user_normalised"))
    assert as_dict(normalised) == {(0, 1): 0.5, (0, 2): 0.5, (1, 2): 1.5}
    assert as_dict(build_graph(log, CoengagementConfig(weighting="binary"))) == dict.fromkeys(as_dict(normalised), 1.0)


def test_history_cap_keeps_the_most_recent_distinct_items() -> None:
    # Newest first: 0, 3, 2, 1; item 0 also stands at the beginning, and its last occurrence counts.
    graph = build_graph(histories([[0, 1, 2, 3, 3, 0]], 4), counted(max_history=3))
    assert set(as_dict(graph)) == {(0, 2), (0, 3), (2, 3)}


@settings(max_examples=60, deadline=None)
@given(
    sequences=st.lists(st.lists(st.integers(0, 7), max_size=9), min_size=1, max_size=8),
    cap=st.one_of(st.none(), st.integers(2, 5)),
    chunk=st.integers(1, 40),
)
def test_exact_graph_equals_loops(sequences: list[list[int]], cap: int | None, chunk: int) -> None:
    expected: dict[tuple[int, int], float] = {}
    for sequence in sequences:
        newest_first = list(dict.fromkeys(reversed(sequence)))
        for pair in combinations(sorted(newest_first[:cap]), 2):
            expected[pair] = expected.get(pair, 0.0) + 1.0
    config = counted(max_history=cap, chunk_pairs=chunk)
    if not expected:
        with pytest.raises(RecsysError, match="empty"):
            build_graph(histories(sequences, 8), config)
        return
    graph = build_graph(histories(sequences, 8), config)
    assert as_dict(graph) == expected
    keys = graph["source"].to_numpy() * 8 + graph["target"].to_numpy()
    assert (np.diff(keys) > 0).all()
    assert (graph["source"] < graph["target"]).all()


def test_sample_sizes_follow_theorem_2() -> None:
    m, exact = sample_sizes(np.array([0, 1, 2, 10, 5000]), 100, counted(epsilon=0.5, delta=0.1))
    needed = math.ceil(2 * 5000 * (1 / 1.5 + 4) * math.log(2 * 100 / 0.1))
    assert m.tolist() == [0, 0, 1, 45, needed]
    assert exact.tolist() == [True, True, True, True, False]
    m, exact = sample_sizes(np.array([3, 4, 9]), 100, counted(samples_per_user=6))
    assert m.tolist() == [3, 6, 6]
    assert exact.tolist() == [True, True, False]


LONG = [list(range(12)), list(range(6, 20)), [0, 19, 3]]


def test_sampling_is_seeded_and_independent_of_chunks() -> None:
    log = histories(LONG, 20)
    one, two = (build_graph(log, counted(samples_per_user=9, chunk_pairs=c), seed=3) for c in (1, 10**6))
    pd.testing.assert_frame_equal(one, two)
    assert not one.equals(build_graph(log, counted(samples_per_user=9), seed=4))
    # Every user's total weight is that of the clique: C(12, 2) + C(14, 2) + 3.
    assert one["weight"].sum() == pytest.approx(66 + 91 + 3, rel=1e-6)


@pytest.mark.parametrize("weighting", ["count", "user_normalised"])
def test_sampling_is_unbiased(weighting: str) -> None:
    log = histories(LONG, 20)
    full = laplacian(build_graph(log, CoengagementConfig(weighting=weighting)), 20)
    draws = [
        laplacian(build_graph(log, CoengagementConfig(weighting=weighting, samples_per_user=20), seed=s), 20)
        for s in range(400)
    ]
    error = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - full) <= 5 * error + 1e-6).all()
    assert error.max() > 0


@pytest.mark.parametrize("weighting", ["count", "user_normalised"])
def test_theorem_2_holds_in_at_least_one_minus_delta_of_seeds(weighting: str) -> None:
    # Histories long enough that Theorem 2 asks for fewer draws than the clique has pairs.
    epsilon, delta, n_items, seeds = 0.9, 0.5, 90, 40
    log = histories([list(range(70)), list(range(20, 90))], n_items)
    config = CoengagementConfig(epsilon=epsilon, delta=delta, weighting=weighting)
    assert not sample_sizes(np.array([70]), n_items, config)[1].any()
    full = laplacian(build_graph(log, CoengagementConfig(samples_per_user=10**6, weighting=weighting)), n_items)
    # On the complement of the constant vector, the null space of both (the graph is connected).
    basis = linalg.null_space(np.ones((1, n_items)))
    held = worst = 0.0
    for seed in range(seeds):
        sampled = laplacian(build_graph(log, config, seed=seed), n_items)
        values = linalg.eigvalsh(basis.T @ sampled @ basis, basis.T @ full @ basis)
        held += 1 - epsilon <= values[0] and values[-1] <= 1 + epsilon
        worst = max(worst, abs(values - 1).max())
        if weighting == "count" and seed < 3:
            measured = measured_epsilon(build_graph(log, config, seed=seed), log)
            assert measured == pytest.approx(max(1 - values[0], values[-1] - 1), rel=1e-2)
    assert held >= binom.ppf(1e-6, seeds, 1 - delta)
    assert held >= (1 - delta) * seeds
    assert worst > 0.05  # it was indeed sampled


@given(
    sequences=st.lists(st.lists(st.integers(0, 7), max_size=9), min_size=2, max_size=8),
    rows=st.integers(1, 12),
    samples=st.sampled_from([None, 3]),
)
@settings(max_examples=30, deadline=None)
def test_a_streamed_log_gives_the_same_graph(sequences: list[list[int]], rows: int, samples: int | None) -> None:
    sequences = [*sequences, [0, 1, 2, 3, 4]]
    table = pd.DataFrame(
        [(u, i, 0) for u, items in enumerate(sequences) for i in items], columns=["user_id", "item_id", "split"]
    )
    config = counted(samples_per_user=samples)
    groups = LogGroups(TableLog(table), len(sequences), 8, config.model_copy(update={"group_rows": rows}))
    whole = build_graph(histories(sequences, 8), config, seed=1)
    streamed = build_graph_here(groups, 1)
    pd.testing.assert_frame_equal(streamed, whole)
    # The same by groups of users, then by ranges of items.
    parts, figures = build_graph_parts(groups, 1, HERE, Folder())
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), streamed)
    assert figures.statistics() == pytest.approx(GraphFigures.of(whole, 8).statistics())


class TableLog:
    """A log in memory, read as a stored one."""

    def __init__(self, table: pd.DataFrame) -> None:
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def users(self, first: int, last: int, columns: Sequence[str]) -> pd.DataFrame:
        return self.table.loc[self.table["user_id"].between(first, last - 1), [*columns]].reset_index(drop=True)


class Folder(InMemory):
    """Files between workers, in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def write(self, name: str, fill: Callable[[Path], object]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / name)
            self.files[name] = (Path(folder) / name).read_bytes()

    def open(self, name: str) -> io.BytesIO:
        return io.BytesIO(self.files[name])


def dense_log(n_users: int = 400, n_items: int = 60, length: int = 40, seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, n_items + 1)
    chosen = [rng.choice(n_items, length, replace=False, p=popularity / popularity.sum()) for _ in range(n_users)]
    return histories([items.tolist() for items in chosen], n_items)


@pytest.mark.parametrize("weighting", ["count", "user_normalised"])
def test_degree_plan_bounds_the_resistance_of_every_pair(weighting: str) -> None:
    log = dense_log(n_users=30)
    items = np.concatenate([np.sort(log.of(user)) for user in range(log.n_users)])
    share = np.ones(log.n_users) if weighting == "count" else 1.0 / (log.lengths - 1)
    plan = degree_plan(items, log.lengths, share, log.n_items)
    assert plan is not None
    config = CoengagementConfig(weighting=weighting, by_degree=False)
    full = laplacian(build_graph(log, config), log.n_items)
    seen = np.flatnonzero(np.diag(full))
    np.testing.assert_allclose(plan.inverse_degree[seen], 1 / np.diag(full)[seen], rtol=1e-6)
    assert (np.delete(plan.inverse_degree, seen) == 0).all()
    root = 1 / np.sqrt(np.diag(full)[seen])
    normalised = root[:, None] * full[np.ix_(seen, seen)] * root
    assert plan.gap == pytest.approx(0.8 * np.linalg.eigvalsh(normalised)[1], rel=0.03)
    resistance = np.linalg.pinv(full[np.ix_(seen, seen)])
    apart = np.diag(resistance)[:, None] + np.diag(resistance) - 2 * resistance
    bound = (plan.inverse_degree[seen][:, None] + plan.inverse_degree[seen]) / plan.gap
    assert (apart[~np.eye(len(seen), dtype=bool)] <= bound[~np.eye(len(seen), dtype=bool)]).all()
    # m_u = s_u (N_u - 1) sum of 1 / k_i / gap, times the draws of a unit; over all users |I| / gap of them.
    sizes = plan.sizes(items, log.lengths, share, log.n_items, config)
    expected = share[0] * 39 * plan.inverse_degree[log.of(0)].sum() / plan.gap * draws_per_unit(log.n_items, config)
    assert sizes[0] == math.ceil(expected)
    assert sizes.sum() == pytest.approx(len(seen) / plan.gap * draws_per_unit(log.n_items, config), rel=0.02)


def test_a_dense_log_is_sampled_by_degree_within_epsilon() -> None:
    log = dense_log()
    config = counted(epsilon=0.5, delta=0.1)
    exact = build_graph(log, counted(by_degree=False))
    assert sample_sizes(log.lengths, log.n_items, config)[1].all()  # Theorem 2 alone would draw nothing
    graphs = [build_graph(log, config, seed=seed) for seed in range(20)]
    errors = [measured_epsilon(graph, log) for graph in graphs]
    assert min(errors) > 0
    assert np.mean(np.array(errors) <= 0.5) >= 0.9
    many = [laplacian(build_graph(log, config, seed=seed), log.n_items) for seed in range(100, 250)]
    error = np.std(many, axis=0) / np.sqrt(len(many))
    assert (np.abs(np.mean(many, axis=0) - laplacian(exact, log.n_items)) <= 5 * error + 1e-3).all()
    # A stream cannot be looked at beforehand: there the cliques are taken.
    pd.testing.assert_frame_equal(build_graph(iter([log]), config), exact)
    # Nor does a graph without a gap: two halves that hang together by one user in 400.
    halves = histories([[*range(u % 2 * 30, u % 2 * 30 + 30)] for u in range(400)] + [[0, 59]], 60)
    apart = build_graph(halves, config)
    assert as_dict(apart)[(0, 59)] == 1.0


def test_measured_epsilon_of_the_exact_graph_is_zero_in_each_component() -> None:
    log = histories([[0, 1, 2], [1, 2, 3], [5, 6, 7], [5, 7], [9]], 11)
    assert measured_epsilon(build_graph(log, counted()), log) < 1e-6
    half = build_graph(log, counted()).assign(weight=lambda t: t["weight"] / 2)
    assert measured_epsilon(half, log) == pytest.approx(0.5, abs=1e-3)
    cut = build_graph(log, counted())
    cut = cut[cut["source"] != 5]  # item 5 is cut off: the sampled Laplacian maps to 0 what the full one does not
    assert measured_epsilon(cut, log) == pytest.approx(1.0, abs=1e-3)


def timed(sequences: list[list[tuple[int, int]]], n_items: int) -> Histories:
    plain = histories([[item for item, _ in sequence] for sequence in sequences], n_items)
    times = np.array([time for sequence in sequences for _, time in sequence], dtype=np.int64)
    return Histories(plain.indptr, plain.items, n_items, times)


DAY = 86_400


def test_half_life_hand_value() -> None:
    # Ages in days: user 0 has item 0 at 4, item 1 at 0 (its older visit at 8 does not count), item 2 at 2.
    log = timed([[(1, 2 * DAY), (0, 6 * DAY), (2, 8 * DAY), (1, 10 * DAY)], [(0, 10 * DAY), (1, 10 * DAY)]], 3)
    graph = build_graph(log, counted(half_life_days=2))
    expected = {(0, 1): 2**-1 + 1, (0, 2): 2**-1.5, (1, 2): 2**-0.5}
    assert as_dict(graph) == pytest.approx(expected, rel=1e-6)
    later = build_graph(log, counted(half_life_days=2), newest=12 * DAY)
    assert as_dict(later) == pytest.approx({pair: weight / 2 for pair, weight in expected.items()}, rel=1e-6)
    with pytest.raises(RecsysError, match="no timestamps"):
        build_graph(histories([[0, 1]], 2), counted(half_life_days=2))


def test_sampling_with_decay_is_unbiased_and_within_theorem_2() -> None:
    """Drawing one end by its decay keeps every draw's norm at (N - 1) / m, as without decay."""
    rng = np.random.default_rng(0)
    n_items, m = 30, 400
    log = timed([[(i, int(t)) for i, t in zip(range(30), rng.integers(0, 40 * DAY, 30), strict=True)]], n_items)
    full = laplacian(build_graph(log, counted(half_life_days=10, samples_per_user=435)), n_items)
    sampling = counted(half_life_days=10, samples_per_user=m)
    draws = [laplacian(build_graph(log, sampling, seed=s), n_items) for s in range(300)]
    error = np.std(draws, axis=0) / np.sqrt(len(draws))
    assert (np.abs(np.mean(draws, axis=0) - full) <= 5 * error + 1e-6).all()
    # Each draw's weight times the effective resistance of its pair is (N - 1) / m.
    one = build_graph(log, counted(half_life_days=10, samples_per_user=1), seed=5).iloc[0]
    resistance = np.linalg.pinv(full)
    i, j = int(one["source"]), int(one["target"])
    assert one["weight"] * (resistance[i, i] + resistance[j, j] - 2 * resistance[i, j]) == pytest.approx(29, rel=1e-3)


def test_giant_user_is_sampled_in_bounded_memory() -> None:
    # One user with every item of the catalogue: 2 million pairs, of which 20,000 are drawn.
    graph = build_graph(histories([list(range(2000)), [0, 1]], 2000), counted(samples_per_user=20_000))
    assert len(graph) <= 20_001
    assert graph["weight"].sum() == pytest.approx(2000 * 1999 / 2 + 1, rel=1e-5)
    assert GraphFigures.of(graph, 2000).statistics()["isolated_items"] == 0


def test_one_user_and_no_user() -> None:
    assert as_dict(build_graph(histories([[1, 0]], 2), counted())) == {(0, 1): 1.0}
    for empty in (histories([], 3), histories([[2]], 3), iter([])):
        with pytest.raises(RecsysError, match="empty"):
            build_graph(empty, counted())
    builder = GraphBuilder(3)
    assert list(builder.add(histories([[0, 1], [1, 2]], 3))) == [2]
    assert len(builder.finish()) == 2


def test_adjacency_rejects_unsound_graphs() -> None:
    good = pd.DataFrame({"source": [0, 1], "target": [1, 2], "weight": [1.0, 2.0]})
    matrix = adjacency(good, 3).toarray()
    np.testing.assert_array_equal(matrix, [[0, 1, 0], [1, 0, 2], [0, 2, 0]])
    for change, message in [
        ({"weight": [1.0, np.nan]}, "Row 1 .*finite"),
        ({"weight": [0.0, 1.0]}, "Row 0 .*finite"),
        ({"target": [1, 1]}, "self-loop"),
        ({"target": [1, 3]}, "outside the catalogue"),
        ({"source": [0, 0], "target": [1, 1]}, "repeats 1 of its 2 edges"),
    ]:
        with pytest.raises(RecsysError, match=message):
            adjacency(good.assign(**change), 3)
    with pytest.raises(RecsysError, match="no edges"):
        adjacency(good.iloc[:0], 3)
