import numpy as np
import torch
from scorer_contract import LearnerContract

from recsys_dagster.baselines.comirec import ComiRecDR, ComiRecSA
from recsys_dagster.baselines.config import ComiRecDRConfig, ComiRecSAConfig
from recsys_dagster.training.batching import SequenceBatch


class TestComiRecSA(LearnerContract):
    name, floor = "comirec_sa", (0.305, 0.165)
    quick = ComiRecSAConfig(epochs=3, batch_size=16, dimension=8, dropout=0.1)
    quality = ComiRecSAConfig(epochs=3, dimension=32, learning_rate=1e-2)


class TestComiRecDR(LearnerContract):
    name, floor = "comirec_dr", (0.41, 0.24)
    quick = ComiRecDRConfig(epochs=3, batch_size=16, dimension=8, dropout=0.1)
    quality = ComiRecDRConfig(epochs=3, dimension=32, learning_rate=1e-2)


def array(parameter):
    return parameter.detach().double().numpy()


def one_history(items):
    return SequenceBatch(torch.tensor([0]), torch.tensor([items]), torch.tensor([len(items)]))


def test_attention_equals_the_equations():
    torch.manual_seed(0)
    model = ComiRecSA(ComiRecSAConfig(dimension=5, interests=3, hidden=2, dropout=0.0), n_items=9, max_length=6).eval()
    items = [3, 1, 4, 1]
    found = model.interests(one_history(items))
    w1, w2, h = array(model.hidden.weight), array(model.heads.weight), array(model.items.weight)[items]
    for t in range(4):
        scores = np.array([w2 @ np.tanh(w1 @ (h[j] + array(model.positions.weight)[j])) for j in range(t + 1)])
        a = np.exp(scores) / np.exp(scores).sum(0)  # [items, K]
        np.testing.assert_allclose(found.weights[0, t, :, : t + 1].detach().numpy(), a.T, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.vectors[0, t].detach().numpy(), a.T @ h[: t + 1], rtol=1e-4, atol=1e-6)
    assert found.valid.all()


def test_routing_equals_the_algorithm():
    torch.manual_seed(0)
    config = ComiRecDRConfig(dimension=5, interests=3, dropout=0.0, recency=False)
    model = ComiRecDR(config, n_items=9, max_length=6).eval()
    items = [3, 1, 4, 1, 7]
    found = model.interests(one_history(items))
    maps = array(model.maps)
    for t in range(5):
        v = array(model.items.weight)[items[: t + 1]]
        k_all = min(3, t + 1)
        b = np.zeros((t + 1, k_all))
        for _ in range(3):
            c = np.exp(b) / np.exp(b).sum(1, keepdims=True)
            s = np.array([sum(c[j, k] * (maps[k] @ v[j]) for j in range(t + 1)) for k in range(k_all)])
            norms = np.linalg.norm(s, axis=1, keepdims=True)
            u = norms**2 / (1 + norms**2) * s / norms
            b = b + np.array([[(maps[k] @ v[j]) @ u[k] for k in range(k_all)] for j in range(t + 1)])
        np.testing.assert_allclose(found.vectors[0, t, :k_all].detach().numpy(), u, rtol=1e-3, atol=1e-5)
        assert found.valid[0, t].tolist() == [k < k_all for k in range(3)]


def test_old_items_fade_where_it_is_learned():
    model = ComiRecDR(ComiRecDRConfig(dimension=5, dropout=0.0, interests=1), n_items=9, max_length=6).eval()
    with torch.no_grad():
        model.recency.fill_(50.0)
    now, alone = model.user_interests(one_history([3, 1, 4]))[0], model.user_interests(one_history([4]))[0]
    torch.testing.assert_close(now, alone)
