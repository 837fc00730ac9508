import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.config import MINDConfig
from recsys_dagster.baselines.mind import MIND
from recsys_dagster.training.batching import SequenceBatch

RECENCY = 0.3


class TestMIND(LearnerContract):
    name, floor = "mind", (0.36, 0.21)
    quick = MINDConfig(epochs=3, batch_size=16, dimension=8, dropout=0.1)
    quality = MINDConfig(epochs=3, dimension=32, learning_rate=1e-2)


def slow_interests(model, items):
    """Algorithm 1 of the paper with the fading of old items, then the ReLU layer, for one history."""
    v = model.items.weight.detach().double().numpy()[items]
    s = model.capsule_map.weight.detach().double().numpy()
    w1, b1 = model.widen.weight.detach().double().numpy(), model.widen.bias.detach().double().numpy()
    w2, b2 = model.narrow.weight.detach().double().numpy(), model.narrow.bias.detach().double().numpy()
    k_all = max(1, min(model.k, int(np.log2(len(items)))))
    logits = model.routing_logits.double().numpy()[: len(items), :k_all].copy()
    for _ in range(model.rounds):
        z = np.zeros((k_all, v.shape[1]))
        for j in range(len(items)):
            weight = np.exp(logits[j]) / np.exp(logits[j]).sum()
            for k in range(k_all):
                z[k] += weight[k] * np.exp(-RECENCY * (len(items) - 1 - j)) * (s @ v[j])
        norms = np.linalg.norm(z, axis=1, keepdims=True)
        u = norms**2 / (1 + norms**2) * z / norms
        for j in range(len(items)):
            for k in range(k_all):
                logits[j, k] += u[k] @ (s @ v[j])
    return np.array([each + w2 @ np.maximum(w1 @ each + b1, 0) + b2 for each in u])


@pytest.mark.parametrize("rounds", [1, 3])
def test_interests_equal_the_algorithm(rounds):
    torch.manual_seed(0)
    config = MINDConfig(dimension=5, interests=3, dropout=0.0, routing_rounds=rounds)
    model = MIND(config, n_items=9, max_length=9).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        model.recency.fill_(RECENCY)
    items = [3, 1, 4, 1, 5, 8, 2, 6, 5]
    batch = SequenceBatch(torch.tensor([0]), torch.tensor([items]), torch.tensor([len(items)]))
    found = model.interests(batch)
    for t in range(len(items)):
        want = slow_interests(model, items[: t + 1])
        assert found.valid[0, t].sum() == len(want)
        np.testing.assert_allclose(found.vectors[0, t, : len(want)].detach().numpy(), want, rtol=1e-3, atol=1e-4)


def test_interests_grow_with_the_logarithm_of_the_history():
    model = MIND(MINDConfig(dimension=4, interests=4), n_items=5, max_length=20)
    batch = SequenceBatch(torch.tensor([0]), torch.ones(1, 20, dtype=torch.int64), torch.tensor([20]))
    counts = model.interests(batch).valid[0].sum(1).tolist()
    assert counts == [1, 1, 1, *[2] * 4, *[3] * 8, *[4] * 5]


def test_without_recency_the_order_matters_only_through_the_starting_logits():
    model = MIND(MINDConfig(dimension=4, recency=False, interests=1), n_items=9, max_length=5).eval()
    assert model.recency is None
    first, second = (
        SequenceBatch(torch.tensor([0]), torch.tensor([items]), torch.tensor([3])) for items in ([1, 2, 3], [3, 1, 2])
    )
    torch.testing.assert_close(model.user_interests(first)[0], model.user_interests(second)[0])


def test_training_logs_how_far_the_interests_are_apart(toy_data, tmp_path):
    import pandas as pd

    from recsys_dagster.baselines.mind import train_mind
    from recsys_dagster.training.runtime import Runtime

    config = MINDConfig(epochs=2, dimension=8, batch_size=32)
    facts = train_mind(toy_data, config, Runtime(), tmp_path / "model")
    curve = pd.read_parquet(tmp_path / "model" / "training.parquet")
    best = curve.iloc[facts["best_epoch"] - 1]
    for name in ("interest_cosine", "routing_entropy"):
        assert curve[name].between(-1, 1).all()
        assert facts[name] == pytest.approx(best[name], abs=1e-6)
