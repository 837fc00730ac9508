"""CardNN: the dual against Sinkhorn and finite differences, the network and its shipped weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open

from recsys_dagster.larmi.max_cover import CoverInstance, MaxCoverConfig, solve_greedy
from recsys_dagster.larmi.max_cover import pretrain as recipe
from recsys_dagster.larmi.max_cover.cardnn import solve_cardnn
from recsys_dagster.larmi.max_cover.clock import Clock, OutOfTime
from recsys_dagster.larmi.max_cover.dual import dual, select_softly
from recsys_dagster.larmi.max_cover.generated import clique_instance, random_instance
from recsys_dagster.larmi.max_cover.network import (
    WEIGHTS,
    CoverNetwork,
    SparseProduct,
    make_graph,
    pretrained,
    soft_coverage,
)

FAST = {"network_steps": 5, "score_steps": 40}


def test_cardnn_is_deterministic_exact_in_size_and_beats_chance() -> None:
    instance = random_instance(200, 300, 20, 1)
    config = MaxCoverConfig(**FAST)
    state = torch.random.get_rng_state()
    chosen = solve_cardnn(instance, config)
    assert (torch.random.get_rng_state() == state).all()
    assert len(set(chosen.tolist())) == 20
    assert (chosen == solve_cardnn(instance, config)).all()
    draws = [instance.covered_value(np.random.default_rng(s).permutation(200)[:20]) for s in range(50)]
    assert instance.covered_value(chosen) > max(draws)
    assert instance.covered_value(chosen) > 0.95 * instance.covered_value(solve_greedy(instance))


def _zero_shot(network: CoverNetwork, instance: CoverInstance) -> float:
    with torch.no_grad():
        scores = network(make_graph(instance))[:, 0]
    chosen = torch.topk(scores, instance.budget).indices.numpy()
    return instance.covered_value(chosen) / instance.covered_value(solve_greedy(instance))


@pytest.mark.parametrize("make", [random_instance, clique_instance])
def test_shipped_weights_know_something_about_instances_that_they_have_not_seen(make: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = CoverNetwork()
    instances = [make(600, 1200, 60, 10**6 + seed) for seed in range(2)]
    shares = [_zero_shot(pretrained(), instance) for instance in instances]
    assert np.mean(shares) > 0.85
    assert np.mean(shares) > np.mean([_zero_shot(fresh, instance) for instance in instances]) + 0.05


def test_the_recipe_learns_is_deterministic_and_stands_in_the_header(tmp_path: Path) -> None:
    first, losses = recipe.pretrain(steps=12, seed=3)
    second, again = recipe.pretrain(steps=12, seed=3)
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    recipe.save(first, tmp_path / "weights.safetensors", 12, 3)
    with safe_open(tmp_path / "weights.safetensors", "pt") as file:
        assert file.metadata()["steps"] == "12"
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    with safe_open(WEIGHTS, "pt") as file:
        assert file.metadata()["recipe"].endswith("max_cover.pretrain")
        assert (file.metadata()["steps"], file.metadata()["seed"]) == (str(recipe.STEPS), str(recipe.SEED))


def test_the_clock_stops_the_network_between_two_products() -> None:
    instance = random_instance(200, 300, 20, 1)
    graph = make_graph(instance, Clock(1e-9))
    with pytest.raises(OutOfTime):
        pretrained()(graph)
    calls = 0

    def later() -> None:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise OutOfTime

    values = torch.ones((300, 1), requires_grad=True)
    matrix, transposed = graph.to_items[1], graph.to_items[0]
    for _ in range(3):
        SparseProduct.apply(values, matrix, transposed, later).sum().backward()
    product = SparseProduct.apply(values, matrix, transposed, None)
    product.sum().backward()
    with pytest.raises(OutOfTime):
        SparseProduct.apply(values, matrix, transposed, later)
    clock = Clock(1e-9)
    assert len(solve_cardnn(instance, MaxCoverConfig(**FAST), clock)) == 0
    assert clock.cut


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
    instance = random_instance(12, 40, 3, 0)
    dense = torch.from_numpy(instance.matrix().toarray())
    pair = (dense.T.contiguous().to_sparse_csr(), dense.to_sparse_csr())
    chosen = torch.rand((12, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(soft_coverage(chosen, pair), (dense.T @ chosen).clamp(max=1))
    assert torch.autograd.gradcheck(lambda x: SparseProduct.apply(x, *pair), (chosen,))
    whole = torch.zeros((12, 1), dtype=torch.float64)
    whole[[2, 5]] = 1
    covered = soft_coverage(whole, pair)[:, 0].numpy()
    assert covered @ instance.values == pytest.approx(instance.covered_value(np.array([2, 5])))
