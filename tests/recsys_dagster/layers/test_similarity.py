import torch

from recsys_dagster.layers.similarity import START_TEMPERATURE, Similarity


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
