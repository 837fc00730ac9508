"""Soft memberships at several resolutions, softened by a temperature (G2Rec 3.2, Eq. 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.alignment import adjusted_rand_index
from recsys_dagster.g2rec.leiden import LeidenConfig, Partition, adopted, leiden_of_size, leiden_supported
from recsys_dagster.g2rec.links import LinkTest, link_test
from recsys_dagster.g2rec.network import Network
from recsys_dagster.g2rec.night import LastNight, row_argmax
from recsys_dagster.g2rec.placement import extend
from recsys_dagster.g2rec.soft_device import soft_problem
from recsys_dagster.g2rec.soft_problem import Floats, Inertia, SoftProblem, choose_support
from recsys_dagster.g2rec.soft_solvers import Solution, adam, fixed_point
from recsys_dagster.g2rec.temperature import choose_temperatures
from recsys_dagster.parallel import in_parallel
from recsys_dagster.progress import Progress

logger = logging.getLogger("recsys_dagster")

DEFAULT_TEMPERATURE = 0.02
"""Temperature of every level where none is set and there are no validation links to choose it on."""

LEAST_SIZE = 0.5
"""Items that a prototype must hold, all shares together, if it is no item's most probable one."""
FORGOTTEN = 1e-4
"""Probability that a prototype counts as having had last night where an item had less in it."""
ROUNDS = 6
"""Most times that a cold run chooses the support again; a warm one goes on from a support that has settled."""
ROUGHLY = 3.0
"""Times the tolerance to which supports that will be chosen again, and temperatures that are tried, are solved."""
SETTLED = 0.99
"""Adjusted Rand index of two rounds' most probable prototypes from which a level has settled."""


class SoftConfig(LeidenConfig):
    """How items are spread over interest prototypes."""

    gammas: list[float] = Field(
        default=[1.0, 10.0, 60.0],
        min_length=1,
        description="Resolution of each level, from coarse to fine; halved where modularity would not be positive.",
    )
    n_prototypes: list[int] | None = Field(
        default=None,
        min_length=1,
        description="Wanted number of prototypes of each level, from coarse to fine, in place of gammas; the gammas "
        "are found by bisection and kept on warm nights.",
    )
    rho: int = Field(default=8, ge=1, description="Most prototypes an item may have at one level.")
    temperatures: list[float] | None = Field(
        default=None,
        description="Softness T of each level; 0 is the paper. None: last night's on a warm start, else chosen on "
        "validation links (0.02 without any).",
    )
    temperature_grid: list[float] = Field(
        default=[0.005, 0.007, 0.01, 0.014, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2],
        min_length=1,
        description="Temperatures tried on validation links.",
    )
    max_modularity_loss: float = Field(
        default=0.03, ge=0, description="Share of a level's hard modularity that a chosen temperature may cost."
    )
    method: Literal["fixed_point", "adam"] = Field(default="fixed_point", description="Solver of the soft modularity.")
    damping: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Largest step size of fixed_point on a device, where all items move at once.",
    )
    tolerance: float = Field(default=3e-4, gt=0, description="fixed_point stops when less mass than this would move.")
    max_iterations: int = Field(default=200, ge=1, description="Most iterations of fixed_point.")
    adam_steps: int = Field(default=1000, ge=1, description="Most steps of adam.")
    learning_rate: float = Field(default=0.1, gt=0, description="Learning rate of adam.")
    inertia: float = Field(
        default=1.0,
        ge=0,
        description="How strongly a warm night holds items to last night's memberships (weight of the divergence from "
        "them, against T times entropy). 0: tonight's graph alone decides.",
    )
    solver_device: str = Field(default="cpu", description="cpu (all cores), or the torch device that solves: cuda.")
    min_probability: float = Field(
        default=1e-4, ge=0, lt=0.1, description="Smaller memberships are dropped and the rest made to sum to 1 again."
    )

    @property
    def resolutions(self) -> list[float]:
        """What the levels were asked for by: numbers of prototypes, or gammas."""
        return [float(number) for number in self.n_prototypes or self.gammas]

    def solve(self, problem: SoftProblem, start: Floats, temperature: float, tolerance: float) -> Solution:
        """Maximise J at one temperature by the configured solver."""
        if self.method == "adam":
            return adam(problem, start, temperature, learning_rate=self.learning_rate, max_iterations=self.adam_steps)
        return fixed_point(
            problem,
            start,
            temperature,
            damping=self.damping,
            tolerance=tolerance,
            max_iterations=self.max_iterations,
        )

    def published(self, problem: SoftProblem, p: Floats) -> sparse.csr_array:
        """P [N, C'] with small entries and prototypes that hold nearly nothing dropped; rows sum to 1."""
        matrix = problem.support.matrix(np.where(p < self.min_probability, 0.0, p))
        size = np.asarray(matrix.sum(axis=0)).ravel()
        size[row_argmax(matrix)] = np.inf
        matrix = sparse.csr_array(matrix[:, size >= LEAST_SIZE])
        matrix.eliminate_zeros()
        matrix.data /= np.repeat(np.asarray(matrix.sum(axis=1)).ravel(), np.diff(matrix.indptr))
        return matrix


def soft_memberships(
    graph: pd.DataFrame,
    n_items: int,
    config: SoftConfig | None = None,
    *,
    seed: int = 0,
    last: LastNight | None = None,
    validation_links: NDArray[Any] | None = None,
    elsewhere: Callable[[], list[Partition]] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cluster items at every resolution and soften the clusters.

    At each level Leiden gives hard clusters (at a coarser gamma where the graph does not support the wanted one), each
    item keeps its own and its rho - 1 strongest others as support, and the solver maximises soft modularity plus T
    times entropy there. Items without any edge are in the level's remainder cluster (see `leiden`) with probability 1.
    A prototype that is no item's most probable one and holds less than half an item in all is dropped; then supports
    are chosen again around the prototypes that are left and solved again, until items stay where they are.

    After a last night items keep their prototypes, new ones find a place among them (see `extend`), and the solver goes
    on from last night's memberships with its gammas and temperatures, held back by them (see `Inertia`): an unchanged
    graph changes nothing, and a little news moves few items.

    Args:
        graph: co-engagement graph of the train split.
        n_items: number N of items.
        config: resolutions, support, temperatures, solver.
        seed: of Leiden and of the links' negatives.
        last: last night's memberships, for a warm start. Ignored if its levels were asked for by other resolutions.
        validation_links: [L, 2] held-out item pairs, to choose and judge the temperatures.
        elsewhere: finds the hard clusters of all levels in place of Leiden here; not called on a warm start.

    Returns:
        item_id int32, level int8, prototype_id int32 (unique over levels), probability float32, sorted by the first
        three; and metadata: "temperatures", "gammas", "levels" (a dict each of gamma, temperature, prototypes, q_hard,
        q_soft, entropy, largest_share, iterations, converged) and, with links, "links", "auc_hard", "auc_soft",
        "average_precision_hard", "average_precision_soft" and, where temperatures were chosen, "temperatures_tried".

    Raises:
        RecsysError: the graph is empty or not sound, or a setting is out of its range.
    """
    config = config or SoftConfig()
    network = Network.of(graph, n_items)
    if last is not None and last.resolutions != config.resolutions:
        logger.warning("levels were %s last night and are %s now: a cold start", last.resolutions, config.resolutions)
        last = None
    found = elsewhere() if elsewhere is not None and last is None and config.n_prototypes is None else None
    gammas, problems, hard, starts = _levels(network, config, last, seed, found)
    test = None if validation_links is None else link_test(network.matrix, validation_links, seed=seed)
    metadata: dict[str, Any] = {"gammas": gammas}
    temperatures = config.temperatures or (None if last is None else last.temperatures)
    if temperatures is not None and len(temperatures) != len(gammas):
        raise RecsysError(
            f"{len(temperatures)} temperatures are set for {len(gammas)} levels.", mend="give one for each level."
        )
    if temperatures is None and test is not None:
        rough = ROUGHLY * config.tolerance
        choice = choose_temperatures(
            problems,
            hard,
            test,
            lambda problem, start, temperature: config.solve(problem, start, temperature, rough),
            config.published,
            config.temperature_grid,
            config.max_modularity_loss,
        )
        temperatures, starts = choice.temperatures, [solution.p for solution in choice.solutions]
        metadata["temperatures_tried"] = choice.tried
    else:
        temperatures = temperatures or [DEFAULT_TEMPERATURE] * len(gammas)
    rounds = ROUNDS if last is None else 0

    def settle(level: int) -> _Settled:
        return _settle(network, problems[level], starts[level], temperatures[level], config, rounds)

    settled = list(in_parallel(settle, range(len(gammas))))
    for gamma, level in zip(gammas, settled, strict=True):
        if not level.solution.converged:
            logger.warning("soft memberships at gamma %g stopped before converging", gamma)
    metadata["temperatures"] = [float(temperature) for temperature in temperatures]
    metadata["levels"] = [
        _report(level, problem.modularity(problem.array(start)), temperature)
        for level, problem, start, temperature in zip(settled, problems, hard, temperatures, strict=True)
    ]
    if test is not None:
        metadata |= _judged(test, problems, hard, [level.published for level in settled])
    return _table([level.published for level in settled]), metadata


def _levels(
    network: Network, config: SoftConfig, last: LastNight | None, seed: int, found: Sequence[Partition] | None
) -> tuple[list[float], list[SoftProblem], list[Floats], list[Floats]]:
    """Gamma, problem, hard P and starting P of each level."""
    n_items = network.matrix.shape[0]

    def make(level: int) -> tuple[float, SoftProblem, Floats, Floats]:
        wanted, carried = config.resolutions[level], None
        if last is not None:
            gamma, carried = last.gammas[level], last.carried(level, n_items)
            labels = extend(network, row_argmax(carried), carried.shape[1], gamma, config, seed=seed)
        elif found is not None:
            labels, gamma = adopted(network, found[level], config), found[level].gamma
        elif config.n_prototypes is not None:
            labels, gamma = leiden_of_size(network, int(wanted), config, seed=seed)
        else:
            labels, gamma = leiden_supported(network, wanted, config, seed=seed)
        support = choose_support(network.matrix, labels, config.rho, gamma, kept=carried)
        hard = start = support.hard(labels)
        inertia = None
        if carried is not None:
            start = support.values(carried, labels)
            # Items that had no place last night, or were given another, are free.
            weight = np.where(row_argmax(carried) == labels, config.inertia, 0.0)
            inertia = Inertia(weight, np.log(np.maximum(start, FORGOTTEN)))
        return gamma, soft_problem(network.matrix, support, gamma, config.solver_device, inertia), hard, start

    levels = []
    with Progress("soft memberships: levels", len(config.resolutions), "levels") as progress:
        for made in in_parallel(make, range(len(config.resolutions))):
            levels.append(made)
            progress.update(note=f"gamma {made[0]:g}, {made[1].support.n_prototypes} prototypes")
    gammas, problems, hard, starts = (list(parts) for parts in zip(*levels, strict=True))
    return gammas, problems, hard, starts


@dataclass(frozen=True)
class _Settled:
    """The last problem of a level, its solution, what is published of it, and iterations in all."""

    problem: SoftProblem
    solution: Solution
    published: sparse.csr_array
    iterations: int


def _settle(
    network: Network, problem: SoftProblem, start: Floats, temperature: float, config: SoftConfig, rounds: int
) -> _Settled:
    """Solve roughly, drop what is not published, choose the support again, until items stay; then solve to the end."""
    iterations, before = 0, None
    for _ in range(rounds):
        solution = config.solve(problem, start, temperature, ROUGHLY * config.tolerance)
        iterations, start = iterations + solution.iterations, solution.p
        published = config.published(problem, solution.p)
        labels = row_argmax(published)
        if before is not None and adjusted_rand_index(before, labels) > SETTLED:
            break
        before = labels
        support = choose_support(network.matrix, labels, config.rho, problem.gamma, kept=published)
        problem = soft_problem(network.matrix, support, problem.gamma, config.solver_device)
        start = support.values(published, labels)
    solution = config.solve(problem, start, temperature, config.tolerance)
    return _Settled(problem, solution, config.published(problem, solution.p), iterations + solution.iterations)


def _report(level: _Settled, q_hard: float, temperature: float) -> dict[str, Any]:
    problem, p = level.problem, level.problem.array(level.solution.p)
    return {
        "gamma": problem.gamma,
        "temperature": float(temperature),
        "prototypes": level.published.shape[1],
        "q_hard": q_hard,
        "q_soft": problem.modularity(p),
        "entropy": problem.entropy(p),
        "largest_share": float(problem.mass(p).max()) / problem.total,
        "iterations": level.iterations,
        "converged": level.solution.converged,
        "memberships_per_item": level.published.nnz / level.published.shape[0],
    }


def _judged(
    test: LinkTest, problems: Sequence[SoftProblem], hard: Sequence[Floats], matrices: Sequence[sparse.csr_array]
) -> dict[str, Any]:
    """Quality on links of the hard and of the soft memberships, all levels together."""
    by_hard = sum(test.scores(problem.support.matrix(p)) for problem, p in zip(problems, hard, strict=True))
    by_soft = sum(test.scores(matrix) for matrix in matrices)
    judged: dict[str, Any] = {"links": len(test.links)}
    for name, score in (("hard", by_hard), ("soft", by_soft)):
        judged |= {f"{measure}_{name}": value for measure, value in test.quality(np.asarray(score)).items()}
    return judged


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
