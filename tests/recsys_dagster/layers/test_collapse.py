import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.baselines.config import MINDConfig
from recsys_dagster.baselines.mind import MIND
from recsys_dagster.layers import collapse
from recsys_dagster.layers.collapse import collapse_measures, interest_cosine, routing_entropy
from recsys_dagster.training.batching import pad


def test_doctests():
    result = doctest.testmod(collapse)
    assert result.attempted
    assert not result.failed


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), k=st.integers(1, 5))
def test_cosine_and_entropy_equal_the_loops(seed, k):
    generator = torch.Generator().manual_seed(seed)
    vectors, valid = torch.randn(4, k, 3, generator=generator), torch.rand(4, k, generator=generator) < 0.7
    weights = torch.rand(4, k, 6, generator=generator) * (torch.rand(4, 1, 6, generator=generator) < 0.8)
    cosines, entropies = interest_cosine(vectors, valid), routing_entropy(weights, valid)
    for row in range(4):
        there = [i for i in range(k) if valid[row, i]]
        pairs = [
            (vectors[row, i] @ vectors[row, j] / vectors[row, i].norm() / vectors[row, j].norm()).item()
            for i in there
            for j in there
            if i < j
        ]
        assert cosines[row].item() == pytest.approx(np.mean(pairs) if pairs else np.nan, abs=1e-5, nan_ok=True)
        items = [j for j in range(6) if weights[row, 0, j] > 0] if there else []
        each = []
        for i in there:
            share = np.array([weights[row, i, j].item() for j in items])
            share = share / max(share.sum(), 1e-30)
            each.append(-(share * np.log(share)).sum() / np.log(len(items)) if len(items) > 1 else np.nan)
        assert entropies[row].item() == pytest.approx(np.mean(each) if each else np.nan, abs=1e-5, nan_ok=True)


def test_extremes():
    same = torch.ones(1, 3, 4)
    everyone = torch.ones(1, 3, dtype=torch.bool)
    assert interest_cosine(same, everyone).item() == pytest.approx(1)
    assert interest_cosine(torch.eye(3)[None], everyone).item() == pytest.approx(0)
    assert routing_entropy(torch.eye(3)[None], everyone).item() == pytest.approx(0)
    assert routing_entropy(torch.ones(1, 3, 3), everyone).item() == pytest.approx(1)


def test_of_a_model_over_its_train_histories(toy_data, monkeypatch):
    torch.manual_seed(0)
    model = MIND(MINDConfig(dimension=8), n_items=24, max_length=6)
    found = collapse_measures(model, toy_data)
    users = np.flatnonzero(toy_data.train.lengths >= 2)
    batch = pad(toy_data.train, users, 6)
    cosine = interest_cosine(*model.user_interests(batch)).nanmean().item()
    assert found["interest_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert 0 < found["routing_entropy"] < 1
    monkeypatch.setattr(collapse, "MEASURED_USERS", 7)  # every ninth of 60 users
    sizes = []
    real = collapse.interest_cosine
    monkeypatch.setattr(collapse, "interest_cosine", lambda *args: sizes.append(len(args[0])) or real(*args))
    collapse_measures(model, toy_data)
    assert sizes == [7]


def test_one_interest_has_no_pair(toy_data):
    model = MIND(MINDConfig(dimension=8, interests=1), n_items=24, max_length=6)
    assert set(collapse_measures(model, toy_data)) == {"routing_entropy"}
