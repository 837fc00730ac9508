import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.bpr import BPR
from recsys_dagster.baselines.config import BPRConfig
from recsys_dagster.training.batching import PairBatch, pad


class TestBPR(LearnerContract):
    name, floor = "bpr", (0.27, 0.137)
    quick = BPRConfig(epochs=3, batch_size=32, dimension=8)
    quality = BPRConfig(epochs=10, dimension=32, learning_rate=5e-3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = BPR(BPRConfig(dimension=4, l2=0.3), n_users=5, n_items=7)
    torch.nn.init.normal_(model.users.weight)
    torch.nn.init.normal_(model.bias)
    return model


def test_the_loss_by_hand(model):
    users, items, others = [0, 3, 3], [1, 6, 2], [4, 0, 2]
    p, q, b = (tensor.detach().double().numpy() for tensor in (model.users.weight, model.items.weight, model.bias))
    want = 0.0
    for u, i, j in zip(users, items, others, strict=True):
        difference = p[u] @ q[i] + b[i] - p[u] @ q[j] - b[j]
        want += -np.log(1 / (1 + np.exp(-difference))) / 3
        want += 0.3 * (p[u] @ p[u] + q[i] @ q[i] + q[j] @ q[j]) / 2 / 3
    batch = PairBatch(*(torch.tensor(part) for part in (users, items, others)))
    assert model.loss(batch, 0)[0].item() == pytest.approx(want, rel=1e-5)


def test_scores_by_hand(model, toy_data):
    batch = pad(toy_data.train, np.array([3, 1]), model.max_length)
    scores = model.score_batch(batch).detach().numpy()
    p, q, b = (tensor.detach().numpy() for tensor in (model.users.weight, model.items.weight, model.bias))
    for row, user in enumerate([3, 1]):
        for item in range(7):
            assert scores[row, item] == pytest.approx(p[user] @ q[item] + b[item], rel=1e-4, abs=1e-5)


def test_a_user_whom_training_never_saw_is_ranked_by_the_biases(toy_data):
    model = BPR(BPRConfig(dimension=4), n_users=toy_data.n_users, n_items=toy_data.n_items)
    torch.nn.init.normal_(model.bias)
    assert torch.equal(model.score(np.array([2]), toy_data.train)[0], model.bias.detach())
