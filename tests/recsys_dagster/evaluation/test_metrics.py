import doctest
import importlib
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_dagster.evaluation.metrics import (
    hit_rate_at,
    ndcg_at,
    ranking_metrics,
    recall_at,
    reciprocal_rank,
    user_metrics,
)

KS = (1, 2, 5, 10)
WITH_DOCTESTS = (
    "metrics", "protocol", "leaderboard", "report", "report.charts", "report.names", "report.page", "report.results"
)  # fmt: skip


@dataclass(frozen=True)
class Given:
    users: np.ndarray
    ranks: np.ndarray


def slow_metrics(users, ranks, n_targets, k):
    """Every metric of every user by loops over the list that the user would see."""
    result = {}
    for user, total in n_targets.items():
        own = sorted(rank for owner, rank in zip(users, ranks, strict=True) if owner == user)
        found = [rank for rank in own if rank <= k][:k]
        dcg = sum(1 / math.log2(1 + rank) for rank in found)
        ideal = sum(1 / math.log2(1 + place) for place in range(1, min(total, k) + 1))
        result[user] = (
            len(found) / total,
            1.0 if found else 0.0,
            dcg / ideal,
            1 / own[0] if own else 0.0,
        )
    return result


@st.composite
def rankings(draw):
    """Ranks as a ranking makes them: scores (with ties) of a small catalogue, several targets a user."""
    n_items = draw(st.integers(2, 14))
    owners, ranks = [], []
    for user in range(draw(st.integers(1, 5))):
        scores = np.array(draw(st.lists(st.integers(0, 4), min_size=n_items, max_size=n_items)))
        targets = draw(st.lists(st.integers(0, n_items - 1), min_size=1, max_size=n_items, unique=True))
        for item in targets:
            owners.append(user * 3)
            ranks.append(1 + (scores > scores[item]).sum() + ((scores == scores[item]).sum() - 1) / 2)
    return Given(np.array(owners, dtype=np.int64), np.array(ranks, dtype=np.float64))


@pytest.mark.parametrize(
    "name",
    WITH_DOCTESTS,
)
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"recsys_dagster.evaluation.{name}"))
    assert result.attempted > 0
    assert result.failed == 0


def test_one_target_by_hand():
    assert recall_at([2], 1) == 0.0
    assert recall_at([2], 2) == 1.0
    assert ndcg_at([2], 5) == pytest.approx(1 / math.log2(3))
    assert reciprocal_rank([2]) == 0.5
    assert recall_at([], 5, n_targets=2) == hit_rate_at([], 5) == ndcg_at([], 5) == reciprocal_rank([]) == 0.0


def test_several_targets_by_hand():
    # Three targets on ranks 1, 3 and 20: two found within 5, ideal list has three.
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert recall_at([20, 1, 3], 5) == pytest.approx(2 / 3)
    assert hit_rate_at([20, 1, 3], 5) == 1.0
    assert ndcg_at([20, 1, 3], 5) == pytest.approx((1 + 1 / 2) / ideal)
    assert reciprocal_rank([20, 1, 3]) == 1.0


def test_half_rank_across_the_cut_is_a_miss():
    assert recall_at([5.5], 5) == 0.0
    assert recall_at([4.5], 5) == 1.0
    assert ndcg_at([4.5], 5) == pytest.approx(1 / math.log2(5.5))


def test_tied_targets_do_not_overfill_the_list():
    # Three targets tied on ranks 1 to 3: each has rank 2, and a list of two holds two of them.
    assert recall_at([2, 2, 2], 2) == pytest.approx(2 / 3)
    assert ndcg_at([2, 2, 2], 2) == pytest.approx(2 / math.log2(3) / (1 + 1 / math.log2(3)))


def test_a_user_without_a_ranked_target_counts_as_zero():
    ranks = Given(np.array([2]), np.array([1.0]))
    table = user_metrics(ranks, np.array([0, 1, 2]), [1]).set_index("user_id")
    assert list(table.index) == [1, 2]
    assert table.loc[1].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert table.loc[2].tolist() == [0.5, 1.0, 1.0, 1.0]


def test_means_are_over_users_not_targets():
    # User 0 has one target, found; user 1 has three, none found: the mean over users is 1/2, over targets 1/4.
    ranks = Given(np.array([0, 1, 1, 1]), np.array([1.0, 11, 12, 13]))
    table = ranking_metrics(ranks, ks=[10]).set_index("metric")
    assert table.loc["Recall", "value"] == 0.5
    assert set(table["n_users"]) == {2}
    assert table.loc["MRR", "k"] == 0


@pytest.mark.parametrize("rank", [0.5, np.nan, np.inf])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(ValueError, match="finite and at least 1"):
        user_metrics(Given(np.array([0]), np.array([rank])))


def test_wrong_arguments_are_refused():
    ranks = Given(np.array([0, 0]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="smaller than the number of ranks"):
        user_metrics(ranks, np.array([1]))
    with pytest.raises(ValueError, match="ks must be at least 1"):
        user_metrics(ranks, ks=[0])


@given(rankings())
def test_agrees_with_loops(ranks):
    n_targets = {int(user): int((ranks.users == user).sum()) for user in np.unique(ranks.users)}
    table = user_metrics(ranks, ks=KS)
    for k in KS:
        expected = slow_metrics(ranks.users, ranks.ranks, n_targets, k)
        assert table["user_id"].tolist() == list(expected)
        found = table[[f"Recall@{k}", f"HR@{k}", f"NDCG@{k}", "MRR"]].to_numpy()
        np.testing.assert_allclose(found, list(expected.values()), rtol=1e-12)


@given(rankings())
def test_bounds_and_growth(ranks):
    table = user_metrics(ranks, ks=KS)
    values = table.drop(columns="user_id").to_numpy()
    assert (values >= 0).all()
    assert (values <= 1).all()
    for k in KS:
        assert (table[f"Recall@{k}"] * np.bincount(ranks.users)[table["user_id"]] <= k + 1e-9).all()
    for metric in ("Recall", "HR"):
        assert (np.diff(table[[f"{metric}@{k}" for k in KS]].to_numpy(), axis=1) >= 0).all()
    for k in KS:
        assert (table[f"Recall@{k}"] <= table[f"HR@{k}"]).all()


@given(rankings())
def test_ndcg_of_one_target_grows_with_k(ranks):
    first = np.unique(ranks.users, return_index=True)[1]
    table = user_metrics(Given(ranks.users[first], ranks.ranks[first]), ks=KS)
    assert (np.diff(table[[f"NDCG@{k}" for k in KS]].to_numpy(), axis=1) >= 0).all()
    for k in KS:
        assert table[f"Recall@{k}"].equals(table[f"HR@{k}"].rename(f"Recall@{k}"))


@given(rankings(), st.randoms(use_true_random=False))
def test_order_of_targets_does_not_matter(ranks, random):
    order = list(range(len(ranks.ranks)))
    random.shuffle(order)
    shuffled = Given(ranks.users[order], ranks.ranks[order])
    np.testing.assert_allclose(
        user_metrics(ranks, ks=KS).to_numpy(), user_metrics(shuffled, ks=KS).to_numpy(), rtol=1e-12
    )
