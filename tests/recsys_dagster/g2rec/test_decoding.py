import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.data.histories import VALIDATION
from recsys_dagster.g2rec import decoding
from recsys_dagster.g2rec.decoding import (
    CUTOFF,
    DECAY,
    LEAST_EVIDENCE,
    WEIGHTS,
    GraphEvidence,
    _some_targets,
    choose_decoding,
    neighbour_matrix,
)
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
    """Scores of noise and two terms: one tells the targets of every second user, the other those of every third."""

    def __init__(self, data):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.max_length = data.max_length
        self.noise = torch.nn.Parameter(torch.randn(data.n_users, data.n_items, generator=generator))
        self.hints = {name: torch.randn(data.n_users, data.n_items, generator=generator) for name in WEIGHTS}
        for name, every in zip(WEIGHTS, (2, 3), strict=True):
            for user in range(0, data.n_users, every):
                self.hints[name][user, data.validation.of(user).astype(np.int64)] += 4.0
            self.register_buffer(name, torch.zeros(()))

    def score_terms(self, batch, names):
        return self.noise[batch.users], {name: self.hints[name][batch.users] for name in names}


@pytest.mark.parametrize("mask_seen", [True, False])
def test_the_best_combination_of_weights_is_kept(toy_data, monkeypatch, mask_seen):
    data = dataclasses.replace(toy_data, mask_seen=mask_seen)
    monkeypatch.setattr(decoding, "JUDGES", 20)
    monkeypatch.setattr(decoding, "JUDGES_AT_ONCE", 7)
    model = Mixture(data)
    judges = np.flatnonzero(_some_targets(data.targets(VALIDATION), 20).lengths)
    graph, profile = (model.hints[name].numpy() for name in WEIGHTS)

    def ndcg(weights):
        scores = model.noise.detach().numpy() + np.float32(weights[0]) * graph + np.float32(weights[1]) * profile
        gain = 0.0
        for user in judges:
            own, seen = int(data.validation.of(user)[0]), set(data.train.of(user).tolist() if mask_seen else [])
            rank = 1 + sum(scores[user, i] > scores[user, own] for i in range(data.n_items) if i not in seen - {own})
            gain += 1 / np.log2(1 + rank) if rank <= CUTOFF else 0.0
        return gain / len(judges)

    reached = {weights: ndcg(weights) for weights in itertools.product(*WEIGHTS.values())}
    best = max(reached, key=reached.get)  # the first, so the smallest, of equal ones
    assert min(best) > 0, "a case where both terms help"
    got = choose_decoding(model, data)
    assert (got["graph_decoding"], got["profile_decoding"]) == best
    assert got["decoding_ndcg"] == pytest.approx(reached[best])
    assert [getattr(model, name).item() for name in WEIGHTS] == pytest.approx(best)
