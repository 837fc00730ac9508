import pytest
import torch

from recsys_dagster.layers.similarity import START_TEMPERATURE, Similarity, unit_vectors


def test_cosine_over_the_temperature():
    cosine = Similarity("cosine")
    states, items = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.1]])
    scores = cosine.queries(states) @ cosine.items(items).T
    want = torch.tensor([[0.6, 0.8], [0.0, 1.0]]) / START_TEMPERATURE
    torch.testing.assert_close(scores, want)
    scores.sum().backward()
    assert cosine.log_temperature is not None
    torch.testing.assert_close(cosine.log_temperature.grad, -want.sum())


def test_inner_product_changes_nothing():
    inner, vectors = Similarity("inner"), torch.randn(3, 4)
    assert torch.equal(inner.queries(vectors), vectors)
    assert torch.equal(inner.items(vectors), vectors)
    assert not list(inner.parameters())


def test_a_zero_vector_scores_zero():
    cosine = Similarity("cosine")
    assert torch.equal(cosine.queries(torch.ones(1, 2)) @ cosine.items(torch.zeros(1, 2)).T, torch.zeros(1, 1))


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 6), (0, 3)])
def test_unit_vectors_and_their_gradient_are_those_of_torch(shape):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    if len(x):
        x[0] = 0.0
        weight[0] = 0.0  # at zero the gradient is what comes back over a tiny length, in torch too
    found = []
    for unit in (unit_vectors, lambda v: torch.nn.functional.normalize(v, dim=-1)):
        leaf = x.clone().requires_grad_()
        value = unit(leaf)
        found.append((value.detach(), *torch.autograd.grad((value * weight).sum(), leaf)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_unit_vectors_of_narrow_numbers_are_made_in_single_precision():
    x = torch.full((2, 64), 300.0, dtype=torch.float16, requires_grad=True)  # its squares overflow
    unit = unit_vectors(x)
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit.square().sum(1), torch.ones(2))
    unit.sum().backward()
    assert x.grad.dtype == torch.float16
