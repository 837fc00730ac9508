from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from soft_cases import loop_modularity, planted, problem_of, random_p

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.alignment import adjusted_rand_index, align
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.merging import hard_modularity
from recsys_dagster.g2rec.night import LastNight, hard_labels
from recsys_dagster.g2rec.soft_device import soft_problem
from recsys_dagster.g2rec.soft_modularity import SoftConfig, soft_memberships
from recsys_dagster.g2rec.soft_problem import choose_support, soft_modularity
from recsys_dagster.g2rec.soft_torch import TorchSoftProblem


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
    device = TorchSoftProblem(support, matrix, problem.degree, gamma, problem.inertia, "cpu")
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


def test_divergence_equals_loops() -> None:
    problem, dense, _ = problem_of(held=True)
    p, expected = random_p(problem, 5), 0.0
    for item, row in enumerate(p):
        for place in np.flatnonzero(problem.support.used[item]):
            log_ratio = np.log(row[place]) - problem.inertia.log_last[item, place]
            expected += dense[item].sum() * problem.inertia.weight[item] * row[place] * log_ratio / dense.sum()
    assert problem.divergence(p) == pytest.approx(expected)
    device = TorchSoftProblem(problem.support, problem.matrix, problem.degree, problem.gamma, problem.inertia, "cpu")
    assert device.divergence(device.array(p)) == pytest.approx(expected)


def test_inertia_holds_items_and_lets_new_ones_go() -> None:
    graph, n = planted(6, 15, seed=4)
    rng = np.random.default_rng(0)
    config = SoftConfig(gammas=[3.0], rho=4, temperatures=[0.05], tolerance=1e-6)
    first, facts = soft_memberships(graph, n, config)
    last = LastNight(first[first["item_id"] != 7], 99, config.resolutions, facts["gammas"], [0.05], facts["levels"])
    news = graph.assign(weight=graph["weight"] * rng.uniform(0.3, 3.0, len(graph)).astype(np.float32))

    def second(inertia: float) -> pd.DataFrame:
        return soft_memberships(news, n, config.model_copy(update={"inertia": inertia}), last=last)[0]

    moved = [align(last.memberships, second(inertia)).drift["moved_mass"].iloc[0] for inertia in (0.0, 0.5, 2.0, 50.0)]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 3 * moved[-1]
    new, free = (second(inertia).query("item_id == 7")["probability"].to_numpy() for inertia in (50.0, 0.0))
    assert new.max() == pytest.approx(free.max(), abs=0.1)  # nothing holds it: neither spread out nor kept where it was


def test_inertia_lets_go_where_the_news_is_not_little(monkeypatch) -> None:
    graph, n = planted(6, 15, seed=4)
    config = SoftConfig(gammas=[3.0], rho=4, temperatures=[0.05])
    first, facts = soft_memberships(graph, n, config)
    last = LastNight(first, 99, config.resolutions, facts["gammas"], [0.05], facts["levels"])

    def swapped(many: int) -> pd.DataFrame:
        """The graph after `many` items took each other's places."""
        place = np.arange(n)
        place[:many] = np.random.default_rng(1).permutation(n)[:many]
        rest = np.setdiff1d(np.arange(n), place[:many])
        place[many:] = rest
        ends = np.sort(place[graph[["source", "target"]].to_numpy()], axis=1)
        return graph.assign(source=ends[:, 0], target=ends[:, 1])

    assert soft_memberships(graph, n, config, last=last)[1]["levels"][0]["held"]
    _, cold = soft_memberships(swapped(n), n, config)
    _, warm = soft_memberships(swapped(n), n, config, last=last)
    assert not warm["levels"][0]["held"]
    assert warm["levels"][0]["q_soft"] > cold["levels"][0]["q_soft"] - 0.03 * abs(cold["levels"][0]["q_soft"])
    monkeypatch.setattr("recsys_dagster.g2rec.soft_levels.MUCH_NEWS", 100.0)
    _, stuck = soft_memberships(swapped(n), n, config, last=last)
    assert stuck["levels"][0]["held"]
    assert stuck["levels"][0]["q_soft"] < warm["levels"][0]["q_soft"]


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
        # One more was tried halfway between the largest that is allowed and the smallest that is not.
        between = set(tried) - set(config.temperature_grid)
        allowed = max(t for t in tried if tried[t]["allowed"] and t not in between)
        assert between == {
            round(float(np.sqrt(allowed * min(t for t in tried if t > allowed and t not in between))), 4)
        }
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


def test_the_smallest_graphs_give_sound_memberships() -> None:
    """A dataset of one user, one edge, one giant user among isolated items: every item has a place at every level."""
    four = pd.DataFrame({"source": [0, 0, 0, 1, 1, 2], "target": [1, 2, 3, 2, 3, 3], "weight": 1.0})
    giant_source, giant_target = np.triu_indices(40, 1)
    giant = pd.DataFrame({"source": giant_source, "target": giant_target, "weight": 1.0})
    for graph, n in ((four, 4), (four.iloc[:1], 2), (four.iloc[:1], 5), (giant, 60)):
        links = np.array([[0, 1], [1, 0]])
        table, facts = soft_memberships(graph, n, validation_links=links)
        rows = table.groupby(["item_id", "level"])["probability"].sum()
        assert len(rows) == 3 * n
        np.testing.assert_allclose(rows, 1.0, atol=1e-6)
        assert all(np.isfinite(level["q_soft"]) for level in facts["levels"])
        last = LastNight(table, 500, SoftConfig().resolutions, facts["gammas"], facts["temperatures"], facts["levels"])
        again, _ = soft_memberships(graph, n, last=last)
        assert align(table, again).drift["kept_items"].eq(1.0).all()
    with pytest.raises(RecsysError, match="no edges"):
        soft_memberships(four.iloc[:0], 4)
    with pytest.raises(RecsysError, match="finite"):
        soft_memberships(four.assign(weight=np.nan), 4)
