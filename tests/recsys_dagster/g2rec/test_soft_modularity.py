from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.coengagement import adjacency
from recsys_dagster.g2rec.leiden import hard_modularity, leiden
from recsys_dagster.g2rec.links import LinkTest, link_test
from recsys_dagster.g2rec.prototypes import adjusted_rand_index
from recsys_dagster.g2rec.soft_modularity import SoftConfig, hard_labels, soft_memberships
from recsys_dagster.g2rec.soft_problem import SoftProblem, Support, choose_support, soft_modularity, soft_problem
from recsys_dagster.g2rec.soft_solvers import adam, fixed_point


def planted(n_groups: int = 4, size: int = 12, seed: int = 0, isolated: int = 0) -> tuple[pd.DataFrame, int]:
    """Groups with dense ties inside, thin ones between, and the last item of each group leaning on the next group."""
    rng = np.random.default_rng(seed)
    n = n_groups * size
    group = np.arange(n) // size
    source, target = np.triu_indices(n, 1)
    rate = np.where(group[source] == group[target], 0.6, 0.03)
    lean = (source % size == size - 1) & (group[target] == group[source] + 1)
    keep = rng.random(len(source)) < np.where(lean, 0.5, rate)
    weight = rng.integers(1, 4, keep.sum()).astype(np.float32)
    return pd.DataFrame({"source": source[keep], "target": target[keep], "weight": weight}), n + isolated


def problem_of(rho: int = 3, gamma: float = 1.3, seed: int = 0) -> tuple[SoftProblem, np.ndarray, np.ndarray]:
    graph, n = planted(seed=seed)
    matrix = adjacency(graph, n)
    labels = leiden(graph, n, gamma)
    support = choose_support(matrix, labels, rho, gamma)
    return soft_problem(matrix, support, gamma), matrix.toarray(), labels


def random_p(support: Support, seed: int) -> np.ndarray:
    return support.softmax(np.random.default_rng(seed).normal(size=len(support.prototypes)) * 2)


def loop_modularity(dense: np.ndarray, P: np.ndarray, gamma: float) -> float:
    degree, q = dense.sum(axis=1), 0.0
    total = degree.sum()
    for i in range(len(dense)):
        for j in range(len(dense)):
            q += (dense[i, j] - gamma * degree[i] * degree[j] / total) * float(P[i] @ P[j]) / total
    return q


def test_soft_modularity_hand_value() -> None:
    # Two items, one edge of weight 3, p = (1, 0) and (1/2, 1/2): |E| = 6, inside = 1/2, P'k = (4.5, 1.5).
    graph = pd.DataFrame({"source": [0], "target": [1], "weight": [3.0]})
    P = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert soft_modularity(P, graph, 2.0) == pytest.approx(0.5 - 2.0 * (4.5**2 + 1.5**2) / 36)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0.2, 5.0), rho=st.integers(1, 4))
def test_soft_modularity_equals_loops(seed: int, gamma: float, rho: int) -> None:
    graph, n = planted(3, 6, seed)
    matrix = adjacency(graph, n)
    labels = np.random.default_rng(seed).permutation(np.arange(n) % 5)
    support = choose_support(matrix, labels, rho, gamma)
    problem = soft_problem(matrix, support, gamma, table_entries=17)
    p = random_p(support, seed)
    P = support.matrix(p).toarray()
    expected = loop_modularity(matrix.toarray(), P, gamma)
    assert problem.modularity(p) == pytest.approx(expected, abs=1e-12)
    assert soft_modularity(P, graph, gamma) == pytest.approx(expected, abs=1e-7)
    # Eq. 3 is the special case of a hard P.
    assert problem.modularity(support.hard(labels)) == pytest.approx(hard_modularity(matrix, labels, gamma))
    degree = matrix.toarray().sum(axis=1)
    pull = np.divide(matrix.toarray() @ P, degree[:, None], out=np.zeros_like(P), where=degree[:, None] > 0)
    field = pull - gamma * (P.T @ degree) / degree.sum()
    np.testing.assert_allclose(problem.field(p), field[support.items, support.prototypes], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), rho=st.integers(1, 6))
def test_support_holds_own_cluster_and_strongest_others(seed: int, rho: int) -> None:
    graph, n = planted(3, 6, seed, isolated=1)
    matrix = adjacency(graph, n)
    labels = np.unique(np.random.default_rng(seed).integers(0, 6, n), return_inverse=True)[1]
    support = choose_support(matrix, labels, rho, 1.5)
    dense, degree = matrix.toarray(), matrix.toarray().sum(axis=1)
    for item in range(n):
        mine = support.prototypes[support.indptr[item] : support.indptr[item + 1]].tolist()
        tie = np.bincount(labels, weights=dense[item], minlength=labels.max() + 1)
        strength = tie / max(degree[item], 1e-9) - 1.5 * np.bincount(labels, weights=degree) / degree.sum()
        others = [c for c in np.argsort(-strength, kind="stable") if tie[c] > 0 and c != labels[item]]
        assert mine == sorted(mine)
        assert labels[item] in mine
        assert len(mine) == min(rho, len(others) + 1)
        chosen = [strength[c] for c in mine if c != labels[item]]
        assert sorted(chosen, reverse=True) == pytest.approx([strength[c] for c in others[: rho - 1]])


@pytest.mark.parametrize("temperature", [0.02, 0.05, 0.3])
def test_fixed_point_satisfies_its_equation(temperature: float) -> None:
    problem, _, labels = problem_of()
    start = problem.support.hard(labels)
    solution = fixed_point(problem, start, temperature, tolerance=1e-9, max_iterations=2000)
    assert solution.converged
    target = problem.support.softmax(problem.field(solution.p) / temperature)
    np.testing.assert_allclose(solution.p, target, atol=1e-6)
    assert solution.objective == pytest.approx(problem.objective(solution.p, temperature))
    assert solution.objective >= problem.objective(start, temperature)
    np.testing.assert_allclose(np.add.reduceat(solution.p, problem.support.indptr[:-1]), 1.0)


def test_a_start_within_the_tolerance_is_softened_all_the_same() -> None:
    problem, _, labels = problem_of()
    start = problem.support.hard(labels)
    solution = fixed_point(problem, start, 0.02, tolerance=0.5)
    assert solution.iterations == 1
    assert (solution.p > 0).all()
    assert solution.objective == pytest.approx(problem.objective(solution.p, 0.02))
    assert solution.objective > problem.objective(start, 0.02)


def test_gradient_of_the_objective_vanishes_at_the_fixed_point() -> None:
    """Central differences in the logits: the entropy's weight 2 k_i / |E| is the right one."""
    temperature = 0.1
    problem, _, labels = problem_of()
    p = fixed_point(problem, problem.support.hard(labels), temperature, tolerance=1e-10, max_iterations=5000).p
    logits, step = np.log(p), 1e-4

    def slope(at: np.ndarray, place: int) -> float:
        nudge = np.zeros_like(at)
        nudge[place] = step
        up, down = problem.support.softmax(at + nudge), problem.support.softmax(at - nudge)
        return (problem.objective(up, temperature) - problem.objective(down, temperature)) / (2 * step)

    at_fixed_point = max(abs(slope(logits, e)) for e in range(0, len(p), 3))
    elsewhere = max(abs(slope(logits * 0.5, e)) for e in range(0, len(p), 3))
    assert at_fixed_point < 1e-8
    assert elsewhere > 1e-5


@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_adam_and_fixed_point_agree(temperature: float) -> None:
    problem, _, labels = problem_of()
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
        P = problem.support.matrix(random_p(problem.support, seed)).toarray()
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


def soft_value(dense: np.ndarray, P: np.ndarray, gamma: float) -> float:
    degree = dense.sum(axis=1)
    mass = P.T @ degree
    return float((P * (dense @ P)).sum() / degree.sum() - gamma * (mass @ mass) / degree.sum() ** 2)


def test_higher_temperature_is_softer() -> None:
    problem, _, labels = problem_of()
    start = problem.support.hard(labels)
    entropies = [problem.entropy(fixed_point(problem, start, t).p) for t in (0.0, 0.03, 0.1, 1.0)]
    assert entropies == sorted(entropies)
    assert entropies[-1] > entropies[0] + 0.5
    for solve in (fixed_point, adam):
        with pytest.raises(RecsysError, match="temperature is -1"):
            solve(problem, start, -1.0)


CONFIG = SoftConfig(gammas=[1.0, 4.0], rho=3)


def test_soft_memberships_table() -> None:
    graph, n = planted(isolated=2)
    table, metadata = soft_memberships(graph, n, CONFIG, seed=1)
    assert table.dtypes.astype(str).to_dict() == {
        "item_id": "int32",
        "level": "int8",
        "prototype_id": "int32",
        "probability": "float32",
    }
    rows = table.groupby(["item_id", "level"])["probability"].agg(["sum", "size"])
    assert len(rows) == 2 * n
    np.testing.assert_allclose(rows["sum"], 1.0, atol=1e-6)
    assert rows["size"].max() == 3
    assert table.groupby("prototype_id")["level"].nunique().eq(1).all()
    assert metadata["temperature"] == 0.05
    for number, level in enumerate(metadata["levels"]):
        assert level["prototypes"] == table.loc[table["level"] == number, "prototype_id"].nunique()
        assert level["q_soft"] == pytest.approx(level["q_hard"], abs=0.2)
        assert level["converged"]
    assert metadata["levels"][0]["q_hard"] > 0.4
    # The planted groups come back, and an item between two groups is less sure than the others.
    labels = hard_labels(table, n, 0)
    assert all(len(set(labels[g * 12 : g * 12 + 11])) == 1 for g in range(4))
    assert labels[n - 1] == labels[n - 2]
    assert (labels == labels[n - 1]).sum() == 2  # the isolated items are among themselves
    coarse = table[table["level"] == 0].groupby("item_id")["probability"].max()
    assert coarse[[11, 23, 35]].mean() < coarse[[5, 17, 29]].mean()


def test_soft_memberships_are_seeded_and_warm_start_keeps_clusters() -> None:
    graph, n = planted(seed=3)
    first, _ = soft_memberships(graph, n, CONFIG, seed=1)
    pd.testing.assert_frame_equal(first, soft_memberships(graph, n, CONFIG, seed=1)[0])
    again, _ = soft_memberships(graph, n, CONFIG, seed=2, initial=first[first["item_id"] != 7])
    assert adjusted_rand_index(hard_labels(first, n, 0), hard_labels(again, n, 0)) == 1.0


def test_both_methods_give_about_the_same_memberships() -> None:
    graph, n = planted()
    field, by_field = soft_memberships(graph, n, CONFIG)
    gradient, by_adam = soft_memberships(graph, n, CONFIG.model_copy(update={"method": "adam"}))
    merged = field.merge(gradient, on=["item_id", "prototype_id"], how="outer").fillna(0.0)
    assert (merged["probability_x"] - merged["probability_y"]).abs().max() < 0.05
    assert by_field["levels"][0]["q_soft"] == pytest.approx(by_adam["levels"][0]["q_soft"], abs=1e-3)


def test_temperature_is_chosen_on_links() -> None:
    graph, n = planted(n_groups=6, size=20, seed=5)
    rng = np.random.default_rng(0)
    known = adjacency(graph, n).toarray() > 0
    pairs = rng.integers(0, n, (4000, 2))
    links = pairs[(pairs[:, 0] // 20 == pairs[:, 1] // 20) & (pairs[:, 0] != pairs[:, 1])]
    config = SoftConfig(gammas=[1.0], temperature_grid=[0.02, 0.1, 5.0])
    _, metadata = soft_memberships(graph, n, config, validation_links=links)
    tried = {t: quality["auc"] for t, quality in metadata["temperatures_tried"].items()}
    assert metadata["temperature"] == max(tried, key=lambda t: tried[t]) != 5.0
    assert metadata["auc_soft"] == max(tried.values()) > 0.9
    assert metadata["links"] <= (~known[links[:, 0], links[:, 1]]).sum()
    # A given temperature is kept, and still judged.
    _, fixed = soft_memberships(graph, n, config.model_copy(update={"temperature": 0.3}), validation_links=links)
    assert fixed["temperature"] == 0.3
    assert "temperatures_tried" not in fixed
    assert 0.5 < fixed["auc_soft"] <= 1


def test_link_quality_hand_value() -> None:
    # Scores 1, .5 (links) against .5, 0: AUC = (1 + 1 + .5 + 1) / 4; precision 1 at the first, 2/3 at the tied pair.
    P = Support(np.array([0, 1, 2, 4, 5]), np.array([0, 0, 0, 1, 1], dtype=np.int32), 2)
    matrix = P.matrix(np.array([1.0, 1.0, 0.5, 0.5, 1.0]))
    test = LinkTest(np.array([[0, 1], [0, 2]]), np.array([[2, 3], [0, 3]]))
    quality = test.quality([matrix])
    assert quality["auc"] == pytest.approx(3.5 / 4)
    assert quality["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_negatives_are_unlinked_and_of_like_degree() -> None:
    graph, n = planted(n_groups=6, size=20, seed=5)
    matrix = adjacency(graph, n)
    links = np.random.default_rng(1).integers(0, n, (500, 2))
    test = link_test(matrix, links, seed=0, window=10)
    assert test is not None
    dense, rank = matrix.toarray(), np.argsort(np.argsort(matrix.sum(axis=1), kind="stable"))
    held_out = {tuple(sorted(pair)) for pair in test.links.tolist()}
    for (i, j), (a, b) in zip(test.links.tolist(), test.negatives.tolist(), strict=True):
        assert dense[i, j] == 0
        assert i == a
        assert a != b
        assert dense[a, b] == 0
        assert tuple(sorted((a, b))) not in held_out
        assert abs(rank[j] - rank[b]) <= 10
    assert link_test(matrix, graph[["source", "target"]].to_numpy(), seed=0) is None
    with pytest.raises(RecsysError, match="validation links"):
        link_test(matrix, np.array([[0, n]]), seed=0)
