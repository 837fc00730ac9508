"""The sparse support of soft memberships, and soft modularity on it (G2Rec Eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.g2rec.coengagement import adjacency

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Support:
    """Which prototypes each item may belong to: the only places where P is not zero.

    Attributes:
        indptr: int64 [N + 1]; item i owns entries ``indptr[i]:indptr[i + 1]``, at least one.
        prototypes: int32 [entries], sorted within an item.
        n_prototypes: C.
    """

    indptr: NDArray[np.int64]
    prototypes: NDArray[np.int32]
    n_prototypes: int

    @cached_property
    def items(self) -> NDArray[np.int64]:
        """int64 [entries]: the item of each entry."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))

    def matrix(self, p: Floats) -> sparse.csr_array:
        """P as CSR [N, C] from its values [entries]."""
        return sparse.csr_array((p, self.prototypes, self.indptr), shape=(len(self.indptr) - 1, self.n_prototypes))

    def hard(self, labels: NDArray[np.int64]) -> Floats:
        """Values [entries] of the hard clustering `labels` [N]."""
        return (self.prototypes == labels[self.items]).astype(np.float64)

    def softmax(self, logits: Floats) -> Floats:
        """Softmax of values [entries] within each item."""
        starts, counts = self.indptr[:-1], np.diff(self.indptr)
        weights = np.exp(logits - np.repeat(np.maximum.reduceat(logits, starts), counts))
        return weights / np.repeat(np.add.reduceat(weights, starts), counts)

    def argmax(self, logits: Floats) -> Floats:
        """One-hot of the largest value [entries] within each item (ties: the smallest prototype)."""
        starts, counts = self.indptr[:-1], np.diff(self.indptr)
        is_best = logits == np.repeat(np.maximum.reduceat(logits, starts), counts)
        before = np.cumsum(is_best) - is_best
        return (is_best & (before == np.repeat(before[starts], counts))).astype(np.float64)


@dataclass(frozen=True)
class SoftProblem:
    """Soft modularity of one graph on one support, with everything that does not change while P does.

    Attributes:
        support: places of P.
        product: CSR [entries, entries], symmetric; ``product @ p`` is A P read at the support. It has at most
            rho * |E| entries, and no |I| x C matrix is ever made.
        degree: float64 [N], k.
        gamma: resolution.
    """

    support: Support
    product: sparse.csr_array
    degree: Floats
    gamma: float

    @cached_property
    def total(self) -> float:
        """|E| in the duplicate convention: the sum of all degrees."""
        return float(self.degree.sum())

    def field(self, p: Floats) -> Floats:
        """``(A P)_ia / k_i - gamma (P^T k)_a / |E|`` at the support [entries]; 0 for the first term where k_i = 0."""
        degree = self.degree[self.support.items]
        pull = np.divide(self.product @ p, degree, out=np.zeros_like(p), where=degree > 0)
        return pull - self.gamma * self.mass(p)[self.support.prototypes] / self.total

    def mass(self, p: Floats) -> Floats:
        """P^T k [C]."""
        weights = p * self.degree[self.support.items]
        mass = np.bincount(self.support.prototypes, weights=weights, minlength=self.support.n_prototypes)
        return mass.astype(np.float64)

    def modularity(self, p: Floats) -> float:
        """Q_soft (Eq. 4)."""
        mass = self.mass(p)
        return float(p @ (self.product @ p) / self.total - self.gamma * (mass @ mass) / self.total**2)

    def entropy(self, p: Floats) -> float:
        """Degree-weighted mean entropy ``sum_i (k_i / |E|) H(p_i)``, in nats."""
        terms = -p * np.log(np.maximum(p, 1e-300))
        return float(terms @ self.degree[self.support.items] / self.total)

    def objective(self, p: Floats, temperature: float) -> float:
        """``Q_soft + 2 T * entropy``; see `soft_solvers` for why this weight."""
        return self.modularity(p) + 2.0 * temperature * self.entropy(p)


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


def choose_support(matrix: sparse.csr_array, labels: NDArray[np.int64], rho: int, gamma: float) -> Support:
    """Each item's own cluster and its strongest others, rho in all.

    Strength is the field at the hard clustering, ``tie_ic / k_i - gamma K_c / |E|``, so that the support holds what the
    solvers would choose first. Only clusters that the item has an edge to count.

    Args:
        matrix: symmetric adjacency [N, N].
        labels: [N] hard clusters 0..C-1.
        rho: prototypes an item may have at this level.
        gamma: resolution.
    """
    n_items, n_prototypes = matrix.shape[0], int(labels.max()) + 1
    everyone = np.arange(n_items)
    own = sparse.csr_array((np.ones(n_items), (everyone, labels)), shape=(n_items, n_prototypes))
    ties = (matrix @ own).tocoo()
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    strength = ties.data / degree[ties.row] - gamma * np.bincount(labels, weights=degree)[ties.col] / degree.sum()
    other = ties.col != labels[ties.row]
    rows = np.concatenate([everyone, ties.row[other]])
    columns = np.concatenate([labels, ties.col[other]])
    strength = np.concatenate([np.full(n_items, np.inf), strength[other]])
    order = np.lexsort((columns, -strength, rows))
    counts = np.bincount(rows, minlength=n_items)
    rank = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = order[rank < rho]
    kept = kept[np.lexsort((columns[kept], rows[kept]))]
    indptr = np.concatenate([[0], np.cumsum(np.minimum(counts, rho))]).astype(np.int64)
    return Support(indptr, columns[kept].astype(np.int32), n_prototypes)


def soft_problem(
    matrix: sparse.csr_array, support: Support, gamma: float, *, table_entries: int = 8_000_000
) -> SoftProblem:
    """Restrict A to a support: one row and column for each (item, prototype) that P may use.

    Args:
        matrix: symmetric adjacency [N, N].
        support: places of P.
        gamma: resolution.
        table_entries: size of the look-up table (items of a block x C) used to build the product.
    """
    n_items, entries = matrix.shape[0], len(support.prototypes)
    block = max(1, table_entries // max(support.n_prototypes, 1))
    widths = np.diff(support.indptr)
    parts = []
    for first in range(0, n_items, block):
        last = min(first + block, n_items)
        start, stop = support.indptr[first], support.indptr[last]
        # entry_of[i, a] is the place of (i, a) in the support, or -1.
        entry_of = np.full((last - first, support.n_prototypes), -1, dtype=np.int32)
        owners = np.repeat(np.arange(last - first), widths[first:last])
        entry_of[owners, support.prototypes[start:stop]] = np.arange(start, stop)
        edges = slice(matrix.indptr[first], matrix.indptr[last])
        ends = matrix.indices[edges]
        fan = widths[ends]
        item = np.repeat(np.repeat(np.arange(last - first), np.diff(matrix.indptr[first : last + 1])), fan)
        column = np.arange(len(item)) + np.repeat(support.indptr[ends] - (np.cumsum(fan) - fan), fan)
        row = entry_of[item, support.prototypes[column]]
        met = row >= 0
        weight = np.repeat(matrix.data[edges], fan)[met]
        shape = (stop - start, entries)
        parts.append(sparse.coo_array((weight, (row[met] - start, column[met])), shape=shape).tocsr())
    product = sparse.csr_array(sparse.vstack(parts, format="csr"))
    return SoftProblem(support, product, np.asarray(matrix.sum(axis=1)).ravel(), gamma)
