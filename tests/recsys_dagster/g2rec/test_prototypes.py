from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.alignment import adjusted_rand_index, align
from recsys_dagster.g2rec.prototypes import prototype_overlap, prototype_table


def hard(labels: list[list[int]]) -> pd.DataFrame:
    """Hard memberships; labels[level][item]."""
    rows = [(i, level, a, 1.0) for level, of in enumerate(labels) for i, a in enumerate(of)]
    return pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])


def soft(seed: int, n: int = 30, sizes: tuple[int, ...] = (3, 6)) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows, offset = [], 0
    for level, size in enumerate(sizes):
        for item in range(n):
            a, b = rng.choice(size, 2, replace=False)
            p = rng.uniform(0.55, 0.95)
            rows += [(item, level, a + offset, p), (item, level, b + offset, 1 - p)]
        offset += size
    table = pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])
    return table.sort_values(["item_id", "level", "prototype_id"], ignore_index=True)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_renumbered_night_gets_its_ids_back(seed: int) -> None:
    old = soft(seed)
    ids = np.unique(old["prototype_id"])
    renumber = dict(zip(ids, np.random.default_rng(seed).permutation(len(ids)) + 100, strict=True))
    result = align(old, old.assign(prototype_id=old["prototype_id"].map(renumber)))
    pd.testing.assert_frame_equal(result.memberships, old, check_dtype=False)
    assert result.next_id == old["prototype_id"].max() + 1
    assert (result.drift[["births", "deaths"]] == 0).all(axis=None)
    np.testing.assert_allclose(result.drift["ari"], 1.0)
    np.testing.assert_allclose(result.drift["kept_items"], 1.0)
    np.testing.assert_allclose(result.drift["moved_mass"], 0.0, atol=1e-12)


def test_births_deaths_and_fresh_ids() -> None:
    # Last night 0: {0..3}, 1: {4..7}, 2: {8, 9}. Tonight 2 dies in 1, and half of 0 splits off.
    old = hard([[0, 0, 0, 0, 0, 1, 1, 1, 2, 2]])
    new = hard([[0, 0, 0, 7, 7, 3, 3, 3, 3, 3]])
    result = align(old, new, next_id=40)
    labels = result.memberships.sort_values("item_id")["prototype_id"].tolist()
    assert labels == [0, 0, 0, 40, 40, 1, 1, 1, 1, 1]
    assert result.next_id == 41
    night = result.drift.iloc[0]
    assert (night["prototypes"], night["kept"], night["births"], night["deaths"]) == (3, 2, 1, 1)
    assert night["kept_items"] == pytest.approx(0.6)
    assert night["moved_mass"] == pytest.approx(0.4)
    assert night["ari"] == pytest.approx(adjusted_rand_score([0] * 5 + [1] * 3 + [2] * 2, labels))
    with pytest.raises(RecsysError, match="ids up to 2"):
        align(old, new, next_id=2)


def test_first_night_numbers_from_zero_and_levels_do_not_mix() -> None:
    new = hard([[5, 5, 6], [9, 8, 7]])
    result = align(new.iloc[:0], new)
    assert sorted(result.memberships["prototype_id"].unique()) == [0, 1, 2, 3, 4]
    assert result.drift["moved_mass"].tolist() == [1.0, 1.0]
    # A level that was not there last night is all births.
    later = align(hard([[0, 0, 1]]), hard([[0, 0, 1], [0, 1, 2]]))
    assert later.drift["births"].tolist() == [0, 3]
    assert set(later.memberships.loc[later.memberships["level"] == 1, "prototype_id"]) == {2, 3, 4}


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40))
def test_adjusted_rand_index_equals_sklearn(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs).T
    assert adjusted_rand_index(a, b) == pytest.approx(adjusted_rand_score(a, b))


def items_table(n: int) -> pd.DataFrame:
    half = n // 2
    return pd.DataFrame(
        {
            "item_id": np.arange(n),
            "title": [f"Lavender soap bar {i}" for i in range(half)] + [f"Steel razor {i}" for i in range(half, n)],
            "categories": ["Bath & Body, Beauty"] * half + ["Shaving, Beauty"] * (n - half),
            "text": "",
            "train_popularity": np.arange(n) + 1,
        }
    )


def test_prototype_table() -> None:
    memberships = pd.concat(
        [
            hard([[0] * 4 + [1] * 4]),
            pd.DataFrame(
                [(i, 1, 2 + i // 2, 0.75) for i in range(8)] + [(i, 1, 2 + (i // 2 + 1) % 4, 0.25) for i in range(8)],
                columns=["item_id", "level", "prototype_id", "probability"],
            ),
        ]
    )
    previous = hard([[0, 0, 0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 4, 4, 9, 9]])
    table = prototype_table(memberships, items_table(8), previous, gammas=(1.0, 5.0), n_top=3)
    assert table["prototype_id"].tolist() == [0, 1, 2, 3, 4, 5]
    assert table["level"].tolist() == [0, 0, 1, 1, 1, 1]
    assert table["gamma"].tolist() == [1.0, 1.0, 5.0, 5.0, 5.0, 5.0]
    # Prototype 2 shares 1.5 with 0 and .5 with 1, prototype 4 the other way round.
    assert table["parent"].tolist() == [-1, -1, 0, 0, 1, 1]
    assert table["size"].tolist() == [4.0, 4.0, 2.0, 2.0, 2.0, 2.0]
    assert table["n_items"].tolist() == [4, 4, 2, 2, 2, 2]
    assert table["top_items"].tolist()[:3] == [[3, 2, 1], [7, 6, 5], [7, 6, 1]]
    assert table["label"][0].startswith("bath & body")
    assert "lavender" in table["label"][0]
    assert "razor" in table["label"][1]
    assert "beauty" not in table["label"][0]
    assert table["previous_id"].tolist() == [0, 1, 2, 3, 4, -1]
    # Of last night's members of 0 one of five left, of 2 one of three, the rest stayed.
    np.testing.assert_allclose(table["drift"], [0.2, 0.0, 1 / 3, 0.0, 0.0, 0.0], rtol=1e-6)
    first = prototype_table(memberships, items_table(8), gammas=(1.0, 5.0))
    assert first["previous_id"].eq(-1).all()
    assert first["drift"].eq(0).all()


def test_labels_of_attributes_and_of_nothing() -> None:
    memberships = hard([[0, 0, 1, 1]])
    items = pd.DataFrame({"item_id": range(4), "title": "", "categories": "", "text": "", "train_popularity": 1})
    assert prototype_table(memberships, items)["label"].tolist() == ["prototype 0", "prototype 1"]
    items["text"] = ["attribute 17 attribute 3"] * 2 + ["attribute 5 attribute 3"] * 2
    labels = prototype_table(memberships, items)["label"].tolist()
    assert labels[0].startswith("attribute 17")
    assert labels[1].startswith("attribute 5")
    with pytest.raises(RecsysError, match="level 1"):
        prototype_table(hard([[0, 0], [1, 1]]), items, gammas=(1.0,))


def test_prototype_overlap_hand_value() -> None:
    # Items 0 and 1 share prototypes 0 and 1 in halves, item 2 is all 1, item 3 all 2: cosine = .5 / (.5^.5 * 1.5^.5).
    rows = [(0, 0, 0, 0.5), (0, 0, 1, 0.5), (1, 0, 0, 0.5), (1, 0, 1, 0.5), (2, 0, 1, 1.0), (3, 0, 2, 1.0)]
    memberships = pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])
    prototypes = pd.DataFrame({"prototype_id": [0, 1, 2], "label": ["a", "b", "c"]})
    (pair,) = prototype_overlap(memberships, prototypes)
    assert pair["prototypes"] == [0, 1]
    assert pair["labels"] == ["a", "b"]
    assert pair["cosine"] == pytest.approx(0.5 / (0.5 * 1.5) ** 0.5, abs=1e-4)
