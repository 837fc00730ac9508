import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.training import loss as loss_module
from recsys_dagster.training.hard_negatives import hard_negative_cross_entropy
from recsys_dagster.training.loss import ScoreBias, catalogue_cross_entropy

N_ITEMS = 23


def some(seed, positions=12):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(positions, 5, generator=generator).requires_grad_()
    items = torch.randn(N_ITEMS, 5, generator=generator).requires_grad_()
    targets = torch.randint(N_ITEMS, (positions,), generator=generator)
    pairs = torch.randperm(positions * N_ITEMS, generator=generator)[:30]
    values = torch.randn(30, generator=generator).requires_grad_()
    return queries, items, targets, ScoreBias(pairs // N_ITEMS, pairs % N_ITEMS, values)


def slow(queries, items, targets, beta, bias):
    """The ideal distribution of REMI and the expectation under it, one position at a time."""
    scores = (queries @ items.T).detach().double().numpy()
    if bias is not None:
        for position, item, value in zip(
            bias.positions.tolist(), bias.items.tolist(), bias.values.tolist(), strict=True
        ):
            scores[position, item] += value
    losses = []
    for row, target in zip(scores, targets.tolist(), strict=True):
        others = np.delete(row, target)
        p = np.exp(beta * others) / np.exp(beta * others).sum()
        against = len(others) * (p * np.exp(others)).sum()
        losses.append(-np.log(np.exp(row[target]) / (np.exp(row[target]) + against)))
    return np.mean(losses)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), beta=st.sampled_from([0.0, 0.5, 1.0, 3.0]), biased=st.booleans())
def test_the_loss_equals_the_slow_one(seed, beta, biased):
    queries, items, targets, bias = some(seed)
    added = bias if biased else None
    got = hard_negative_cross_entropy(queries, items, targets, beta, added).item()
    assert got == pytest.approx(slow(queries, items, targets, beta, added), rel=1e-4)


def test_without_hardness_it_is_the_full_cross_entropy_gradients_and_all():
    queries, items, targets, bias = some(0)
    inputs = (queries, items, bias.values)
    ours = torch.autograd.grad(hard_negative_cross_entropy(queries, items, targets, 0.0, bias), inputs)
    full = torch.autograd.grad(catalogue_cross_entropy(queries, items, targets, bias=bias), inputs)
    for got, want in zip(ours, full, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_gradients_are_those_of_drawing_negatives():
    """With the probabilities held still, a negative is pushed away by its share of a softmax at 1 + beta."""
    queries, items, targets, _ = some(1, positions=1)
    loss = hard_negative_cross_entropy(queries, items, targets, 2.0)
    (grad,) = torch.autograd.grad(loss, items)
    scores, target = (queries @ items.T)[0].detach(), targets[0]
    others = torch.ones(N_ITEMS, dtype=torch.bool)
    others[target] = False
    share = torch.softmax(3.0 * scores[others], 0)
    missed = 1 - torch.exp(-loss.detach())
    torch.testing.assert_close(grad[others], missed * share[:, None] * queries.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad[target], -missed * queries.detach()[0], rtol=1e-4, atol=1e-6)


def test_chunks_change_nothing(monkeypatch):
    queries, items, targets, bias = some(2, positions=50)
    inputs = (queries, items, bias.values)
    whole = torch.autograd.grad(hard_negative_cross_entropy(queries, items, targets, 1.0, bias), inputs)
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 1)  # 16 positions a chunk
    parts = torch.autograd.grad(hard_negative_cross_entropy(queries, items, targets, 1.0, bias), inputs)
    for got, want in zip(parts, whole, strict=True):
        torch.testing.assert_close(got, want)
