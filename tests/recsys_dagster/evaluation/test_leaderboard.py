import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from recsys_dagster.evaluation.leaderboard import leaderboard, paired_tests

VALUES = {"popularity": 0.10, "sasrec": 0.30, "larmi": 0.25, "g2rec": 0.36}


def metrics(values=VALUES, seeds=(0,), candidates=("full",), dataset="toy", protocol="leave_one_out"):
    rows = [
        (dataset, model, protocol, kind, metric, k, seed, value + 0.01 * seed + k / 1000, 50)
        for kind in candidates
        for model, value in values.items()
        for seed in seeds
        for metric, k in [("Recall", 1), ("NDCG", 10), ("Recall", 20), ("NDCG", 20), ("MRR", 0)]
    ]
    columns = ["dataset", "model", "protocol", "candidates", "metric", "k", "seed", "value", "n_users"]
    return pd.DataFrame(rows, columns=columns)


def per_user(model, values, seed=0):
    names = {"dataset": "toy", "protocol": "leave_one_out", "candidates": "full", "metric": "NDCG", "k": 10}
    return pd.DataFrame({"user_id": range(len(values)), "value": values}).assign(model=model, seed=seed, **names)


def test_sorted_with_the_best_in_bold():
    board = leaderboard(metrics())
    lines = [line for line in board.markdown.splitlines() if line.startswith("|")]
    assert lines[0] == "| model | Recall@1 | NDCG@10 | MRR |"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["g2rec", "sasrec", "larmi", "popularity"]
    assert lines[2] == "| g2rec | **0.3610** | **0.3700** | **0.3600** |"
    assert board.markdown.count("**") == 6
    assert "seeds" not in board.markdown


def test_equal_values_are_all_bold():
    board = leaderboard(metrics({"b": 0.2, "a": 0.2}))
    lines = [line for line in board.markdown.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["a", "b"]
    assert lines[2].count("**") == lines[3].count("**") == 6


def test_several_targets_have_other_columns():
    board = leaderboard(metrics(protocol="chronological_622"))
    assert "| model | Recall@20 | NDCG@20 |" in board.markdown


def test_one_table_a_dataset_and_candidate_set_full_ranking_first():
    table = pd.concat([metrics(candidates=("sampled_99", "full"), dataset=name) for name in ("b", "a")])
    board = leaderboard(table)
    titles = [line for line in board.markdown.splitlines() if line.startswith("###")]
    assert titles == [
        "### a (leave_one_out), ranked among the whole catalogue",
        "### a (leave_one_out), ranked among 99 uniform negatives",
        "### b (leave_one_out), ranked among the whole catalogue",
        "### b (leave_one_out), ranked among 99 uniform negatives",
    ]


def test_mean_and_spread_over_seeds():
    board = leaderboard(metrics(seeds=(0, 1, 2)))
    row = next(row for row in board.rows if row["model"] == "sasrec" and row["metric"] == "MRR")
    assert row["value"] == pytest.approx(0.31)
    assert row["spread"] == pytest.approx(0.01)
    assert row["n_seeds"] == 3
    assert "0.3100 ± 0.0100" in board.markdown
    assert "over 3 seeds" in board.markdown


def test_rows_are_plain_json_with_every_metric():
    board = leaderboard(metrics(candidates=("full", "sampled_99")))
    rows = json.loads(board.json())
    assert len(rows) == 4 * 5 * 2
    assert {
        "dataset",
        "model",
        "protocol",
        "candidates",
        "metric",
        "k",
        "value",
        "spread",
        "n_seeds",
        "n_users",
    } == set(rows[0])
    first = [row["model"] for row in rows if row["metric"] == "MRR" and row["candidates"] == "full"]
    assert first == ["g2rec", "sasrec", "larmi", "popularity"]
    assert rows[0]["spread"] is None


def test_a_row_written_twice_counts_once():
    old = metrics({"sasrec": 0.9})
    row = leaderboard(pd.concat([old, metrics({"sasrec": 0.3})])).rows[0]
    assert row["n_seeds"] == 1
    assert row["value"] == pytest.approx(0.301)


def test_nothing_gives_nothing():
    board = leaderboard(metrics().iloc[:0])
    assert (board.markdown, board.rows, board.json()) == ("", [], "[]")


def test_paired_test_agrees_with_scipy_and_takes_the_best_baseline():
    generator = np.random.default_rng(0)
    sasrec = generator.random(200)
    ours = sasrec + generator.normal(0.03, 0.2, 200)
    table = pd.concat([per_user("g2rec", ours), per_user("sasrec", sasrec), per_user("popularity", sasrec - 0.1)])
    board = leaderboard(metrics({"g2rec": 0.4, "sasrec": 0.3, "popularity": 0.1}), table.sample(frac=1, random_state=0))
    (test,) = board.standings[0].tests
    expected = stats.ttest_rel(ours, sasrec)
    interval = expected.confidence_interval(0.95)
    assert (test.model, test.baseline, test.metric, test.n_users) == ("g2rec", "sasrec", "NDCG@10", 200)
    assert test.difference == pytest.approx((ours - sasrec).mean())
    assert test.p_value == pytest.approx(expected.pvalue)
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high))
    assert test.sentence() in board.markdown


def test_paired_test_averages_seeds_and_keeps_to_common_users():
    table = pd.concat(
        [
            per_user("larmi", [1.0, 0.0, 0.5]),
            per_user("larmi", [0.0, 0.0, 0.5], seed=1),
            per_user("sasrec", [0.0, 0.0]),
        ]
    )
    (test,) = paired_tests(table)
    assert test.difference == pytest.approx(0.25)
    assert test.n_users == 2


def test_paired_test_without_any_difference_or_any_baseline():
    same = pd.concat([per_user("g2rec", [0.1, 0.2]), per_user("sasrec", [0.1, 0.2])])
    assert paired_tests(same)[0].p_value == 1.0
    assert paired_tests(per_user("g2rec", [0.1, 0.2])) == []


def test_per_user_values_in_single_precision_are_as_good():
    values = np.linspace(0, 1, 20)
    table = pd.concat([per_user("g2rec", values + 0.1), per_user("sasrec", values)]).astype({"value": "float32"})
    (test,) = leaderboard(metrics({"g2rec": 0.4, "sasrec": 0.3}), table).standings[0].tests
    assert test.difference == pytest.approx(0.1, abs=1e-6)
