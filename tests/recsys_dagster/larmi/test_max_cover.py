"""Max-cover: the instance, every solver against brute force, the local search and its clock."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.max_cover import (
    Clock,
    CoverInstance,
    Incumbent,
    MaxCoverConfig,
    build_instance,
    item_values,
    kernels,
    selection_table,
    solve,
    solve_greedy,
)
from recsys_dagster.larmi.max_cover.canonical import canonical
from recsys_dagster.larmi.max_cover.exact import solve_exact
from recsys_dagster.larmi.max_cover.generated import random_instance
from recsys_dagster.larmi.max_cover.local_search import CoverState, swap_local_search

FAST = {"network_steps": 5, "score_steps": 40, "search_moves": 2_000}
SOLVERS = ["greedy", "cardnn", "exact"]


def _instance(sets: list[list[int]], values: list[float] | NDArray[np.float64], budget: int) -> CoverInstance:
    indptr = np.concatenate([[0], np.cumsum([len(own) for own in sets])]).astype(np.int64)
    items = np.array([item for own in sets for item in own], dtype=np.int32)
    return CoverInstance(indptr, items, np.asarray(values, dtype=float), budget)


def _random_instance(seed: int, n_sets: int = 12, n_items: int = 20, budget: int = 3) -> CoverInstance:
    rng = np.random.default_rng(seed)
    sets = [sorted(rng.choice(n_items, rng.integers(2, 6), replace=False).tolist()) for _ in range(n_sets)]
    return _instance(sets, rng.integers(1, 100, n_items), budget)


def _best(instance: CoverInstance) -> float:
    return max(instance.covered_value(np.array(c)) for c in combinations(range(instance.n_sets), instance.budget))


def test_values_follow_equation_7() -> None:
    histories = Histories(np.array([0, 3, 5]), np.array([0, 0, 1, 1, 2], dtype=np.int32), 4)
    # Item 0 has one user (who took it twice), item 1 two, item 2 one; five interactions in all.
    assert item_values(histories).tolist() == [1.2, 1.4, 1.2, 1.0]


def test_instance_from_cliques_keeps_ids_and_both_directions() -> None:
    cliques = pd.DataFrame({"clique_id": [4, 9], "items": [np.array([0, 2]), np.array([2])]})
    histories = Histories(np.array([0, 2]), np.array([0, 2], dtype=np.int32), 3)
    instance = build_instance(cliques, histories, MaxCoverConfig(budget=1, solver="greedy"))
    assert (instance.budget, instance.n_sets) == (1, 2)
    indptr, sets = instance.by_item
    assert [sets[a:b].tolist() for a, b in pairwise(indptr)] == [[0], [], [0, 1]]
    assert selection_table(solve(instance, MaxCoverConfig(budget=1, solver="greedy")))["clique_id"].tolist() == [4]
    with pytest.raises(RecsysError, match="no rows"):
        build_instance(cliques.iloc[:0], histories, MaxCoverConfig())


def test_budget_is_a_number_or_a_bounded_share() -> None:
    assert MaxCoverConfig(budget=7).cliques_to_select(100) == 7
    assert MaxCoverConfig(budget=7).cliques_to_select(5) == 5
    assert MaxCoverConfig(budget_share=0.01, budget_at_least=1).cliques_to_select(22_363) == 224
    assert [MaxCoverConfig().cliques_to_select(n) for n in (10, 200, 3_000, 22_363)] == [10, 20, 150, 300]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_reach_brute_force(solver: str, seed: int) -> None:
    instance = _random_instance(seed)
    best = _best(instance)
    config = MaxCoverConfig(solver=solver, **FAST)
    selection = solve(instance, config)
    assert selection.covered[-1] == pytest.approx(instance.covered_value(selection.chosen))
    assert selection.covered[-1] == pytest.approx(best)
    assert selection.optimal == (solver == "exact")
    assert solver != "exact" or selection.bound == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=6, unique=True), min_size=1, max_size=10),
    st.lists(st.integers(0, 9), min_size=10, max_size=10),
    st.integers(1, 12),
    st.sampled_from(["greedy", "random"]),
)
def test_a_selection_keeps_the_budget_and_its_marginals_only_shrink(
    sets: list[list[int]], values: list[int], budget: int, solver: str
) -> None:
    instance = _instance(sets, values, min(budget, len(sets)))
    selection = solve(instance, MaxCoverConfig(solver=solver))
    assert len(set(selection.chosen.tolist())) == len(selection.chosen) <= instance.budget
    assert (np.diff(selection.marginal) <= 1e-9).all()
    assert (selection.marginal >= 0).all()
    assert selection.marginal.sum() == pytest.approx(instance.covered_value(selection.chosen))
    assert solver == "greedy" or len(selection.chosen) == instance.budget


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_lazy_greedy_is_plain_greedy(seed: int, budget: int) -> None:
    instance = _random_instance(seed, budget=budget)
    left, expected = instance.values.copy(), []
    for _ in range(budget):
        gains = [left[instance.of(i)].sum() for i in range(instance.n_sets)]
        if max(gains) <= 0:
            break
        expected.append(int(np.argmax(gains)))
        left[instance.of(expected[-1])] = 0
    assert solve_greedy(instance).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True))
def test_incremental_gains_are_exact_monotone_and_submodular(seed: int, order: list[int]) -> None:
    instance = _random_instance(seed)
    state = CoverState(instance, np.array([], dtype=np.int64))
    scores = state.cover.score
    chosen: list[int] = []
    for index in order:
        before = scores.copy()
        kernels.add(state.problem, state.cover, index)
        chosen.append(index)
        base = instance.covered_value(np.array(chosen))
        for other in set(range(instance.n_sets)) - set(chosen):
            gain = instance.covered_value(np.array([*chosen, other])) - base
            assert scores[other] == pytest.approx(gain)
            assert 0 <= scores[other] <= before[other]
        for own in chosen:
            rest = np.array([i for i in chosen if i != own], dtype=np.int64)
            assert scores[own] == pytest.approx(base - instance.covered_value(rest))
    for index in order[:-1]:
        kernels.remove(state.problem, state.cover, index)
        chosen.remove(index)
        fresh = CoverState(instance, np.array([], dtype=np.int64))
        kernels.add_all(fresh.problem, fresh.cover, np.array(chosen))
        assert scores == pytest.approx(fresh.cover.score)
        assert (state.cover.holders == fresh.cover.holders).all()


def test_swaps_repair_a_bad_start_and_never_lose() -> None:
    # Greedy takes the middle set {1, 2, 3, 4} and must then leave one of the others out.
    instance = _instance([[1, 2, 3, 4], [0, 1, 2], [3, 4, 5]], np.ones(6), 2)
    assert instance.covered_value(solve_greedy(instance)) == 5
    assert sorted(swap_local_search(instance, solve_greedy(instance), 0).tolist()) == [1, 2]
    for seed in range(10):
        other = _random_instance(seed, 30, 40, 5)
        start = np.random.default_rng(seed).permutation(30)[:5]
        ended = swap_local_search(other, start, 100 * (seed % 2), seed=seed)
        assert len(set(ended.tolist())) == len(ended) <= 5
        value = other.covered_value(ended)
        assert value >= other.covered_value(start)
        for out in range(len(ended)):
            rest = np.delete(ended, out)
            assert value >= max(other.covered_value(np.append(rest, i)) for i in range(30)) - 1e-9


def test_the_local_search_fills_up_to_the_budget() -> None:
    instance = _instance([[0], [1], [2], [2]], [3.0, 2.0, 1.0], 4)
    assert sorted(swap_local_search(instance, np.array([0])).tolist()) == [0, 1, 2, 3]
    assert sorted(solve(instance, MaxCoverConfig(solver="greedy")).chosen.tolist()) == [0, 1, 2]


@pytest.mark.parametrize("solver", ["greedy", "cardnn", "random"])
def test_renaming_sets_and_items_changes_nothing(solver: str) -> None:
    instance = _random_instance(5, 40, 60, 6)
    config = MaxCoverConfig(solver=solver, **FAST)
    expected = solve(instance, config)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sets, items = rng.permutation(40), rng.permutation(60)
        values = np.empty(60)
        values[items] = instance.values
        renamed = _instance([items[instance.of(int(i))].tolist() for i in sets], values, 6)
        found = solve(renamed, config)
        assert sets[found.chosen].tolist() == expected.chosen.tolist()
        assert found.covered.tolist() == expected.covered.tolist()


def test_the_canonical_order_keeps_the_instance() -> None:
    instance = replace(_random_instance(2), forced=np.array([3]), forbidden=np.array([1, 5]))
    other = canonical(instance)
    assert sorted(other.set_ids.tolist()) == list(range(12))
    assert other.set_ids[other.forced].tolist() == [3]
    assert sorted(other.set_ids[other.forbidden].tolist()) == [1, 5]
    for place, index in enumerate(other.set_ids):
        own = instance.values[instance.of(int(index))]
        assert sorted(other.values[other.of(place)].tolist()) == sorted(own.tolist())
    for pair in combinations(range(12), 2):
        assert other.covered_value(np.array(pair)) == instance.covered_value(other.set_ids[list(pair)])


@pytest.mark.parametrize("solver", [*SOLVERS, "random"])
def test_forced_and_forbidden_sets(solver: str) -> None:
    for seed in range(4):
        free = _random_instance(seed)
        worst = int(np.argmin(free.matrix() @ free.values))
        best_alone = int(solve_greedy(free)[0])
        instance = replace(free, forced=np.array([worst]), forbidden=np.array([best_alone]))
        selection = solve(instance, MaxCoverConfig(solver=solver, **FAST))
        assert worst in selection.chosen
        assert best_alone not in selection.chosen
        assert len(set(selection.chosen.tolist())) == len(selection.chosen) <= 3
        assert (np.diff(selection.marginal) <= 1e-9).all()
        if solver != "random":
            pairs = combinations(set(range(12)) - {worst, best_alone}, 2)
            assert selection.covered[-1] == max(free.covered_value(np.array([worst, *pair])) for pair in pairs)


def test_a_forced_set_that_adds_nothing_is_selected_all_the_same() -> None:
    instance = replace(_instance([[0, 1], [1], [2]], [1, 1, 0.5], 2), forced=np.array([1]))
    selection = solve(instance, MaxCoverConfig(solver="greedy"))
    assert selection.chosen.tolist() == [0, 1]
    assert selection.marginal.tolist() == [2, 0]
    every = replace(instance, forced=np.array([0, 1]))
    assert sorted(solve(every, MaxCoverConfig(solver="cardnn", **FAST)).chosen.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("settings_", "words"),
    [
        ({"forced": [7]}, "`forced` names clique 7"),
        ({"forbidden": [4, 8]}, "`forbidden` names clique 8"),
        ({"forced": [4], "forbidden": [4]}, "clique 4 is forced and forbidden"),
        ({"forced": [4, 9], "budget": 1}, "2 cliques are forced, the budget is 1"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings_: dict[str, Any], words: str) -> None:
    cliques = pd.DataFrame({"clique_id": [4, 9], "items": [np.array([0, 2]), np.array([2])]})
    histories = Histories(np.array([0, 2]), np.array([0, 2], dtype=np.int32), 3)
    with pytest.raises(RecsysError, match=words):
        build_instance(cliques, histories, MaxCoverConfig(**settings_))


def test_business_weights_take_the_place_of_equation_7() -> None:
    cliques = pd.DataFrame({"clique_id": [4, 9], "items": [np.array([0, 1]), np.array([2])]})
    histories = Histories(np.array([0, 2]), np.array([0, 2], dtype=np.int32), 3)
    config = MaxCoverConfig(budget=1, solver="exact")
    assert solve(build_instance(cliques, histories, config)).chosen.tolist() == [4]
    weighted = build_instance(cliques, histories, config, np.array([1.0, 0.0, 5.0]))
    assert solve(weighted, config).chosen.tolist() == [9]
    with pytest.raises(RecsysError, match="1 negative or missing"):
        build_instance(cliques, histories, config, np.array([1.0, -1.0, 5.0]))


def test_exact_reports_its_bound_where_the_clock_cuts_it() -> None:
    instance = random_instance(300, 600, 30, 0)
    selection = solve(instance, MaxCoverConfig(solver="exact", time_limit_s=0.5, search_moves=0))
    assert selection.cut
    assert not selection.optimal
    assert selection.bound is not None
    assert selection.covered[-1] <= selection.bound <= instance.values.sum()
    late = Clock(1e-9)
    assert solve_exact(instance, late).bound == pytest.approx(instance.reachable())
    assert late.cut


def test_the_clock_cuts_and_says_so() -> None:
    instance = random_instance(500, 1000, 50, 0)
    plain = instance.covered_value(solve_greedy(instance))
    cut = solve(instance, MaxCoverConfig(time_limit_s=0.3, search_moves=10**9))
    assert cut.cut
    assert cut.covered[-1] >= plain
    # Not a measurement of speed: without the limit this would take hours.
    assert cut.trace[-1][0] < 20
    none = solve(instance, MaxCoverConfig(time_limit_s=1e-9))
    assert none.cut
    assert len(none.chosen) <= 50
    whole = solve(instance, MaxCoverConfig(time_limit_s=None, **FAST))
    assert not whole.cut
    again = solve(instance, MaxCoverConfig(time_limit_s=1e6, **FAST))
    assert whole.chosen.tolist() == again.chosen.tolist()


def test_the_best_so_far_can_be_read_at_any_moment() -> None:
    instance = random_instance(500, 1000, 50, 1)
    incumbent = Incumbent()
    selection = solve(instance, MaxCoverConfig(**FAST), incumbent)
    values = [value for _, value, _ in incumbent.trace]
    assert values == sorted(values)
    assert incumbent.trace[0][2] == "greedy"
    assert len(incumbent.trace) > 2
    assert incumbent.best[0] == pytest.approx(selection.covered[-1])
    assert sorted(incumbent.best[1].tolist()) == sorted(selection.chosen.tolist())


def test_the_search_goes_beyond_the_first_local_optimum() -> None:
    gains = []
    for seed in range(3):
        instance = random_instance(500, 1000, 50, seed)
        greedy = instance.covered_value(solve_greedy(instance))
        descent = instance.covered_value(swap_local_search(instance, solve_greedy(instance), 0))
        searched = swap_local_search(instance, solve_greedy(instance), 20_000)
        again = swap_local_search(instance, solve_greedy(instance), 20_000)
        assert searched.tolist() == again.tolist()
        assert greedy <= descent <= instance.covered_value(searched)
        gains.append(instance.covered_value(searched) / greedy)
    assert np.mean(gains) > 1.01


def test_a_budget_of_everything_selects_everything_useful() -> None:
    instance = _instance([[0], [0, 1], [2]], np.ones(3), 3)
    selection = solve(instance, MaxCoverConfig(solver="cardnn"))
    assert sorted(selection.chosen.tolist()) == [1, 2]
    assert selection.optimal
    assert selection.bound == 3
    assert [source for _, _, source in selection.trace] == ["greedy"]
