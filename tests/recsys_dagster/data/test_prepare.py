import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.data.prepare import Prepared, k_core, prepare, sample_negatives, split_protocol
from recsys_dagster.data.raw import RawLog
from recsys_dagster.data.readers import read_raw
from recsys_dagster.data.registry import DatasetSpec, load_registry
from recsys_dagster.errors import RecsysError

ROOT = Path(__file__).resolve().parents[3]
DATA = os.environ.get("RECSYS_DATA_DIR")


def make_spec(**entries) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "mine", "reader": "table", "source": "x.csv", **entries})


def make_raw(rows: list[tuple[int, int, int]]) -> RawLog:
    """Users 'u3', items 'i5' from (user, item, timestamp)."""
    interactions = pd.DataFrame(
        {
            "user": pd.Series([f"u{user}" for user, _, _ in rows], dtype="str"),
            "item": pd.Series([f"i{item}" for _, item, _ in rows], dtype="str"),
            "timestamp": np.array([time for _, _, time in rows], dtype=np.int64),
        }
    )
    keys = interactions["item"].unique()
    items = pd.DataFrame({"item": keys, "title": [f"title {k}" for k in keys], "categories": "", "text": keys})
    return RawLog(interactions, items.astype("str"))


def slow_k_core(rows, k_users, k_items):
    kept = list(range(len(rows)))
    while True:
        stays = [
            i for i in kept
            if sum(rows[j][0] == rows[i][0] for j in kept) >= k_users
            and sum(rows[j][1] == rows[i][1] for j in kept) >= k_items
        ]  # fmt: skip
        if stays == kept:
            return kept
        kept = stays


LOGS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=60)


@given(LOGS, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_k_core_is_that_of_a_slow_loop(rows, k_users, k_items):
    users, items = (np.array([row[i] for row in rows]) for i in (0, 1))
    assert np.flatnonzero(k_core(users, items, k_users, k_items)).tolist() == slow_k_core(rows, k_users, k_items)


def test_k_core_needs_more_than_one_round():
    # Item 2 has one interaction; without it user 1 falls to one, then item 1 to one, and so on: nothing stays.
    users, items = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    assert not k_core(users, items, 2, 2).any()
    assert k_core(users, items, 2, 1).all()
    assert not k_core(np.empty(0, dtype=int), np.empty(0, dtype=int)).any()


@pytest.mark.parametrize(
    ("protocol", "length", "expected"),
    [
        ("leave_one_out", 2, [0, 0]),
        ("leave_one_out", 3, [0, 1, 2]),
        ("leave_one_out", 5, [0, 0, 0, 1, 2]),
        ("chronological_622", 2, [0, 0]),
        ("chronological_622", 3, [0, 1, 2]),
        ("chronological_622", 4, [0, 0, 1, 2]),
        ("chronological_622", 5, [0, 0, 0, 1, 2]),
        ("chronological_622", 6, [0, 0, 0, 0, 1, 2]),
        ("chronological_622", 10, [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]),
        ("chronological_622", 15, [0] * 9 + [1] * 3 + [2] * 3),
    ],
)
def test_split_of_one_user(protocol, length, expected):
    assert split_protocol(np.array([length]), protocol).tolist() == expected
    # A user's split does not depend on who stands before.
    assert split_protocol(np.array([4, length]), protocol).tolist()[4:] == expected


def test_unknown_protocol():
    with pytest.raises(ValueError, match="unknown protocol 'random'"):
        split_protocol(np.array([3]), "random")


def test_ids_follow_first_appearance_and_equal_times_keep_source_order():
    raw = make_raw([(9, 5, 20), (4, 7, 1), (9, 6, 10), (4, 5, 1), (9, 7, 20), (4, 6, 0)])
    prepared = prepare(raw, make_spec(k_core_users=1, k_core_items=1))
    assert prepared.users["source_key"].tolist() == ["u9", "u4"]
    assert prepared.items["source_key"].tolist() == ["i5", "i7", "i6"]
    assert prepared.items["title"].tolist() == ["title i5", "title i7", "title i6"]
    table = prepared.interactions
    assert table["user_id"].tolist() == [0, 0, 0, 1, 1, 1]
    assert table["item_id"].tolist() == [2, 0, 1, 2, 1, 0]
    assert table["timestamp"].tolist() == [10, 20, 20, 0, 1, 1]
    assert table["position"].tolist() == [0, 1, 2, 0, 1, 2]
    assert prepared.items["train_popularity"].tolist() == [0, 0, 2]  # only the first of each user is train
    assert {**table.dtypes.astype(str), **prepared.users.dtypes.astype(str), **prepared.items.dtypes.astype(str)} == {
        "user_id": "int32", "item_id": "int32", "timestamp": "int64", "position": "int32", "split": "int8",
        "source_key": "str", "title": "str", "categories": "str", "text": "str", "train_popularity": "int64",
    }  # fmt: skip


@given(LOGS, st.integers(1, 3), st.integers(1, 3), st.sampled_from(["leave_one_out", "chronological_622"]))
@settings(max_examples=100, deadline=None)
def test_prepared_tables_hold_their_promises(rows, k_users, k_items, protocol):
    raw, spec = make_raw(rows), make_spec(k_core_users=k_users, k_core_items=k_items, protocol=protocol)
    if not slow_k_core(rows, k_users, k_items):
        with pytest.raises(
            RecsysError, match=f"nothing is left of {len(rows)} interactions .*k_core_users = {k_users}"
        ):
            prepare(raw, spec)
        return
    prepared = prepare(raw, spec)
    table = prepared.interactions
    for column, owner in (("user_id", prepared.users), ("item_id", prepared.items)):
        ids = np.arange(len(owner))
        assert np.array_equal(np.unique(table[column]), ids)  # dense, none without an interaction
        assert np.array_equal(owner[column], ids)
        assert owner["source_key"].is_unique
    assert prepared.items["train_popularity"].sum() == (table["split"] == 0).sum()
    for _, own in table.groupby("user_id"):
        assert own["position"].tolist() == list(range(len(own)))
        assert own["timestamp"].is_monotonic_increasing
        assert own["split"].is_monotonic_increasing  # train, then validation, then test
        assert set(own["split"]) == ({0} if len(own) < 3 else {0, 1, 2})
    # Every interaction that is kept keeps its user, item and time.
    back = zip(
        prepared.users["source_key"].take(table["user_id"]),
        prepared.items["source_key"].take(table["item_id"]),
        table["timestamp"],
        strict=True,
    )
    kept = [rows[i] for i in slow_k_core(rows, k_users, k_items)]
    assert sorted(back) == sorted((f"u{user}", f"i{item}", time) for user, item, time in kept)


@given(LOGS, st.integers(1, 30), st.integers(7, 60), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_negatives_are_distinct_and_never_owned(rows, n, n_items, seed):
    table = pd.DataFrame({"user_id": [user for user, _, _ in rows], "item_id": [item for _, item, _ in rows]})
    negatives = sample_negatives(table, 8, n_items, n, seed)
    assert negatives["user_id"].tolist() == list(range(8))
    for user, drawn in zip(negatives["user_id"], negatives["item_ids"], strict=True):
        own = {item for other, item, _ in rows if other == user}
        assert drawn.dtype == np.int32
        assert len(set(drawn.tolist())) == len(drawn) == min(n, n_items - len(own))
        assert not own & set(drawn.tolist())
        assert all(0 <= item < n_items for item in drawn)
    again = sample_negatives(table, 8, n_items, n, seed)
    assert all(np.array_equal(a, b) for a, b in zip(negatives["item_ids"], again["item_ids"], strict=True))


@pytest.mark.parametrize("n", [10, 30])  # by rejection, and one by one
def test_negatives_are_uniform(n):
    n_users, n_items = 4000, 60
    owned = pd.DataFrame({"user_id": np.repeat(np.arange(n_users), 2), "item_id": np.tile([0, 1], n_users)})
    drawn = np.stack(sample_negatives(owned, n_users, n_items, n, seed=1)["item_ids"])
    counts = np.bincount(drawn.ravel(), minlength=n_items)
    expected = n_users * n / (n_items - 2)
    assert counts[:2].tolist() == [0, 0]
    # Each count is binomial; five standard deviations leave one false alarm in some 30,000 seeds.
    assert np.abs(counts[2:] - expected).max() < 5 * np.sqrt(expected)
    first = np.bincount(drawn[:, 0], minlength=n_items)[2:]
    assert np.abs(first - n_users / (n_items - 2)).max() < 5 * np.sqrt(n_users / (n_items - 2))


PUBLIC = {
    "beauty": (22_363, 12_101, 198_502), "sports": (35_598, 18_357, 296_337), "toys": (19_412, 11_924, 167_597),
    "yelp": (30_431, 20_033, 316_354), "office": (3_231, 3_317, 22_447), "office_622": (3_231, 3_317, 22_447),
}  # fmt: skip


@pytest.mark.data
@pytest.mark.skipif(DATA is None, reason="RECSYS_DATA_DIR is not set")
@pytest.mark.parametrize("name", PUBLIC)
def test_published_counts(name, tmp_path):
    spec = load_registry(ROOT / "datasets.toml")[name]
    raw = read_raw(spec, Path(str(DATA)), tmp_path)
    prepared: Prepared = prepare(raw, spec)
    assert (len(prepared.users), len(prepared.items), len(prepared.interactions)) == PUBLIC[name]
    assert len(raw.interactions) == len(prepared.interactions)  # the sources are 5-core already
    assert bool((prepared.items["title"] != "").all()) == spec.has_titles
    assert (prepared.items["text"] != "").all()
    repeated = prepared.interactions.duplicated(["user_id", "item_id"]).sum()
    assert repeated == {"yelp": 11_830, "office": 1_259, "office_622": 1_259}.get(name, 0)
