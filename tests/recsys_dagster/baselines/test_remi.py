from functools import partial

import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.config import REMIConfig
from recsys_dagster.baselines.remi import REMI, routing_variance
from recsys_dagster.training.batching import SequenceBatch


class TestREMI(LearnerContract):
    name, floor = "remi", (0.29, 0.15)
    quick = REMIConfig(epochs=3, batch_size=16, dimension=8, dropout=0.1)
    quality = REMIConfig(epochs=3, dimension=32, learning_rate=1e-2)


def test_variance_by_hand():
    weights = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    assert routing_variance(weights, torch.tensor([2])).tolist() == [[0.0, 0.25]]
    assert routing_variance(weights[:, 1:], torch.tensor([1])).tolist() == [[0.0]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = REMIConfig(dimension=5, interests=3, dropout=0.0, routing_weight=7.0, hardness=1.5)
    return REMI(config, n_items=9, max_length=6).eval()


def batch_of(rows):
    """A batch of some histories and their targets, repeated or not."""
    histories = {"long": ([3, 1, 4], [1, 4, 2]), "short": ([8, 0, 0], [5, 0, 0])}
    items, targets = zip(*(histories[name] for name in rows), strict=True)
    lengths = [{"long": 3, "short": 1}[name] for name in rows]
    return SequenceBatch(torch.arange(len(rows)), torch.tensor(items), torch.tensor(lengths), torch.tensor(targets))


def test_the_regularisation_is_the_mean_over_the_examples(model):
    batch = batch_of(["long", "short"])
    found = model.interests(batch)
    squares = []
    for row, length in ((0, 3), (1, 1)):
        for t in range(length):
            a = found.weights[row, t, :, : t + 1].detach().double().numpy()
            variances = [np.mean((a[k] - a[k].mean()) ** 2) for k in range(3)]  # the diagonal of the covariance
            squares.append(sum(v**2 for v in variances))
    loss, parts = model.regularisation(found, batch)
    assert loss.item() == pytest.approx(7.0 * np.mean(squares), rel=1e-4)
    assert parts == {"routing_loss": pytest.approx(loss.item())}


def test_a_batch_twice_as_large_weighs_the_same(model):
    once, twice = batch_of(["long", "short"]), batch_of(["long", "short"] * 2)
    assert model.loss(twice, 0)[0].item() == pytest.approx(model.loss(once, 0)[0].item(), rel=1e-5)
    single, double = (model.regularisation(model.interests(batch), batch)[0] for batch in (once, twice))
    torch.testing.assert_close(single, double)


def test_hard_negatives_raise_the_loss(model):
    batch = batch_of(["long"])
    hard = model.loss(batch, 0)[0].item()
    model.cross_entropy = partial(model.cross_entropy, hardness=0.0)
    assert hard > model.loss(batch, 0)[0].item()
