import numpy as np
import pandas as pd
import torch

from recsys_dagster.data.histories import VALIDATION
from recsys_dagster.g2rec import decoding
from recsys_dagster.g2rec.decoding import (
    DECAY,
    LEAST_EVIDENCE,
    GraphEvidence,
    _some_targets,
    choose_decoding,
    neighbour_matrix,
)
from recsys_dagster.training import loop
from recsys_dagster.training.batching import SequenceBatch

GRAPH = pd.DataFrame({"source": [0, 0, 1, 2], "target": [1, 2, 3, 3], "weight": [2.0, 1.0, 4.0, 3.0]})
POPULARITY = np.array([3, 8, 0, 15])


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


def test_evidence_equals_loops():
    matrix = neighbour_matrix(GRAPH, POPULARITY, most=10)
    evidence = GraphEvidence(4, matrix.nnz)
    evidence.fill(matrix)
    histories = [[0, 1, 0], [3], []]
    items = torch.tensor([[0, 1, 0], [3, 0, 0], [0, 0, 0]])
    got = evidence(SequenceBatch(torch.arange(3), items, torch.tensor([3, 1, 0]))).numpy()
    dense = matrix.toarray()
    want = np.zeros((3, 4))
    for row, history in enumerate(histories):
        for lag, item in enumerate(reversed(history)):
            want[row] += DECAY**lag * dense[item]
    np.testing.assert_allclose(got, np.log(want + LEAST_EVIDENCE), rtol=1e-5)


def test_some_targets_are_those_of_some_users(toy_data):
    targets = toy_data.targets(VALIDATION)
    some = _some_targets(targets, 7)
    users = np.flatnonzero(some.lengths)
    assert len(users) == 7
    for user in users:
        assert some.of(user).tolist() == targets.of(user).tolist()
    assert len(_some_targets(targets, 10_000).items) == len(targets.items)


class Mixture(torch.nn.Module):
    """Scores of noise, with two weighed terms: the first one tells half of the targets, the second one misleads."""

    def __init__(self, data):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.n_items = data.n_items
        self.noise = torch.randn(data.n_users, data.n_items, generator=generator)
        self.hint = torch.zeros(data.n_users, data.n_items)
        for user in range(0, data.n_users, 2):
            self.hint[user, data.validation.of(user).astype(np.int64)] = 4.0
        self.register_buffer("graph_decoding", torch.zeros(()))
        self.register_buffer("profile_decoding", torch.zeros(()))

    def score(self, users, histories):
        return (self.noise + self.graph_decoding * self.hint - self.profile_decoding * self.hint)[users]


def test_the_weights_that_find_most_targets_are_kept(toy_data, monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_CUTOFF", 3)
    monkeypatch.setattr(decoding, "JUDGES", 20)
    model = Mixture(toy_data)
    judges = np.flatnonzero(_some_targets(toy_data.targets(VALIDATION), 20).lengths)

    def found(graph, profile):
        scores = (model.noise + (graph - profile) * model.hint).numpy()
        hits = 0
        for user in judges:
            own, seen = int(toy_data.validation.of(user)[0]), set(toy_data.train.of(user).tolist())
            hits += sum(scores[user, i] > scores[user, own] for i in range(24) if i == own or i not in seen) < 3
        return hits

    by_graph = {weight: found(weight, 0.0) for weight in (0.0, *decoding.WEIGHTS["graph_decoding"])}
    best = max(by_graph, key=by_graph.get)  # the first, so the smallest, of equal ones
    assert best > 0
    assert choose_decoding(model, toy_data) == {"graph_decoding": best, "profile_decoding": 0.0}
    assert (model.graph_decoding.item(), model.profile_decoding.item()) == (torch.tensor(best).item(), 0.0)
