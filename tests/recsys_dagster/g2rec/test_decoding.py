import dataclasses
import itertools

import numpy as np
import pytest
import torch

from recsys_dagster.data.histories import VALIDATION
from recsys_dagster.g2rec import decoding
from recsys_dagster.g2rec.decoding import (
    CUTOFF,
    GRID,
    TERMS,
    Decoding,
    _deep_weights,
    _some_targets,
    choose_decoding,
)
from recsys_dagster.training.batching import SequenceBatch


def test_some_targets_are_those_of_some_users(toy_data):
    targets = toy_data.targets(VALIDATION)
    some = _some_targets(targets, 7)
    users = np.flatnonzero(some.lengths)
    assert len(users) == 7
    for user in users:
        assert some.of(user).tolist() == targets.of(user).tolist()
    assert len(_some_targets(targets, 10_000).items) == len(targets.items)


class Mixture(torch.nn.Module):
    """Scores of noise and terms: each term tells the targets of some users."""

    def __init__(self, data, n_features):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.max_length = data.max_length
        self.noise = torch.nn.Parameter(torch.randn(data.n_users, data.n_items, generator=generator))
        self.hints = {name: torch.randn(data.n_users, data.n_items, generator=generator) for name in TERMS}
        for name, every in zip(GRID, (2, 3, 4, 3), strict=True):
            for user in range(0, data.n_users, every):
                self.hints[name][user, data.validation.of(user).astype(np.int64)] += 4.0
        self.decoding = Decoding(data.n_items, edges=1, successions=1, n_features=n_features, feature_entries=1)

    def score_terms(self, batch, names):
        return self.noise[batch.users], {name: self.hints[name][batch.users] for name in names}


@pytest.mark.parametrize(("mask_seen", "n_features"), [(True, 1), (False, 1), (True, 0)])
def test_the_best_combination_of_weights_is_kept(toy_data, monkeypatch, mask_seen, n_features):
    data = dataclasses.replace(toy_data, mask_seen=mask_seen)
    monkeypatch.setattr(decoding, "JUDGES", 20)
    monkeypatch.setattr(decoding, "JUDGES_AT_ONCE", 7)
    grid = {name: values[:3] for name, values in GRID.items()}  # so that loops are done soon
    monkeypatch.setattr(decoding, "GRID", grid)
    model = Mixture(data, n_features)
    names = [name for name in grid if name != "features" or n_features]
    judges = np.flatnonzero(_some_targets(data.targets(VALIDATION), 20).lengths)
    hints = [model.hints[name].numpy() for name in names]

    def ndcg(weights):
        scores = model.noise.detach().numpy()
        scores = scores + sum(np.float32(weight) * hint for weight, hint in zip(weights, hints, strict=True))
        gain = 0.0
        for user in judges:
            own, seen = int(data.validation.of(user)[0]), set(data.train.of(user).tolist() if mask_seen else [])
            rank = 1 + sum(scores[user, i] > scores[user, own] for i in range(data.n_items) if i not in seen - {own})
            gain += 1 / np.log2(1 + rank) if rank <= CUTOFF else 0.0
        return gain / len(judges)

    reached = {weights: ndcg(weights) for weights in itertools.product(*(grid[name] for name in names))}
    best = max(reached, key=reached.get)  # the first, so the smallest, of equal ones
    assert sum(weight > 0 for weight in best) >= 2, "a case where terms help"
    got = choose_decoding(model, data, seed=0)
    assert {name: got[f"first_{name}"] for name in names} == pytest.approx(dict(zip(names, best, strict=True)))
    assert got["first_popularity"] == 0.0
    assert got["decoding_ndcg"] == pytest.approx(reached[best])
    chosen = dict(zip(TERMS, model.decoding.first.tolist(), strict=True))
    assert chosen == pytest.approx(dict.fromkeys(TERMS, 0.0) | dict(zip(names, best, strict=True)))
    assert model.decoding.deep[TERMS.index("graph")] == pytest.approx(got["deep_graph"])
    assert ("deep_features" in got) == bool(n_features)
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
    made = Decoding(n_items, edges=0, successions=0)
    made.popularity.copy_(torch.randn(n_items, generator=generator))
    scores, profile = torch.randn(2, 2, n_items, generator=generator)
    assert made(scores, batch, lambda: profile) is scores  # no weights yet
    made.first.copy_(torch.tensor([0.0, 0.0, 0.0, 2.0, 0.0]))
    made.deep.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0]))
    got = made(scores.clone(), batch, lambda: profile).numpy()
    for row in range(2):
        first, deep = (scores + 2 * profile)[row].numpy(), (scores[row] + 3 * made.popularity).numpy()
        head = np.argsort(-first)[:3]
        rest = [item for item in np.argsort(-deep) if item not in head]
        assert np.argsort(-got[row]).tolist() == [*head, *rest]
        np.testing.assert_allclose(got[row][head], first[head], rtol=1e-6)
