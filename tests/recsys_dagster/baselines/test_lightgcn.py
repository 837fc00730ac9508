import numpy as np
import pytest
import torch
from scorer_contract import LearnerContract
from torch_geometric.nn import LGConv

from recsys_dagster.baselines.config import LightGCNConfig
from recsys_dagster.baselines.lightgcn import LightGCN, normalised_adjacency, train_lightgcn
from recsys_dagster.data.histories import Histories
from recsys_dagster.models import load_model
from recsys_dagster.training.batching import PairBatch
from recsys_dagster.training.runtime import Runtime

N_USERS, N_ITEMS = 5, 6
SEQUENCES = [[0, 1, 2, 1], [2, 3], [], [0, 5, 3], [3]]  # user 2 and item 4 have nobody; user 0 comes back to item 1


class TestLightGCN(LearnerContract):
    name, floor = "lightgcn", (0.265, 0.136)
    quick = LightGCNConfig(epochs=3, batch_size=32, dimension=8)
    quality = LightGCNConfig(epochs=5, dimension=32, learning_rate=5e-3)


@pytest.fixture
def histories():
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in SEQUENCES])]).astype(np.int64)
    return Histories(indptr, np.array([i for s in SEQUENCES for i in s], dtype=np.int32), N_ITEMS)


@pytest.fixture
def model(histories):
    torch.manual_seed(0)
    model = LightGCN(LightGCNConfig(dimension=4, layers=3, l2=0.3), n_users=N_USERS, n_items=N_ITEMS)
    model.connect(histories)
    return model


def slow_vectors(initial, layers):
    """Eq. 3 and 4 with loops over users and items."""
    has = [set(sequence) for sequence in SEQUENCES]
    liked_by = [{u for u in range(N_USERS) if i in has[u]} for i in range(N_ITEMS)]
    users, items = [initial[:N_USERS]], [initial[N_USERS:]]
    for _ in range(layers):
        e_u, e_i = users[-1], items[-1]
        users.append(np.zeros_like(e_u))
        items.append(np.zeros_like(e_i))
        for u in range(N_USERS):
            for i in has[u]:
                weight = 1 / np.sqrt(len(has[u]) * len(liked_by[i]))
                users[-1][u] += weight * e_i[i]
                items[-1][i] += weight * e_u[u]
    return np.concatenate([np.mean(users, axis=0), np.mean(items, axis=0)])


def test_propagation_equals_the_slow_one(model):
    want = slow_vectors(model.initial.weight.detach().double().numpy(), 3)
    np.testing.assert_allclose(model.vectors().detach().numpy(), want, rtol=1e-5, atol=1e-7)
    # nodes without neighbours keep a share of what they start with
    np.testing.assert_allclose(want[2], model.initial.weight[2].detach().numpy() / 4, rtol=1e-6)


def test_sparse_product_and_its_gradient_equal_torch_geometric_s_over_edges(model, histories):
    users = torch.tensor([u for u in range(N_USERS) for _ in set(SEQUENCES[u])])
    items = torch.tensor([i for u in range(N_USERS) for i in set(SEQUENCES[u])]) + N_USERS
    edges = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    x = model.initial.weight.detach().clone().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    plain = LGConv()
    want = plain(plain(x, edges), edges)
    graph = normalised_adjacency(histories)
    got = model.convolution(model.convolution(x, graph), graph)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad((got * weights).sum(), x)[0], torch.autograd.grad((want * weights).sum(), x)[0]
    )


def test_the_loss_by_hand(model):
    users, items, others = [0, 3], [1, 5], [5, 4]
    initial = model.initial.weight.detach().double().numpy()
    final, want = slow_vectors(initial, 3), 0.0
    for u, i, j in zip(users, items, others, strict=True):
        i, j = i + N_USERS, j + N_USERS
        want += np.log1p(np.exp(-(final[u] @ final[i] - final[u] @ final[j]))) / 2
        want += 0.3 * sum(initial[node] @ initial[node] for node in (u, i, j)) / 2 / 2
    batch = PairBatch(*(torch.tensor(part) for part in (users, items, others)))
    assert model.loss(batch, 0)[0].item() == pytest.approx(want, rel=1e-5)


def test_final_vectors_follow_the_initial_ones(model):
    model.train()
    model.learned_state()
    before = model.final.clone()
    with torch.no_grad():
        model.initial.weight.mul_(2)
    assert torch.equal(model.eval().final, before)  # already out of training: nothing to bring up to date
    model.train()
    torch.testing.assert_close(model.learned_state()["final"], 2 * before)


def test_a_stored_model_has_no_graph_and_scores_the_final_vectors(toy_data, tmp_path):
    train_lightgcn(toy_data, LightGCNConfig(epochs=1, dimension=4), Runtime(), tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.graph is None
    scores = model.score(np.array([7]), toy_data.train)
    final = model.final.numpy()
    np.testing.assert_allclose(scores[0].numpy(), final[toy_data.n_users :] @ final[7], rtol=1e-5, atol=1e-6)


def test_bf16_steps_keep_the_propagation_in_fp32(model):
    batch = PairBatch(torch.tensor([0]), torch.tensor([1]), torch.tensor([5]))
    exact = model.loss(batch, 0)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = model.loss(batch, 0)[0]
    narrow.backward()
    assert narrow.item() == pytest.approx(exact.item(), rel=1e-2)
