"""Products of a fixed sparse matrix with learned vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import torch
from torch.nn import functional

Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""A matrix in CSR: columns int64 and values float of the entries, one row after the other, and where each row begins
and the last one ends, int64 [rows + 1]."""


def _entries(matrix: torch.Tensor) -> Entries:
    return matrix.col_indices(), matrix.values(), matrix.crow_indices()


def _sums(entries: Entries, x: torch.Tensor) -> torch.Tensor:
    """Sums float [rows, d] of weighted rows of x; on a CPU in a third of the time that a CSR tensor's product takes."""
    columns, values, starts = entries
    with torch.autocast(x.device.type, enabled=False):
        return functional.embedding_bag(
            columns, x.float().contiguous(), starts, per_sample_weights=values, mode="sum", include_last_offset=True
        )


class _Product(torch.autograd.Function):
    """Keeps the transposed matrix at hand: PyTorch makes it anew, or sorts all entries, in every backward pass."""

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, transposed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        ctx.transposed = transposed
        return _sums(_entries(matrix), x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, None, torch.Tensor]:
        return None, None, _sums(_entries(ctx.transposed), grad_outputs[0])


class _RowsProduct(torch.autograd.Function):
    """Sums of weighted rows; on a CPU the backward pass of PyTorch's own takes three times as long as this one."""

    @staticmethod
    def forward(ctx: Any, entries: Entries, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(*entries)
        ctx.size = len(x)
        return _sums(entries, x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, torch.Tensor]:
        columns, values, starts = ctx.saved_tensors
        rows = torch.repeat_interleave(starts.diff(), output_size=len(columns))
        turned = torch.sparse_coo_tensor(
            torch.stack([columns, rows]), values, (ctx.size, len(starts) - 1), check_invariants=False
        )  # fmt: skip
        return None, turned @ grad_outputs[0].contiguous()


class _ManyRowsProduct(torch.autograd.Function):
    """The same of many of all rows: the backward pass is a product with the whole transposed matrix."""

    @staticmethod
    def forward(
        ctx: Any, entries: Entries, x: torch.Tensor, transposed: torch.Tensor, rows: torch.Tensor
    ) -> torch.Tensor:
        ctx.transposed = transposed
        ctx.save_for_backward(rows)
        return _sums(entries, x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[None, torch.Tensor, None, None]:
        (rows,), gradient = ctx.saved_tensors, grad_outputs[0]
        spread = gradient.new_zeros(ctx.transposed.shape[1], gradient.shape[1]).index_add_(0, rows, gradient)
        return None, _sums(_entries(ctx.transposed), spread), None, None


def sparse_product(matrix: torch.Tensor, transposed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``matrix @ x``, differentiable in x.

    Args:
        matrix: float CSR [rows, columns].
        transposed: float CSR [columns, rows].
        x: float [columns, d].
    """
    product: torch.Tensor = _Product.apply(matrix, transposed, x)
    return product


MANY_ROWS = 0.1
"""From this share of all rows on, the gradient of their product is faster by way of all rows."""


def rows_product(matrix: torch.Tensor, transposed: torch.Tensor, rows: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``matrix[rows] @ x``, differentiable in x; costs what the entries of these rows cost.

    Args:
        matrix: float CSR [rows of the matrix, columns].
        transposed: float CSR [columns, rows of the matrix].
        rows: int64 [m].
        x: float [columns, d].
    """
    places, counts = row_entries(matrix.crow_indices(), rows)
    columns, values = (each.index_select(0, places) for each in (matrix.col_indices(), matrix.values()))
    entries = columns, values, functional.pad(counts.cumsum(0), (1, 0))
    if len(rows) >= MANY_ROWS * len(matrix):
        product: torch.Tensor = _ManyRowsProduct.apply(entries, x, transposed, rows)
    else:
        product = _RowsProduct.apply(entries, x)
    return product


def row_entries(starts: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the entries of some rows int64 [m] lie, one row after the other, and how many each has: int64 [m].

    Args:
        starts: int64 [number of rows + 1], as in CSR.
        rows: each as often as its entries are wanted.
    """
    first = starts[rows]
    counts = starts[rows + 1] - first
    ends = counts.cumsum(0)
    entries = int(ends[-1]) if len(ends) else 0
    within = torch.arange(entries, device=rows.device)
    return within + torch.repeat_interleave(first - ends + counts, counts, output_size=entries), counts


def csr_pair(
    rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """A sparse matrix and its transpose, both CSR, from int64 rows and columns and float values [entries]."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        matrix = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False)
        turned = torch.sparse_coo_tensor(torch.stack([columns, rows]), values, shape[::-1], check_invariants=False)
        return matrix.to_sparse_csr(), turned.to_sparse_csr()


T = TypeVar("T")


class Made(Generic[T]):
    """Something made of tensors, and made again when they change."""

    def __init__(self) -> None:
        self._made: tuple[list[tuple[int, torch.device, int]], T] | None = None

    def get(self, tensors: Iterable[torch.Tensor], make: Callable[[], T]) -> T:
        """What `make` gives, from last time if the tensors are the same and nobody wrote into them since."""
        key = [(each.data_ptr(), each.device, each._version) for each in tensors]  # writes in place raise the version
        if self._made is None or self._made[0] != key:
            self._made = (key, make())
        return self._made[1]


class BufferMatrix:
    """A sparse matrix that stands in a module's buffers in another form; made of them, and again when they change.

    Args:
        make: gives the matrix and its transpose (see `csr_pair`) from the buffers. Not a method of the module: the two
            would hold each other in memory.
    """

    def __init__(self, make: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.make = make
        self._matrices: Made[tuple[torch.Tensor, torch.Tensor]] = Made()

    def product(self, x: torch.Tensor, *buffers: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """``matrix @ x``, or some rows of it, differentiable in x.

        Args:
            x: float [columns, d].
            buffers: what the matrix is made of.
            rows: int64 [m]; None: all.
        """
        matrix, transposed = self._matrices.get(buffers, lambda: self.make(*buffers))
        return sparse_product(matrix, transposed, x) if rows is None else rows_product(matrix, transposed, rows, x)
