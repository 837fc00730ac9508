"""The local clusterer against a plain computation, and on texts with known interests."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist

from recsys_dagster.larmi import local_clusterer
from recsys_dagster.larmi.clusters import Catalogue, cluster_users
from recsys_dagster.larmi.local_clusterer import LocalClusterer, LocalClustererConfig

WORDS = {
    "ink": ["ink cartridge black", "color ink cartridge", "printer ink cartridge", "ink cartridge refill"],
    "garden": ["garden hose", "garden spade", "hose for the garden", "garden shears"],
    "coffee": ["coffee beans dark", "coffee grinder", "espresso coffee beans", "coffee filter"],
}
TEXTS = [text for texts in WORDS.values() for text in texts]
CATALOGUE = Catalogue(TEXTS, TEXTS)


def test_planted_interests_are_found_and_named() -> None:
    result = LocalClusterer().cluster(CATALOGUE, [np.arange(12)])[0]
    assert [cluster.positions for cluster in result.clusters] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    assert all(word in cluster.label for word, cluster in zip(WORDS, result.clusters, strict=True))
    assert result.source == "local"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True), min_size=1, max_size=6))
def test_batched_clusters_equal_one_at_a_time_by_dense_linkage(lists: list[list[int]]) -> None:
    clusterer = LocalClusterer(LocalClustererConfig(threshold=0.9))
    batch = [np.array(ids) for ids in lists]
    results = clusterer.cluster(CATALOGUE, batch)
    dense = clusterer._fitted.weights.toarray()
    for ids, result in zip(batch, results, strict=True):
        assert sorted(p for cluster in result.clusters for p in cluster.positions) == list(range(len(ids)))
        if len(ids) == 1:
            continue
        expected = fcluster(linkage(np.clip(pdist(dense[ids], "cosine"), 0, 1), "average"), 0.9, "distance")
        found = np.empty(len(ids), dtype=int)
        for number, cluster in enumerate(result.clusters):
            found[list(cluster.positions)] = number
        assert ((found[:, None] == found) == (expected[:, None] == expected)).all()


def test_parts_of_bounded_memory_change_nothing() -> None:
    batch = [np.arange(12), np.arange(3), np.array([5]), np.arange(6, 12)]
    whole = LocalClusterer().cluster(CATALOGUE, batch)
    parts = list(local_clusterer._parts(batch, max_pairs=10))
    assert [len(part) for part in parts] == [1, 2, 1]
    assert [LocalClusterer().cluster(CATALOGUE, [ids])[0] for ids in batch] == whole


def test_catalogue_without_words_gives_singletons() -> None:
    empty = Catalogue(["", "", ""], ["", "", ""])
    result = LocalClusterer().cluster(empty, [np.arange(3)])[0]
    assert [cluster.positions for cluster in result.clusters] == [(0,), (1,), (2,)]


def test_labels_have_words_not_numbers() -> None:
    texts = ["100 100 pens", "100 pens", "100 100 cups", "100 cups", "7", "7"]
    results = LocalClusterer().cluster(Catalogue(texts, texts), [np.arange(4)])[0]
    assert all(any(c.isalpha() for c in term) for r in results.clusters for term in r.label.split(", "))
    numbers = LocalClusterer().cluster(Catalogue(texts, texts), [np.array([4, 5])])[0]
    assert [(cluster.label, cluster.positions) for cluster in numbers.clusters] == [("", (0, 1))]


def test_a_new_catalogue_is_fitted_anew() -> None:
    clusterer = LocalClusterer()
    clusterer.cluster(CATALOGUE, [np.arange(12)])
    other = Catalogue(["pen red", "pen blue", "cup", "cup tall"], ["pen red", "pen blue", "cup", "cup tall"])
    assert [c.positions for c in clusterer.cluster(other, [np.arange(4)])[0].clusters] == [(0, 1), (2, 3)]


def test_hundreds_of_users_a_second() -> None:
    rng = np.random.default_rng(0)
    words = np.array([f"word{k}" for k in range(300)])
    titles = [" ".join(rng.choice(words, 6)) for _ in range(2_000)]
    items = pd.DataFrame({"item_id": np.arange(2_000), "title": titles, "text": titles})
    users = [(user, rng.integers(0, 2_000, 10)) for user in range(1_000)]
    started = time.process_time()
    table, _ = cluster_users(users, items, LocalClusterer())
    assert table["user_id"].nunique() == 1_000
    # Far below what is measured (about 2,500 a second), so that only a quadratic slip fails it.
    assert time.process_time() - started < 5
