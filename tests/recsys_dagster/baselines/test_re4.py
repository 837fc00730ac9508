import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.config import Re4Config
from recsys_dagster.baselines.re4 import Re4
from recsys_dagster.training.batching import SequenceBatch

K, TAU = 3, 0.5
WEIGHTS = {"contrast_weight": 0.7, "attend_weight": 0.3, "construct_weight": 0.2}


class TestRe4(LearnerContract):
    name, floor = "re4", (0.29, 0.155)
    quick = Re4Config(epochs=3, batch_size=16, dimension=8, dropout=0.1)
    quality = Re4Config(epochs=3, dimension=32, learning_rate=1e-2)


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = Re4Config(dimension=5, interests=K, dropout=0.0, contrast_temperature=TAU, **WEIGHTS)
    return Re4(config, n_items=9, max_length=6).eval()


@pytest.fixture
def batch():
    return SequenceBatch(
        torch.tensor([0, 1]),
        torch.tensor([[3, 1, 4, 2], [8, 5, 0, 0]]),
        torch.tensor([4, 2]),
        torch.tensor([[1, 4, 2, 7], [5, 6, 0, 0]]),
    )


def array(tensor):
    return tensor.detach().double().numpy()


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def slow_losses(model, batch):
    """The three backward flows, one prefix, one interest and one item at a time."""
    found, table = model.interests(batch), array(model.items.weight)
    histories = [batch.items[row, :length].tolist() for row, length in enumerate(batch.lengths.tolist())]
    scale = 1 / np.exp(model.similarity.log_temperature.item())
    up, up_bias = array(model.unfold.weight), array(model.unfold.bias)
    w3, heads, w5 = (array(part.weight) for part in (model.rebuild_hidden, model.rebuild_heads, model.rebuild_values))
    contrast, attend, construct = [], [], []
    for row, history in enumerate(histories):
        strangers = unit(table[histories[1 - row]])
        for t in range(len(history)):
            n = t + 1
            x, z, a = table[history[:n]], array(found.vectors[row, t]), array(found.weights[row, t, :, :n])
            for k in range(K):
                chosen = [j for j in range(n) if a[k, j] > 1 / n]
                near = unit(x) @ unit(z[k]) / TAU
                negatives = [near[j] for j in range(n) if j not in chosen]
                negatives += [unit(z[k]) @ unit(z[other]) / TAU for other in range(K) if other != k]
                negatives += list(strangers @ unit(z[k]) / TAU)
                wanted = softmax(scale * unit(x) @ unit(z[k]))
                attend.append(-(wanted * np.log(a[k])).sum())
                rows = (up @ z[k] + up_bias).reshape(6, 5)[:n]
                for j in chosen:
                    contrast.append(-np.log(np.exp(near[j]) / (np.exp(near[j]) + np.exp(negatives).sum())))
                    b = softmax(np.array([heads[j] @ np.tanh(w3 @ c) for c in rows]))
                    rebuilt = sum(weight * (w5 @ c) for weight, c in zip(b, rows, strict=True))
                    construct.append(((rebuilt - x[j]) ** 2).sum())
    return {"contrast_loss": np.mean(contrast), "attend_loss": np.mean(attend), "construct_loss": np.mean(construct)}


def test_the_backward_flows_equal_the_loops(model, batch):
    loss, parts = model.regularisation(model.interests(batch), batch)
    want = slow_losses(model, batch)
    for name, value in want.items():
        assert parts[name] == pytest.approx(WEIGHTS[name.replace("loss", "weight")] * value, rel=1e-3)
    assert loss.item() == pytest.approx(sum(parts.values()), rel=1e-5)


def test_an_interest_sums_mapped_items(model, batch):
    found = model.interests(batch)
    mapped = array(model.items.weight)[[3, 1, 4]] @ array(model.value_map.weight).T
    np.testing.assert_allclose(
        array(found.vectors[0, 2]), array(found.weights[0, 2, :, :3]) @ mapped, rtol=1e-4, atol=1e-6
    )


def test_a_history_of_one_item_has_nothing_to_tell_apart(model):
    batch = SequenceBatch(torch.tensor([0]), torch.tensor([[3]]), torch.tensor([1]), torch.tensor([[1]]))
    loss, parts = model.regularisation(model.interests(batch), batch)
    assert parts["contrast_loss"] == parts["construct_loss"] == 0  # its weight is no more than an equal share
    assert loss.item() == pytest.approx(0, abs=1e-6)
    model.loss(batch, 0)[0].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
