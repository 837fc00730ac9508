import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.data.histories import TEST
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.explain import (
    attention_facts,
    cluster_attention,
    correlation,
    example_user,
    explain_user,
    interest_item_cosines,
)
from recsys_dagster.training.batching import pad
from tests.recsys_dagster.larmi.test_larmi_model import build, clusters_of


def shaken(model):
    """Weights that make attention, alignment and recency uneven."""
    torch.manual_seed(3)
    with torch.no_grad():
        model.attention.weight.normal_(std=3.0)
        model.alignment.weight.normal_(std=2.0)
        model.recency.copy_(torch.tensor([0.3, 0.2]))
    return model


@pytest.fixture(scope="module")
def model(toy_data):
    return shaken(build(toy_data))


def test_the_anatomy_puts_the_interests_together_again(toy_data, model):
    """o_k = sum_j routing_kj / mass_k W v_j + weight * sum_f alignment_kf sum_j attention_fj v_j."""
    batch = pad(toy_data.history(TEST), np.arange(12), toy_data.max_length)
    with torch.no_grad():
        parts, (interests, valid) = model.anatomy(batch), model.user_interests(batch)
        vectors = model.items(batch.items) * batch.mask[..., None]
        capsules = parts.routing @ model.capsule_map(vectors) / parts.mass.clamp(min=1e-6)[..., None]
        again = capsules + model.config.semantic_weight * (parts.alignment @ (parts.attention @ vectors))
    assert torch.equal(parts.valid, valid)
    torch.testing.assert_close(parts.vectors[valid], interests[valid], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again * valid[..., None], interests * valid[..., None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.alignment.sum(2), valid.float())
    torch.testing.assert_close(parts.mass, parts.routing.sum(2))
    with torch.no_grad():
        torch.testing.assert_close(
            model.queries(parts.vectors, parts.mass)[valid], model.user_queries(batch, model.items.weight)[0][valid]
        )
    sums = parts.attention.sum(2)
    assert ((sums - 1).abs() < 1e-5).logical_or(sums == 0).all()


def test_the_anatomy_of_the_ablations(toy_data):
    batch = pad(toy_data.history(TEST), np.arange(12), toy_data.max_length)
    with torch.no_grad():
        for change in ({"semantic": False}, {"collaborative": False}):
            model = shaken(build(toy_data, **change))
            parts, (interests, valid) = model.anatomy(batch), model.user_interests(batch)
            torch.testing.assert_close(parts.vectors, interests, rtol=1e-4, atol=1e-5)
            assert torch.equal(parts.valid, valid)
            with torch.no_grad():
                again = model.queries(parts.vectors, parts.mass)[valid]
                torch.testing.assert_close(again, model.user_queries(batch, model.items.weight)[0][valid])
            assert not (parts.routing if change == {"collaborative": False} else parts.alignment).any()


def test_an_explanation_accounts_for_the_whole_list(toy_data, model):
    from recsys_dagster.training.ranking import top_n

    history, user = toy_data.history(TEST), 5
    found = explain_user(model, history, clusters_of(toy_data), user, mask_seen=True, n=8)
    items, scores = top_n(model, np.array([user]), history, n=8, mask_seen=True)
    listed = sorted(entry for interest in found for entry in interest.recommendations)
    assert [(rank, item) for rank, item, _ in listed] == list(enumerate(items[0].tolist(), 1))
    np.testing.assert_allclose([score for *_, score in listed], scores[0])
    assert len(found) == 3
    for interest in found:
        assert sum(share for _, share in interest.items) == pytest.approx(1)
        assert {item for item, _ in interest.items} == set(history.of(user)[-toy_data.max_length :].tolist())
        assert {label for label, _ in interest.labels} == {"even or odd"}
        weights = [weight for _, weight in interest.labels]
        assert weights == sorted(weights, reverse=True)
        assert sum(weights) <= 1 + 1e-5  # the validation item has no label
    # each item stands under the interest that likes it best
    batch = pad(history, np.array([user]), toy_data.max_length)
    with torch.no_grad():
        queries, _ = model.user_queries(batch, model.items.weight)
        table = queries[0] @ model.keys(model.items.weight).T
    for interest in found:
        assert all(int(table[:, item].argmax()) == interest.number for _, item, _ in interest.recommendations)


def test_clusters_of_another_night_are_refused(toy_data, model):
    table = clusters_of(toy_data)
    with pytest.raises(RecsysError, match="larmi_model was trained on"):
        explain_user(model, toy_data.train, table.iloc[1:], 0, mask_seen=True)
    with pytest.raises(RecsysError, match="larmi_model was trained on"):
        explain_user(model, toy_data.train, table.assign(cluster=1 - table["cluster"]), 0, mask_seen=True)


def test_attention_and_coarseness_of_each_cluster(toy_data, model):
    table = cluster_attention(model, toy_data.train)
    own = clusters_of(toy_data)
    unit = torch.nn.functional.normalize(model.items.weight, dim=1).detach().double().numpy()
    w, b = model.attention.weight.detach().double().numpy()[0], model.attention.bias.item()
    rows = []
    for user in range(toy_data.n_users):
        items = toy_data.train.of(user)[-toy_data.max_length :].tolist()
        for cluster in (0, 1):
            named = set(own.loc[(own["user_id"] == user) & (own["cluster"] == cluster), "item_id"])
            places = [place for place, item in enumerate(items) if item in named]
            if len(items) < 2 or len(places) < 2:
                continue
            chosen = [items[place] for place in places]
            vectors = model.items.weight.detach().double().numpy()[chosen]
            raw = np.exp([w @ v + b + 0.3 * place for v, place in zip(vectors, places, strict=True)])
            share = raw / raw.sum()
            pairs = [1 - unit[i] @ unit[j] for n, i in enumerate(chosen) for j in chosen[n + 1 :]]
            entropy = -(share * np.log(share)).sum()
            rows.append((user, len(chosen), np.mean(pairs), -entropy, 1 - entropy / math.log(len(chosen))))
    columns = ["user_id", "items", "coarseness", "negative_entropy", "concentration"]
    want = pd.DataFrame(rows, columns=columns)
    assert len(want) > 50
    np.testing.assert_allclose(table[columns].to_numpy(), want.to_numpy(), rtol=1e-3, atol=1e-5)
    facts = attention_facts(table)
    assert facts["clusters_of_several_items"] == len(want)
    plain = np.corrcoef(want["coarseness"], want["concentration"])[0, 1]
    assert facts["coarseness_concentration"] == pytest.approx(plain, abs=1e-4)
    assert facts["coarseness_concentration_low"] < plain < facts["coarseness_concentration_high"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99), scale=st.floats(0.1, 50), shift=st.floats(-50, 50))
def test_correlation_does_not_change_with_units(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x, groups = rng.normal(size=40), rng.integers(0, 12, 40)
    y = x + rng.normal(size=40)
    found = correlation(x, y, groups)
    assert found.value == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.low < found.value < found.high
    moved = correlation(scale * x + shift, -y, groups)
    assert (moved.value, moved.low, moved.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_the_interval_of_groups_is_wider_than_that_of_single_pairs():
    rng = np.random.default_rng(0)
    x, y = (np.repeat(rng.normal(size=30), 20) for _ in range(2))  # twenty copies of thirty pairs
    groups = np.repeat(np.arange(30), 20)
    by_group, by_pair = correlation(x, y, groups), correlation(x, y, np.arange(600))
    assert by_group.high - by_group.low > 2 * (by_pair.high - by_pair.low)
    assert math.isnan(correlation(np.ones(5), np.arange(5), np.arange(5)).value)


def test_interests_beside_items(toy_data, model):
    user = example_user(clusters_of(toy_data), toy_data.train)
    found = interest_item_cosines(model, model.items.weight, toy_data.train, user)
    items = toy_data.train.of(user)[-toy_data.max_length :]
    assert found.shape == (2, len(items))  # even and odd: an interest for each cluster
    with torch.no_grad():
        interests, _ = model.user_interests(pad(toy_data.train, np.array([user]), toy_data.max_length))
    a, b = interests[0, 1].numpy(), model.items.weight.detach().numpy()[items[2]]
    assert found[1, 2] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    assert np.abs(found).max() <= 1 + 1e-5
