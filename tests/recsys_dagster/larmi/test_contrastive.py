import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.larmi import contrastive
from recsys_dagster.larmi.contrastive import contrastive_loss, synthesized_users


def table(rows):
    return pd.DataFrame(rows, columns=["user_id", "cluster", "item_id"])


def slow_loss(embeddings, clusters_by_user, tau):
    """The paper's sums, one pair at a time, the user's sum divided by its number of pairs."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    per_user = []
    for clusters in clusters_by_user:
        items = sorted({i for c in clusters for i in c})
        total, pairs = 0.0, 0
        for j in items:
            mates = {i for c in clusters if j in c for i in c}
            others = [i for i in items if i not in mates]
            if not others:
                continue
            denominator = sum(np.exp(unit[j] @ unit[i] / tau) for i in others)
            for positive in mates - {j}:
                total -= np.log(np.exp(unit[j] @ unit[positive] / tau) / denominator)
                pairs += 1
        if pairs:
            per_user.append(total / pairs)
    return np.mean(per_user)


@pytest.mark.parametrize(("pairs", "groups"), [(10**6, 1), (75, 2), (1, 3)])
def test_loss_equals_the_loops_however_users_are_grouped(monkeypatch, pairs, groups):
    """Of users with 6, 6 and 2 items, the first in several clusters: padding and groups change nothing."""
    monkeypatch.setattr(contrastive, "GROUP_PAIRS", pairs)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(12, 5))
    clusters = [[[0, 1, 2], [2, 3, 4], [5]], [[6, 7], [8, 9, 10, 11]], [[1, 2]]]
    rows = [(u, f, i) for u, user in enumerate(clusters) for f, items in enumerate(user) for i in items]
    users = synthesized_users(table(rows))
    assert len(users) == groups
    got = contrastive_loss(torch.tensor(embeddings), users, 0.1)
    assert got.item() == pytest.approx(slow_loss(embeddings, clusters, 0.1), rel=1e-6)


def test_one_pair_by_hand():
    # items 0 and 1 point the same way, item 2 the other way: positive 1 / tau, negative -1 / tau
    embeddings = torch.tensor([[2.0, 0.0], [5.0, 0.0], [-1.0, 0.0]])
    users = synthesized_users(table([(9, 0, 0), (9, 0, 1), (9, 1, 2)]))
    assert contrastive_loss(embeddings, users, 0.5).item() == pytest.approx(-4.0)


def test_it_pulls_clusters_together_and_pushes_them_apart():
    torch.manual_seed(0)
    embeddings = torch.randn(6, 4, requires_grad=True)
    users = synthesized_users(table([(0, i // 3, i) for i in range(6)]))
    optimiser = torch.optim.SGD([embeddings], lr=0.5)

    def gap():
        unit = torch.nn.functional.normalize(embeddings.detach(), dim=1)
        cosine = unit @ unit.T
        return (cosine[:3, :3].mean() + cosine[3:, 3:].mean()) / 2 - cosine[:3, 3:].mean()

    before = gap()
    for _ in range(50):
        optimiser.zero_grad()
        contrastive_loss(embeddings, users, 0.1).backward()
        optimiser.step()
    assert gap() > before + 0.5


def test_without_a_pair_it_is_zero_and_can_be_differentiated():
    embeddings = torch.randn(3, 2, requires_grad=True)
    loss = contrastive_loss(embeddings, synthesized_users(table([(0, 0, 0), (0, 0, 1)])), 0.1)
    loss.backward()
    assert loss.item() == 0
