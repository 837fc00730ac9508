"""Max-cover as a mixed-integer program for HiGHS: the optimum of small instances, or a bound on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover.clock import Clock
from recsys_dagster.larmi.max_cover.instance import CoverInstance


@dataclass(frozen=True)
class ExactResult:
    """What branch and bound found.

    Attributes:
        chosen: int64 [at most Z]; empty if no selection was found in time.
        bound: no selection covers more than this.
        optimal: whether `chosen` was proven to be best.
    """

    chosen: NDArray[np.int64]
    bound: float
    optimal: bool


def solve_exact(instance: CoverInstance, clock: Clock | None = None) -> ExactResult:
    """Solve Eq. 16 to optimality, or as far as the clock lets it.

    max sum_j w_j y_j with y_j <= sum of x_i over the sets i that hold j, sum x <= Z, x binary, 0 <= y <= 1. Objects of
    value 0 have no y; objects in the same sets share one. HiGHS looks at its clock between pieces of work of its own,
    so on large instances it may end some seconds late.

    Args:
        instance: sets, values, budget, forced and forbidden sets.
        clock: HiGHS gets what is left of its limit.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array, eye_array, hstack, vstack

    clock = clock or Clock()
    matrix, values = _merged(instance)
    n_sets, n_rows = matrix.shape
    total = float(values.sum())
    lower, upper = np.zeros(n_sets + n_rows), np.ones(n_sets + n_rows)
    lower[instance.forced], upper[instance.forbidden] = 1, 0
    covers = hstack([-matrix.T, eye_array(n_rows)])
    budget = csr_array(np.concatenate([np.ones(n_sets), np.zeros(n_rows)])[None])
    limits = np.concatenate([np.zeros(n_rows), [instance.budget]])
    options: dict[str, float] = {"mip_rel_gap": 0.0}
    if clock.limit_s is not None:
        if clock.expired():
            return ExactResult(np.zeros(0, dtype=np.int64), total, False)
        options["time_limit"] = clock.limit_s - clock.seconds
    result = milp(
        np.concatenate([np.zeros(n_sets), -values]),
        integrality=np.concatenate([np.ones(n_sets), np.zeros(n_rows)]),
        bounds=Bounds(lower, upper),
        constraints=LinearConstraint(vstack([covers, budget], format="csr"), -np.inf, limits),
        options=options,
    )
    clock.cut |= result.status == 1
    chosen = np.zeros(0, dtype=np.int64) if result.x is None else np.flatnonzero(result.x[:n_sets] > 0.5)
    bound = total if result.mip_dual_bound is None else min(-float(result.mip_dual_bound), total)
    return ExactResult(chosen, bound, result.status == 0)


def _merged(instance: CoverInstance) -> tuple[Any, NDArray[np.float64]]:
    """A [P, rows] with one column for all objects that the same sets hold, and the sums of their values."""
    indptr, sets = instance.by_item
    groups: dict[bytes, int] = {}
    kept: list[int] = []
    values: list[float] = []
    for item in np.flatnonzero((np.diff(indptr) > 0) & (instance.values > 0)):
        key = sets[indptr[item] : indptr[item + 1]].tobytes()
        if key in groups:
            values[groups[key]] += float(instance.values[item])
        else:
            groups[key] = len(kept)
            kept.append(int(item))
            values.append(float(instance.values[item]))
    return instance.matrix()[:, kept], np.array(values)
