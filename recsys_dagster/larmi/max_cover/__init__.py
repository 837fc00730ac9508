"""Representative synthesized users: few cliques that cover the most valuable items (LARMI, Eq. 6-8 and A.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover.clock import Clock, Incumbent
from recsys_dagster.larmi.max_cover.config import MaxCoverConfig
from recsys_dagster.larmi.max_cover.greedy import solve_greedy
from recsys_dagster.larmi.max_cover.instance import CoverInstance, build_instance, item_values

__all__ = [
    "Clock",
    "CoverInstance",
    "Incumbent",
    "MaxCoverConfig",
    "Selection",
    "build_instance",
    "item_values",
    "selection_table",
    "solve",
    "solve_greedy",
]


@dataclass(frozen=True)
class Selection:
    """The selected sets, the most valuable first (forced ones among them).

    Attributes:
        chosen: int64 [at most Z]; `set_ids` of the instance (clique ids).
        marginal: float64; value that each one adds to those before it, never growing.
        covered: float64; running total of `marginal`.
        share: covered value over the value of everything that any set holds.
        bound: no selection covers more than this; known to the solver `exact`, and where everything is covered.
        optimal: whether the selection was proven to be best.
        cut: whether the clock ended the work, so that another run may end elsewhere.
        trace: (seconds, covered value, who found it) of every improvement.
    """

    chosen: NDArray[np.int64]
    marginal: NDArray[np.float64]
    covered: NDArray[np.float64]
    share: float
    bound: float | None = None
    optimal: bool = False
    cut: bool = False
    trace: tuple[tuple[float, float, str], ...] = ()


def solve(
    instance: CoverInstance, config: MaxCoverConfig | None = None, incumbent: Incumbent | None = None
) -> Selection:
    """Select at most Z sets that cover as much value as possible (Eq. 8) with the configured solver.

    `cardnn` and `greedy` are finished by the local search, and so is what `exact` finds where the clock cuts it. Sets
    that add nothing are left out, unless they are forced. `random` is a seeded draw, untouched. The result depends
    neither on how sets and objects are numbered nor, unless `cut` says so, on the machine.

    Args:
        instance: the sets.
        config: solver, work, time limit. Its budget has become the instance's in `build_instance`.
        incumbent: holds the best selection at any moment, for whoever watches from another thread.
    """
    from recsys_dagster.larmi.max_cover.canonical import canonical

    config, incumbent = config or MaxCoverConfig(), incumbent or Incumbent()
    _load(config.solver)
    clock = Clock(config.time_limit_s)
    instance = canonical(instance)
    bound, optimal = None, False
    if config.solver == "random":
        rng = np.random.default_rng(config.seed)
        free = np.setdiff1d(np.arange(instance.n_sets), np.concatenate([instance.forced, instance.forbidden]))
        drawn = rng.choice(free, size=min(instance.budget - len(instance.forced), len(free)), replace=False)
        chosen = np.concatenate([instance.forced, drawn])
    else:
        chosen = solve_greedy(instance, clock=clock)
        covered = incumbent.offer(instance, chosen, "greedy", clock)
        reachable = instance.reachable()
        if covered >= reachable * (1 - 1e-12):
            bound, optimal = reachable, True  # nothing is left to cover
        elif config.solver == "exact":
            from recsys_dagster.larmi.max_cover.exact import solve_exact

            result = solve_exact(instance, clock)
            bound, optimal = result.bound, result.optimal
            chosen = max(chosen, result.chosen, key=instance.covered_value)
        elif config.solver == "cardnn":
            from recsys_dagster.larmi.max_cover.cardnn import solve_cardnn

            chosen = max(solve_cardnn(instance, config, clock, incumbent), chosen, key=instance.covered_value)
        if not optimal and not (config.solver == "greedy" and config.search_moves == 0):
            from recsys_dagster.larmi.max_cover.local_search import swap_local_search

            chosen = swap_local_search(
                instance, chosen, config.search_moves, seed=config.seed, clock=clock, incumbent=incumbent
            )
    ordered = solve_greedy(instance.freed(), among=chosen)
    rest = np.setdiff1d(chosen if config.solver == "random" else instance.forced, ordered)
    ordered = np.concatenate([ordered, rest])
    marginal = instance.marginals(ordered)
    share = float(marginal.sum()) / max(instance.reachable(), 1e-300)
    return Selection(
        instance.names(ordered),
        marginal,
        np.cumsum(marginal),
        share,
        bound,
        optimal,
        clock.cut,
        tuple(incumbent.trace),
    )


def selection_table(selection: Selection) -> pd.DataFrame:
    """representative_users: rank i32 from 0, clique_id i32, marginal_value f64, covered_value f64 (running total)."""
    return pd.DataFrame(
        {
            "rank": np.arange(len(selection.chosen), dtype=np.int32),
            "clique_id": selection.chosen.astype(np.int32),
            "marginal_value": selection.marginal,
            "covered_value": selection.covered,
        }
    )


def _load(solver: str) -> None:
    """Import (and, once for a checkout, compile) what the solver needs, before its clock starts."""
    from recsys_dagster.larmi.max_cover.local_search import swap_local_search

    tiny = CoverInstance(np.array([0, 1, 2]), np.array([0, 1], dtype=np.int32), np.ones(2), 1)
    swap_local_search(tiny, solve_greedy(tiny), 2)
    if solver == "cardnn":
        import recsys_dagster.larmi.max_cover.cardnn  # noqa: F401
