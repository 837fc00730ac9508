"""The sparse support of soft memberships, and soft modularity on it (G2Rec Eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.parallel import parallel_rows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Support:
    """Which prototypes each item may belong to: the only places where P is not zero.

    Attributes:
        prototypes: int32 [N, rho], rising within an item, -1 where an item has fewer; at least one each.
        n_prototypes: C.
    """

    prototypes: NDArray[np.int32]
    n_prototypes: int

    @cached_property
    def used(self) -> NDArray[np.bool_]:
        """bool [N, rho]: the places that are in use."""
        return self.prototypes >= 0

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        """int32 [N]: how many places of each item are in use; they are its first."""
        return self.used.sum(axis=1, dtype=np.int32)

    def matrix(self, p: Floats) -> sparse.csr_array:
        """P as CSR [N, C] from its values [N, rho]."""
        indptr = np.concatenate([[0], np.cumsum(self.used.sum(axis=1))])
        shape = (len(self.prototypes), self.n_prototypes)
        return sparse.csr_array((p[self.used], self.prototypes[self.used], indptr), shape=shape)

    def hard(self, labels: NDArray[np.int64]) -> Floats:
        """Values [N, rho] of the hard clustering `labels` [N]."""
        return (self.prototypes == labels[:, None]).astype(np.float64)

    def values(self, matrix: sparse.csr_array, labels: NDArray[np.int64]) -> Floats:
        """Values [N, rho] of another P [N, C], cut to this support and made to sum to 1; `labels` where none is left.

        Args:
            matrix: memberships of the same items in the same prototypes, CSR.
            labels: [N] prototype of items that have no probability in the support.
        """
        matrix = sparse.csr_array(matrix)
        matrix.sort_indices()
        rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
        keys = rows * self.n_prototypes + matrix.indices
        items = np.repeat(np.arange(len(self.prototypes))[:, None], self.prototypes.shape[1], axis=1)
        wanted = (items * self.n_prototypes + self.prototypes)[self.used]
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        p = np.zeros(self.prototypes.shape)
        if len(keys):
            p[self.used] = np.where(keys[place] == wanted, matrix.data[place], 0.0)
        kept = p.sum(axis=1)
        empty = kept <= 0
        p[empty] = self.hard(labels)[empty]
        return p / np.where(empty, 1.0, kept)[:, None]


@dataclass(frozen=True)
class Inertia:
    """How strongly items are held to last night's memberships q.

    The objective loses ``2 T sum_i (k_i / |E|) w_i KL(p_i || q_i)``, the temporal smoothness of evolutionary clustering
    (Chakrabarti, Kumar and Tomkins 2006). If q is at rest without that term, it is at rest with it.

    Attributes:
        weight: float64 [N], w; 0 where an item is free.
        log_last: float64 [N, rho], log q at the support, bounded from below.
    """

    weight: Floats
    log_last: Floats

    @classmethod
    def none(cls, support: Support) -> Inertia:
        """Nothing is held."""
        return cls(np.zeros(len(support.prototypes)), np.zeros(support.prototypes.shape))


@dataclass(frozen=True)
class SoftProblem:
    """Soft modularity of one graph on one support, in NumPy with compiled loops on all cores.

    No |I| x C matrix is ever made: A P is read at the support only, by gathering the rows of P of each item's
    neighbours. One product costs |E| times the mean number of memberships.

    Attributes:
        support: places of P.
        matrix: symmetric adjacency A, CSR [N, N].
        degree: float64 [N], its row sums k.
        gamma: resolution.
        inertia: what holds items to last night's memberships.
    """

    support: Support
    matrix: sparse.csr_array
    degree: Floats
    gamma: float
    inertia: Inertia

    @cached_property
    def total(self) -> float:
        """|E| in the duplicate convention: the sum of all degrees."""
        return float(self.degree.sum())

    @cached_property
    def _cost(self) -> NDArray[np.int64]:
        return self.matrix.indptr.astype(np.int64)

    @cached_property
    def _places(self) -> NDArray[np.int32]:
        return self.support.prototypes[self.support.used]

    def reordered(self, order: NDArray[np.int64]) -> SoftProblem:
        """The same problem with items in another order: item i of it is item ``order[i]`` of this one."""
        from recsys_dagster.g2rec import soft_kernels as kernels

        matrix, place = self.matrix, np.empty(len(order), dtype=self.matrix.indices.dtype)
        place[order] = np.arange(len(order))
        indptr = np.concatenate([[0], np.cumsum(np.diff(matrix.indptr)[order])]).astype(matrix.indptr.dtype)
        neighbours, weights = np.empty_like(matrix.indices), np.empty_like(matrix.data)

        def work(first: int, last: int) -> None:
            kernels.reorder_rows(
                first, last, matrix.indptr, matrix.indices, matrix.data, order, place, indptr, neighbours, weights
            )

        parallel_rows(work, indptr.astype(np.int64))
        return SoftProblem(
            Support(self.support.prototypes[order], self.support.n_prototypes),
            sparse.csr_array((weights, neighbours, indptr), shape=matrix.shape),
            self.degree[order],
            self.gamma,
            Inertia(self.inertia.weight[order], self.inertia.log_last[order]),
        )

    @property
    def xp(self) -> Any:
        """The module whose arrays this problem computes with."""
        return np

    def array(self, values: Floats) -> Any:
        """Values [N, rho] as such an array."""
        return values

    def numpy(self, values: Any) -> Floats:
        """The other way round."""
        return np.asarray(values)

    def pull(self, p: Any) -> Any:
        """A P at the support, [N, rho]."""
        from recsys_dagster.g2rec import soft_kernels as kernels

        out = np.empty_like(p)
        matrix, support = self.matrix, self.support

        def work(first: int, last: int) -> None:
            kernels.pull_rows(
                first, last, matrix.indptr, matrix.indices, matrix.data, support.prototypes, support.sizes, p,
                support.n_prototypes, out,
            )  # fmt: skip

        parallel_rows(work, self._cost)
        return out

    def mass(self, p: Any) -> Any:
        """P^T k [C]."""
        places, weights = self._places, (p * self.degree[:, None])[self.support.used]
        return np.bincount(places, weights=weights, minlength=self.support.n_prototypes)

    def field(self, p: Any, pull: Any = None, mass: Any = None) -> Any:
        """``(A P)_ia / k_i - gamma (P^T k)_a / |E|`` at the support [N, rho]; 0 for the first term where k_i = 0."""
        pull = self.pull(p) if pull is None else pull
        mass = self.mass(p) if mass is None else mass
        degree = self.degree[:, None]
        near = np.divide(pull, degree, out=np.zeros_like(p), where=degree > 0)
        return near - self.gamma / self.total * mass[self.support.prototypes]

    def modularity(self, p: Any, pull: Any = None, mass: Any = None) -> float:
        """Q_soft (Eq. 4)."""
        pull = self.pull(p) if pull is None else pull
        mass = self.mass(p) if mass is None else mass
        return float((p * pull).sum()) / self.total - self.gamma * float((mass * mass).sum()) / self.total**2

    def entropy(self, p: Any) -> float:
        """Degree-weighted mean entropy ``sum_i (k_i / |E|) H(p_i)``, in nats."""
        terms = -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1)
        return float(terms @ self.degree) / self.total

    def divergence(self, p: Any) -> float:
        """How far items are from last night, ``sum_i (k_i / |E|) w_i KL(p_i || q_i)``, in nats."""
        terms = (p * (np.log(np.maximum(p, 1e-300)) - self.inertia.log_last)).sum(axis=1)
        return float(terms @ (self.degree * self.inertia.weight)) / self.total

    def objective(self, p: Any, temperature: float, pull: Any = None, mass: Any = None) -> float:
        """``Q_soft + 2 T (entropy - divergence)``; see `soft_solvers` for why these weights."""
        softness = 2.0 * temperature * (self.entropy(p) - self.divergence(p)) if temperature else 0.0
        return self.modularity(p, pull, mass) + softness

    def target(self, field: Any, temperature: float) -> Any:
        """The P that maximises the objective with Q_soft made linear by `field`."""
        if temperature == 0:
            return self.argmax(field)
        weight = self.array(self.inertia.weight)[:, None]
        return self.softmax((field / temperature + weight * self.array(self.inertia.log_last)) / (1 + weight))

    def softmax(self, logits: Any) -> Any:
        """Softmax within each item; 0 outside the support."""
        logits = np.where(self.support.used, logits, -np.inf)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)

    def argmax(self, logits: Any) -> Any:
        """One-hot of the largest value within each item (ties: the smallest prototype)."""
        hot = np.zeros_like(logits)
        best = np.where(self.support.used, logits, -np.inf).argmax(axis=1)
        hot[np.arange(len(hot)), best] = 1.0
        return hot

    def moved(self, direction: Any) -> float:
        """Degree-weighted mean of ``|direction|_1 / 2``: the share of all mass that a step would move."""
        return float(np.abs(direction).sum(axis=1) @ self.degree) / (2 * self.total)


def soft_modularity(P: sparse.sparray | Floats, graph: pd.DataFrame, gamma: float) -> float:
    """Q_soft of any membership matrix (G2Rec Eq. 4, with weights; |E| is the sum of all degrees).

    Args:
        P: [N, C], dense or sparse, rows summing to 1.
        graph: co-engagement graph of the N items.
        gamma: resolution.
    """
    P = sparse.csr_array(P)
    matrix = adjacency(graph, P.shape[0])
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    mass = P.T @ degree
    inside = (P * (matrix @ P)).sum()
    return float(inside / degree.sum() - gamma * (mass @ mass) / degree.sum() ** 2)


def choose_support(
    matrix: sparse.csr_array,
    labels: NDArray[np.int64],
    rho: int,
    gamma: float,
    *,
    kept: sparse.csr_array | None = None,
) -> Support:
    """Each item's own cluster and its strongest others, rho in all; first of all those of an earlier P.

    Strength is the field at the hard clustering, ``tie_ic / k_i - gamma K_c / |E|``, so that the support holds what the
    solvers would choose first. Only clusters that the item has an edge to count.

    Args:
        matrix: symmetric adjacency [N, N].
        labels: [N] hard clusters 0..C-1.
        rho: prototypes an item may have at this level.
        gamma: resolution.
        kept: memberships [N, C'] of an earlier night, C' <= C: these places come before others, the larger the first.
    """
    from recsys_dagster.g2rec import soft_kernels as kernels

    n_items, n_prototypes = matrix.shape[0], int(labels.max()) + 1
    if kept is None:
        kept = sparse.csr_array((n_items, n_prototypes))
    n_prototypes = max(n_prototypes, kept.shape[1])
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    expected = gamma * np.bincount(labels, weights=degree, minlength=n_prototypes) / degree.sum()
    prototypes = np.full((n_items, rho), -1, dtype=np.int32)
    earlier = kept.indptr.astype(np.int64), kept.indices.astype(np.int32), kept.data.astype(np.float64)

    def work(first: int, last: int) -> None:
        kernels.support_rows(
            first, last, matrix.indptr, matrix.indices, matrix.data, degree, labels, expected, *earlier, prototypes
        )

    parallel_rows(work, matrix.indptr.astype(np.int64))
    return Support(prototypes, n_prototypes)
