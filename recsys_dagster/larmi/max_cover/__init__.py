"""Representative synthesized users: few cliques that cover the most valuable items (LARMI, Eq. 6-8 and A.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover.greedy import solve_greedy
from recsys_dagster.larmi.max_cover.instance import CoverInstance, MaxCoverConfig, build_instance, item_values
from recsys_dagster.larmi.max_cover.local_search import swap_local_search

__all__ = [
    "CoverInstance",
    "MaxCoverConfig",
    "Selection",
    "build_instance",
    "item_values",
    "selection_table",
    "solve",
    "solve_greedy",
    "swap_local_search",
]


@dataclass(frozen=True)
class Selection:
    """The selected sets, the most valuable first.

    Attributes:
        chosen: int64 [at most Z]; `set_ids` of the instance (clique ids).
        marginal: float64; value that each one adds to those before it, never growing.
        covered: float64; running total of `marginal`.
        share: covered value over the value of everything that any set holds.
    """

    chosen: NDArray[np.int64]
    marginal: NDArray[np.float64]
    covered: NDArray[np.float64]
    share: float


def solve(instance: CoverInstance, config: MaxCoverConfig | None = None) -> Selection:
    """Select at most Z sets that cover as much value as possible (Eq. 8) with the configured solver.

    `cardnn` and `greedy` are both finished by the swap local search; sets that add nothing are left out. `random` is a
    seeded draw of Z sets, untouched.
    """
    config = config or MaxCoverConfig()
    if config.solver == "random":
        rng = np.random.default_rng(config.seed)
        chosen = rng.choice(instance.n_sets, size=instance.budget, replace=False)
    elif config.solver == "greedy":
        chosen = swap_local_search(instance, solve_greedy(instance), config.swap_passes)
    else:
        from recsys_dagster.larmi.max_cover.cardnn import solve_cardnn

        chosen = swap_local_search(instance, solve_cardnn(instance, config), config.swap_passes)
    ordered = solve_greedy(instance, among=chosen)
    if config.solver == "random":
        ordered = np.concatenate([ordered, np.setdiff1d(chosen, ordered)])
    marginal = _marginals(instance, ordered)
    held = np.unique(instance.items)
    ids = ordered if instance.set_ids is None else instance.set_ids[ordered]
    total = max(float(instance.values[held].sum()), 1e-300)
    return Selection(ids, marginal, np.cumsum(marginal), float(marginal.sum()) / total)


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


def _marginals(instance: CoverInstance, ordered: NDArray[np.int64]) -> NDArray[np.float64]:
    left = instance.values.copy()
    marginal = np.zeros(len(ordered))
    for place, index in enumerate(ordered):
        items = instance.of(int(index))
        marginal[place] = left[items].sum()
        left[items] = 0
    return marginal
