from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.tokens import interest_tokens

MEMBERSHIPS = pd.DataFrame(
    [
        (0, 0, 3, 1.0),
        (1, 0, 3, 0.25),
        (1, 0, 5, 0.75),
        (2, 0, 5, 1.0),
        (0, 1, 10, 0.5),
        (0, 1, 11, 0.5),
        (1, 1, 10, 1.0),
        (2, 1, 11, 1.0),
    ],
    columns=["item_id", "level", "prototype_id", "probability"],
)


def test_equations_6_and_7_by_loops() -> None:
    X = np.random.default_rng(0).normal(size=(3, 4))
    tokens = interest_tokens(MEMBERSHIPS, X)
    assert tokens["prototype_ids"].tolist() == [3, 5, 10, 11]
    V = {}
    for a in (3, 5, 10, 11):
        rows = MEMBERSHIPS[MEMBERSHIPS["prototype_id"] == a]
        weights = zip(rows["item_id"], rows["probability"], strict=True)
        V[a] = sum(p * X[i] for i, p in weights) / rows["probability"].sum()
    np.testing.assert_allclose(tokens["prototype_embeddings"], [V[a] for a in (3, 5, 10, 11)], rtol=1e-6)
    for i in range(3):
        levels = []
        for level in (0, 1):
            rows = MEMBERSHIPS[(MEMBERSHIPS["item_id"] == i) & (MEMBERSHIPS["level"] == level)]
            levels.append(sum(p * V[a] for a, p in zip(rows["prototype_id"], rows["probability"], strict=True)))
        np.testing.assert_allclose(tokens["item_tokens"][i], np.mean(levels, axis=0), rtol=1e-6)
    assert {array.dtype.name for array in tokens.values()} == {"int32", "float32"}


def test_row_order_does_not_matter() -> None:
    X = np.arange(6.0).reshape(3, 2)
    shuffled = interest_tokens(MEMBERSHIPS.sample(frac=1, random_state=1), X)
    for name, array in interest_tokens(MEMBERSHIPS, X).items():
        np.testing.assert_allclose(shuffled[name], array)


def test_bad_input() -> None:
    with pytest.raises(RecsysError, match="item 1 is not finite"):
        interest_tokens(MEMBERSHIPS, np.array([[0.0], [np.nan], [1.0]]))
    with pytest.raises(RecsysError, match="4 items"):
        interest_tokens(MEMBERSHIPS, np.zeros((4, 2)))
    with pytest.raises(RecsysError, match="2 items"):
        interest_tokens(MEMBERSHIPS, np.zeros((2, 2)))
    with pytest.raises(RecsysError, match="each of the 2 levels"):
        interest_tokens(MEMBERSHIPS.iloc[:-1], np.zeros((3, 2)))
