import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.data.histories import TEST, Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.evaluation.protocol import (
    METRIC_COLUMNS,
    evaluate,
    evaluate_per_user,
    negative_matrix,
)
from recsys_dagster.evaluation.recommend import recommendations
from recsys_dagster.training.data import SequenceData

NAMES = {"dataset": "toy", "model": "fixed", "protocol": "leave_one_out", "seed": 3}


class FixedScorer:
    """Scores from a matrix, whatever the history."""

    def __init__(self, matrix):
        self.matrix = torch.as_tensor(matrix, dtype=torch.float32)
        self.n_items = self.matrix.shape[1]

    def score(self, users, histories):
        return self.matrix[torch.from_numpy(np.asarray(users))].clone()


def histories(lists, n_items):
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
    return Histories(indptr, np.array([item for row in lists for item in row], dtype=np.int32), n_items)


def toy(mask_seen=True):
    """Two users, six items; test targets 4 and 5."""
    return SequenceData(
        histories([[0, 1], [2, 3]], 6), histories([[2], [0]], 6), histories([[4], [5]], 6), 50, mask_seen
    )


SCORES = [[9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 5]]
NEGATIVES = pd.DataFrame({"user_id": [1, 0], "item_ids": [[4], [3, 5]]})


def value(table, candidates, metric, k):
    row = table[(table["candidates"] == candidates) & (table["metric"] == metric) & (table["k"] == k)]
    return row["value"].item()


def test_both_candidate_sets_by_hand():
    table = evaluate(FixedScorer(SCORES), toy(), NEGATIVES, ks=(1, 2, 5), **NAMES)
    assert tuple(table.columns) == METRIC_COLUMNS
    # User 0: of 3, 4, 5 left, 4 is second. User 1: of 1, 4, 5 left, 5 ties with 4 behind 1: rank 2.5.
    assert value(table, "full", "Recall", 2) == 0.5
    assert value(table, "full", "HR", 5) == 1.0
    assert value(table, "full", "MRR", 0) == pytest.approx((1 / 2 + 1 / 2.5) / 2)
    assert value(table, "full", "NDCG", 5) == pytest.approx((1 / np.log2(3) + 1 / np.log2(3.5)) / 2)
    # User 0 among 3 and 5: rank 2. User 1 among 4 alone, tied: 1.5; the rows of the table come in any order.
    assert value(table, "sampled_99", "MRR", 0) == pytest.approx((1 / 2 + 1 / 1.5) / 2)
    assert value(table, "sampled_99", "Recall", 1) == 0.0
    assert set(table["n_users"]) == {2}


def test_seen_items_are_candidates_where_people_come_back():
    table = evaluate(FixedScorer(SCORES), toy(mask_seen=False), None, ks=(5,), **NAMES)
    assert value(table, "full", "MRR", 0) == pytest.approx((1 / 5 + 1 / 5.5) / 2)
    assert set(table["candidates"]) == {"full"}


def test_per_user_values_are_those_of_the_mean():
    result = evaluate_per_user(FixedScorer(SCORES), toy(), NEGATIVES, ks=(1, 10), **NAMES)
    assert set(result.metrics["k"]) == {0, 1, 10}
    for candidates, part in result.per_user.groupby("candidates"):
        assert list(part["user_id"]) == [0, 1]
        assert part["value"].mean() == pytest.approx(value(result.metrics, candidates, "NDCG", 10), rel=1e-6)


def test_repeated_target_counts_once():
    data = SequenceData(histories([[0]], 4), histories([[]], 4), histories([[2, 1, 2]], 4), 20, True)
    assert data.targets(TEST).of(0).tolist() == [2, 1]
    table = evaluate(FixedScorer([[0, 1, 3, 2]]), data, None, ks=(1,), **{**NAMES, "protocol": "chronological_622"})
    assert value(table, "full", "Recall", 1) == 0.5
    assert value(table, "full", "NDCG", 1) == 1.0


def test_scores_that_are_not_finite_stop_the_evaluation():
    with pytest.raises(FloatingPointError, match="not finite"):
        evaluate(FixedScorer([[np.nan] * 6] * 2), toy(), None, **NAMES)


def test_no_test_target_is_an_error():
    data = SequenceData(histories([[0]], 4), histories([[]], 4), histories([[]], 4), 20, True)
    with pytest.raises(RecsysError, match="no user has an item in the test split"):
        evaluate(FixedScorer([[0, 1, 3, 2]]), data, None, **NAMES)


def test_negative_matrix_fills_short_rows():
    assert negative_matrix(NEGATIVES, n_users=2, n_items=6).tolist() == [[3, 5], [4, -1]]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"user_id": [0], "item_ids": [[1]]}, "one row for each of the 2 users, found 1 rows"),
        ({"user_id": [0, 0], "item_ids": [[1], [2]]}, "2 rows for 1 users"),
        ({"user_id": [0, 1], "item_ids": [[1], [6]]}, "expected items 0 to 5, found 1 to 6"),
    ],
)
def test_negatives_of_another_dataset_are_refused(table, words):
    with pytest.raises(RecsysError, match=words):
        negative_matrix(pd.DataFrame(table), n_users=2, n_items=6)


def test_recommendations_leave_out_everything_seen():
    table = recommendations(FixedScorer(SCORES), toy(), model="fixed", n=2)
    assert table.to_dict("list") == {
        "user_id": [0, 0, 1, 1],
        "rank": [1, 2, 1, 2],
        "item_id": [3, 5, 1, 4],
        "score": [6.0, 4.0, 8.0, 5.0],
        "model": ["fixed"] * 4,
    }
    assert [str(kind) for kind in table.dtypes[:4]] == ["int32", "int32", "int32", "float32"]


def test_recommendations_before_the_test_split_can_find_the_target():
    table = recommendations(FixedScorer(SCORES), toy(), model="fixed", n=9, users=np.array([1]), whole_history=False)
    assert table["item_id"].tolist() == [1, 4, 5]
    assert table["rank"].tolist() == [1, 2, 3]


def test_recommendations_of_none_are_refused():
    with pytest.raises(ValueError, match="n must be at least 1"):
        recommendations(FixedScorer(SCORES), toy(), model="fixed", n=0)
