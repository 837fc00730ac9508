"""Where a soft problem is computed: CPU threads or a torch device."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from recsys_dagster.g2rec.soft_problem import Inertia, SoftProblem, Support


def soft_problem(
    matrix: sparse.csr_array, support: Support, gamma: float, device: str = "cpu", inertia: Inertia | None = None
) -> SoftProblem:
    """The problem of one level, on CPU threads or on a GPU.

    Args:
        matrix: symmetric adjacency [N, N].
        support: places of P.
        gamma: resolution.
        device: "cpu", or a torch device.
        inertia: what holds items to last night's memberships; nothing unless given.
    """
    inertia = inertia or Inertia.none(support)
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    if device == "cpu":
        return SoftProblem(support, matrix, degree, gamma, inertia)
    from recsys_dagster.g2rec.soft_torch import TorchSoftProblem

    return TorchSoftProblem(support, matrix, degree, gamma, inertia, device)
