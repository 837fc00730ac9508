"""One level of the soft memberships: its problem, its start, and the solution that it settles in."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.g2rec.alignment import adjusted_rand_index
from recsys_dagster.g2rec.leiden import Partition, adopted, leiden, leiden_of_size, leiden_supported
from recsys_dagster.g2rec.network import Network
from recsys_dagster.g2rec.night import LastNight, row_argmax
from recsys_dagster.g2rec.placement import extend
from recsys_dagster.g2rec.soft_config import SoftConfig
from recsys_dagster.g2rec.soft_device import soft_problem
from recsys_dagster.g2rec.soft_problem import Floats, Inertia, SoftProblem, choose_support
from recsys_dagster.g2rec.soft_solvers import Solution

logger = logging.getLogger("recsys_dagster")

FORGOTTEN = 1e-4
"""Probability that a prototype counts as having had last night where an item had less in it."""
ROUNDS = 6
"""Most times that a cold level chooses the support again; a warm one goes on from a support that has settled."""
ROUGHLY = 3.0
"""Times the tolerance to which supports that will be chosen again, and temperatures that are tried, are solved."""
MUCH_NEWS = 0.1
"""Share of last night's soft modularity that being held to it may cost a level; more, and the news is not little."""
SETTLED = 0.99
"""Adjusted Rand index of two rounds' most probable prototypes from which a level has settled."""


@dataclass(frozen=True)
class Level:
    """A level that is to be solved.

    Attributes:
        problem: soft modularity on the level's support.
        hard: P of the hard clusters, float [N, rho].
        start: the P to start from, float [N, rho].
    """

    problem: SoftProblem
    hard: Floats
    start: Floats


@dataclass(frozen=True)
class Settled:
    """A level, the last problem and solution of it, what is published, and iterations in all."""

    level: Level
    problem: SoftProblem
    solution: Solution
    published: sparse.csr_array
    iterations: int

    @property
    def modularity(self) -> float:
        """Soft modularity of the solution."""
        return self.problem.modularity(self.problem.array(self.solution.p))

    def report(self, temperature: float) -> dict[str, Any]:
        """The figures of the level that `soft_memberships` tells."""
        problem, p = self.problem, self.problem.array(self.solution.p)
        hard = self.level.problem.array(self.level.hard)
        return {
            "gamma": problem.gamma,
            "temperature": float(temperature),
            "prototypes": self.published.shape[1],
            "q_hard": self.level.problem.modularity(hard),
            "q_soft": self.modularity,
            "entropy": problem.entropy(p),
            "largest_share": float(problem.mass(p).max()) / problem.total,
            "iterations": self.iterations,
            "converged": self.solution.converged,
            "held": bool(problem.inertia.weight.any()),
            "memberships_per_item": self.published.nnz / self.published.shape[0],
        }


def cold_level(network: Network, wanted: float, config: SoftConfig, seed: int) -> Level:
    """A level that starts from Leiden.

    Args:
        network: co-engagement graph.
        wanted: what the level is asked for by (see `SoftConfig.resolutions`).
        config: settings.
        seed: of Leiden.
    """
    if config.n_prototypes is not None:
        labels, gamma = leiden_of_size(network, int(wanted), config, seed=seed)
    else:
        labels, gamma = leiden_supported(network, wanted, config, seed=seed)
    return _from_labels(network, labels, gamma, config)


def adopted_level(network: Network, partition: Partition, config: SoftConfig) -> Level:
    """A level that starts from clusters that were found elsewhere."""
    return _from_labels(network, adopted(network, partition, config), partition.gamma, config)


def warm_level(network: Network, last: LastNight, number: int, config: SoftConfig, seed: int) -> Level:
    """A level that goes on from last night's memberships, and is held to them.

    Args:
        network: tonight's graph.
        last: last night.
        number: of the level.
        config: settings.
        seed: of Leiden, which places new items.
    """
    gamma, carried = last.gammas[number], last.carried(number, network.matrix.shape[0])
    before = row_argmax(carried)
    labels = extend(network, before, carried.shape[1], gamma, config, seed=seed)
    support = choose_support(network.matrix, labels, config.rho, gamma, kept=carried)
    start = support.values(carried, labels)
    # Items that had no place last night, or were given another, are free.
    weight = np.where(before == labels, config.inertia, 0.0)
    inertia = Inertia(weight, np.log(np.maximum(start, FORGOTTEN)))
    problem = soft_problem(network.matrix, support, gamma, config.solver_device, inertia)
    return Level(problem, support.hard(labels), start)


def _from_labels(network: Network, labels: NDArray[np.int64], gamma: float, config: SoftConfig) -> Level:
    support = choose_support(network.matrix, labels, config.rho, gamma)
    hard = support.hard(labels)
    return Level(soft_problem(network.matrix, support, gamma, config.solver_device), hard, hard)


def settle(
    network: Network, level: Level, start: Floats, temperature: float, config: SoftConfig, rounds: int = ROUNDS
) -> Settled:
    """Solve roughly, drop what is not published, choose the support again, until items stay; then solve to the end.

    Args:
        network: co-engagement graph.
        level: the level.
        start: the P to start from, float [N, rho].
        temperature: T.
        config: settings.
        rounds: most times that the support is chosen again.
    """
    problem, iterations, before = level.problem, 0, None
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
    return Settled(level, problem, solution, config.published(problem, solution.p), iterations + solution.iterations)


def settle_warm(
    network: Network, level: Level, temperature: float, config: SoftConfig, q_last: float, seed: int
) -> Settled:
    """Settle a level of `warm_level`; cluster it afresh where the news is more than a little.

    That is so where being held costs more than `MUCH_NEWS` of last night's soft modularity. The better of
    the two is taken; a prototype keeps its id by its members (`alignment.align`).

    With the engine `cugraph`, which clusters in a job of its own, the level stays held and a warning says so.

    Args:
        network: tonight's graph.
        level: tonight's level.
        temperature: T.
        config: settings.
        q_last: last night's soft modularity of the level.
        seed: of Leiden.
    """
    held = settle(network, level, level.start, temperature, config, rounds=0)
    if held.modularity >= q_last - MUCH_NEWS * abs(q_last):
        return held
    if config.engine == "cugraph":  # no job in mid-night
        logger.warning("gamma %g has more than a little news: run once with warm_start: false", level.problem.gamma)
        return held
    labels = leiden(network, level.problem.gamma, config, seed=seed)
    fresh = _from_labels(network, labels, level.problem.gamma, config)
    return max(held, settle(network, fresh, fresh.start, temperature, config), key=lambda found: found.modularity)
