import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.config import GRU4RecConfig
from recsys_dagster.baselines.gru4rec import GRU4Rec
from recsys_dagster.data.histories import Histories
from recsys_dagster.training.batching import SequenceBatch, pad


class TestGRU4Rec(LearnerContract):
    name, floor = "gru4rec", (0.39, 0.215)
    quick = GRU4RecConfig(epochs=3, batch_size=16, dimension=8, dropout=0.1, layers=2)
    quality = GRU4RecConfig(epochs=5, dimension=32, learning_rate=1e-2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = GRU4Rec(GRU4RecConfig(dimension=5, dropout=0.0), n_items=9, max_length=6)
    torch.nn.init.normal_(model.bias)
    return model.eval()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow_states(model, items):
    """Reset gate, update gate and candidate of Cho et al. (2014), the unit of GRU4Rec, step by step."""
    x = model.items.weight.detach().double().numpy()
    w_r, w_z, w_n = np.split(model.gru.weight_ih_l0.detach().double().numpy(), 3)
    u_r, u_z, u_n = np.split(model.gru.weight_hh_l0.detach().double().numpy(), 3)
    b_r, b_z, b_n = np.split(model.gru.bias_ih_l0.detach().double().numpy(), 3)
    c_r, c_z, c_n = np.split(model.gru.bias_hh_l0.detach().double().numpy(), 3)
    h, states = np.zeros(5), []
    for item in items:
        r = sigmoid(w_r @ x[item] + b_r + u_r @ h + c_r)
        z = sigmoid(w_z @ x[item] + b_z + u_z @ h + c_z)
        n = np.tanh(w_n @ x[item] + b_n + r * (u_n @ h + c_n))
        h = (1 - z) * n + z * h
        states.append(h)
    return np.array(states)


def test_states_scores_and_loss_equal_the_slow_ones(model):
    sequences = [[3, 1, 4, 1], [8, 5]]
    batch = SequenceBatch(
        torch.tensor([0, 1]),
        torch.tensor([[3, 1, 4, 1], [8, 5, 0, 0]]),
        torch.tensor([4, 2]),
        torch.tensor([[1, 4, 1, 7], [5, 2, 0, 0]]),
    )
    states, scores = model(batch).detach().numpy(), model.score_batch(batch).detach().numpy()
    v, b = model.items.weight.detach().double().numpy(), model.bias.detach().double().numpy()
    losses = []
    for row, items in enumerate(sequences):
        want = slow_states(model, items)
        np.testing.assert_allclose(states[row, : len(items)], want, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(scores[row], v @ want[-1] + b, rtol=1e-4, atol=1e-5)
        for state, target in zip(want, batch.targets[row].tolist(), strict=False):
            logits = v @ state + b
            losses.append(np.log(np.exp(logits).sum()) - logits[target])
    assert model.loss(batch, 0)[0].item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_before_the_first_item_the_biases_decide(model):
    nobody = Histories(np.array([0, 0]), np.empty(0, np.int32), 9)
    batch = pad(nobody, np.array([0]), 6)
    assert torch.equal(model.score_batch(batch)[0], model.bias)
