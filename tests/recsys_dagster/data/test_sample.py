from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.data.prepare import prepare
from recsys_dagster.data.readers import read_raw
from recsys_dagster.data.registry import load_registry
from recsys_dagster.data.sample import INTEREST_NAMES, generate_sample

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def raw():
    return generate_sample(seed=0)


@pytest.fixture(scope="module")
def prepared(raw):
    return prepare(raw, load_registry(ROOT / "datasets.toml")["sample"])


def test_same_seed_same_log(raw, tmp_path):
    again = read_raw(load_registry(ROOT / "datasets.toml")["sample"], None, tmp_path)
    for name in ("interactions", "items", "truth"):
        pd.testing.assert_frame_equal(getattr(raw, name), getattr(again, name))
    assert not raw.interactions.equals(generate_sample(seed=1).interactions)


def test_size_and_form(raw, prepared):
    assert len(prepared.users) == 600
    assert 370 <= len(prepared.items) <= 400
    assert 6_000 <= len(prepared.interactions) <= 9_000
    assert len(prepared.interactions) > 0.98 * len(raw.interactions)  # nearly all of it is in the 5-core
    assert raw.interactions["timestamp"].is_monotonic_increasing
    assert not raw.interactions.duplicated(["user", "item"]).any()
    assert set(raw.interactions["item"]) == set(raw.items["item"])
    assert raw.items["title"].is_unique
    assert raw.truth["item"].tolist() == raw.items["item"].tolist()
    assert set(raw.truth["interest"]) == set(range(len(INTEREST_NAMES)))


def test_categories_name_the_planted_interests(raw):
    for categories, first, second in zip(
        raw.items["categories"], raw.truth["interest"], raw.truth["second_interest"], strict=True
    ):
        named = {index for index, name in enumerate(INTEREST_NAMES) if name in categories.split(", ")}
        assert named == {first, second} - {-1}
    assert 20 <= (raw.truth["second_interest"] >= 0).sum() <= 70


def test_popularity_has_a_long_tail(prepared):
    popularity = np.sort(prepared.items["train_popularity"])[::-1]
    assert popularity[: len(popularity) // 5].sum() > 0.35 * popularity.sum()


def test_users_have_several_interests_and_stay_in_one_for_a_while(raw, prepared):
    interest = raw.truth.set_index("item")["interest"].loc[prepared.items["source_key"]].to_numpy()
    table = prepared.interactions.assign(interest=interest[prepared.interactions["item_id"]])
    main = table.groupby("user_id")["interest"].agg(lambda own: (own.value_counts() > 1).sum())
    assert (main >= 2).mean() > 0.5
    same_user = (table["user_id"].diff() == 0).to_numpy()
    stays = (table["interest"].diff() == 0).to_numpy()[same_user].mean()
    shuffled = np.random.default_rng(0).permutation(table["interest"])
    assert stays > 0.65 > 3 * (np.diff(shuffled) == 0).mean()


def test_the_previous_item_tells_far_more_than_popularity(prepared):
    # A first-order Markov chain from train and validation against popularity, HR@10 on the test items.
    table, n = prepared.interactions, len(prepared.items)
    past, target = table[table["split"] < 2], table[table["split"] == 2]["item_id"].to_numpy()
    user, item = past["user_id"].to_numpy(), past["item_id"].to_numpy()
    popularity = np.bincount(item, minlength=n).astype(float)
    follow = np.zeros((n, n))
    np.add.at(follow, (item[:-1], item[1:]), user[:-1] == user[1:])
    last = past.groupby("user_id")["item_id"].last().to_numpy()
    seen = np.zeros((len(last), n), dtype=bool)
    seen[user, item] = True
    hits = {}
    for name, scores in {
        "popularity": np.tile(popularity, (len(last), 1)),
        "markov": follow[last] + 1e-6 * popularity,
    }.items():
        scores[seen] = -1.0
        own = scores[np.arange(len(target)), target][:, None]
        hits[name] = ((scores > own).sum(axis=1) + ((scores == own).sum(axis=1) - 1) / 2 < 10).mean()
    assert hits["popularity"] < 0.12
    assert hits["markov"] > 3 * hits["popularity"]
