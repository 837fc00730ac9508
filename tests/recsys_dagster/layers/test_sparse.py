import numpy as np
import pytest
import torch

from recsys_dagster.layers import sparse as module
from recsys_dagster.layers.sparse import BufferMatrix, csr_pair, rows_product, sparse_product


def test_product_and_gradient_equal_the_dense_ones():
    rng = np.random.default_rng(0)
    dense = torch.tensor(rng.random((7, 5)) * (rng.random((7, 5)) < 0.4), dtype=torch.float32)
    dense[3] = 0.0
    rows, columns = dense.nonzero(as_tuple=True)
    pair = csr_pair(rows, columns, dense[rows, columns], (7, 5))
    x = torch.randn(5, 3, requires_grad=True)
    weight = torch.randn(7, 3)
    got = sparse_product(*pair, x)
    torch.testing.assert_close(got, dense @ x)
    (gradient,) = torch.autograd.grad((got * weight).sum(), x)
    torch.testing.assert_close(gradient, dense.T @ weight)


@pytest.mark.parametrize("many", [0.0, 2.0])
@pytest.mark.parametrize("rows", [[6, 3, 0, 3, 6, 6], [3], [3, 1, 3], []])
def test_some_rows_and_their_gradient_equal_the_dense_ones(rows, many, monkeypatch):
    monkeypatch.setattr(module, "MANY_ROWS", many)  # always by way of all rows, or never
    rng = np.random.default_rng(1)
    dense = torch.tensor(rng.random((7, 5)) * (rng.random((7, 5)) < 0.4), dtype=torch.float32)
    dense[3] = 0.0
    place, columns = dense.nonzero(as_tuple=True)
    pair = csr_pair(place, columns, dense[place, columns], (7, 5))
    wanted, x = torch.tensor(rows, dtype=torch.int64), torch.randn(5, 3, requires_grad=True)
    weight = torch.randn(len(rows), 3)
    got = rows_product(*pair, wanted, x)
    torch.testing.assert_close(got, dense[wanted] @ x)
    (gradient,) = torch.autograd.grad((got * weight).sum(), x)
    torch.testing.assert_close(gradient, dense[wanted].T @ weight)


def test_narrow_formats_are_left_at_the_door():
    pair = csr_pair(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([2.0, 3.0]), (2, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert sparse_product(*pair, torch.eye(2)).dtype == torch.float32


def test_a_matrix_of_buffers_follows_them_and_is_made_once_for_each_state():
    made = []

    def diagonal(values):
        made.append(values.tolist())
        place = torch.arange(len(values))
        return csr_pair(place, place, values, (len(values), len(values)))

    matrix, buffer, x = BufferMatrix(diagonal), torch.tensor([2.0, 3.0]), torch.ones(2, 1)
    for _ in range(2):
        assert matrix.product(x, buffer).flatten().tolist() == [2.0, 3.0]
    buffer.copy_(torch.tensor([5.0, 7.0]))
    for _ in range(2):
        assert matrix.product(x, buffer).flatten().tolist() == [5.0, 7.0]
    assert made == [[2.0, 3.0], [5.0, 7.0]]
