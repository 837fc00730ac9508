"""Average linkage, silhouettes and cuts in compiled loops, against scipy, scikit-learn and values by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_array
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

from recsys_dagster.larmi.linkage_kernels import (
    average_linkage,
    best_cut,
    cluster_lists,
    pair_distances,
    silhouettes,
)


def random_distances(n: int, seed: int, steps: int = 0) -> np.ndarray:
    """A symmetric matrix with diagonal 0; with `steps`, of few different values, so that there are ties."""
    values = np.random.default_rng(seed).random(n * (n - 1) // 2)
    if steps:
        values = np.floor(values * steps) / steps
    return squareform(values, checks=False) if n > 1 else np.zeros((1, 1))


def partition(pairs: np.ndarray, n: int) -> np.ndarray:
    groups = np.arange(n)
    for left, right in pairs:
        groups[groups == groups[right]] = groups[left]
    return groups


def same(groups: np.ndarray) -> np.ndarray:
    return groups[:, None] == groups


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 25), st.integers(0, 10**6))
def test_linkage_is_that_of_scipy(n: int, seed: int) -> None:
    distances = random_distances(n, seed)
    pairs, heights = average_linkage(distances)
    expected = linkage(squareform(distances), "average")
    np.testing.assert_allclose(heights, expected[:, 2], rtol=1e-12)
    for merges in range(n):
        labels = fcluster(expected, n - merges, "maxclust")
        assert (same(partition(pairs[:merges], n)) == same(labels)).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.integers(0, 10**6))
def test_heights_of_ties_ascend_and_are_mean_distances(n: int, seed: int) -> None:
    distances = random_distances(n, seed, steps=3)
    pairs, heights = average_linkage(distances)
    assert (np.diff(heights) >= -1e-12).all()
    groups = np.arange(n)
    for (left, right), height in zip(pairs, heights, strict=True):
        a, b = groups == groups[left], groups == groups[right]
        assert not (a & b).any()
        assert height == pytest.approx(distances[np.ix_(a, b)].mean())
        groups[b] = groups[left]


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 20), st.integers(0, 10**6), st.sampled_from([0, 4]))
def test_silhouette_of_every_cut_is_that_of_scikit_learn(n: int, seed: int, steps: int) -> None:
    distances = random_distances(n, seed, steps)
    pairs, _ = average_linkage(distances)
    scores = silhouettes(distances, pairs)
    assert scores[-1] == 0  # one cluster: nothing to compare with
    for merges in range(1, n - 1):
        with np.errstate(invalid="ignore"):  # scikit-learn divides 0 by 0 where an item is at distance 0 of everything
            expected = silhouette_score(distances, partition(pairs[:merges], n), metric="precomputed")
        assert scores[merges - 1] == pytest.approx(expected, abs=1e-12)


def test_silhouette_by_hand() -> None:
    # 0 and 1 at .2, both .8 from 2: (.8 - .2) / .8 for two of them, 0 for the one that is alone.
    distances = np.array([[0, 0.2, 0.8], [0.2, 0, 0.8], [0.8, 0.8, 0]])
    pairs, heights = average_linkage(distances)
    assert pairs.tolist() == [[0, 1], [0, 2]]
    np.testing.assert_allclose(heights, [0.2, 0.8])
    np.testing.assert_allclose(silhouettes(distances, pairs), [2 * 0.75 / 3, 0])


@pytest.mark.parametrize(
    ("scores", "near", "far", "cut"),
    [
        ([0.1, 0.5, 0.3, 0.0], 0.0, 1.0, 2),  # the best of all
        ([0.1, 0.5, 0.3, 0.0], 0.35, 1.0, 3),  # what is below `near` is always joined
        ([0.1, 0.5, 0.3, 0.0], 0.0, 0.15, 1),  # what is above `far` never
        ([0.1, 0.1, 0.1, 0.0], 0.0, 1.0, 1),  # of equals the one with more clusters
        ([-0.1, -0.2, -0.1, 0.0], 0.0, 1.0, 0),
        ([0.1, 0.5, 0.3, 0.0], 0.9, 1.0, 4),
    ],
)
def test_the_cut(scores: list[float], near: float, far: float, cut: int) -> None:
    assert best_cut(np.array([0.1, 0.2, 0.3, 0.4]), np.array(scores), near, far) == cut


def rows_of(dense: np.ndarray) -> tuple:
    rows = csr_array(dense.astype(np.float32))
    return rows.indptr, rows.indices, rows.data


def unit_rows(n: int, terms: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dense = rng.random((n, terms)) * (rng.random((n, terms)) < 0.5)
    return dense / np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-12)


def test_distances_are_cosines_and_equal_codes_are_at_0() -> None:
    dense = unit_rows(30, 8, 0)
    dense[4] = 0
    codes = np.arange(30)
    codes[[7, 9]] = 7
    codes[4] = -1
    left, right = np.triu_indices(30, 1)
    found = pair_distances(*rows_of(dense), codes, 8, left, right)
    expected = np.clip(1 - (dense @ dense.T)[left, right], 0, None)
    expected[(left == 7) & (right == 9)] = 0
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found[(left == 4) | (right == 4)] == 1).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=12, unique=True), min_size=1, max_size=5))
def test_lists_do_not_depend_on_each_other(lists: list[list[int]]) -> None:
    rows, codes = rows_of(unit_rows(20, 6, 1)), np.arange(20)
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in lists])])
    groups, chosen = cluster_lists(*rows, codes, 6, np.concatenate(lists).astype(np.int64), starts, 0.1, 0.9)
    for index, ids in enumerate(lists):
        alone, score = cluster_lists(*rows, codes, 6, np.array(ids, dtype=np.int64), np.array([0, len(ids)]), 0.1, 0.9)
        own = groups[starts[index] : starts[index + 1]]
        assert own.tolist() == alone.tolist()
        assert chosen[index] == score[0]
        # Numbered from 0 in order of first member.
        assert list(dict.fromkeys(own.tolist())) == list(range(own.max() + 1))


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(15)), st.integers(0, 50))
def test_order_does_not_matter_without_ties(order: list[int], seed: int) -> None:
    dense = np.random.default_rng(seed).random((15, 6))
    rows, codes = rows_of(dense / np.linalg.norm(dense, axis=1, keepdims=True)), np.arange(15)
    whole = np.array([0, 15])
    straight, score = cluster_lists(*rows, codes, 6, np.arange(15), whole, 0.02, 0.5)
    permuted, other = cluster_lists(*rows, codes, 6, np.array(order), whole, 0.02, 0.5)
    assert (same(straight[np.array(order)]) == same(permuted)).all()
    np.testing.assert_allclose(score, other, atol=1e-9)
