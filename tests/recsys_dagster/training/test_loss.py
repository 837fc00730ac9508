import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from recsys_dagster.training import loss as loss_module
from recsys_dagster.training.loss import ScoreBias, catalogue_cross_entropy, pairwise_loss, rows_at_once, with_item_bias


def dense(queries, items, targets, valid, bias=None):
    """The same figure with every score held at once."""
    scores = queries @ items.T
    if valid is not None:
        scores = scores.masked_fill(~valid[..., None], -torch.inf)
    scores = scores.amax(1)
    if bias is not None:
        scores = scores.index_put((bias.positions, bias.items), bias.values, accumulate=True)
    return functional.cross_entropy(scores, targets)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positions=st.integers(1, 60),
    interests=st.integers(1, 5),
    masked=st.booleans(),
    biased=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_loss_and_gradients_equal_the_dense_ones(seed, positions, interests, masked, biased, scale):
    generator = torch.Generator().manual_seed(seed)
    queries = (torch.randn(positions, interests, 6, generator=generator) * scale).double().float().requires_grad_()
    items = torch.randn(23, 6, generator=generator).requires_grad_()
    targets = torch.randint(23, (positions,), generator=generator)
    valid = None
    if masked:
        valid = torch.rand(positions, interests, generator=generator) < 0.5
        valid[:, interests // 2] = True
    bias, inputs = None, [queries, items]
    if biased:
        pairs = torch.randperm(positions * 23, generator=generator)[: positions * 3]
        values = torch.randn(len(pairs), generator=generator).requires_grad_()
        bias = ScoreBias(pairs // 23, pairs % 23, values)
        inputs.append(values)
    ours = catalogue_cross_entropy(queries, items, targets, valid, bias)
    reference = dense(queries, items, targets, valid, bias)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
    got = torch.autograd.grad(2 * ours, inputs)
    want = torch.autograd.grad(2 * reference, inputs)
    for ours_grad, reference_grad in zip(got, want, strict=True):
        torch.testing.assert_close(ours_grad, reference_grad, rtol=1e-4, atol=1e-5)


def test_one_position_by_hand():
    # scores of the two interests: (1, 0, 0) and (0, 2, 0); the readout keeps (1, 2, 0)
    queries = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    loss = catalogue_cross_entropy(queries, items, torch.tensor([0]))
    e = 2.718281828459045
    assert loss.item() == pytest.approx(torch.tensor((e + e**2 + 1) / e).log().item(), rel=1e-6)


def test_many_chunks_give_the_result_of_one(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(100, 3, 8, generator=generator)
    items = torch.randn(40, 8, generator=generator)
    targets = torch.randint(40, (100,), generator=generator)
    bias = ScoreBias(torch.arange(100), torch.randint(40, (100,), generator=generator), torch.ones(100))
    whole = catalogue_cross_entropy(queries, items, targets, bias=bias)
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 1)  # the least: 16 positions a chunk
    torch.testing.assert_close(catalogue_cross_entropy(queries, items, targets, bias=bias), whole)


def test_bf16_is_close():
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(50, 2, 16, generator=generator).requires_grad_()
    items = torch.randn(30, 16, generator=generator).requires_grad_()
    targets = torch.randint(30, (50,), generator=generator)
    exact = catalogue_cross_entropy(queries, items, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = catalogue_cross_entropy(queries, items, targets)
    narrow.backward()
    assert narrow.item() == pytest.approx(exact.item(), rel=2e-2)
    assert items.grad is not None
    assert torch.isfinite(items.grad).all()


def test_an_item_bias_is_one_more_coordinate():
    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randn(size, 4, generator=generator).requires_grad_() for size in (8, 5))
    bias = torch.randn(5, generator=generator).requires_grad_()
    targets = torch.randint(5, (8,), generator=generator)
    ours = catalogue_cross_entropy(*with_item_bias(queries, items, bias), targets)
    reference = functional.cross_entropy(queries @ items.T + bias, targets)
    torch.testing.assert_close(ours, reference)
    got, want = (torch.autograd.grad(loss, [queries, items, bias]) for loss in (ours, reference))
    torch.testing.assert_close(got, want)


def test_the_loss_of_a_pair_by_hand():
    vectors = torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]], [[1.0, 1.0]]])
    loss = pairwise_loss(torch.tensor([2.0]), torch.tensor([1.0]), vectors, l2=0.1)
    assert loss.item() == pytest.approx(0.3132617 + 0.1 * (9 + 1 + 2) / 2)


def test_more_scores_are_held_at_once_where_starting_an_operation_is_what_costs():
    on_cpu, on_cuda = (rows_at_once(12_000, torch.device(name)) for name in ("cpu", "cuda"))
    assert on_cpu == 100
    assert on_cuda > 1_500  # a batch of 256 users of Beauty in one piece
    assert rows_at_once(10**9, torch.device("cuda")) == 16
