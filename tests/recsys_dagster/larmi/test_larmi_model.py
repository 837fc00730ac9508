import numpy as np
import pandas as pd
import pytest
import torch

from recsys_dagster.data.histories import TEST
from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.larmi.contrastive import contrastive_loss, synthesized_users
from recsys_dagster.larmi.memberships import cluster_table
from recsys_dagster.larmi.model import CLUSTER_START, LARMI
from recsys_dagster.larmi.train import assembly, train_larmi
from recsys_dagster.layers.repeats import UNIT
from recsys_dagster.models import load_model
from recsys_dagster.training.batching import SequenceBatch, pad
from recsys_dagster.training.runtime import Runtime
from tests.recsys_dagster.larmi.test_memberships import with_late_items

pytestmark = pytest.mark.usefixtures("small_cutoff")

N_ITEMS = 24
RECENCY = (0.4, 0.25)
SMALL = LARMIConfig(
    dimension=8,
    dropout=0.0,
    interests=3,
    labels=False,
    weight_decay=0.0,
    epochs=5,
    patience=5,
    batch_size=16,
    learning_rate=3e-3,
)


def clusters_of(data):
    """Each user's train items in two clusters by parity; item 0 stands in both."""
    rows = []
    for user in range(data.n_users):
        for item in dict.fromkeys(data.train.of(user).tolist()):
            rows.append((user, item % 2, "even or odd", item, "local"))
            if item == 0:
                rows.append((user, 1, "even or odd", item, "local"))
    return pd.DataFrame(rows, columns=["user_id", "cluster", "label", "item_id", "source"])


def build(data, **changes):
    torch.manual_seed(0)
    keys, values = cluster_table(clusters_of(data), data.n_items)
    config = SMALL.model_copy(update=changes)
    model = LARMI(config, n_items=data.n_items, max_length=data.max_length, memberships=len(keys))
    model.cluster_keys.copy_(keys)
    model.cluster_values.copy_(values)
    return model.eval()


def slow_interests(model, items, clusters):
    """Eq. 2-4, 14 and 15 for one history, with loops."""
    v = model.items.weight.detach().double().numpy()[items]
    w, b = model.attention.weight.detach().double().numpy()[0], model.attention.bias.item()
    w1 = model.alignment.weight.detach().double().numpy()
    big_w = model.capsule_map.weight.detach().double().numpy()
    k_all = min(model.config.interests, len(items), len(clusters))
    h = []
    for members in clusters:
        weights = np.array([np.exp(w @ v[j] + b - RECENCY[0] * (len(items) - 1 - j)) for j in members])
        h.append(sum(a * v[j] for a, j in zip(weights / weights.sum(), members, strict=True)))
    g = model.routing_logits.double().numpy()[: len(items), :k_all].copy()
    by_appearance = sorted(clusters, key=lambda members: (members[0], clusters.index(members)))
    for j in range(len(items)):
        own = [c for c, members in enumerate(by_appearance) if j in members]
        for c in own:
            if c % model.config.interests < k_all:
                g[j, c % model.config.interests] += CLUSTER_START / len(own)
    for turn in range(model.config.routing_rounds):
        m, mass = np.zeros((k_all, v.shape[1])), np.zeros(k_all)
        for j in range(len(items)):
            route = np.exp(g[j]) / np.exp(g[j]).sum()
            for k in range(k_all):
                weight = np.exp(-RECENCY[1] * (len(items) - 1 - j)) * route[k]
                m[k] += weight * (big_w @ v[j])
                mass[k] += weight
        if turn < model.config.routing_rounds - 1:
            for k in range(k_all):
                norm = np.linalg.norm(m[k])
                e = norm**2 / (norm**2 + 1) * m[k] / norm
                for j in range(len(items)):
                    g[j, k] += (big_w @ v[j]) @ e
    o = []
    for k in range(k_all):
        mean = m[k] / mass[k]
        scores = np.array([np.exp(mean @ np.tanh(w1 @ hf)) for hf in h])
        z = sum(s * hf for s, hf in zip(scores / scores.sum(), h, strict=True))
        o.append(mean + model.config.semantic_weight * z)
    return np.array(o), mass


def set_repeats(model):
    """Some bias for every lag and for repeats."""
    model.repeats.by_lag.copy_(torch.linspace(0.1, -0.2, len(model.repeats.by_lag)))
    model.repeats.by_count.fill_(0.05)


def slow_bias(repeats, history, item):
    """The bias of an item of a short history (lags below `NEAR`)."""
    lag = history[::-1].index(item)
    return UNIT * (repeats.by_lag[lag] + repeats.by_count[0] * np.log(history.count(item))).item()


def slow_scores(model, o, mass):
    """Eq. 11 with loops: the best inner product, or cosine over the temperature, each with what the interest holds."""
    v = model.items.weight.detach().double().numpy()
    if model.config.similarity == "cosine":
        o, v = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (o, v))
        o = o / np.exp(model.similarity.log_temperature.item())
    voices = model.strength.item() * np.log(mass)
    return np.array([max(interest @ item + voice for interest, voice in zip(o, voices, strict=True)) for item in v])


@pytest.mark.parametrize("similarity", ["inner", "cosine"])
def test_interests_and_scores_equal_the_equations(toy_data, similarity):
    model = build(toy_data, similarity=similarity)
    with torch.no_grad():
        set_repeats(model)
        model.recency.copy_(torch.tensor(RECENCY))
    table = clusters_of(toy_data)
    history = toy_data.history(TEST)
    for user in range(8):
        items = history.of(user)[-toy_data.max_length :]
        own = table[table["user_id"] == user]
        groups = [[j for j, i in enumerate(items) if i in set(own.loc[own["cluster"] == f, "item_id"])] for f in (0, 1)]
        known = set(own["item_id"])
        vectors = model.items.weight.detach().double().numpy()[items]
        groups = with_late_items(vectors, items, [g for g in groups if g], known)
        o, mass = slow_interests(model, items, groups)
        want = slow_scores(model, o, mass)
        for item in set(items.tolist()):
            want[item] += slow_bias(model.repeats, items.tolist(), item)
        got = model.score(np.array([user]), history)[0].numpy()
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-4)


def test_every_prefix_in_training_is_what_scoring_that_prefix_gives(toy_data):
    model = build(toy_data)
    user = int(np.argmax(toy_data.train.lengths))
    whole = pad(toy_data.train, np.array([user]), toy_data.max_length)
    interests, valid = model.interests(whole)
    for t in range(int(whole.lengths[0])):
        prefix = SequenceBatch(whole.users, whole.items[:, : t + 1], torch.tensor([t + 1]))
        alone, alone_valid = model.user_interests(prefix)
        assert torch.equal(valid[:, t], alone_valid)
        seen = whole.items[0, : t + 1].tolist()
        clusters = {item % 2 for item in seen} | ({0, 1} if 0 in seen else set())
        assert int(alone_valid.sum()) == min(SMALL.interests, t + 1, len(clusters))
        torch.testing.assert_close(interests[:, t], alone, rtol=1e-4, atol=1e-5)


def test_a_prefix_does_not_see_later_items(toy_data):
    model = build(toy_data)
    user = int(np.argmax(toy_data.train.lengths))
    batch = pad(toy_data.train, np.array([user]), toy_data.max_length)
    changed = batch.items.clone()
    changed[0, -1] = (changed[0, -1] + 5) % N_ITEMS
    before, _ = model.interests(batch)
    after, _ = model.interests(SequenceBatch(batch.users, changed, batch.lengths))
    torch.testing.assert_close(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_padding_and_company_change_no_score(toy_data):
    model = build(toy_data)
    history = toy_data.history(TEST)
    together = model.score(np.arange(30), history)
    assert torch.equal(together, model.score(np.arange(30), history))  # two evaluations of one model
    alone = torch.cat([model.score(np.array([user]), history) for user in range(30)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_training_scores_are_those_of_scoring(toy_data):
    """The loss is the cross-entropy of `score_batch` of every prefix: interests, readout and repeat bias agree."""
    model = build(toy_data, contrastive_weight=0.0, apart_weight=0.0)
    with torch.no_grad():
        set_repeats(model)
        model.recency.copy_(torch.tensor(RECENCY))
    whole = pad(toy_data.train, np.arange(6), toy_data.max_length)
    batch = SequenceBatch(whole.users, whole.items[:, :-1], whole.lengths - 1, whole.items[:, 1:])
    losses = []
    for row in range(6):
        for t in range(int(batch.lengths[row])):
            prefix = SequenceBatch(
                batch.users[row : row + 1], batch.items[row : row + 1, : t + 1], torch.tensor([t + 1])
            )
            with torch.no_grad():
                scores = model.score_batch(prefix)[0]
            losses.append(-scores.log_softmax(0)[batch.targets[row, t]])
    torch.testing.assert_close(model.loss(batch, 0)[0], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)


def test_ablations_switch_their_part_off(toy_data):
    history, users = toy_data.history(TEST), np.arange(10)
    full = build(toy_data).score(users, history)
    without_semantic, without_capsules = build(toy_data, semantic=False), build(toy_data, collaborative=False)
    assert not torch.allclose(full, without_semantic.score(users, history))
    assert not torch.allclose(full, without_capsules.score(users, history))
    with torch.no_grad():  # what an ablation leaves out has no influence on it
        without_semantic.attention.weight.mul_(3)
        before = without_capsules.score(users, history)
        without_capsules.capsule_map.weight.mul_(3)
    torch.testing.assert_close(without_capsules.score(users, history), before)


def test_the_contrastive_loss_comes_every_round_of_one_over_lambda_steps(toy_data):
    rows = [(0, i // 4, i) for i in range(8)] + [(5, i % 3, i) for i in range(9)]
    table = pd.DataFrame(rows, columns=["user_id", "cluster", "item_id"])
    model, bare = build(toy_data, contrastive_weight=0.3), build(toy_data, contrastive_weight=0.0)
    model.synthesized = bare.synthesized = synthesized_users(table)
    batch = pad(toy_data.train, np.arange(10), 6)
    batch = SequenceBatch(batch.users, batch.items[:, :-1], (batch.lengths - 1).clamp(min=1), batch.items[:, 1:])
    extra = contrastive_loss(model.items.weight, model.synthesized, SMALL.contrastive_temperature).item()
    for step in range(7):
        difference = model.loss(batch, step)[0].item() - bare.loss(batch, step)[0].item()
        assert difference == pytest.approx(extra if step % 3 == 0 else 0.0, abs=1e-5)


def test_items_share_names_and_interests_of_the_crowd(toy_data):
    """v_i = own vector + mean of the words of its clusters' names + mean of the crowd's interests that hold it."""
    rows = [(0, 0, "red pen", 1), (0, 0, "red pen", 2), (1, 0, "red ink", 2), (1, 1, "blue ink", 3)]
    own = pd.DataFrame(rows, columns=["user_id", "cluster", "label", "item_id"])
    crowd = pd.DataFrame([(7, 0, 1), (7, 1, 2), (9, 0, 2)], columns=["user_id", "cluster", "item_id"])
    build_model, shape = assembly(toy_data, own, crowd, LARMIConfig(dimension=8))
    model = build_model(LARMIConfig(dimension=8), **shape)
    with torch.no_grad():
        words = dict(zip(("ink", "pen", "red"), model.labels.vectors, strict=True))  # blue has a single item
        shared = dict(zip(("7/0", "7/1", "9/0"), model.crowd.vectors, strict=True))
        want = model.items.weight.clone()
        want[1] += (words["red"] + words["pen"]) / 2 + shared["7/0"]
        want[2] += (words["red"] + words["pen"] + words["ink"]) / 3 + (shared["7/1"] + shared["9/0"]) / 2
        want[3] += words["ink"]
        torch.testing.assert_close(model.item_vectors(), want)
    _, without = assembly(toy_data, own, crowd, LARMIConfig(semantic=False, crowd=False))
    assert not {"n_features", "crowd_interests"} & set(without)
    _, nameless = assembly(toy_data, own.assign(label=""), crowd, LARMIConfig())
    assert "n_features" not in nameless


def test_both_update_strategies(toy_data):
    """`weighted` adds lambda times the loss in every step, `periodic` the whole of it every round(1 / lambda) steps."""
    table = pd.DataFrame([(0, i // 4, i) for i in range(8)], columns=["user_id", "cluster", "item_id"])
    batch = pad(toy_data.train, np.arange(10), 6)
    batch = SequenceBatch(batch.users, batch.items[:, :-1], (batch.lengths - 1).clamp(min=1), batch.items[:, 1:])
    bare = build(toy_data, contrastive_weight=0.0)
    bare.synthesized = synthesized_users(table)
    extra = contrastive_loss(bare.items.weight, bare.synthesized, SMALL.contrastive_temperature).item()
    for update, want in (("weighted", [0.25] * 6), ("periodic", [1, 0, 0, 0, 1, 0])):
        model = build(toy_data, contrastive_weight=0.25, contrastive_update=update)
        model.synthesized = bare.synthesized
        for step, share in enumerate(want):
            found = model.loss(batch, step)[0].item() - bare.loss(batch, step)[0].item()
            assert found == pytest.approx(share * extra, abs=1e-5)


def test_interests_are_pushed_apart(toy_data):
    """The loss is the bare one plus the weight times the mean cosine of the prefixes with several interests."""
    batch = pad(toy_data.train, np.arange(10), 6)
    batch = SequenceBatch(batch.users, batch.items[:, :-1], (batch.lengths - 1).clamp(min=1), batch.items[:, 1:])
    model, bare = build(toy_data, apart_weight=0.5), build(toy_data, apart_weight=0.0)
    with torch.no_grad():
        interests, valid = model.interests(batch)
        pairs = []
        for o, exists in zip(interests[batch.mask], valid[batch.mask], strict=True):
            own = torch.nn.functional.normalize(o[exists], dim=1)
            if len(own) > 1:
                pairs.append(((own @ own.T).sum() - len(own)) / (len(own) * (len(own) - 1)))
    extra = model.loss(batch, 0)[0].item() - bare.loss(batch, 0)[0].item()
    assert extra == pytest.approx(0.5 * torch.stack(pairs).mean().item(), abs=1e-5)


def test_training_learns_and_the_directory_scores_the_same(toy_data, tmp_path):
    table = clusters_of(toy_data)
    representative = table[table["user_id"] < 5]
    facts = train_larmi(toy_data, table, representative, SMALL, Runtime(), tmp_path / "larmi")
    assert facts["synthesized_users"] == 5
    curve = pd.read_parquet(tmp_path / "larmi" / "training.parquet")["validation_recall"]
    assert curve.max() > curve.iloc[0]
    from recsys_dagster.training.loop import validation_recall

    assert validation_recall(load_model(tmp_path / "larmi"), toy_data) == pytest.approx(facts["validation_recall"])
