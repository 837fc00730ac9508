import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.data.features import ItemFeatures
from recsys_dagster.data.histories import Histories
from recsys_dagster.g2rec.evidence import (
    DECAY,
    LEAST_EVIDENCE,
    LEAST_LIKENESS,
    EvidenceTables,
    LikenessEvidence,
    NeighbourEvidence,
    feature_directions,
    neighbour_matrix,
    successor_matrix,
)
from recsys_dagster.training.batching import SequenceBatch

GRAPH = pd.DataFrame({"source": [0, 0, 1, 2], "target": [1, 2, 3, 3], "weight": [2.0, 1.0, 4.0, 3.0]})
POPULARITY = np.array([3, 8, 0, 15])
HISTORIES = [[0, 1, 0], [3], []]
BATCH = SequenceBatch(torch.arange(3), torch.tensor([[0, 1, 0], [3, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0]))
# item 0 has features 0 and 1, item 1 feature 1, item 2 none, item 3 features 0, 1 and 2
FEATURES = ItemFeatures(np.array([0, 2, 3, 3, 6]), np.array([0, 1, 1, 0, 1, 2]), ["a", "b", "c"])


def test_neighbours_by_hand():
    found = neighbour_matrix(GRAPH, POPULARITY, most=10).toarray()
    want = np.zeros((4, 4))
    for source, target, weight in GRAPH.itertuples(index=False):
        want[source, target] = want[target, source] = weight / np.sqrt(
            (POPULARITY[source] + 1) * (POPULARITY[target] + 1)
        )
    np.testing.assert_allclose(found, want, rtol=1e-6)


def test_only_the_nearest_are_kept():
    found = neighbour_matrix(GRAPH, POPULARITY, most=1)
    assert np.diff(found.indptr).tolist() == [1, 1, 1, 1]
    assert found.indices.tolist() == [2, 0, 3, 2]  # of item 1 both have 1/3: the smaller id


def test_successors_by_hand():
    # user 0: 0 1 2 0 3, user 1: 1 0; nobody's items follow another user's
    train = Histories(np.array([0, 5, 7]), np.array([0, 1, 2, 0, 3, 1, 0], dtype=np.int32), 4)
    want = np.zeros((4, 4))
    for history in ([0, 1, 2, 0, 3], [1, 0]):
        for place, item in enumerate(history):
            for lag, worth in ((1, 1.0), (2, 0.5), (3, 0.25)):
                if place + lag < len(history):
                    want[item, history[place + lag]] += worth
    counts = np.array([3, 2, 1, 1])
    want /= np.sqrt(np.outer(counts + 1, counts + 1))
    assert want[0, 3] > 0 == want[3, 0]
    np.testing.assert_allclose(successor_matrix(train, most=10).toarray(), want, rtol=1e-6)


def test_neighbour_evidence_equals_loops():
    matrix = neighbour_matrix(GRAPH, POPULARITY, most=10)
    evidence = NeighbourEvidence(4, 4, matrix.nnz)
    evidence.fill(matrix)
    dense, want = matrix.toarray(), np.zeros((3, 4))
    for row, history in enumerate(HISTORIES):
        for lag, item in enumerate(reversed(history)):
            want[row] += DECAY**lag * dense[item]
    np.testing.assert_allclose(evidence(BATCH).numpy(), np.log(want + LEAST_EVIDENCE), rtol=1e-5)


def test_likeness_equals_loops():
    # of 4 items 2 have feature a, 3 feature b, 1 feature c
    rarity = np.log(4 / np.array([2, 3, 1]))
    dense = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 1, 1]]) * rarity
    dense /= np.maximum(np.linalg.norm(dense, axis=1, keepdims=True), 1e-9)
    matrix = feature_directions(FEATURES)
    np.testing.assert_allclose(matrix.toarray(), dense, rtol=1e-6)
    evidence = LikenessEvidence(4, 3, matrix.nnz)
    evidence.fill(matrix)
    want = np.zeros((3, 4))
    for row, history in enumerate(HISTORIES):
        for lag, item in enumerate(reversed(history)):
            want[row] += DECAY**lag * (dense @ dense[item]) / sum(DECAY**other for other in range(len(history)))
    np.testing.assert_allclose(evidence(BATCH).numpy(), np.log(want + LEAST_LIKENESS), rtol=1e-5)


@pytest.mark.parametrize("features", [None, FEATURES])
def test_tables_say_how_much_room_they_need(features):
    train = Histories(np.array([0, 3]), np.array([0, 1, 3], dtype=np.int32), 4)
    tables = EvidenceTables.of(GRAPH, train, features, most=2)
    assert tables.shape == {"edges": tables.neighbours.nnz, "successions": tables.successors.nnz}
    assert np.diff(tables.neighbours.indptr).max() == 2
    assert tables.popularity.tolist() == [1, 1, 0, 1]
    assert (tables.directions is None) == (features is None)
