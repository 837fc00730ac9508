"""Soft memberships at scale: time of one iteration against edges and rho, and 5,000 prototypes on 10^6 items."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import main
from recsys_dagster.g2rec.graph import adjacency
from recsys_dagster.g2rec.soft_device import soft_problem
from recsys_dagster.g2rec.soft_problem import SoftProblem, choose_support
from recsys_dagster.g2rec.soft_solvers import fixed_point
from recsys_dagster.memory import peak_memory_mb

TEMPERATURE = 0.02


def planted(n_items: int, n_edges: int, n_groups: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """A graph in which four of five edges stay in one of n_groups groups, and the groups."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, n_groups, n_items)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=n_groups))])
    source = rng.integers(0, n_items, int(n_edges * 1.1))
    size = np.diff(starts)[group[source]]
    near = order[starts[group[source]] + (rng.random(len(source)) * size).astype(np.int64)]
    target = np.where(rng.random(len(source)) < 0.8, near, rng.integers(0, n_items, len(source)))
    keys = np.unique(np.minimum(source, target) * n_items + np.maximum(source, target))
    keys = keys[keys // n_items != keys % n_items]
    keys = np.sort(rng.permutation(keys)[:n_edges])
    weight = rng.integers(1, 4, len(keys)).astype(np.float32)
    ends = {"source": (keys // n_items).astype(np.int32), "target": (keys % n_items).astype(np.int32)}
    return pd.DataFrame({**ends, "weight": weight}), group


def iteration_seconds(problem: SoftProblem, labels: np.ndarray, repeats: int = 7) -> float:
    """Median seconds of one sweep over all items from the hard start, with the objective taken once."""
    start, seconds = problem.support.hard(labels), []
    for _ in range(repeats):
        began = time.perf_counter()
        fixed_point(problem, start, TEMPERATURE, max_iterations=1)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def slope(x: list[float], y: list[float]) -> float:
    return round(float(np.polyfit(np.log(x), np.log(y), 1)[0]), 3)


def run(options: argparse.Namespace) -> dict[str, Any]:
    by_edges, by_rho = [], []
    for n_edges in (500_000, 1_000_000, 2_000_000, 4_000_000):
        graph, group = planted(100_000, n_edges, 500)
        matrix = adjacency(graph, 100_000)
        problem = soft_problem(matrix, choose_support(matrix, group, 8, 1.0), 1.0)
        by_edges.append({"edges": len(graph), "seconds": round(iteration_seconds(problem, group), 4)})
        print(by_edges[-1], flush=True)
    for rho in (4, 8, 16, 32):
        problem = soft_problem(matrix, choose_support(matrix, group, rho, 1.0), 1.0)
        mean = float(problem.support.used.sum(axis=1).mean())
        seconds = round(iteration_seconds(problem, group), 4)
        by_rho.append({"rho": rho, "places_per_item": round(mean, 2), "seconds": seconds})
        print(by_rho[-1], flush=True)
    del matrix, problem, graph
    n_items, n_prototypes = 1_000_000, 5_000
    graph, group = planted(n_items, options.edges, n_prototypes)
    began = time.perf_counter()
    matrix = adjacency(graph, n_items)
    problem = soft_problem(matrix, choose_support(matrix, group, 8, 1.0), 1.0)
    prepared = time.perf_counter() - began
    began = time.perf_counter()
    solution = fixed_point(problem, problem.support.hard(group), TEMPERATURE)
    solved = time.perf_counter() - began
    return {
        "by_edges": by_edges,
        "slope_edges": slope([row["edges"] for row in by_edges], [row["seconds"] for row in by_edges]),
        "by_rho": by_rho,
        "slope_rho": slope([row["rho"] for row in by_rho], [row["seconds"] for row in by_rho]),
        "large": {
            "items": n_items,
            "prototypes": n_prototypes,
            "edges": len(graph),
            "seconds_prepare": round(prepared, 2),
            "seconds_solve": round(solved, 2),
            "iterations": solution.iterations,
            "converged": solution.converged,
        },
        "peak_gib": round(peak_memory_mb() / 2**10, 2),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--edges", type=int, default=10_000_000, help="edges of the graph of 10^6 items")


if __name__ == "__main__":
    main(run, arguments)
