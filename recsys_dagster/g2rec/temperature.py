"""The temperature of each level, chosen on held-out links (G2Rec 3.2; T = 0 is the paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.g2rec.links import LinkTest
from recsys_dagster.g2rec.soft_problem import Floats, SoftProblem
from recsys_dagster.g2rec.soft_solvers import Solution
from recsys_dagster.parallel import in_parallel
from recsys_dagster.progress import Progress

Solve = Callable[[SoftProblem, Floats, float], Solution]
Publish = Callable[[SoftProblem, Floats], sparse.csr_array]


@dataclass(frozen=True)
class Choice:
    """One temperature a level, the solutions there, and what was tried.

    Attributes:
        temperatures: T of each level.
        solutions: P of each level at its T.
        tried: one row a level and temperature: level, temperature, q_soft, allowed, auc (of that level alone).
    """

    temperatures: list[float]
    solutions: list[Solution]
    tried: list[dict[str, Any]]


def choose_temperatures(
    problems: Sequence[SoftProblem],
    starts: Sequence[Floats],
    test: LinkTest,
    solve: Solve,
    publish: Publish,
    grid: Sequence[float],
    max_modularity_loss: float,
) -> Choice:
    """Choose T level by level so that the sum of all levels' scores ranks held-out links best.

    At each level every T of the grid is solved, from the solution of the next smaller one, as long as soft modularity
    stays within its allowed loss of the hard clustering's; then one more, halfway to the first that is not allowed, as
    the best T is often the largest. Then the AUC of the levels' summed scores (see `LinkTest.scores`) is
    climbed one level at a time, until no single change raises it. If no T of a level keeps its modularity, the smallest
    is used. The links choose hyper-parameters, as early stopping does; the graph and the memberships are built from the
    train split alone.

    Args:
        problems: one a level, coarse to fine.
        starts: hard P [N, rho] of each.
        test: held-out links with negatives.
        solve: the solver: problem, start, temperature -> solution.
        publish: problem, P [N, rho] -> the memberships that would be stored. These are judged: very small probabilities
            rank pairs that hard clusters tie, but they are not stored.
        grid: temperatures to try.
        max_modularity_loss: largest share of the hard modularity that may be lost.
    """
    tried: list[dict[str, Any]] = []

    def try_level(level: int) -> tuple[dict[float, Solution], dict[float, NDArray[np.float64]], float]:
        problem, start = problems[level], starts[level]
        q_hard = problem.modularity(problem.array(start))
        floor = q_hard - max_modularity_loss * abs(q_hard)
        found: dict[float, Solution] = {}
        ranked: dict[float, NDArray[np.float64]] = {}
        aucs: dict[float, float] = {}

        def allowed(temperature: float) -> bool:
            solution = solve(problem, found[max(found)].p if found else start, temperature)
            q_soft = problem.modularity(problem.array(solution.p))
            row = {"level": level, "temperature": temperature, "q_soft": q_soft, "allowed": q_soft >= floor}
            if row["allowed"] or not found:
                found[temperature] = solution
                ranked[temperature] = test.scores(publish(problem, solution.p))
                row["auc"] = aucs[temperature] = test.quality(ranked[temperature])["auc"]
            tried.append(row)
            return bool(row["allowed"])

        refused = next((temperature for temperature in sorted(grid) if not allowed(temperature)), None)
        if refused is not None and max(found) < refused:
            allowed(round(float(np.sqrt(max(found) * refused)), 4))
        return found, ranked, max(aucs, key=lambda temperature: aucs[temperature])

    solutions, scores, chosen = [], [], []
    with Progress("soft memberships: temperature", len(problems), "levels") as progress:
        for found, ranked, alone in in_parallel(try_level, range(len(problems))):
            solutions.append(found)
            scores.append(ranked)
            chosen.append(alone)
            progress.update()
    tried.sort(key=lambda row: (row["level"], row["temperature"]))
    best = _auc(test, scores, chosen)
    improved = len(scores) > 1
    while improved:
        improved = False
        for level, ranked in enumerate(scores):
            for temperature in ranked:
                trial = [*chosen[:level], temperature, *chosen[level + 1 :]]
                if (reached := _auc(test, scores, trial)) > best + 1e-12:
                    best, chosen, improved = reached, trial, True
    return Choice(chosen, [found[t] for found, t in zip(solutions, chosen, strict=True)], tried)


def _auc(test: LinkTest, scores: Sequence[dict[float, NDArray[np.float64]]], chosen: Sequence[float]) -> float:
    return test.quality(np.sum([level[t] for level, t in zip(scores, chosen, strict=True)], axis=0))["auc"]
