"""How far a sampled graph is from the full one: the epsilon of Theorem 2, measured (G2Rec 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.data.histories import Histories
from recsys_dagster.g2rec.graph import adjacency


class NullSpace:
    """Vectors that are constant on each component of the full graph, in the coordinates ``z = sqrt(degree) x``."""

    def __init__(self, indptr: NDArray[Any], items: NDArray[Any], root: NDArray[np.float64]) -> None:
        """Users' items as CSR rows, and the square root of every item's degree [N]."""
        from recsys_dagster.g2rec.pair_kernels import components

        self._component = components(indptr.astype(np.int64), items.astype(np.int32), len(root))
        self._root = root
        self._mass = np.maximum(np.bincount(self._component, weights=root * root), np.finfo(np.float64).tiny)

    def removed(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """z [N] without its part in this space."""
        inside = np.bincount(self._component, weights=self._root * z) / self._mass
        return np.asarray(z - self._root * inside[self._component])


def measured_epsilon(graph: pd.DataFrame, histories: Histories, *, tolerance: float = 1e-3, seed: int = 0) -> float:
    """The smallest epsilon with ``(1 - epsilon) L_full <= L_graph <= (1 + epsilon) L_full``.

    The full graph is never built: with B the users' distinct items and N their numbers,
    ``L_full x = (B^T N) x - B^T (B x)``, which costs as much as reading the log. The smallest and the largest
    generalised eigenvalue of (L_graph, L_full) are found by Lanczos, the inverse of L_full by conjugate gradients, both
    in the complement of the vectors that are constant on a component of the full graph.

    Args:
        graph: a sampled co-engagement graph, weighted by count.
        histories: the log that it was made from, without a cap or decay.
        tolerance: relative accuracy of the eigenvalue.
        seed: of the starting vector.
    """
    from scipy.sparse.linalg import LinearOperator, cg, eigsh  # slow to import: not while definitions load

    B = _incidence(histories)
    B = B[np.asarray(B.sum(axis=1)).ravel() > 1]
    items = np.flatnonzero(np.asarray(B.sum(axis=0)).ravel())
    B = B[:, items]
    lengths = np.asarray(B.sum(axis=1)).ravel()
    diagonal = B.T @ lengths  # of L_full, with the self pairs that B^T B takes away again
    degree = diagonal - np.asarray(B.sum(axis=0)).ravel()
    sampled = adjacency(graph, histories.n_items)[items][:, items]
    sampled_degree = np.asarray(sampled.sum(axis=1)).ravel()
    # All in the coordinates z = sqrt(degree) x, in which L_full is close to the identity.
    root = np.sqrt(degree)
    project = NullSpace(B.indptr, B.indices, root).removed

    def full(z: NDArray[Any]) -> NDArray[Any]:
        z = z.ravel()
        inside = project(z)
        x = inside / root
        # The identity on the null space makes both operators positive definite; the eigenvalue there is 1.
        return project((diagonal * x - B.T @ (B @ x)) / root) + (z - inside)

    def drawn(z: NDArray[Any]) -> NDArray[Any]:
        z = z.ravel()
        inside = project(z)
        x = inside / root
        return project((sampled_degree * x - sampled @ x) / root) + (z - inside)

    def solve(z: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(cg(operator(full), z.ravel(), rtol=1e-8, maxiter=500)[0])

    def operator(function: Any) -> Any:
        return LinearOperator((len(items), len(items)), function, dtype=np.float64)

    start = project(np.random.default_rng(seed).standard_normal(len(items)))
    low, high = (
        float(eigsh(
            operator(drawn), k=1, M=operator(full), Minv=operator(solve), which=end, tol=tolerance, v0=start,
            return_eigenvectors=False,
        )[0])
        for end in ("SA", "LA")
    )  # fmt: skip
    return max(1.0 - low, high - 1.0)


def _incidence(histories: Histories) -> sparse.csr_array:
    """B, float64 CSR [U, N]: 1 where a user has an item."""
    ones = np.ones(len(histories.items))
    B = sparse.csr_array((ones, histories.items, histories.indptr), shape=(histories.n_users, histories.n_items))
    B = B.copy()
    B.sum_duplicates()
    B.data[:] = 1.0
    return B
