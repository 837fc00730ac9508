"""Max-cover: what the solvers cover against lazy greedy, what the network is worth, exactness, growth of the cost.

Ratios are objective / lazy greedy on the same instance. Generated instances follow Wang et al. (2022); real ones are
the cliques of a dataset's train split, read from RECSYS_DATA_DIR, with a budget of 1 % of the users (220 on Beauty).
Parts can be run alone with `--only`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import main, prepared
from recsys_dagster.data.histories import Histories
from recsys_dagster.larmi.cliques import build_cliques
from recsys_dagster.larmi.max_cover import (
    Clock,
    CoverInstance,
    Incumbent,
    MaxCoverConfig,
    Selection,
    build_instance,
    solve,
    solve_greedy,
)
from recsys_dagster.larmi.max_cover.generated import random_instance
from recsys_dagster.memory import peak_memory_mb

PARTS = ("generated", "starts", "real", "exact", "growth")


def greedy_value(instance: CoverInstance) -> float:
    return instance.covered_value(solve_greedy(instance))


def timed_solve(instance: CoverInstance, config: MaxCoverConfig) -> tuple[float, Selection]:
    began = time.perf_counter()
    selection = solve(instance, config)
    return time.perf_counter() - began, selection


def reported(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Show a part as soon as it is done."""
    print(name, values, flush=True)
    return values


def generated(options: argparse.Namespace) -> dict[str, Any]:
    """The two sizes of the paper, with the default work."""
    found: dict[str, Any] = {}
    for name, n_sets in (("small", 500), ("large", 1000)):
        ratios, alone, seconds, cut = [], [], [], 0
        for seed in range(options.instances):
            instance = random_instance(n_sets, 2 * n_sets, n_sets // 10, seed)
            base = greedy_value(instance)
            spent, selection = timed_solve(instance, MaxCoverConfig(time_limit_s=10))
            ratios.append(selection.covered[-1] / base)
            network = max(value for _, value, source in selection.trace if source in ("network", "greedy"))
            alone.append(network / base)
            seconds.append(spent)
            cut += selection.cut
        found |= {
            f"{name}_ratio": round(float(np.mean(ratios)), 5),
            f"{name}_worst_ratio": round(float(np.min(ratios)), 5),
            f"{name}_ratio_of_network_alone": round(float(np.mean(alone)), 5),
            f"{name}_seconds": round(float(np.mean(seconds)), 2),
            f"{name}_longest_seconds": round(float(np.max(seconds)), 2),
            f"{name}_cut_by_clock": cut,
        }
    return reported("generated", found)


def start(name: str, instance: CoverInstance, seed: int, clock: Clock, incumbent: Incumbent) -> NDArray[np.int64]:
    if name == "greedy":
        return solve_greedy(instance)
    if name == "random":
        return np.random.default_rng(seed).permutation(instance.n_sets)[: instance.budget]
    from recsys_dagster.larmi.max_cover.cardnn import solve_cardnn

    return solve_cardnn(instance, MaxCoverConfig(), clock, incumbent)


def starts(options: argparse.Namespace) -> dict[str, Any]:
    """The same finish from the network, from greedy and from a random start: best value by equal wall time.

    Time counts from the first instruction of the start, so the network pays for itself.
    """
    from recsys_dagster.larmi.max_cover.local_search import swap_local_search

    instances = {
        "small": [random_instance(500, 1000, 50, seed) for seed in range(options.starts)],
        "large": [random_instance(1000, 2000, 100, seed) for seed in range(options.starts)],
        "huge": [random_instance(20_000, 40_000, 2_000, 0)],
    }
    times = {"small": (0.25, 1, 4), "large": (0.5, 1, 4), "huge": (5, 10, 20)}
    found: dict[str, Any] = {}
    for size, some in instances.items():
        for origin in ("network", "greedy", "random"):
            by_time: dict[float, list[float]] = {limit: [] for limit in times[size]}
            begins = []
            for seed, instance in enumerate(some):
                base, incumbent, clock = greedy_value(instance), Incumbent(), Clock(times[size][-1])
                chosen = start(origin, instance, seed, clock, incumbent)
                begins.append(instance.covered_value(chosen) / base)
                incumbent.offer(instance, chosen, origin, clock)
                swap_local_search(instance, chosen, seed=seed, clock=clock, incumbent=incumbent)
                for limit in times[size]:
                    reached = [value for when, value, _ in incumbent.trace if when <= limit]
                    by_time[limit].append(max(reached, default=0.0) / base)
            found[f"{size}_from_{origin}"] = {
                "start": round(float(np.mean(begins)), 4),
                **{f"{limit:g} s": round(float(np.mean(ratios)), 4) for limit, ratios in by_time.items()},
            }
    return reported("starts", {"starts": found})


def real_instance(dataset: str) -> CoverInstance:
    data = prepared(dataset)
    histories = Histories.from_interactions(data.interactions, n_users=len(data.users), n_items=len(data.items))
    cliques = build_cliques(histories)
    budget = 220 if dataset == "beauty" else round(0.01 * len(cliques))
    return build_instance(cliques, histories, MaxCoverConfig(budget=budget))


def real(options: argparse.Namespace) -> dict[str, Any]:
    """The cliques of public datasets; memory is the peak of the process."""
    found: dict[str, Any] = {}
    for dataset in options.datasets:
        instance = real_instance(dataset)
        base = greedy_value(instance)
        seconds, selection = timed_solve(instance, MaxCoverConfig(time_limit_s=60))
        without, other = timed_solve(instance, MaxCoverConfig(solver="greedy", time_limit_s=60))
        network = max(value for _, value, source in selection.trace if source in ("network", "greedy"))
        found |= {
            f"{dataset}_ratio": round(selection.covered[-1] / base, 5),
            f"{dataset}_ratio_of_network_alone": round(network / base, 5),
            f"{dataset}_ratio_of_greedy_and_search": round(other.covered[-1] / base, 5),
            f"{dataset}_share_of_greedy": round(base / instance.reachable(), 4),
            f"{dataset}_share": round(selection.share, 4),
            f"{dataset}_seconds": round(seconds, 1),
            f"{dataset}_seconds_without_network": round(without, 1),
            f"{dataset}_cut_by_clock": selection.cut,
            f"{dataset}_sets_memberships_budget": [instance.n_sets, len(instance.items), instance.budget],
        }
        print(dataset, found[f"{dataset}_ratio"], found[f"{dataset}_seconds"], flush=True)
    found["real_peak_gib"] = round(peak_memory_mb() / 2**10, 2)
    return reported("real", found)


def exact(options: argparse.Namespace) -> dict[str, Any]:
    """Branch and bound on growing instances of the recipe; how far the others are from its optimum or bound."""
    rows = []
    for n_sets in (30, 60, 100, 200, 500):
        instance = random_instance(n_sets, 2 * n_sets, max(n_sets // 10, 3), 0)
        seconds, best = timed_solve(instance, MaxCoverConfig(solver="exact", time_limit_s=options.exact_s))
        assert best.bound is not None
        _, ours = timed_solve(instance, MaxCoverConfig())
        rows.append(
            {
                "sets": n_sets,
                "optimal": best.optimal,
                "gap": round(best.bound / best.covered[-1] - 1, 5),
                "cardnn_gap": round(best.bound / ours.covered[-1] - 1, 5),
                "seconds": round(seconds, 1),
            }
        )
        print(rows[-1], flush=True)
    return {"exact": rows}


def growth(options: argparse.Namespace) -> dict[str, Any]:
    """Time of all of cardnn, canonical order to local search, against the number of memberships; Z is 1 % of P."""
    rows = []
    for power in range(5, options.largest + 1):
        n_sets = 10**power // 20
        instance = random_instance(n_sets, 2 * n_sets, n_sets // 100, 0)
        base = greedy_value(instance)
        config = MaxCoverConfig(time_limit_s=None, search_moves=options.moves_a_set * instance.budget)
        seconds, selection = timed_solve(instance, config)
        rows.append(
            {
                "memberships": len(instance.items),
                "budget": instance.budget,
                "seconds": round(seconds, 2),
                "ratio": round(selection.covered[-1] / base, 5),
            }
        )
        print(rows[-1], flush=True)
    slope = np.polyfit(*(np.log([row[name] for row in rows]) for name in ("memberships", "seconds")), 1)[0]
    peak = round(peak_memory_mb() / 2**10, 2)
    return {"growth": rows, "loglog_slope": round(float(slope), 3), "peak_gib": peak}


def run(options: argparse.Namespace) -> dict[str, Any]:
    solve(random_instance(50, 100, 5, 0), MaxCoverConfig(search_moves=100))  # compiles, or reads the compiled loops
    parts = {"generated": generated, "starts": starts, "real": real, "exact": exact, "growth": growth}
    found: dict[str, Any] = {}
    for name in options.only:
        found |= parts[name](options)
    return found


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run (default: all)")
    parser.add_argument("--instances", type=int, default=20, help="generated instances of each size")
    parser.add_argument("--starts", type=int, default=5, help="instances on which the starts are compared")
    parser.add_argument("--datasets", nargs="*", default=["beauty", "sports", "toys", "yelp"], help="real instances")
    parser.add_argument("--exact-s", type=float, default=30, help="seconds for branch and bound on one instance")
    parser.add_argument("--largest", type=int, default=7, help="growth up to 10^LARGEST memberships")
    parser.add_argument("--moves-a-set", type=int, default=100, help="growth: moves of the search for each set of Z")


if __name__ == "__main__":
    main(run, arguments)
