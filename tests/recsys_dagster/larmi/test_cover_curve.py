"""Coverage by budget, overlaps, and business weights from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.max_cover import CoverInstance, MaxCoverConfig, solve, solve_greedy
from recsys_dagster.larmi.max_cover.curve import coverage_curves, elbow, overlaps
from recsys_dagster.larmi.max_cover.generated import random_instance
from recsys_dagster.larmi.max_cover.weights import read_item_values

KEYS = pd.Series(["a", "b", "007"])


def test_curves_of_all_solvers_rise_and_exact_is_on_top() -> None:
    instance = replace(random_instance(40, 80, 6, 0), set_ids=np.arange(40) + 100, forbidden=np.array([3]))
    config = MaxCoverConfig(search_moves=500)
    selection = solve(instance, config)
    curves = coverage_curves(instance, config, selection)
    assert set(curves) == {"greedy (plain)", "random", "cardnn", "exact"}
    best = dict(zip(*(part.tolist() for part in curves["exact"]), strict=True))
    assert {6, 12} <= set(best)
    for name, (budgets, shares) in curves.items():
        assert (np.diff(shares) >= -1e-12).all()
        assert shares.max() <= 1 + 1e-12
        for budget, share in zip(budgets.tolist(), shares.tolist(), strict=True):
            assert share <= best.get(budget, 1.0) + 1e-9, name
    budgets, shares = curves["greedy (plain)"]
    plain = solve_greedy(instance)
    assert shares[budgets == 6] == pytest.approx(instance.covered_value(plain) / instance.reachable())
    budgets, shares = curves["cardnn"]
    assert shares[budgets == 6] == pytest.approx(selection.share)


def test_the_elbow_is_the_corner() -> None:
    assert elbow(np.arange(1, 11), np.minimum(np.arange(1, 11) * 0.25, 0.75 + np.arange(1, 11) * 0.01)) == 3


def test_overlaps_are_jaccard_indices_by_rank() -> None:
    items = np.array([0, 1, 2, 3, 1, 2, 7], dtype=np.int32)
    instance = CoverInstance(np.array([0, 4, 6, 7]), items, np.ones(8), 3, set_ids=np.array([5, 9, 2]))
    selection = solve(replace(instance, forced=np.array([1])), MaxCoverConfig(solver="greedy"))
    assert selection.chosen.tolist() == [5, 2, 9]
    assert overlaps(instance, selection) == pytest.approx(np.array([[1, 0, 0.5], [0, 1, 0], [0.5, 0, 1]]))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_weights_are_read_by_source_key(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    table = pd.DataFrame({"item": ["007", "a", "zzz"], "margin": [2.5, 0.0, 9.0]})
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path)
    values, without = read_item_values(path, "margin", KEYS)
    assert values.tolist() == [0.0, 0.0, 2.5]
    assert without == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("item,price\na,1\n", "no column 'value', found item, price"),
        ("key,value\na,1\n", "no column 'item'"),
        ("item,value\na,1\nb,-2\n", "row 2, column 'value': found '-2'"),
        ("item,value\na,\n", "row 1, column 'value': found ''"),
        ("item,value\na,1\na,2\n", "row 2: item 'a' has a row above"),
        ("item,value\nq,1\n", "none of its 1 items is in the dataset"),
        ("", "cannot be read"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "weights.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecsysError, match=words):
        read_item_values(path, "value", KEYS)
    with pytest.raises(RecsysError, match="no such file"):
        read_item_values(tmp_path / "none.csv", "value", KEYS)
