from __future__ import annotations

import random

import igraph
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.leiden import LeidenConfig, leiden, leiden_of_size, leiden_supported
from recsys_dagster.g2rec.merging import dense_by_size, hard_modularity, merge_small
from recsys_dagster.g2rec.network import SMALLEST_RISE, Network
from recsys_dagster.g2rec.placement import extend


def cliques(sizes: list[int], extra: list[tuple[int, int, float]], isolated: int = 0) -> tuple[pd.DataFrame, int]:
    edges, first = list(extra), 0
    for size in sizes:
        edges += [(first + a, first + b, 1.0) for a in range(size) for b in range(a + 1, size)]
        first += size
    return pd.DataFrame(sorted(edges), columns=["source", "target", "weight"]), first + isolated


def random_graph(n: int, seed: int, density: float = 0.3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    source, target = np.triu_indices(n, 1)
    keep = rng.random(len(source)) < density
    keep[0] = True
    return pd.DataFrame(
        {"source": source[keep], "target": target[keep], "weight": rng.integers(1, 5, keep.sum()) * 1.0}
    )


@pytest.mark.parametrize("engine", ["compiled", "igraph", "leidenalg"])
def test_finds_planted_cliques_by_falling_size(engine: str) -> None:
    graph, n = cliques([4, 6, 5], [(0, 4, 0.5), (5, 10, 0.5)])
    labels = leiden(Network.of(graph, n), 1.0, LeidenConfig(engine=engine), seed=1)
    assert labels.tolist() == [2] * 4 + [0] * 6 + [1] * 5


@pytest.mark.parametrize("engine", ["compiled", "igraph", "leidenalg"])
def test_same_seed_same_labels(engine: str) -> None:
    graph = random_graph(60, 0, 0.1)
    config = LeidenConfig(engine=engine, leiden_iterations=1)
    runs = [leiden(Network.of(graph, 60), 1.5, config, seed=5) for _ in range(3)]
    assert all((run == runs[0]).all() for run in runs)
    random.seed(9)
    leiden(Network.of(graph, 60), 1.5, config, seed=5)
    after = random.random()
    random.seed(9)
    assert after == random.random()  # the global generator of Python is left alone


def test_hard_modularity_equals_double_loop_and_igraph() -> None:
    graph = random_graph(12, 2)
    labels = np.arange(12) % 3
    matrix = adjacency(graph, 12)
    dense, degree = matrix.toarray(), matrix.toarray().sum(axis=1)
    total, expected = degree.sum(), 0.0
    for i in range(12):
        for j in range(12):
            expected += (dense[i, j] - 1.3 * degree[i] * degree[j] / total) * (labels[i] == labels[j]) / total
    assert hard_modularity(matrix, labels, 1.3) == pytest.approx(expected)
    network = igraph.Graph(n=12, edges=graph[["source", "target"]].to_numpy())
    theirs = network.modularity(labels.tolist(), weights=graph["weight"].tolist(), resolution=1.3)
    assert hard_modularity(matrix, labels, 1.3) == pytest.approx(theirs)


def test_higher_gamma_gives_more_clusters_and_warm_start_is_used() -> None:
    graph = random_graph(80, 4, 0.15)
    config = LeidenConfig(min_size=1)
    counts = [leiden(Network.of(graph, 80), gamma, config).max() for gamma in (0.5, 1.0, 4.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    planted, n = cliques([5, 5], [])
    # Leiden started at its own optimum stays there; items without a label (-1) are placed.
    start = np.array([7] * 5 + [3] * 4 + [-1])
    assert leiden(Network.of(planted, n), 1.0, config, start).tolist() == [0] * 5 + [1] * 5
    with pytest.raises(RecsysError, match="The start has shape"):
        leiden(Network.of(planted, n), 1.0, config, start[:4])


def test_new_items_find_a_place_and_all_others_keep_theirs() -> None:
    # Old cliques 0 and 1; item 12 leans on both, more on the second; 13-17 are a clique of their own, hanging on the
    # first by one edge; 18 and 19 have nothing, and nothing had 20 to 22, which stand in cluster 2; 22 has an edge now.
    clique = [(13 + a, 13 + b, 1.0) for a in range(5) for b in range(a + 1, 5)]
    graph, n = cliques([6, 6], [(0, 12, 1.0), (6, 12, 2.0), (0, 13, 0.3), (1, 22, 1.0), *clique], isolated=11)
    labels = np.array([1] * 6 + [0] * 6 + [-1] * 8 + [2, 2, 2])
    placed = extend(Network.of(graph, n), labels, 3, 1.0, seed=1)
    assert placed[:12].tolist() == labels[:12].tolist()
    assert placed[12] == 0
    assert placed[13:18].tolist() == [3] * 5
    assert placed[18:22].tolist() == [2] * 4
    assert placed[22] == 1
    # Those that have a place are left alone, though plain Leiden would move them; a cluster without items stays free.
    wrong = placed.copy()
    wrong[12], wrong[11] = 1, 3
    assert extend(Network.of(graph, n), wrong, 6, 1.0, seed=1).tolist() == wrong.tolist()
    wrong[18] = -1
    assert extend(Network.of(graph, n), wrong, 6, 1.0, seed=1)[18] == 2
    # A small new group joins its strongest neighbour, but small old clusters are left alone.
    pair, n = cliques([5, 5], [(0, 10, 1.0), (0, 11, 1.0), (10, 11, 1.0), (5, 12, 1.0)], isolated=3)
    placed = extend(Network.of(pair, n), np.array([0] * 5 + [1] * 5 + [-1, -1, -1]), 2, 1.0, LeidenConfig(min_size=3))
    assert placed[10:].tolist() == [0, 0, 1]
    old_small = np.array([0] * 5 + [1] * 5 + [2, 2, 1])
    assert extend(Network.of(pair, n), old_small, 3, 1.0).tolist() == old_small.tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 0.9))
def test_extending_keeps_every_place_and_leaves_none_without(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    network = Network.of(random_graph(30, seed, 0.12), 30)
    labels = rng.integers(0, 5, 30)
    labels[rng.random(30) < share] = -1
    placed = extend(network, labels, 5, 1.0, seed=0)
    dense = network.matrix.toarray()
    # A cluster of several items without any weight inside has lost its reason.
    alive = {c for c in range(5) if (labels == c).sum() == 1 or dense[labels == c][:, labels == c].sum() > 0}
    kept = np.isin(labels, list(alive))
    assert (placed[kept] == labels[kept]).all()
    assert placed.min() >= 0


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 40), gamma=st.floats(0.3, 4.0), density=st.floats(0.05, 0.5))
def test_compiled_leiden_keeps_leidens_promises(seed: int, n: int, gamma: float, density: float) -> None:
    """At the end no item gains by moving, and every cluster is connected (Traag et al. 2019, Theorems)."""
    network = Network.of(random_graph(n, seed, density), n)
    labels = network.run("compiled", gamma, -1, seed)
    assert labels.tolist() == network.run("compiled", gamma, -1, seed).tolist()
    dense, total = network.matrix.toarray(), network.degree.sum()
    reached = hard_modularity(network.matrix, labels, gamma)
    for item in range(n):
        for cluster in [*np.unique(labels), labels.max() + 1]:
            other = labels.copy()
            other[item] = cluster
            assert hard_modularity(network.matrix, other, gamma) <= reached + SMALLEST_RISE
    for cluster in np.unique(labels[network.degree > 0]):
        members = np.flatnonzero(labels == cluster)
        inside = dense[np.ix_(members, members)]
        assert connected_components(inside, directed=False)[0] == 1
    assert total > 0


@pytest.mark.parametrize("gamma", [0.7, 1.0, 3.0])
def test_compiled_leiden_is_as_good_as_igraph(gamma: float) -> None:
    rng = np.random.default_rng(1)
    n, group = 600, np.arange(600) // 30
    source, target = np.triu_indices(n, 1)
    keep = rng.random(len(source)) < np.where(group[source] == group[target], 0.35, 0.01)
    graph = pd.DataFrame({"source": source[keep], "target": target[keep], "weight": rng.integers(1, 4, keep.sum())})
    network = Network.of(graph, n)
    ours, theirs = (
        max(hard_modularity(network.matrix, network.run(engine, gamma, -1, seed), gamma) for seed in range(3))
        for engine in ("compiled", "igraph")
    )
    assert ours >= theirs - 0.002


def test_nodes_that_stand_for_many_items_bring_their_mass() -> None:
    """Aggregating a graph by its clusters changes the modularity of no coarser clustering."""
    graph = random_graph(30, 3, 0.2)
    network = Network.of(graph, 30)
    labels = np.arange(30) // 3
    one_hot = sparse.csr_array((np.ones(30), (np.arange(30), labels)))
    inside = sparse.csr_array(one_hot.T @ network.matrix @ one_hot)
    coarse = Network(sparse.csr_array(inside - sparse.diags_array(inside.diagonal())), one_hot.T @ network.degree)
    for engine in ("compiled", "igraph"):
        found = coarse.run(engine, 1.0, -1, 0)[labels]
        start = hard_modularity(network.matrix, labels, 1.0)
        assert hard_modularity(network.matrix, found, 1.0) >= start
        assert all(len(set(found[labels == c])) == 1 for c in range(10))


def test_wanted_number_of_clusters_is_found_in_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import recsys_dagster.g2rec.leiden as module

    graph, n = cliques([5] * 24, [(5 * i, (5 * i + 7) % 120, 0.6) for i in range(24)])
    network, runs = Network.of(graph, n), []
    inner = module.leiden
    monkeypatch.setattr(module, "leiden", lambda *a, **k: runs.append(a[1]) or inner(*a, **k))
    for wanted in (24, 6):
        runs.clear()
        labels, gamma = leiden_of_size(network, wanted, LeidenConfig(min_size=1), seed=1)
        assert len(runs) <= 10
        assert abs(labels.max() + 1 - wanted) <= 1
        assert gamma in runs
    # What no gamma gives is missed by as little as the runs allow.
    labels, _ = leiden_of_size(network, 1, LeidenConfig(min_size=1))
    assert labels.max() + 1 <= 4
    with pytest.raises(RecsysError, match="200 prototypes"):
        leiden_of_size(network, 200)


def test_a_resolution_that_the_graph_does_not_support_is_halved() -> None:
    dense, n = cliques([8, 8, 8], [(i, j, 0.5) for i in range(8) for j in range(8, 24)])
    network = Network.of(dense, n)
    labels, gamma = leiden_supported(network, 64.0)
    assert hard_modularity(network.matrix, leiden(network, 64.0), 64.0) <= 0
    assert 1 <= gamma < 64
    assert hard_modularity(network.matrix, labels, gamma) > 0
    assert leiden_supported(network, 1.2)[1] == 1.2


def test_merge_small_goes_to_the_strongest_tie_and_pools_the_rest() -> None:
    # Item 8 hangs on both cliques, more on the second; 9 and 10 have nothing; 11-12 are a pair of their own.
    graph, n = cliques([4, 4], [(0, 8, 0.1), (4, 8, 0.4), (11, 12, 0.1)], isolated=5)
    labels = merge_small(adjacency(graph, n), np.array([0] * 4 + [1] * 4 + [2, 3, 4, 5, 5]), 3, 1.0)
    assert len(set(labels.tolist())) == 3
    assert labels[8] == labels[4] != labels[0]
    assert labels[9] == labels[10] == labels[11] == labels[12] != labels[8]


def test_popular_items_may_stand_alone() -> None:
    graph, n = cliques([4, 4], [(i, 8, 20.0) for i in range(8)], isolated=1)
    labels = np.array([0] * 4 + [1] * 4 + [2])
    assert merge_small(adjacency(graph, n), labels, 3, 1.0).tolist() == labels.tolist()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(3, 25), min_size=st.integers(1, 5), clusters=st.integers(1, 25))
def test_merge_small_only_coarsens(seed: int, n: int, min_size: int, clusters: int) -> None:
    matrix = adjacency(random_graph(n, seed, 0.15), n)
    labels = np.random.default_rng(seed).integers(0, clusters, n)
    merged = merge_small(matrix, labels, min_size, 1.0)
    for label in np.unique(labels):
        assert len(set(merged[labels == label])) == 1
    sizes = np.bincount(merged)
    assert (sizes > 0).all()
    mass = np.bincount(merged, weights=matrix.sum(axis=1))
    small = (sizes < min_size) & (mass < min_size * matrix.sum() / n)
    dense = matrix.toarray()
    assert small.sum() <= 1
    for label in np.flatnonzero(small):  # only a cluster without a tie is left small
        assert dense[merged == label][:, merged != label].sum() == 0


def test_dense_by_size() -> None:
    assert dense_by_size(np.array([9, 4, 4, 2, 9, 7])).tolist() == [0, 1, 1, 2, 0, 3]


def test_bad_input() -> None:
    graph, n = cliques([3], [])
    with pytest.raises(RecsysError, match="gamma is 0"):
        leiden(Network.of(graph, n), 0.0)
    with pytest.raises(RecsysError, match="no edges"):
        Network.of(graph.iloc[:0], n)
