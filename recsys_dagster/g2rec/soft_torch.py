"""Soft modularity on a torch device: the same problem as `SoftProblem`, for a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys_dagster.g2rec.soft_problem import Floats, SoftProblem
from recsys_dagster.parallel import pieces

_PAIRS = 1 << 26
"""Comparisons of two memberships made at once: bounds the memory of `pull`."""


@dataclass(frozen=True)
class TorchSoftProblem(SoftProblem):
    """Soft modularity in torch; deterministic, as sums run along rows and not through atomics.

    Attributes:
        device: torch device.
    """

    device: str = "cuda"

    @property
    def xp(self) -> Any:
        """torch."""
        return torch

    def array(self, values: Any) -> Tensor:
        """Values [N, rho] on the device."""
        return torch.as_tensor(values, device=self.device)

    def numpy(self, values: Any) -> Floats:
        """Values [N, rho] back in NumPy."""
        return np.asarray(values.cpu().numpy())

    @cached_property
    def _prototypes(self) -> Tensor:
        return self.array(self.support.prototypes.astype(np.int64))

    @cached_property
    def _used(self) -> Tensor:
        return self._prototypes >= 0

    @cached_property
    def _degree(self) -> Tensor:
        return self.array(self.degree)

    @cached_property
    def _edges(self) -> list[tuple[slice, Tensor, Tensor, Tensor, Tensor]]:
        """Blocks of whole rows: their rows, lengths, and for each edge its row, its column and its weight."""
        matrix, rho = self.matrix, self.support.prototypes.shape[1]
        blocks = []
        for first, last in pieces(matrix.indptr, max(_PAIRS // rho**2, 1)):
            lengths = np.diff(matrix.indptr[first : last + 1]).astype(np.int64)
            edges = slice(matrix.indptr[first], matrix.indptr[last])
            blocks.append(
                (
                    slice(first, last),
                    self.array(lengths),
                    self.array(np.repeat(np.arange(first, last), lengths)),
                    self.array(matrix.indices[edges].astype(np.int64)),
                    self.array(matrix.data[edges]),
                )
            )
        return blocks

    def pull(self, p: Tensor) -> Tensor:
        """A P at the support, [N, rho]."""
        out = torch.zeros_like(p)
        for rows, lengths, row, column, weight in self._edges:
            same = self._prototypes[row][:, :, None] == self._prototypes[column][:, None, :]
            met = (same * (p[column] * weight[:, None])[:, None, :]).sum(dim=2)
            out[rows] = torch.segment_reduce(met, "sum", lengths=lengths, initial=0.0)
        return out * self._used

    def mass(self, p: Tensor) -> Tensor:
        """P^T k [C]."""
        mass = torch.zeros(self.support.n_prototypes, dtype=p.dtype, device=p.device)
        places = self._prototypes[self._used]
        return mass.index_put((places,), (p * self._degree[:, None])[self._used], accumulate=True)

    def field(self, p: Tensor, pull: Tensor | None = None, mass: Tensor | None = None) -> Tensor:
        """As `SoftProblem.field`."""
        pull = self.pull(p) if pull is None else pull
        mass = self.mass(p) if mass is None else mass
        degree = self._degree[:, None]
        near = torch.where(degree > 0, pull / degree.clamp_min(1e-300), 0.0)
        return near - self.gamma / self.total * mass[self._prototypes]

    def entropy(self, p: Tensor) -> float:
        """As `SoftProblem.entropy`."""
        return float(-(torch.xlogy(p, p)).sum(dim=1) @ self._degree) / self.total

    def divergence(self, p: Tensor) -> float:
        """As `SoftProblem.divergence`."""
        terms = (torch.xlogy(p, p) - p * self.array(self.inertia.log_last)).sum(dim=1)
        return float(terms @ (self._degree * self.array(self.inertia.weight))) / self.total

    def softmax(self, logits: Tensor) -> Tensor:
        """As `SoftProblem.softmax`."""
        return torch.softmax(torch.where(self._used, logits, -torch.inf), dim=1)

    def argmax(self, logits: Tensor) -> Tensor:
        """As `SoftProblem.argmax`."""
        best = torch.where(self._used, logits, -torch.inf).argmax(dim=1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, best, 1.0)

    def moved(self, direction: Tensor) -> float:
        """As `SoftProblem.moved`."""
        return float(direction.abs().sum(dim=1) @ self._degree) / (2 * self.total)
