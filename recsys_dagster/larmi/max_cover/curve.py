"""Coverage against budget: how many questions to the language model are worth paying for."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys_dagster.larmi.max_cover import MaxCoverConfig, Selection, solve
from recsys_dagster.larmi.max_cover.greedy import solve_greedy
from recsys_dagster.larmi.max_cover.instance import CoverInstance

SECONDS, MOVES, SCORE_STEPS = 10.0, 10_000, 40
"""Work for one other budget: a small part of what the selection itself gets."""

EXACT_SETS = 100
"""Instances of at most so many sets are solved to optimality as well, where that takes no more than SECONDS."""

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]


def coverage_curves(
    instance: CoverInstance, config: MaxCoverConfig, selection: Selection, points: int = 4
) -> dict[str, Curve]:
    """Covered share of the reachable value by budget, for every solver.

    Plain greedy and a random draw give a whole curve, up to twice the budget: their first Z are their answer for Z.
    The others are solved anew for `points` budgets, briefly; at the budget itself stands the selection.

    Args:
        instance: the sets.
        config: the settings that made the selection.
        selection: the selection.
        points: budgets that are solved anew.

    Returns:
        budgets and shares by solver.
    """
    largest = min(2 * instance.budget, instance.n_sets)
    total = max(instance.reachable(), 1e-300)
    wide = instance.with_budget(largest)
    order = np.random.default_rng(config.seed).permutation(
        np.setdiff1d(np.arange(instance.n_sets), instance.forbidden)
    )[:largest]
    curves: dict[str, Curve] = {}
    for name, chosen in (("greedy (plain)", solve_greedy(wide)), ("random", order)):
        covered = np.cumsum(instance.marginals(chosen)) / total
        curves[name] = np.arange(1, len(covered) + 1), covered
    grid = np.unique(np.linspace(largest / (points + 1), largest, points).round().astype(int))
    budgets = [int(z) for z in grid if z not in (instance.budget, 0) and z >= len(instance.forced)]
    brief = config.model_copy(
        update={"time_limit_s": SECONDS, "search_moves": MOVES, "network_steps": 0, "score_steps": SCORE_STEPS}
    )
    for solver in ("cardnn", "exact"):
        if solver == "exact" and instance.n_sets > EXACT_SETS:
            continue
        known = {instance.budget: selection.share} if config.solver == solver else {}
        for budget in [*budgets, *([instance.budget] if not known else [])]:
            found = solve(instance.with_budget(budget), brief.model_copy(update={"solver": solver}))
            if solver == "cardnn" or found.optimal:
                known[budget] = found.share
        if known:
            curves[solver] = np.array(sorted(known)), np.array([known[z] for z in sorted(known)])
    return curves


def elbow(budgets: ArrayLike, shares: ArrayLike) -> int:
    """The budget where a curve of diminishing returns lies highest above its chord from (0, 0) to its end."""
    x = np.concatenate([[0.0], np.asarray(budgets, dtype=np.float64)])
    y = np.concatenate([[0.0], np.asarray(shares, dtype=np.float64)])
    return int(x[np.argmax(y / max(y[-1], 1e-300) - x / x[-1])])


def overlaps(instance: CoverInstance, selection: Selection) -> NDArray[np.float64]:
    """Jaccard index of the objects of every two chosen sets; float64 [chosen, chosen], 1 on the diagonal."""
    names = instance.names(np.arange(instance.n_sets))
    order = np.argsort(names)
    matrix = instance.matrix()[order[np.searchsorted(names, selection.chosen, sorter=order)]]
    both = (matrix @ matrix.T).toarray()
    sizes = both.diagonal()
    union = sizes[:, None] + sizes[None] - both
    shares: NDArray[np.float64] = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return shares
