"""Max-cover: the instance, every solver against brute force, the dual against Sinkhorn and finite differences."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.max_cover import (
    CoverInstance,
    MaxCoverConfig,
    build_instance,
    item_values,
    selection_table,
    solve,
    solve_greedy,
    swap_local_search,
)
from recsys_dagster.larmi.max_cover.cardnn import _SparseProduct, dual, select_softly, soft_coverage, solve_cardnn
from recsys_dagster.larmi.max_cover.local_search import CoverState

FAST = {"network_steps": 5, "score_steps": 40}


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
@pytest.mark.parametrize("solver", ["greedy", "cardnn"])
def test_solvers_come_close_to_brute_force(solver: str, seed: int) -> None:
    instance = _random_instance(seed)
    best = _best(instance)
    config = MaxCoverConfig(solver=solver, **FAST)
    selection = solve(instance, config)
    assert selection.covered[-1] == pytest.approx(instance.covered_value(selection.chosen))
    # One swap at a time is not exact: the optimum, or within 5 % of it on these.
    assert selection.covered[-1] >= 0.95 * best
    assert selection.covered[-1] <= best + 1e-9


def test_both_solvers_find_most_optima() -> None:
    hits = {"greedy": 0, "cardnn": 0}
    for seed in range(12):
        instance = _random_instance(seed)
        best = _best(instance)
        for solver in hits:
            covered = solve(instance, MaxCoverConfig(solver=solver, **FAST)).covered[-1]
            hits[solver] += covered >= best - 1e-9
    assert hits["greedy"] >= 9
    assert hits["cardnn"] >= 9


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
    chosen: list[int] = []
    for index in order:
        before = state.gains.copy()
        state.add(index)
        chosen.append(index)
        base = instance.covered_value(np.array(chosen))
        exact = [instance.covered_value(np.array([*chosen, i])) - base for i in range(instance.n_sets)]
        assert state.gains == pytest.approx(np.array(exact), abs=1e-9)
        assert (state.gains >= -1e-9).all()
        assert (state.gains <= before + 1e-9).all()
    for index in order[:-1]:
        loss = state.loss(index)
        chosen.remove(index)
        assert loss == pytest.approx(
            instance.covered_value(np.array([*chosen, index])) - instance.covered_value(np.array(chosen))
        )
        state.remove(index)
        assert state.gains[index] == pytest.approx(loss)


def test_swaps_repair_a_bad_start_and_never_lose() -> None:
    # Greedy takes the middle set {1, 2, 3, 4} and must then leave one of the others out.
    instance = _instance([[1, 2, 3, 4], [0, 1, 2], [3, 4, 5]], np.ones(6), 2)
    assert instance.covered_value(solve_greedy(instance)) == 5
    assert sorted(swap_local_search(instance, solve_greedy(instance)).tolist()) == [1, 2]
    for seed in range(10):
        other = _random_instance(seed, 30, 40, 5)
        start = np.random.default_rng(seed).permutation(30)[:5]
        ended = swap_local_search(other, start)
        assert len(set(ended.tolist())) == len(ended) <= 5
        value = other.covered_value(ended)
        assert value >= other.covered_value(start)
        for out in range(len(ended)):
            rest = np.delete(ended, out)
            assert value >= max(other.covered_value(np.append(rest, i)) for i in range(30)) - 1e-9


def test_the_local_search_fills_up_to_the_budget() -> None:
    instance = _instance([[0], [1], [2], [2]], [3.0, 2.0, 1.0], 4)
    assert sorted(swap_local_search(instance, np.array([0])).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("solver", ["greedy", "cardnn"])
def test_renaming_sets_and_items_changes_little(solver: str) -> None:
    instance = _random_instance(5, 40, 60, 6)
    value = solve(instance, MaxCoverConfig(solver=solver, **FAST)).covered[-1]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sets, items = rng.permutation(40), rng.permutation(60)
        values = np.empty(60)
        values[items] = instance.values
        renamed = _instance([items[instance.of(int(i))].tolist() for i in sets], values, 6)
        assert solve(renamed, MaxCoverConfig(solver=solver, **FAST)).covered[-1] == pytest.approx(value, rel=0.02)


def test_cardnn_is_deterministic_exact_in_size_and_beats_chance() -> None:
    instance = _random_instance(1, 200, 300, 20)
    config = MaxCoverConfig(**FAST)
    state = torch.random.get_rng_state()
    chosen = solve_cardnn(instance, config)
    assert (torch.random.get_rng_state() == state).all()
    assert len(set(chosen.tolist())) == 20
    assert (chosen == solve_cardnn(instance, config)).all()
    draws = [instance.covered_value(np.random.default_rng(s).permutation(200)[:20]) for s in range(50)]
    assert instance.covered_value(chosen) > max(draws)
    assert instance.covered_value(chosen) > 0.95 * instance.covered_value(solve_greedy(instance))


def test_a_budget_of_everything_selects_everything_useful() -> None:
    instance = _instance([[0], [0, 1], [2]], np.ones(3), 3)
    assert sorted(solve(instance, MaxCoverConfig(solver="cardnn")).chosen.tolist()) == [1, 2]


def _sinkhorn(scores: NDArray[np.float64], budget: float, tau: float, rounds: int) -> NDArray[np.float64]:
    """Entropic transport from P unit masses to "chosen" (mass Z, cost -s) and "not chosen" (mass P - Z, cost 0)."""
    plan = np.stack([np.exp((scores - scores.max()) / tau), np.full_like(scores, np.exp(-scores.max() / tau))], axis=1)
    for _ in range(rounds):
        plan /= plan.sum(1, keepdims=True)
        plan *= np.array([budget, len(scores) - budget]) / plan.sum(0)
    return plan[:, 0]


@pytest.mark.parametrize("tau", [0.05, 0.3, 2.0])
def test_the_dual_is_the_limit_of_sinkhorn(tau: float) -> None:
    scores = np.random.default_rng(0).normal(size=40)
    chosen = select_softly(torch.from_numpy(scores)[:, None], 6, tau)[:, 0].numpy()
    assert chosen == pytest.approx(_sinkhorn(scores, 6, tau, 10_000), abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-50, 50), min_size=2, max_size=30),
    st.floats(0.01, 5),
    st.integers(1, 29),
)
def test_selections_sum_to_the_budget(scores: list[float], tau: float, budget: int) -> None:
    budget = min(budget, len(scores) - 1)
    column = torch.tensor(scores, dtype=torch.float64)[:, None]
    both = select_softly(torch.cat([column, -column], 1), budget, tau)
    assert both.sum(0).numpy() == pytest.approx(np.full(2, budget), abs=1e-6)


def test_dual_of_equal_scores_is_the_closed_form() -> None:
    # All x = Z / P = 1/4, so (s - nu) / tau = log(1/3).
    assert float(dual(torch.full((8, 1), 2.0, dtype=torch.float64), 2, 0.5)) == pytest.approx(2 + 0.5 * np.log(3))


def test_gradient_through_the_dual_is_that_of_finite_differences() -> None:
    scores = torch.randn((9, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: select_softly(s, 3, 0.4), (scores,), eps=1e-6, atol=1e-5)


def test_soft_coverage_and_its_gradient() -> None:
    instance = _random_instance(0)
    dense = torch.from_numpy(instance.matrix().toarray())
    pair = (dense.T.contiguous().to_sparse_csr(), dense.to_sparse_csr())
    chosen = torch.rand((12, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(soft_coverage(chosen, pair), (dense.T @ chosen).clamp(max=1))
    assert torch.autograd.gradcheck(lambda x: _SparseProduct.apply(x, *pair), (chosen,))
    whole = torch.zeros((12, 1), dtype=torch.float64)
    whole[[2, 5]] = 1
    covered = soft_coverage(whole, pair)[:, 0].numpy()
    assert covered @ instance.values == pytest.approx(instance.covered_value(np.array([2, 5])))
