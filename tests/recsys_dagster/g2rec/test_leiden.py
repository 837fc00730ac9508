from __future__ import annotations

import random

import igraph
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.coengagement import adjacency
from recsys_dagster.g2rec.leiden import LeidenConfig, dense_by_size, hard_modularity, leiden, merge_small


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


@pytest.mark.parametrize("engine", ["igraph", "leidenalg"])
def test_finds_planted_cliques_by_falling_size(engine: str) -> None:
    graph, n = cliques([4, 6, 5], [(0, 4, 0.5), (5, 10, 0.5)])
    labels = leiden(graph, n, 1.0, LeidenConfig(engine=engine), seed=1)
    assert labels.tolist() == [2] * 4 + [0] * 6 + [1] * 5


@pytest.mark.parametrize("engine", ["igraph", "leidenalg"])
def test_same_seed_same_labels(engine: str) -> None:
    graph = random_graph(60, 0, 0.1)
    config = LeidenConfig(engine=engine, leiden_iterations=1)
    runs = [leiden(graph, 60, 1.5, config, seed=5) for _ in range(3)]
    assert all((run == runs[0]).all() for run in runs)
    random.seed(9)
    leiden(graph, 60, 1.5, config, seed=5)
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
    counts = [leiden(graph, 80, gamma, config).max() for gamma in (0.5, 1.0, 4.0)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    planted, n = cliques([5, 5], [])
    # Leiden started at its own optimum stays there; items without a label (-1) are placed.
    start = np.array([7] * 5 + [3] * 4 + [-1])
    assert leiden(planted, n, 1.0, config, start).tolist() == [0] * 5 + [1] * 5
    with pytest.raises(RecsysError, match="warm start"):
        leiden(planted, n, 1.0, config, start[:4])


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
        leiden(graph, n, 0.0)
    with pytest.raises(RecsysError, match="no edges"):
        leiden(graph.iloc[:0], n, 1.0)
