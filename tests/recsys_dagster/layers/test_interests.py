import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.baselines import config as settings_of
from recsys_dagster.baselines.comirec import ComiRecDR, ComiRecSA
from recsys_dagster.baselines.mind import MIND
from recsys_dagster.baselines.re4 import Re4
from recsys_dagster.baselines.remi import REMI
from recsys_dagster.layers.interests import best_interest_scores, first_interests, interest_of_target
from recsys_dagster.training.batching import SequenceBatch

N_ITEMS, LONGEST = 12, 6
MODELS = {
    "mind": (MIND, settings_of.MINDConfig),
    "comirec_sa": (ComiRecSA, settings_of.ComiRecSAConfig),
    "comirec_dr": (ComiRecDR, settings_of.ComiRecDRConfig),
    "re4": (Re4, settings_of.Re4Config),
    "remi": (REMI, settings_of.REMIConfig),
}


def build(name, **changes):
    """A small model with something in every parameter."""
    torch.manual_seed(1)
    kind, config = MODELS[name]
    model = kind(config(dimension=6, interests=3, dropout=0.0, **changes), n_items=N_ITEMS, max_length=LONGEST)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def histories(rng, rows, width):
    lengths = rng.integers(1, width + 1, size=rows)
    items = rng.integers(0, N_ITEMS, size=(rows, width))
    items[np.arange(width) >= lengths[:, None]] = 0
    return torch.from_numpy(items), torch.from_numpy(lengths)


@settings(max_examples=15, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)),
    seed=st.integers(0, 999),
    filler=st.integers(0, N_ITEMS - 1),
    similarity=st.sampled_from(["cosine", "inner"]),
)
def test_padding_changes_no_score(name, seed, filler, similarity):
    model = build(name, similarity=similarity)
    items, lengths = histories(np.random.default_rng(seed), 3, 4)
    users = torch.arange(3)
    with torch.no_grad():
        scores = model.score_batch(SequenceBatch(users, items, lengths))
        assert torch.equal(scores, model.score_batch(SequenceBatch(users, items, lengths)))  # and is the same twice
        wide = torch.full((3, LONGEST), filler)
        wide[:, :4] = torch.where(torch.arange(4) < lengths[:, None], items, filler)
        torch.testing.assert_close(
            model.score_batch(SequenceBatch(users, wide, lengths)), scores, rtol=1e-4, atol=1e-5
        )  # fmt: skip


@pytest.mark.parametrize("name", sorted(MODELS))
def test_padding_changes_no_loss_and_no_gradient(name):
    model = build(name)
    items, lengths = torch.tensor([[3, 1, 4, 0], [2, 7, 0, 0]]), torch.tensor([3, 2])
    targets = torch.tensor([[1, 4, 9, 0], [7, 5, 0, 0]])
    results = []
    for width in (3, 4):
        batch = SequenceBatch(torch.arange(2), items[:, :width], lengths, targets[:, :width])
        model.zero_grad()
        loss = model.loss(batch, 0)[0]
        loss.backward()
        results.append((loss, model.items.weight.grad.clone()))
        assert torch.isfinite(results[-1][1]).all()
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_prefix_in_training_is_what_scoring_that_prefix_gives(name):
    model = build(name)
    items = torch.tensor([[3, 1, 4, 1, 5]])
    found = model.interests(SequenceBatch(torch.tensor([0]), items, torch.tensor([5])))
    for t in range(5):
        prefix = SequenceBatch(torch.tensor([0]), items[:, : t + 1], torch.tensor([t + 1]))
        vectors, valid = model.user_interests(prefix)
        assert torch.equal(found.valid[:, t], valid)
        torch.testing.assert_close(found.vectors[:, t] * valid[..., None], vectors * valid[..., None])
        torch.testing.assert_close(found.weights[:, t, :, : t + 1], model.user_routing(prefix))
        assert (found.weights[:, t, :, t + 1 :] == 0).all()


@pytest.mark.parametrize("repeats", [True, False])
def test_scores_and_loss_are_those_of_the_best_and_of_the_target_s_interest(repeats):
    model = build("comirec_sa", repeats=repeats)
    batch = SequenceBatch(
        torch.tensor([0, 1]),
        torch.tensor([[3, 1, 4], [8, 5, 0]]),
        torch.tensor([3, 2]),
        torch.tensor([[1, 4, 9], [5, 2, 0]]),
    )
    scale = 1 / np.exp(model.similarity.log_temperature.item())
    items = torch.nn.functional.normalize(model.items.weight, dim=1).detach().numpy()
    losses = []
    for row, length in enumerate(batch.lengths.tolist()):
        for t in range(length):
            prefix = SequenceBatch(batch.users[[row]], batch.items[[row], : t + 1], torch.tensor([t + 1]))
            vectors = model.user_interests(prefix)[0][0].detach().numpy()
            each = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ items.T * scale  # [K, N]
            bias = np.zeros(N_ITEMS, np.float32)
            if repeats:
                bias = model.repeats.add_to(torch.zeros(1, N_ITEMS), prefix)[0].detach().numpy()
            with torch.no_grad():
                got = model.score_batch(prefix)[0].numpy()
            np.testing.assert_allclose(got, each.max(0) + bias, rtol=1e-4, atol=1e-4)
            target = batch.targets[row, t]
            chosen = each[each[:, target].argmax()] + bias
            losses.append(np.log(np.exp(chosen).sum()) - chosen[target])
    assert model.loss(batch, 0)[0].item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_readout_by_hand():
    interests = torch.tensor([[[1.0, 0.0], [0.0, 2.0]], [[5.0, 0.0], [9.0, 9.0]], [[3.0, 0.0], [1.0, 1.0]]])
    valid = torch.tensor([[True, True], [True, False], [False, False]])
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    scores = best_interest_scores(interests, valid, items)
    assert scores.tolist() == [[1.0, 2.0, -1.0], [5.0, 0.0, -5.0], [0.0, 0.0, 0.0]]
    chosen = interest_of_target(interests[:2], valid[:2], items[[1, 1]])
    assert chosen.tolist() == [[0.0, 2.0], [5.0, 0.0]]


def test_the_first_interests_exist():
    there = first_interests(torch.ones(2, 3, dtype=torch.bool), 2, torch.tensor([1, 1, 5]))
    assert there.shape == (2, 3, 2)
    assert there[1].tolist() == [[True, False], [True, False], [True, True]]
