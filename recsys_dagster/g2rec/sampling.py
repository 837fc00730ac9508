"""How many pairs of a user to draw, and which: Theorem 2 of G2Rec, and a sharper form (docs/science/sampling.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy import sparse

GAP_SAFETY = 0.8
"""Lanczos finds the spectral gap from above; this much of it is relied on."""


class CoengagementConfig(BaseModel):
    """How co-engaged pairs are counted."""

    epsilon: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Relative error of the sampled Laplacian (Theorem 2).",
    )
    delta: float = Field(default=0.1, gt=0, lt=1, description="Probability of a larger error (Theorem 2).")
    samples_per_user: int | None = Field(
        default=None,
        ge=1,
        description="Pairs drawn per user (m of Eq. 2); overrides epsilon and delta.",
    )
    max_history: int | None = Field(
        default=None, ge=2, description="Use only this many most recent distinct items of a user; None uses all."
    )
    weighting: Literal["count", "user_normalised", "binary"] = Field(
        default="user_normalised",
        description="Weight of an edge: users who share the pair, where a user with N items gives 1/(N-1), so that "
        "every interaction counts alike (user_normalised); the same with 1 a user (count, Eq. 2); 1 (binary, the A of "
        "Eq. 3).",
    )
    half_life_days: float | None = Field(
        default=None,
        gt=0,
        description="A pair counts half as much for every so many days of its two interactions' mean age, reckoned "
        "from the newest train interaction. None: age does not matter. Needs timestamps.",
    )
    by_degree: bool = Field(
        default=True,
        description="Where the whole log is at hand, draw fewer pairs of popular items, as degrees and spectral gap of "
        "the full graph allow at the same epsilon and delta.",
    )
    chunk_pairs: int = Field(default=64_000_000, ge=1, description="Pairs held in memory at once.")
    group_rows: int = Field(
        default=2_097_152,
        ge=1,
        description="Rows of a stored log that are counted together, by one worker; sums are rounded in this order.",
    )


def draws_per_unit(n_items: int, config: CoengagementConfig) -> float:
    """``2 (1 / (3 epsilon) + 1 / epsilon^2) log(2 |I| / delta)``: draws for each unit of a draw's largest norm."""
    factor = 2.0 * (1.0 / (3.0 * config.epsilon) + 1.0 / config.epsilon**2)
    return factor * float(np.log(2.0 * max(n_items, 1) / config.delta))


def sample_sizes(
    lengths: NDArray[np.int64], n_items: int, config: CoengagementConfig
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pairs to take from each user, and whether they are all pairs (Theorem 2).

    Args:
        lengths: [U] number N of distinct items of each user.
        n_items: size |I| of the catalogue.
        config: epsilon and delta, or m itself.

    Returns:
        m, int64 [U]: ``min(m, N (N - 1) / 2)``; exact, bool [U]: true where m reaches the N (N - 1) / 2 pairs there
        are, so that the whole clique costs no more than the sample.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    pairs = lengths * (lengths - 1) // 2
    if config.samples_per_user is not None:
        m = np.full(len(lengths), config.samples_per_user, dtype=np.int64)
    else:
        m = np.ceil(lengths * draws_per_unit(n_items, config)).astype(np.int64)
    return np.minimum(m, pairs), m >= pairs


@dataclass(frozen=True)
class DegreePlan:
    """What the full graph tells about its pairs without being built.

    With k the degrees of the full graph and lambda the smallest non-zero eigenvalue of its normalised Laplacian, a pair
    has effective resistance at most ``(1 / k_i + 1 / k_j) / lambda``. A user's draws whose first end is taken in
    proportion to 1 / k and whose second end uniformly have norm at most ``s_u (N_u - 1) Q_u / (lambda m_u)``, where
    ``Q_u = sum of 1 / k_i`` over his items and s_u weighs his pairs. So ``m_u = s_u (N_u - 1) Q_u / lambda`` times
    `draws_per_unit` is enough for epsilon and delta, and over all users that is |I| / lambda times it, however long
    the log.

    Attributes:
        inverse_degree: float64 [N], 1 / k_i; 0 for items without a pair.
        gap: lambda, with its safety taken off.
    """

    inverse_degree: NDArray[np.float64]
    gap: float

    def sizes(
        self,
        items: NDArray[np.int32],
        lengths: NDArray[np.int64],
        share: NDArray[np.float64],
        n_items: int,
        config: CoengagementConfig,
    ) -> NDArray[np.int64]:
        """m_u, int64 [U], for users with these distinct items one after the other."""
        running = np.concatenate([[0.0], np.cumsum(self.inverse_degree[items])])
        ends = np.cumsum(lengths)
        spread = running[ends] - running[ends - lengths]
        needed = share * np.maximum(lengths - 1, 0) * spread / self.gap * draws_per_unit(n_items, config)
        return np.ceil(np.minimum(needed, 2.0**60)).astype(np.int64)


def degree_plan(
    items: NDArray[np.int32], lengths: NDArray[np.int64], share: NDArray[np.float64], n_items: int
) -> DegreePlan | None:
    """Degrees and spectral gap of the full graph, from the log alone; None where there is no pair or no gap.

    ``L_full x = (B^T S N) x - B^T S (B x)`` costs as much as reading the log.

    Args:
        items: distinct items of all users, one after the other.
        lengths: [U] how many each has.
        share: [U] weight s_u of a user's pairs (S).
        n_items: size |I| of the catalogue.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh  # slow to import: not while definitions load

    from recsys_dagster.g2rec.spectrum import NullSpace

    indptr = np.concatenate([[0], np.cumsum(lengths)])
    B = sparse.csr_array((np.ones(len(items)), items, indptr), shape=(len(lengths), n_items))
    degree = B.T @ (share * (lengths - 1.0))
    if np.count_nonzero(degree) < 3:
        return None
    own = B.T @ share
    inverse = np.divide(1.0, degree, out=np.zeros(n_items), where=degree > 0)
    root = np.sqrt(degree)
    constants = NullSpace(indptr, items, root)
    scale = np.sqrt(inverse)

    def ties(z: NDArray[Any]) -> NDArray[Any]:
        """The normalised adjacency matrix of the full graph, without its eigenvectors of eigenvalue 1."""
        x = scale * constants.removed(z.ravel())
        return constants.removed(scale * (B.T @ (share * (B @ x)) - own * x))

    operator = LinearOperator((n_items, n_items), ties, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(n_items) * (degree > 0)
    largest = float(eigsh(operator, k=1, which="LA", tol=1e-2, v0=start, return_eigenvectors=False)[0])
    gap = GAP_SAFETY * (1.0 - max(largest, 0.0))
    return DegreePlan(inverse, gap) if gap > 1e-6 else None
