from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.alignment import adjusted_rand_index, align
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.leiden import leiden
from recsys_dagster.g2rec.links import LinkTest, link_test
from recsys_dagster.g2rec.merging import hard_modularity
from recsys_dagster.g2rec.network import Network
from recsys_dagster.g2rec.night import LastNight, hard_labels
from recsys_dagster.g2rec.soft_modularity import SoftConfig, soft_memberships
from recsys_dagster.g2rec.soft_problem import SoftProblem, Support, choose_support, soft_modularity, soft_problem
from recsys_dagster.g2rec.soft_solvers import adam, damped, fixed_point
from recsys_dagster.g2rec.soft_torch import TorchSoftProblem


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
    labels = leiden(Network.of(graph, n), gamma)
    support = choose_support(matrix, labels, rho, gamma)
    return soft_problem(matrix, support, gamma), matrix.toarray(), labels


def random_p(problem: SoftProblem, seed: int) -> np.ndarray:
    return problem.softmax(np.random.default_rng(seed).normal(size=problem.support.prototypes.shape) * 2)


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
    problem = soft_problem(matrix, support, gamma)
    p = random_p(problem, seed)
    P = support.matrix(p).toarray()
    expected = loop_modularity(matrix.toarray(), P, gamma)
    assert problem.modularity(p) == pytest.approx(expected, abs=1e-12)
    assert soft_modularity(P, graph, gamma) == pytest.approx(expected, abs=1e-7)
    # Eq. 3 is the special case of a hard P.
    assert problem.modularity(support.hard(labels)) == pytest.approx(hard_modularity(matrix, labels, gamma))
    degree = matrix.toarray().sum(axis=1)
    pull = np.divide(matrix.toarray() @ P, degree[:, None], out=np.zeros_like(P), where=degree[:, None] > 0)
    field = pull - gamma * (P.T @ degree) / degree.sum()
    rows, used = np.arange(n)[:, None], support.used
    np.testing.assert_allclose(problem.field(p)[used], field[rows, support.prototypes][used], atol=1e-12)
    # The same problem in torch, as a GPU would have it.
    device = TorchSoftProblem(support, matrix, problem.degree, gamma, "cpu")
    tensor = device.array(p)
    np.testing.assert_allclose(device.numpy(device.pull(tensor)), problem.pull(p), atol=1e-12)
    np.testing.assert_allclose(device.numpy(device.field(tensor))[used], problem.field(p)[used], atol=1e-12)
    assert device.objective(tensor, 0.1) == pytest.approx(problem.objective(p, 0.1), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), rho=st.integers(1, 6))
def test_support_holds_own_cluster_and_strongest_others(seed: int, rho: int) -> None:
    graph, n = planted(3, 6, seed, isolated=1)
    matrix = adjacency(graph, n)
    labels = np.unique(np.random.default_rng(seed).integers(0, 6, n), return_inverse=True)[1]
    support = choose_support(matrix, labels, rho, 1.5)
    dense, degree = matrix.toarray(), matrix.toarray().sum(axis=1)
    for item in range(n):
        mine = support.prototypes[item][support.used[item]].tolist()
        assert (support.prototypes[item][len(mine) :] == -1).all()
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
    target = problem.softmax(problem.field(solution.p) / temperature)
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


@pytest.mark.parametrize("temperature", [0.0, 0.02, 0.3])
def test_damped_steps_and_coordinate_ascent_meet(temperature: float) -> None:
    """The CPU's solver and the device's, from one start; damped steps in NumPy and in torch are the same."""
    problem, _, labels = problem_of()
    start = problem.support.hard(labels)
    by_sweeps = fixed_point(problem, start, temperature, tolerance=1e-9, max_iterations=2000)
    simultaneous = damped(problem, start, temperature, 0.7, 1e-9, 2000)
    device = TorchSoftProblem(problem.support, problem.matrix, problem.degree, problem.gamma, "cpu")
    on_device = fixed_point(device, start, temperature, tolerance=1e-9, max_iterations=2000)
    np.testing.assert_allclose(on_device.p, simultaneous.p, atol=1e-9)
    assert on_device.iterations == simultaneous.iterations
    # At T = 0 only the sweeps use the small gain that splitting a popular item brings (the self terms).
    assert by_sweeps.objective == pytest.approx(simultaneous.objective, abs=1e-3 if temperature == 0 else 1e-7)
    assert by_sweeps.objective >= simultaneous.objective - 1e-9
    assert adam(device, start, temperature).objective == pytest.approx(adam(problem, start, temperature).objective)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.sampled_from([0.0, 0.01, 0.1, 1.0]), gamma=st.floats(0.5, 40.0))
def test_every_sweep_climbs_and_every_row_is_optimal(seed: int, temperature: float, gamma: float) -> None:
    problem, _, _ = problem_of(gamma=gamma, seed=seed % 7)
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


def test_gradient_of_the_objective_vanishes_at_the_fixed_point() -> None:
    """Central differences in the logits: the entropy's weight 2 k_i / |E| is the right one."""
    temperature = 0.1
    problem, _, labels = problem_of()
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


def last_night(memberships: pd.DataFrame, config: SoftConfig) -> LastNight:
    ids = int(memberships["prototype_id"].max()) + 1
    levels = [{"q_soft": 0.5, "largest_share": 0.3} for _ in config.resolutions]
    return LastNight(memberships, ids, config.resolutions, config.gammas, [0.01, 0.03], levels)


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
    assert metadata["temperatures"] == [0.02, 0.02]
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
    last = last_night(first[first["item_id"] != 7], CONFIG)
    again, facts = soft_memberships(graph, n, CONFIG, seed=2, last=last)
    assert adjusted_rand_index(hard_labels(first, n, 0), hard_labels(again, n, 0)) == 1.0
    assert facts["temperatures"] == [0.01, 0.03]
    # Levels asked for otherwise cannot go on from it.
    config = CONFIG.model_copy(update={"gammas": [2.0, 4.0]})
    other = soft_memberships(graph, n, config, seed=1, last=last)[0]
    pd.testing.assert_frame_equal(other, soft_memberships(graph, n, config, seed=1)[0])


@pytest.mark.parametrize("gamma", [1.0, 3.0, 6.0])
def test_an_unchanged_graph_changes_nothing(gamma: float) -> None:
    graph, n = planted(6, 15, seed=4, isolated=2)
    config = SoftConfig(gammas=[gamma], rho=4, temperatures=[0.03], tolerance=1e-6)
    first, facts = soft_memberships(graph, n, config, seed=1)
    last = LastNight(first, 99, config.resolutions, facts["gammas"], [0.03], facts["levels"])
    again, _ = soft_memberships(graph, n, config, seed=5, last=last)
    night = align(first, again).drift.iloc[0]
    assert (night["births"], night["deaths"], night["kept_items"]) == (0, 0, 1.0)
    assert night["moved_mass"] < 2e-3
    # Every prototype is some item's most probable one.
    assert set(hard_labels(again, n, 0)) == set(again["prototype_id"])


def test_wanted_numbers_of_prototypes() -> None:
    graph, n = planted(6, 15, seed=4)
    config = SoftConfig(n_prototypes=[6, 12], rho=3)
    table, facts = soft_memberships(graph, n, config, seed=1)
    assert facts["levels"][0]["prototypes"] == 6
    assert abs(facts["levels"][1]["prototypes"] - 12) <= 3
    assert facts["gammas"][0] < facts["gammas"][1]
    last = LastNight(table, 99, config.resolutions, facts["gammas"], facts["temperatures"], facts["levels"])
    assert soft_memberships(graph, n, config, last=last)[1]["gammas"] == facts["gammas"]


def test_both_methods_give_about_the_same_memberships() -> None:
    graph, n = planted()
    config = SoftConfig(gammas=[1.0], rho=3, temperatures=[0.05])  # finer levels have many maxima
    field, by_field = soft_memberships(graph, n, config)
    gradient, by_adam = soft_memberships(graph, n, config.model_copy(update={"method": "adam"}))
    merged = field.merge(gradient, on=["item_id", "prototype_id"], how="outer").fillna(0.0)
    assert (merged["probability_x"] - merged["probability_y"]).abs().max() < 0.05
    assert by_field["levels"][0]["q_soft"] == pytest.approx(by_adam["levels"][0]["q_soft"], abs=1e-3)


def test_temperatures_are_chosen_on_links() -> None:
    graph, n = planted(n_groups=6, size=20, seed=5)
    rng = np.random.default_rng(0)
    known = adjacency(graph, n).toarray() > 0
    pairs = rng.integers(0, n, (4000, 2))
    links = pairs[(pairs[:, 0] // 20 == pairs[:, 1] // 20) & (pairs[:, 0] != pairs[:, 1])]
    config = SoftConfig(gammas=[1.0, 3.0], temperature_grid=[0.02, 0.1, 5.0], max_modularity_loss=0.2)
    _, metadata = soft_memberships(graph, n, config, validation_links=links)
    for level, (temperature, facts) in enumerate(zip(metadata["temperatures"], metadata["levels"], strict=True)):
        tried = {row["temperature"]: row for row in metadata["temperatures_tried"] if row["level"] == level}
        assert tried[temperature]["allowed"]
        assert facts["q_soft"] >= 0.8 * facts["q_hard"]
        assert not tried[max(tried)]["allowed"]  # 5 makes everything alike
        assert "auc" not in tried[max(tried)]
    assert metadata["auc_soft"] > 0.9
    assert metadata["links"] <= (~known[links[:, 0], links[:, 1]]).sum()
    # No other allowed pair of temperatures ranks the links better, one level changed at a time.
    for level in range(2):
        for other in (0.02, 0.1):
            temperatures = list(metadata["temperatures"])
            temperatures[level] = other
            update = {"temperatures": temperatures}
            _, fixed = soft_memberships(graph, n, config.model_copy(update=update), validation_links=links)
            assert fixed["temperatures"] == temperatures
            assert "temperatures_tried" not in fixed
            if fixed["levels"][level]["q_soft"] >= 0.8 * fixed["levels"][level]["q_hard"]:
                assert fixed["auc_soft"] <= metadata["auc_soft"] + 2e-3
    with pytest.raises(RecsysError, match="1 temperatures are set for 2 levels"):
        soft_memberships(graph, n, config.model_copy(update={"temperatures": [0.1]}))


def test_link_quality_hand_value() -> None:
    # Scores 1, .5 (links) against .5, 0: AUC = (1 + 1 + .5 + 1) / 4; precision 1 at the first, 2/3 at the tied pair.
    P = Support(np.array([[0, -1], [0, -1], [0, 1], [1, -1]], dtype=np.int32), 2)
    matrix = P.matrix(np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]))
    test = LinkTest(np.array([[0, 1], [0, 2]]), np.array([[2, 3], [0, 3]]))
    quality = test.quality(test.scores(matrix))
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
