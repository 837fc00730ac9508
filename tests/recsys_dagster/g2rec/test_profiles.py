import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_dagster.g2rec.profiles import profile_cross_entropy


def by_loops(queries, keys, columns, weights, ends):
    """Eq. 11 as it is written: -sum over a level's prototypes of p_c log of the predicted one; mean over levels."""
    losses = []
    for query, own_columns, own_weights in zip(queries, columns.tolist(), weights, strict=True):
        labels = {}
        for column, weight in zip(own_columns, own_weights, strict=True):
            labels[column] = labels.get(column, 0.0) + weight
        total = 0.0
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            predicted = (keys[start:end] @ query).exp()
            predicted = predicted / predicted.sum()
            for column in range(start, end):
                total = total - labels.get(column, 0.0) * predicted[column - start].log()
        losses.append(total / len(ends))
    return torch.stack(losses)


def some(seed, positions, sizes, width, dtype=torch.float64):
    """Random queries, keys and labels that add up to 1 within each level; unused entries stand on column 0."""
    generator = torch.Generator().manual_seed(seed)
    ends = torch.tensor(sizes).cumsum(0).tolist()
    queries = torch.randn(positions, 4, generator=generator, dtype=dtype).requires_grad_()
    keys = torch.randn(ends[-1], 4, generator=generator, dtype=dtype).requires_grad_()
    columns = torch.zeros(positions, len(sizes) * width, dtype=torch.int64)
    weights = torch.zeros(positions, len(sizes) * width, dtype=dtype)
    for row in range(positions):
        slot = 0
        for start, size in zip([0, *ends], sizes, strict=False):
            used = min(int(torch.randint(1, width + 1, (), generator=generator)), size)
            columns[row, slot : slot + used] = start + torch.randperm(size, generator=generator)[:used]
            share = torch.rand(used, generator=generator, dtype=dtype) + 0.1
            weights[row, slot : slot + used] = share / share.sum()
            slot += used
    return queries, keys, columns, weights, ends


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    positions=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    width=st.integers(1, 4),
)
def test_loss_and_gradients_are_those_of_the_equation(seed, positions, sizes, width):
    queries, keys, columns, weights, ends = some(seed, positions, sizes, width)
    got = profile_cross_entropy(queries, keys, columns, weights, ends)
    want = by_loops(queries, keys, columns, weights, ends)
    torch.testing.assert_close(got, want)
    upstream = torch.rand(positions, dtype=torch.float64) + 0.5
    inputs = (queries, keys)
    for mine, other in zip(
        torch.autograd.grad((got * upstream).sum(), inputs), torch.autograd.grad((want * upstream).sum(), inputs),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(mine, other)


def test_one_position_by_hand():
    # one level, two prototypes with logits log 3 and 0, so predicted shares 3/4 and 1/4; labels 1/2 each
    queries, keys = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.log(3.0), 5.0], [0.0, 7.0]])
    labels = torch.tensor([[0, 1]]), torch.tensor([[0.5, 0.5]])
    loss = profile_cross_entropy(queries, keys, *labels, [2])
    assert loss.item() == pytest.approx(-0.5 * torch.tensor([0.75, 0.25]).log().sum().item())


def test_large_logits_stay_finite():
    queries, keys, columns, weights, ends = some(0, 5, [3, 6], 3)
    loss = profile_cross_entropy(queries * 1e4, keys, columns, weights, ends)
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(each).all() for each in torch.autograd.grad(loss.sum(), (queries, keys)))


def test_narrow_queries_are_widened():
    queries, keys, columns, weights, ends = some(1, 4, [3, 6], 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = profile_cross_entropy(queries.to(torch.bfloat16), keys, columns, weights, ends)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, profile_cross_entropy(queries, keys, columns, weights, ends), rtol=0.05, atol=0.05)
    assert torch.autograd.grad(loss.sum(), queries)[0].dtype == torch.float32
