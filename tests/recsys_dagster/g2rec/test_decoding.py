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
    GRID,
    LEAST_EVIDENCE,
    TERMS,
    Decoding,
    GraphEvidence,
    _deep_weights,
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
    """Scores of noise and terms: the graph tells the targets of every second user, the profile of every third."""

    def __init__(self, data):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.max_length = data.max_length
        self.noise = torch.nn.Parameter(torch.randn(data.n_users, data.n_items, generator=generator))
        self.hints = {name: torch.randn(data.n_users, data.n_items, generator=generator) for name in TERMS}
        for name, every in zip(TERMS, (2, 3), strict=False):
            for user in range(0, data.n_users, every):
                self.hints[name][user, data.validation.of(user).astype(np.int64)] += 4.0
        self.decoding = Decoding(data.n_items, 1)

    def score_terms(self, batch, names):
        return self.noise[batch.users], {name: self.hints[name][batch.users] for name in names}


@pytest.mark.parametrize("mask_seen", [True, False])
def test_the_best_combination_of_weights_is_kept(toy_data, monkeypatch, mask_seen):
    data = dataclasses.replace(toy_data, mask_seen=mask_seen)
    monkeypatch.setattr(decoding, "JUDGES", 20)
    monkeypatch.setattr(decoding, "JUDGES_AT_ONCE", 7)
    model = Mixture(data)
    judges = np.flatnonzero(_some_targets(data.targets(VALIDATION), 20).lengths)
    graph, profile = (model.hints[name].numpy() for name in GRID)

    def ndcg(weights):
        scores = model.noise.detach().numpy() + np.float32(weights[0]) * graph + np.float32(weights[1]) * profile
        gain = 0.0
        for user in judges:
            own, seen = int(data.validation.of(user)[0]), set(data.train.of(user).tolist() if mask_seen else [])
            rank = 1 + sum(scores[user, i] > scores[user, own] for i in range(data.n_items) if i not in seen - {own})
            gain += 1 / np.log2(1 + rank) if rank <= CUTOFF else 0.0
        return gain / len(judges)

    reached = {weights: ndcg(weights) for weights in itertools.product(*GRID.values())}
    best = max(reached, key=reached.get)  # the first, so the smallest, of equal ones
    assert min(best) > 0, "a case where both terms help"
    got = choose_decoding(model, data, seed=0)
    assert (got["first_graph"], got["first_profile"], got["first_popularity"]) == pytest.approx((*best, 0.0))
    assert got["decoding_ndcg"] == pytest.approx(reached[best])
    assert model.decoding.first.tolist() == pytest.approx([*best, 0.0])
    assert got == choose_decoding(model, data, seed=0)


def test_deep_weights_are_those_that_the_targets_were_drawn_with():
    generator = torch.Generator().manual_seed(0)
    wanted = torch.tensor([2.0, 1.0, -0.5, 0.0])  # of the scores and of three terms
    features = torch.randn(20_000, 31, 4, generator=generator)
    gumbel = -torch.log(-torch.log(torch.rand(features.shape[:2], generator=generator)))
    target = (features @ wanted + gumbel).argmax(1)  # drawn from the softmax of the weighed sums
    rows = torch.arange(len(target))
    others = torch.ones(features.shape[:2], dtype=torch.bool).index_put((rows, target), torch.tensor(False))
    margins = (features - features[rows, target][:, None])[others].view(len(target), 30, 4)
    torch.testing.assert_close(_deep_weights(margins), wanted[1:] / wanted[0], atol=0.03, rtol=0)
    assert _deep_weights(-margins).tolist() == [0.0] * 3  # scores that mislead


def test_first_places_and_the_rest_are_ranked_by_their_own_weights(monkeypatch):
    monkeypatch.setattr(decoding, "FIRST_PLACES", 3)
    generator = torch.Generator().manual_seed(1)
    n_items, histories = 9, torch.tensor([[0, 1], [3, 0]])
    batch = SequenceBatch(torch.arange(2), histories, torch.tensor([2, 1]))
    made = Decoding(n_items, 0)
    made.popularity.copy_(torch.randn(n_items, generator=generator))
    scores, profile = torch.randn(2, 2, n_items, generator=generator)
    assert made(scores, batch, lambda: profile) is scores  # no weights yet
    made.first.copy_(torch.tensor([0.0, 2.0, 0.0]))
    made.deep.copy_(torch.tensor([0.0, 0.0, 3.0]))
    got = made(scores.clone(), batch, lambda: profile).numpy()
    for row in range(2):
        first, deep = (scores + 2 * profile)[row].numpy(), (scores[row] + 3 * made.popularity).numpy()
        head = np.argsort(-first)[:3]
        rest = [item for item in np.argsort(-deep) if item not in head]
        assert np.argsort(-got[row]).tolist() == [*head, *rest]
        np.testing.assert_allclose(got[row][head], first[head], rtol=1e-6)
