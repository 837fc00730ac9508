"""The local clusterer against a plain computation, on texts with known interests, and on texts that nobody wants."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

from recsys_dagster.larmi.clusters import Catalogue, cluster_users
from recsys_dagster.larmi.item_texts import read_texts, words_and_pairs
from recsys_dagster.larmi.local_clusterer import LocalClusterer, LocalClustererConfig, _bounds

WORDS = {
    "ink": ["ink cartridge black", "color ink cartridge", "printer ink cartridge", "ink cartridge refill"],
    "garden": ["garden hose", "garden spade", "hose for the garden", "garden shears"],
    "coffee": ["coffee beans dark", "coffee grinder", "espresso coffee beans", "coffee filter"],
}
TEXTS = [text for texts in WORDS.values() for text in texts]


def catalogue(*texts: str) -> Catalogue:
    return Catalogue(list(texts), list(texts))


CATALOGUE = catalogue(*TEXTS)
# Of its pairs a quarter lie within a theme; a real catalogue has far more themes, hence the lower default.
SMALL = LocalClustererConfig(near_share=0.25)


def positions(texts: Catalogue, **config: float) -> list[tuple[int, ...]]:
    """Clusters of the whole catalogue as one list."""
    result = LocalClusterer(LocalClustererConfig(**config)).cluster(texts, [np.arange(len(texts.texts))])[0]
    return [cluster.positions for cluster in result.clusters]


def test_planted_interests_are_found_and_named() -> None:
    result = LocalClusterer(SMALL).cluster(CATALOGUE, [np.arange(12)])[0]
    assert [cluster.positions for cluster in result.clusters] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    assert all(word in cluster.label for word, cluster in zip(WORDS, result.clusters, strict=True))
    assert result.source == "local"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True), min_size=1, max_size=6))
def test_batched_clusters_are_the_best_cuts_of_dense_linkage(lists: list[list[int]]) -> None:
    config = LocalClustererConfig(near_share=0.1, far_share=0.5)
    batch = [np.array(ids) for ids in lists]
    results = LocalClusterer(config).cluster(CATALOGUE, batch)
    texts = read_texts(CATALOGUE)
    near, far = _bounds(texts.pair_distances, config)
    dense = texts.vectors.toarray().astype(float)
    for ids, result in zip(batch, results, strict=True):
        assert sorted(p for cluster in result.clusters for p in cluster.positions) == list(range(len(ids)))
        if len(ids) == 1:
            continue
        distances = np.clip(1 - dense[ids] @ dense[ids].T, 0, None)
        np.fill_diagonal(distances, 0)
        tree = linkage(squareform(distances, checks=False), "average")

        def score(labels: np.ndarray, distances: np.ndarray = distances) -> float:
            several = 1 < len(set(labels)) < len(labels)
            return float(silhouette_score(distances, labels, metric="precomputed")) if several else 0.0

        found = np.empty(len(ids), dtype=int)
        for number, cluster in enumerate(result.clusters):
            found[list(cluster.positions)] = number
        inner = tree[(tree[:, 2] > near) & (tree[:, 2] <= far), 2]
        cuts = [fcluster(tree, height, "distance") for height in (near, *inner)]
        assert score(found) == pytest.approx(max(map(score, cuts)), abs=1e-6)
        together = found[:, None] == found
        assert together[fcluster(tree, near, "distance")[:, None] == fcluster(tree, near, "distance")].all()
        assert (fcluster(tree, far + 1e-9, "distance")[:, None] == fcluster(tree, far + 1e-9, "distance"))[
            together
        ].all()


def test_a_list_does_not_depend_on_its_batch() -> None:
    batch = [np.arange(12), np.arange(3), np.array([5]), np.arange(6, 12)]
    whole = LocalClusterer().cluster(CATALOGUE, batch)
    assert [LocalClusterer().cluster(CATALOGUE, [ids])[0] for ids in batch] == whole
    assert LocalClusterer().cluster(CATALOGUE, []) == []


def test_statistics_are_the_mean_silhouette_of_all_lists() -> None:
    clusterer = LocalClusterer(SMALL)
    assert clusterer.statistics() == {}
    clusterer.cluster(CATALOGUE, [np.arange(12)])
    dense = read_texts(CATALOGUE).vectors.toarray().astype(float)
    expected = silhouette_score(dense, np.repeat([0, 1, 2], 4), metric="cosine")
    assert clusterer.statistics()["silhouette"] == pytest.approx(expected, abs=1e-6)
    clusterer.cluster(CATALOGUE, [np.array([3])])
    assert clusterer.statistics()["silhouette"] == pytest.approx(expected / 2, abs=1e-6)


def test_bounds_are_shares_of_pairs_and_never_join_strangers() -> None:
    distances = np.array([0.1, 0.3, 0.5, 0.7, 1.0])
    assert _bounds(distances, LocalClustererConfig(near_share=0.25, far_share=0.75)) == (0.3, 0.7)
    assert _bounds(distances, LocalClustererConfig(near_share=0, far_share=1)) == (0.1, 1 - 1e-6)
    assert _bounds(np.empty(0), LocalClustererConfig()) == (0.0, 0.0)
    with pytest.raises(ValidationError, match=r"near_share = 0\.5 must not be above far_share = 0\.3"):
        LocalClustererConfig(near_share=0.5)


def test_random_pairs_of_a_large_catalogue_are_the_same_every_time() -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{k}" for k in rng.integers(0, 50, 4)) for _ in range(400)]
    first, second = (read_texts(catalogue(*texts)).pair_distances for _ in range(2))
    assert len(first) == 20_000
    assert first.tolist() == second.tolist()
    dense = read_texts(catalogue(*texts)).vectors.toarray()
    every = (1 - dense @ dense.T)[np.triu_indices(400, 1)]
    np.testing.assert_allclose(np.quantile(first, [0.1, 0.5]), np.quantile(every, [0.1, 0.5]), atol=0.02)


def test_words_that_are_spelt_alike_meet() -> None:
    # No word in common: only the character n-grams join "notebooks" to "notebook".
    found = positions(catalogue("notebook", "notebooks", "stapler", "staplers", "lamp", "chair"))
    assert found == [(0, 1), (2, 3), (4,), (5,)]


def test_attribute_numbers_are_not_spelling() -> None:
    texts = read_texts(catalogue("attribute_17", "attribute_173", "attribute_174", "attribute_17"))
    similarity = (texts.vectors @ texts.vectors.T).toarray()
    assert similarity[0, 1] == 0
    assert similarity[1, 2] == 0
    assert similarity[0, 3] == pytest.approx(1)


def test_words_and_pairs() -> None:
    assert words_and_pairs("Ted's Hot Dogs. Burgers, Gluten-Free") == [
        "ted's", "hot", "dogs", "ted's hot", "hot dogs", "burgers", "gluten", "free", "gluten free",
    ]  # fmt: skip
    assert words_and_pairs("Pens (0.7mm) for the office") == ["pens", "0", "7mm", "0 7mm", "office"]
    assert words_and_pairs("") == []


def test_a_catalogue_without_words_gives_singletons() -> None:
    result = LocalClusterer().cluster(catalogue("", "", "  "), [np.arange(3)])[0]
    assert [(cluster.label, cluster.positions) for cluster in result.clusters] == [("", (0,)), ("", (1,)), ("", (2,))]


def test_one_item_alone() -> None:
    result = LocalClusterer().cluster(catalogue("garden hose"), [np.array([0])])[0]
    assert [cluster.positions for cluster in result.clusters] == [(0,)]


def test_identical_texts_are_one_interest_even_if_their_words_are_everywhere() -> None:
    # "gift card" is in more than half of the catalogue, so it is in no vocabulary.
    texts = ["gift card"] * 6 + ["garden hose", "garden hose green", "coffee", "coffee beans"]
    assert positions(catalogue(*texts))[0] == (0, 1, 2, 3, 4, 5)


def test_other_scripts_are_read() -> None:
    texts = [
        "无线机械键盘 黑色",
        "有线机械键盘 白色",
        "قهوة عربية",
        "قهوة تركية",
        "садовый шланг",
        "шланг садовый длинный",
    ]
    assert positions(catalogue(*texts)) == [(0, 1), (2, 3), (4, 5)]


def test_ten_thousand_characters_and_control_characters_change_nothing_else() -> None:
    hostile = "garden\x00 hose\u202e\n" + "ignore all instructions " * 450
    texts = [*TEXTS, hostile, "\x07\x1b[31m"]
    found = positions(catalogue(*texts), near_share=0.2)
    assert {(0, 1, 2, 3), (8, 9, 10, 11), (13,)} <= set(found)
    labels = LocalClusterer().cluster(catalogue(*texts), [np.arange(14)])[0].clusters
    assert all(cluster.label.isprintable() for cluster in labels)


def test_the_label_is_what_sets_the_cluster_apart() -> None:
    # The commas keep "blue pen" from being a term.
    texts = catalogue("blue, pen", "blue, pen", "blue, cup", "blue, cup", *["pen", "cup"] * 3, *["stool"] * 10)
    apart = LocalClusterer(LocalClustererConfig(label_terms=1, near_share=0, far_share=0))
    alone, beside = apart.cluster(texts, [np.array([0]), np.array([0, 2])])
    # "blue" is the rarer word, but beside a blue cup it says nothing.
    assert [cluster.label for cluster in alone.clusters] == ["blue"]
    assert [cluster.label for cluster in beside.clusters] == ["pen", "cup"]


def test_contrast_by_hand() -> None:
    from recsys_dagster.larmi.local_clusterer import _labels

    texts = read_texts(catalogue("pen red", "pen blue", "cup red", "cup blue"))
    items, cluster, owner = np.array([0, 1, 2]), np.array([0, 0, 1]), np.array([0, 0])
    weights = pd.DataFrame(texts.words.toarray(), columns=texts.terms)
    inside, outside = weights.iloc[[0, 1]].mean(), weights.iloc[2]
    contrast = (inside - outside) * pd.Series(texts.naming, index=texts.terms)
    best = contrast.idxmax()
    assert best == "pen"
    assert _labels(texts, items, cluster, owner, 1)[0] == best
    # Of the cup, "red" is shared with the pens: its contrast is its weight less half of what one of two pens has.
    alone = (weights.iloc[2] - inside) * pd.Series(texts.naming, index=texts.terms)
    assert _labels(texts, items, cluster, owner, 1)[1] == alone.idxmax() == "cup"


def test_labels_have_words_not_numbers() -> None:
    texts = catalogue("100 100 pens", "100 pens", "100 100 cups", "100 cups", "7", "7")
    results = LocalClusterer().cluster(texts, [np.arange(4)])[0]
    assert [cluster.label.split(", ")[0] for cluster in results.clusters] == ["pens", "cups"]
    numbers = LocalClusterer().cluster(texts, [np.array([4, 5])])[0]
    assert [(cluster.label, cluster.positions) for cluster in numbers.clusters] == [("", (0, 1))]
    attributes = catalogue("attribute_1 attribute_2", "attribute_1 attribute_2", "attribute_3", "attribute_3")
    labels = [cluster.label for cluster in LocalClusterer().cluster(attributes, [np.arange(4)])[0].clusters]
    assert labels == ["attribute_1 attribute_2", "attribute_3"]


def test_a_label_is_no_longer_than_a_label_may_be() -> None:
    texts = catalogue("x" * 10_000, "x" * 10_000, "pen", "pen")
    labels = [cluster.label for cluster in LocalClusterer().cluster(texts, [np.arange(4)])[0].clusters]
    assert labels == ["x" * 80, "pen"]


def test_a_new_catalogue_is_fitted_anew() -> None:
    clusterer = LocalClusterer()
    clusterer.cluster(CATALOGUE, [np.arange(12)])
    other = catalogue("pen red", "pen blue", "cup", "cup tall")
    assert [c.positions for c in clusterer.cluster(other, [np.arange(4)])[0].clusters] == [(0, 1), (2, 3)]


def test_planted_interests_of_the_sample_are_recovered() -> None:
    """Two items of a user are in one cluster if, and mostly only if, the sample planted them in one interest."""
    from recsys_dagster.data.histories import Histories
    from recsys_dagster.data.prepare import prepare
    from recsys_dagster.data.registry import get_dataset
    from recsys_dagster.data.sample import generate_sample

    raw = generate_sample(seed=0)
    data = prepare(raw, get_dataset("sample"))
    assert raw.truth is not None
    truth = raw.truth.set_index("item").reindex(data.items["source_key"])
    first, second = truth["interest"].to_numpy(), truth["second_interest"].to_numpy()
    train = Histories.from_interactions(data.interactions, n_users=len(data.users), n_items=len(data.items))
    table, facts = cluster_users(train, data.items, LocalClusterer())
    pairs = table.merge(table, on="user_id").query("item_id_x < item_id_y")
    x, y = pairs["item_id_x"].to_numpy(), pairs["item_id_y"].to_numpy()
    together = (pairs["cluster_x"] == pairs["cluster_y"]).to_numpy()
    planted = first[x] == first[y]
    related = (
        planted | (first[x] == second[y]) | (second[x] == first[y]) | ((second[x] == second[y]) & (second[x] >= 0))
    )
    assert (related & together).sum() / together.sum() > 0.98  # precision
    assert (planted & together).sum() / planted.sum() > 0.98  # recall
    assert facts["singleton_share"] < 0.3
    again, _ = cluster_users(train, data.items, LocalClusterer())
    pd.testing.assert_frame_equal(table, again)
