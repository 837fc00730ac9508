from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from soft_cases import planted

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.links import LinkTest, link_test, validation_links
from recsys_dagster.g2rec.soft_problem import Support


def test_validation_links_join_last_train_and_first_validation_item() -> None:
    log = pd.DataFrame({"user_id": [0, 0, 0, 0, 1, 1], "item_id": [5, 6, 7, 8, 1, 2], "split": [0, 0, 1, 2, 0, 2]})
    np.testing.assert_array_equal(validation_links(log), [[6, 7]])


def test_link_quality_hand_value() -> None:
    # Cosines 1, .71 (links) against .71, 0: AUC = (1 + 1 + .5 + 1) / 4; precision 1 at the first, 2/3 at the tied pair.
    P = Support(np.array([[0, -1], [0, -1], [0, 1], [1, -1]], dtype=np.int32), 2)
    matrix = P.matrix(np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]))
    test = LinkTest(np.array([[0, 1], [0, 2]]), np.array([[2, 3], [0, 3]]))
    quality = test.quality(test.scores(matrix))
    assert quality["auc"] == pytest.approx(3.5 / 4)
    assert quality["average_precision"] == pytest.approx((1 + 2 / 3) / 2)


def test_negatives_are_unlinked_and_of_like_degree() -> None:
    graph, n = planted(n_groups=6, size=20, seed=5)
    matrix = adjacency(graph, n)
    links = np.random.default_rng(1).integers(0, n, (500, 2))
    test = link_test(matrix, links, seed=0, window=10)
    assert test is not None
    dense, rank = matrix.toarray(), np.argsort(np.argsort(matrix.sum(axis=1), kind="stable"))
    held_out = {tuple(sorted(pair)) for pair in test.links.tolist()}
    for (i, j), (a, b) in zip(test.links.tolist(), test.negatives.tolist(), strict=True):
        assert dense[i, j] == 0
        assert i == a
        assert a != b
        assert dense[a, b] == 0
        assert tuple(sorted((a, b))) not in held_out
        assert abs(rank[j] - rank[b]) <= 10
    assert link_test(matrix, graph[["source", "target"]].to_numpy(), seed=0) is None
    with pytest.raises(RecsysError, match="validation links"):
        link_test(matrix, np.array([[0, n]]), seed=0)
