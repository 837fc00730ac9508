"""The layout of the map and what it is made of, on clusterings drawn by chance."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.evaluation.report.atlas import make_atlas, sample_items
from recsys_dagster.evaluation.report.layout import map_layout, matched, most_probable, pack, spiral
from recsys_dagster.evaluation.report.names import ItemNames


def clustering(n_items, sizes, seed=0, soft=0.3):
    """Nested prototypes, `sizes` the coarsest first; of each item `soft` belongs to another one of the level."""
    rng = np.random.default_rng(seed)
    rows, tables, offset, before = [], [], 0, None
    parents = [np.full(sizes[0], -1)] + [rng.integers(0, above, own) for above, own in itertools.pairwise(sizes)]
    home = rng.integers(0, sizes[-1], n_items)
    homes = [home]
    for parent in parents[:0:-1]:
        homes.insert(0, parent[homes[0]])
    for level, (size, parent, own) in enumerate(zip(sizes, parents, homes, strict=True)):
        other = rng.integers(0, size, n_items)
        share = np.where(other == own, 1.0, 1 - soft)
        rows += [(item, level, own[item] + offset, share[item]) for item in range(n_items)]
        rows += [(item, level, other[item] + offset, soft) for item in range(n_items) if other[item] != own[item]]
        ids = np.arange(size) + offset
        held = pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])
        there = np.isin(ids, held["prototype_id"])
        table = {"prototype_id": ids, "level": level, "gamma": 1.0, "label": [f"label {number}" for number in ids]}
        table |= {"parent": parent if before is None else parent + before, "size": 1.0, "previous_id": -1, "drift": 0.0}
        table["n_items"] = np.bincount(own, minlength=size)
        tables.append(pd.DataFrame(table)[there])
        before, offset = offset, offset + size
    prototypes = pd.concat(tables, ignore_index=True)
    prototypes["top_items"] = [[0]] * len(prototypes)
    vectors = rng.normal(size=(len(prototypes), 8))
    return held, prototypes, vectors


@settings(deadline=None, max_examples=25)
@given(
    n_items=st.integers(1, 200),
    sizes=st.sampled_from([[1], [5], [3, 7], [4, 9, 30], [60]]),
    soft=st.sampled_from([0.0, 0.3, 0.49]),
    seed=st.integers(0, 10_000),
)
def test_every_item_has_a_place_and_islands_keep_apart(n_items, sizes, soft, seed):
    memberships, prototypes, vectors = clustering(n_items, sizes, seed, soft)
    layout = map_layout(memberships, prototypes, vectors, n_items)
    assert np.isfinite(layout.items).all()
    assert np.abs(layout.items).max() <= 1 + 1e-9
    coarse = layout.discs[(prototypes["level"] == 0).to_numpy()].dropna()
    place, radius = coarse[["x", "y"]].to_numpy(), coarse["radius"].to_numpy()
    assert (np.abs(place) + radius[:, None]).max() == pytest.approx(1)
    distance = np.linalg.norm(place[:, None] - place[None], axis=2) + 9 * np.eye(len(place))
    assert (distance >= radius[:, None] + radius[None] - 1e-9).all()
    # The area of an island is its number of items.
    items = np.bincount(layout.labels[:, 0], minlength=sizes[0])[coarse["prototype_id"]]
    np.testing.assert_allclose(radius**2 / radius[0] ** 2, items / items[0])


def test_the_same_tables_give_the_same_map():
    one, two = (map_layout(*clustering(90, [4, 9]), 90) for _ in range(2))
    np.testing.assert_array_equal(one.items, two.items)
    pd.testing.assert_frame_equal(one.discs, two.discs)


def test_hard_items_lie_in_their_island_and_soft_ones_between():
    memberships, prototypes, vectors = clustering(120, [3], soft=0.4)
    layout = map_layout(memberships, prototypes, vectors, 120)
    centre, radius = layout.discs[["x", "y"]].to_numpy(), layout.discs["radius"].to_numpy()
    out = np.linalg.norm(layout.items - centre[layout.labels[:, 0]], axis=1) / radius[layout.labels[:, 0]]
    parts = memberships.groupby("item_id").size().to_numpy()
    assert (out[parts == 1] <= 1).all()
    # A soft item is at 0.6 of a place in its own island and 0.4 of the other's centre.
    other = memberships[memberships["probability"] < 0.5].set_index("item_id")["prototype_id"]
    soft, own = np.flatnonzero(parts == 2), layout.labels[parts == 2, 0]
    place = (layout.items[soft] - 0.4 * centre[other[soft]]) / 0.6
    assert (np.linalg.norm(place - centre[own], axis=1) <= radius[own]).all()
    everywhere = np.concatenate([layout.items[parts == 1], place])
    assert len({tuple(spot) for spot in everywhere.round(6)}) == 120


def test_most_probable_prototype_by_hand():
    table = pd.DataFrame(
        [(0, 0, 5, 0.5), (0, 0, 3, 0.5), (2, 0, 4, 0.2), (2, 0, 5, 0.8), (1, 1, 9, 1.0)],
        columns=["item_id", "level", "prototype_id", "probability"],
    )
    assert most_probable(table, 0, 4).tolist() == [3, -1, 5, -1]
    assert most_probable(table, 1, 2).tolist() == [-1, 9]


def test_alike_discs_lie_side_by_side():
    vectors = np.repeat(np.eye(3), 4, axis=0)
    places, _ = pack(np.ones(12), vectors)
    group = np.arange(12) // 4
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + 99 * np.eye(12)
    assert (group[distance.argmin(axis=1)] == group).mean() > 0.7


def test_twins_do_not_share_a_place():
    places, whole = pack(np.array([1.0, 2.0, 3.0]), np.zeros((3, 4)))
    distance = np.linalg.norm(places[:, None] - places[None], axis=2)[np.triu_indices(3, 1)]
    assert (distance >= np.array([3.0, 4.0, 5.0]) - 1e-9).all()
    assert (np.linalg.norm(places, axis=1) + np.arange(1, 4) <= whole).all()


@pytest.mark.parametrize("n", [1, 2, 31, 33, 500])
def test_matching_gives_every_place_once_and_keeps_neighbours(n):
    rng = np.random.default_rng(0)
    wanted, places = rng.normal(size=(n, 2)), spiral(n)
    result = matched(wanted, places)
    assert sorted(map(tuple, result)) == sorted(map(tuple, places))
    if n == 500:
        assert np.corrcoef(wanted[:, 0], result[:, 0])[0, 1] > 0.85


def test_matching_of_few_points_is_the_best_there_is():
    wanted, places = np.random.default_rng(1).normal(size=(6, 2)), spiral(6)
    scaled = (wanted - wanted.mean(axis=0)) / wanted.std() * places.std()
    best = min(((scaled - places[list(order)]) ** 2).sum() for order in itertools.permutations(range(6)))
    assert ((scaled - matched(wanted, places)) ** 2).sum() == pytest.approx(best)


def test_sample_takes_the_popular_ones_of_every_prototype():
    labels = np.array([0] * 8 + [1] * 4 + [2, -1])
    popularity = np.array([8, 1, 7, 2, 6, 3, 5, 4, 1, 9, 2, 3, 0, 99])
    shown = sample_items(labels, popularity, 7)
    assert set(labels[shown]) == {0, 1, 2}
    assert shown.tolist() == [0, 2, 4, 6, 9, 11, 12]
    assert sample_items(labels, popularity, 99).tolist() == list(range(13))
    assert len(sample_items(labels, popularity, 2)) == 2


def atlas_of(n_items, most):
    memberships, prototypes, vectors = clustering(n_items, [6, 40], soft=0.2)
    title = [f"A title of about the usual length, number {item}" for item in range(n_items)]
    items = pd.DataFrame({"item_id": range(n_items), "title": title, "train_popularity": 1})
    overlaps = [{"prototypes": [0, 1], "cosine": 0.5}]
    return make_atlas(items, memberships, prototypes, vectors, overlaps, ItemNames(items), most)


def test_atlas_stays_small_and_says_what_it_leaves_out():
    atlas = atlas_of(3000, 500)
    assert len(atlas.shown) == len(atlas.data["items"]["name"]) == 500
    assert atlas.data["total"] == 3000
    assert len(json.dumps(atlas.data)) < 130 * 500 + 100 * 46


def test_atlas_tells_shares_by_level_the_largest_first():
    atlas = atlas_of(300, 300)
    level = [row["level"] for row in atlas.data["prototypes"]]
    for shares in atlas.data["items"]["in"]:
        numbers, percent = shares[::2], shares[1::2]
        assert [level[number] for number in numbers] == sorted(level[number] for number in numbers)
        for which in (0, 1):
            own = [part for number, part in zip(numbers, percent, strict=True) if level[number] == which]
            assert own == sorted(own, reverse=True)
            assert sum(own) == 100
    assert {value for axis in "xy" for value in atlas.data["items"][axis]} <= set(range(10_001))
    assert atlas.data["overlaps"] == [[0, 1, 0.5]]


def test_children_have_the_colour_of_their_ancestor():
    atlas = atlas_of(300, 300)
    rows = atlas.data["prototypes"]
    assert all(row["hue"] == rows[row["parent"]]["hue"] for row in rows if row["parent"] >= 0)
    assert len({row["hue"] for row in rows if row["level"] == 0}) == 6
