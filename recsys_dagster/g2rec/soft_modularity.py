"""Soft memberships at several resolutions, softened by a temperature (G2Rec 3.2, Eq. 4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from recsys_dagster.g2rec.coengagement import adjacency
from recsys_dagster.g2rec.leiden import LeidenConfig, leiden
from recsys_dagster.g2rec.links import LinkTest, link_test
from recsys_dagster.g2rec.soft_problem import SoftProblem, choose_support, soft_modularity, soft_problem
from recsys_dagster.g2rec.soft_solvers import Solution, adam, fixed_point
from recsys_dagster.progress import Progress

__all__ = ["SoftConfig", "adam", "choose_temperature", "fixed_point", "soft_memberships", "soft_modularity"]

logger = logging.getLogger("recsys_dagster")

DEFAULT_TEMPERATURE = 0.05
"""Temperature where none is set and there are no validation links to choose it on."""


class SoftConfig(LeidenConfig):
    """How items are spread over interest prototypes."""

    gammas: list[float] = Field(
        default=[1.0, 10.0, 60.0], min_length=1, description="Resolution of each level, from coarse to fine."
    )
    rho: int = Field(default=8, ge=1, description="Most prototypes an item may have at one level.")
    temperature: float | None = Field(
        default=None,
        ge=0,
        description="Softness T; 0 is the paper. None: chosen on validation links (0.05 without any).",
    )
    temperature_grid: list[float] = Field(
        default=[0.02, 0.05, 0.1], min_length=1, description="Temperatures tried on validation links."
    )
    method: Literal["fixed_point", "adam"] = Field(default="fixed_point", description="Solver of the soft modularity.")
    damping: float = Field(default=0.7, gt=0, le=1, description="First step size of fixed_point.")
    tolerance: float = Field(default=1e-4, gt=0, description="fixed_point stops when less mass than this would move.")
    max_iterations: int = Field(default=200, ge=1, description="Most iterations of fixed_point.")
    adam_steps: int = Field(default=1000, ge=1, description="Most steps of adam.")
    learning_rate: float = Field(default=0.1, gt=0, description="Learning rate of adam.")
    min_probability: float = Field(
        default=1e-4, ge=0, lt=0.1, description="Smaller memberships are dropped and the rest made to sum to 1 again."
    )


@dataclass(frozen=True)
class Level:
    """One resolution: its problem on the sparse support and the hard clustering it starts from."""

    problem: SoftProblem
    hard: NDArray[np.float64]

    def solve(self, temperature: float, config: SoftConfig) -> Solution:
        """Maximise J at one temperature by the configured solver."""
        if config.method == "adam":
            return adam(
                self.problem,
                self.hard,
                temperature,
                learning_rate=config.learning_rate,
                max_iterations=config.adam_steps,
            )
        return fixed_point(
            self.problem,
            self.hard,
            temperature,
            damping=config.damping,
            tolerance=config.tolerance,
            max_iterations=config.max_iterations,
        )

    def memberships(self, p: NDArray[np.float64], min_probability: float) -> sparse.csr_array:
        """P [N, C] with small entries dropped and rows summing to 1."""
        matrix = self.problem.support.matrix(np.where(p < min_probability, 0.0, p)).copy()
        matrix.eliminate_zeros()
        matrix.data /= np.repeat(np.asarray(matrix.sum(axis=1)).ravel(), np.diff(matrix.indptr))
        return matrix


def choose_temperature(
    levels: Sequence[Level], test: LinkTest, config: SoftConfig
) -> tuple[float, dict[float, dict[str, float]], list[Solution]]:
    """Try each temperature of the grid and keep the one with the best AUC on held-out links.

    One temperature serves all levels. The links choose a hyper-parameter, as early stopping does; the graph and the
    memberships are built from the train split alone.

    Args:
        levels: the problems, coarse to fine.
        test: held-out links with negatives.
        config: grid and solver.

    Returns:
        The temperature, {temperature: {"auc", "average_precision"}}, and the solutions at the chosen temperature.
    """
    tried: dict[float, dict[str, float]] = {}
    best: tuple[float, list[Solution]] | None = None
    with Progress("soft memberships: temperature", len(config.temperature_grid), "temperatures") as progress:
        for temperature in config.temperature_grid:
            solutions = [level.solve(temperature, config) for level in levels]
            tried[temperature] = test.quality(_matrices(levels, solutions, config))
            if best is None or tried[temperature]["auc"] > tried[best[0]]["auc"]:
                best = temperature, solutions
            progress.update(note=f"T {temperature:g}, AUC {tried[temperature]['auc']:.3f}")
    assert best is not None  # the grid has at least one temperature
    return best[0], tried, best[1]


def soft_memberships(
    graph: pd.DataFrame,
    n_items: int,
    config: SoftConfig | None = None,
    *,
    seed: int = 0,
    initial: pd.DataFrame | None = None,
    validation_links: NDArray[Any] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cluster items at every resolution and soften the clusters.

    At each level Leiden gives hard clusters, each item keeps its own and its rho - 1 strongest others as support, and
    the solver maximises soft modularity plus T times entropy there. Items without any edge are in the level's remainder
    cluster (see `leiden`) with probability 1.

    Args:
        graph: co-engagement graph of the train split.
        n_items: number N of items.
        config: resolutions, support, temperature, solver.
        seed: of Leiden and of the links' negatives.
        initial: last night's memberships in today's item ids, for a warm start.
        validation_links: [L, 2] held-out item pairs, to choose and judge the temperature.

    Returns:
        item_id int32, level int8, prototype_id int32 (unique over levels), probability float32, sorted by the first
        three; and metadata: "temperature", "levels" (a dict each of gamma, prototypes, q_hard, q_soft, entropy,
        iterations, converged) and, with links, "links", "auc_hard", "auc_soft", "average_precision_hard",
        "average_precision_soft" and "temperatures_tried".

    Raises:
        RecsysError: the graph is empty or not sound, or a setting is out of its range.
    """
    config = config or SoftConfig()
    matrix = adjacency(graph, n_items)
    levels = []
    with Progress("soft memberships: levels", len(config.gammas), "levels") as progress:
        for number, gamma in enumerate(config.gammas):
            start = None if initial is None else hard_labels(initial, n_items, number)
            labels = leiden(graph, n_items, gamma, config, start, seed=seed)
            support = choose_support(matrix, labels, config.rho, gamma)
            levels.append(Level(soft_problem(matrix, support, gamma), support.hard(labels)))
            progress.update(note=f"gamma {gamma:g}, {support.n_prototypes} prototypes")

    test = None if validation_links is None else link_test(matrix, validation_links, seed=seed)
    metadata: dict[str, Any] = {}
    temperature = DEFAULT_TEMPERATURE if config.temperature is None else config.temperature
    if test is not None and config.temperature is None:
        temperature, metadata["temperatures_tried"], solutions = choose_temperature(levels, test, config)
    else:
        solutions = [level.solve(temperature, config) for level in levels]
    for level, solution in zip(levels, solutions, strict=True):
        if not solution.converged:
            logger.warning(
                "soft memberships at gamma %g stopped after %d iterations before converging",
                level.problem.gamma,
                solution.iterations,
            )
    matrices = _matrices(levels, solutions, config)
    metadata["temperature"] = float(temperature)
    metadata["levels"] = [_report(*parts) for parts in zip(levels, solutions, matrices, strict=True)]
    if test is not None:
        hard = test.quality([level.problem.support.matrix(level.hard) for level in levels])
        soft = test.quality(matrices)
        metadata["links"] = len(test.links)
        metadata |= {f"{name}_hard": value for name, value in hard.items()}
        metadata |= {f"{name}_soft": value for name, value in soft.items()}
    return _table(matrices), metadata


def hard_labels(memberships: pd.DataFrame, n_items: int, level: int) -> NDArray[np.int64]:
    """The most probable prototype [N] of each item at one level (ties: the smallest id), -1 where it has none."""
    rows = memberships[memberships["level"] == level].sort_values(
        ["item_id", "probability", "prototype_id"], ascending=[True, False, True]
    )
    first = rows.drop_duplicates("item_id")
    first = first[first["item_id"] < n_items]
    labels = np.full(n_items, -1, dtype=np.int64)
    labels[first["item_id"].to_numpy()] = first["prototype_id"].to_numpy()
    return labels


def _matrices(levels: Sequence[Level], solutions: Sequence[Solution], config: SoftConfig) -> list[sparse.csr_array]:
    return [level.memberships(s.p, config.min_probability) for level, s in zip(levels, solutions, strict=True)]


def _report(level: Level, solution: Solution, matrix: sparse.csr_array) -> dict[str, Any]:
    problem = level.problem
    return {
        "gamma": problem.gamma,
        "prototypes": problem.support.n_prototypes,
        "q_hard": problem.modularity(level.hard),
        "q_soft": problem.modularity(solution.p),
        "entropy": problem.entropy(solution.p),
        "iterations": solution.iterations,
        "converged": solution.converged,
        "memberships_per_item": matrix.nnz / matrix.shape[0],
    }


def _table(matrices: Sequence[sparse.csr_array]) -> pd.DataFrame:
    tables, offset = [], 0
    for number, matrix in enumerate(matrices):
        table = pd.DataFrame(
            {
                "item_id": np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr)),
                "level": np.int8(number),
                "prototype_id": (matrix.indices + offset).astype(np.int32),
                "probability": matrix.data.astype(np.float32),
            }
        )
        tables.append(table)
        offset += matrix.shape[1]
    table = pd.concat(tables, ignore_index=True).astype({"level": "int8"})
    return table.sort_values(["item_id", "level", "prototype_id"], ignore_index=True)
