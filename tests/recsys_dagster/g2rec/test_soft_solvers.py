from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soft_cases import loop_modularity, problem_of, random_p, soft_value

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec import soft_solvers
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.merging import hard_modularity
from recsys_dagster.g2rec.soft_problem import soft_modularity
from recsys_dagster.g2rec.soft_solvers import adam, damped, fixed_point
from recsys_dagster.g2rec.soft_torch import TorchSoftProblem


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("temperature", [0.02, 0.05, 0.3])
def test_fixed_point_satisfies_its_equation(temperature: float, held: bool) -> None:
    problem, _, labels = problem_of(held=held)
    start = problem.support.hard(labels)
    solution = fixed_point(problem, start, temperature, tolerance=1e-9, max_iterations=2000)
    assert solution.converged
    weight = problem.inertia.weight[:, None]
    logits = problem.field(solution.p) / temperature + weight * problem.inertia.log_last
    target = problem.softmax(logits / (1 + weight))
    np.testing.assert_allclose(solution.p, target, atol=1e-6)
    assert solution.objective == pytest.approx(problem.objective(solution.p, temperature))
    assert solution.objective >= problem.objective(start, temperature)
    np.testing.assert_allclose(solution.p.sum(axis=1), 1.0)


def test_a_start_within_the_tolerance_is_softened_all_the_same() -> None:
    problem, _, labels = problem_of()
    start = problem.support.hard(labels)
    solution = fixed_point(problem, start, 0.02, tolerance=0.5)
    assert solution.iterations == 1
    assert (solution.p[problem.support.used] > 0).all()
    assert solution.objective == pytest.approx(problem.objective(solution.p, 0.02))
    assert solution.objective > problem.objective(start, 0.02)


@pytest.mark.parametrize(("temperature", "held"), [(0.0, False), (0.02, False), (0.3, False), (0.02, True)])
def test_damped_steps_and_coordinate_ascent_meet(temperature: float, held: bool) -> None:
    """The CPU's solver and the device's, from one start; damped steps in NumPy and in torch are the same."""
    problem, _, labels = problem_of(held=held)
    start = problem.support.hard(labels)
    by_sweeps = fixed_point(problem, start, temperature, tolerance=1e-9, max_iterations=2000)
    simultaneous = damped(problem, start, temperature, 0.7, 1e-9, 2000)
    device = TorchSoftProblem(problem.support, problem.matrix, problem.degree, problem.gamma, problem.inertia, "cpu")
    on_device = fixed_point(device, start, temperature, tolerance=1e-9, max_iterations=2000)
    np.testing.assert_allclose(on_device.p, simultaneous.p, atol=1e-9)
    assert on_device.iterations == simultaneous.iterations
    # At T = 0 only the sweeps use the small gain that splitting a popular item brings (the self terms).
    assert by_sweeps.objective == pytest.approx(simultaneous.objective, abs=1e-3 if temperature == 0 else 1e-7)
    assert by_sweeps.objective >= simultaneous.objective - 1e-9
    assert adam(device, start, temperature).objective == pytest.approx(adam(problem, start, temperature).objective)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.0, 0.01, 0.1, 1.0]),
    gamma=st.floats(0.5, 40.0),
    held=st.booleans(),
)
def test_every_sweep_climbs_and_every_row_is_optimal(seed: int, temperature: float, gamma: float, held: bool) -> None:
    problem, _, _ = problem_of(gamma=gamma, seed=seed % 7, held=held)
    p, rng = random_p(problem, seed), np.random.default_rng(seed)
    value = problem.objective(p, temperature)
    for _ in range(4):
        p = fixed_point(problem, p, temperature, tolerance=0.0, max_iterations=1).p
        climbed = problem.objective(p, temperature)
        assert climbed >= value - 1e-9
        value = climbed
    np.testing.assert_allclose(p.sum(axis=1), 1.0)
    # The item that moved last (the last one with an edge) cannot do better by any other row.
    last = int(np.flatnonzero(problem.degree)[-1])
    for _ in range(20):
        other = p.copy()
        other[last] = np.where(problem.support.used[last], rng.dirichlet(np.ones(p.shape[1])), 0.0)
        other[last] /= other[last].sum()
        assert problem.objective(other, temperature) <= value + 1e-9


@pytest.mark.parametrize("held", [False, True])
def test_gradient_of_the_objective_vanishes_at_the_fixed_point(held: bool) -> None:
    """Central differences in the logits: the weights 2 k_i / |E| of entropy and divergence are the right ones."""
    temperature = 0.1
    problem, _, labels = problem_of(held=held)
    p = fixed_point(problem, problem.support.hard(labels), temperature, tolerance=1e-10, max_iterations=5000).p
    logits, step = np.log(np.maximum(p, 1e-300)), 1e-4
    places = np.argwhere(problem.support.used)[::3]

    def slope(at: np.ndarray, place: np.ndarray) -> float:
        nudge = np.zeros_like(at)
        nudge[tuple(place)] = step
        up, down = problem.softmax(at + nudge), problem.softmax(at - nudge)
        return (problem.objective(up, temperature) - problem.objective(down, temperature)) / (2 * step)

    at_fixed_point = max(abs(slope(logits, e)) for e in places)
    elsewhere = max(abs(slope(logits * 0.5, e)) for e in places)
    assert at_fixed_point < 1e-8
    assert elsewhere > 1e-5


@pytest.mark.parametrize(("temperature", "held"), [(0.0, False), (0.05, False), (0.05, True)])
def test_adam_and_fixed_point_agree(temperature: float, held: bool) -> None:
    problem, _, labels = problem_of(held=held)
    start = problem.support.hard(labels)
    by_field = fixed_point(problem, start, temperature, tolerance=1e-8, max_iterations=2000)
    by_adam = adam(problem, start, temperature, max_iterations=2000)
    assert by_adam.objective == pytest.approx(problem.objective(by_adam.p, temperature), abs=1e-12)
    assert by_adam.objective == pytest.approx(by_field.objective, abs=2e-5)
    if temperature:
        np.testing.assert_allclose(by_adam.p, by_field.p, atol=0.02)


def test_zero_temperature_stays_within_the_bound_of_the_hard_optimum() -> None:
    """The maximum exceeds the best hard modularity by at most gamma sum k_i^2 / |E|^2 (docs/science)."""
    problem, dense, labels = problem_of(rho=4)
    hard = problem.support.hard(labels)
    solution = fixed_point(problem, hard, 0.0)
    degree = dense.sum(axis=1)
    bound = problem.gamma * (degree**2).sum() / degree.sum() ** 2
    gain = solution.objective - problem.modularity(hard)
    assert -1e-12 <= gain <= bound
    # Rounding row by row never costs more than the self terms: multilinearity is what the proof rests on.
    for seed in range(5):
        P = problem.support.matrix(random_p(problem, seed)).toarray()
        q_free = loop_modularity(dense, P, problem.gamma)
        for i in range(len(P)):
            rest = P.copy()
            candidates = []
            for a in np.flatnonzero(P[i]):
                rest[i] = np.eye(P.shape[1])[a]
                candidates.append((soft_value(dense, rest, problem.gamma), rest[i].copy()))
            P[i] = max(candidates, key=lambda c: c[0])[1]
        assert set(np.unique(P)) <= {0.0, 1.0}
        assert q_free - loop_modularity(dense, P, problem.gamma) <= bound


def test_expected_hard_modularity_is_soft_modularity_less_the_self_terms() -> None:
    """By enumeration: what Proposition 3 leaves out is gamma sum k_i^2 (1 - |p_i|^2) / |E|^2."""
    graph = pd.DataFrame({"source": [0, 0, 1, 2], "target": [1, 2, 2, 3], "weight": [1.0, 2.0, 1.0, 3.0]})
    matrix, gamma = adjacency(graph, 4), 0.7
    P = np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7], [0.2, 0.8]])
    expected = 0.0
    for labels in product((0, 1), repeat=4):
        probability = np.prod(P[np.arange(4), labels])
        expected += probability * hard_modularity(matrix, np.array(labels), gamma)
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    self_terms = gamma * (degree**2 * (1 - (P**2).sum(axis=1))).sum() / degree.sum() ** 2
    assert expected == pytest.approx(soft_modularity(P, graph, gamma) - self_terms)
    assert self_terms > 0.01


def test_higher_temperature_is_softer() -> None:
    problem, _, labels = problem_of()
    start = problem.support.hard(labels)
    entropies = [problem.entropy(fixed_point(problem, start, t).p) for t in (0.0, 0.03, 0.1, 1.0)]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.5
    for solve in (fixed_point, adam):
        with pytest.raises(RecsysError, match="temperature is -1"):
            solve(problem, start, -1.0)


@pytest.mark.parametrize("held", [False, True])
def test_visiting_items_prototype_by_prototype_ends_at_a_fixed_point_of_the_same_items(monkeypatch, held: bool) -> None:
    problem, _, labels = problem_of(held=held)
    order = np.random.default_rng(0).permutation(len(labels))
    again = problem.reordered(order)
    p = random_p(problem, 0)
    assert again.objective(p[order], 0.05) == pytest.approx(problem.objective(p, 0.05))
    np.testing.assert_allclose(again.field(p[order]), problem.field(p)[order])
    np.testing.assert_array_equal(again.matrix.toarray(), problem.matrix.toarray()[order][:, order])

    start = problem.support.hard(labels)
    plain = fixed_point(problem, start, 0.05, tolerance=1e-9, max_iterations=2000)
    monkeypatch.setattr(soft_solvers, "CACHED_PLACES", 0)
    solution = fixed_point(problem, start, 0.05, tolerance=1e-9, max_iterations=2000)
    assert solution.converged
    assert solution.objective == pytest.approx(plain.objective, rel=1e-3)
    assert solution.objective == pytest.approx(problem.objective(solution.p, 0.05))
    weight = problem.inertia.weight[:, None]
    logits = problem.field(solution.p) / 0.05 + weight * problem.inertia.log_last
    np.testing.assert_allclose(solution.p, problem.softmax(logits / (1 + weight)), atol=1e-6)
