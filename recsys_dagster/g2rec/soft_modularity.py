"""Soft memberships at several resolutions, softened by a temperature (G2Rec 3.2, Eq. 4)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.leiden import Partition
from recsys_dagster.g2rec.links import LinkTest, link_test
from recsys_dagster.g2rec.network import Network
from recsys_dagster.g2rec.night import LastNight
from recsys_dagster.g2rec.soft_config import SoftConfig
from recsys_dagster.g2rec.soft_levels import (
    ROUGHLY,
    Level,
    Settled,
    adopted_level,
    cold_level,
    settle,
    settle_warm,
    warm_level,
)
from recsys_dagster.g2rec.temperature import choose_temperatures
from recsys_dagster.parallel import in_parallel
from recsys_dagster.progress import Progress

logger = logging.getLogger("recsys_dagster")

DEFAULT_TEMPERATURE = 0.02
"""Temperature of every level where none is set and there are no validation links to choose it on."""


def soft_memberships(
    graph: pd.DataFrame,
    n_items: int,
    config: SoftConfig | None = None,
    *,
    seed: int = 0,
    last: LastNight | None = None,
    validation_links: NDArray[Any] | None = None,
    elsewhere: Callable[[], Sequence[Partition]] | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cluster items at every resolution and soften the clusters.

    At each level Leiden gives hard clusters (at a coarser gamma where the graph does not support the wanted one), each
    item keeps its own and its rho - 1 strongest others as support, and the solver maximises soft modularity plus T
    times entropy there. Items without any edge are in the level's remainder cluster (see `leiden`) with probability 1.
    A prototype that is no item's most probable one and holds less than half an item in all is dropped; then supports
    are chosen again around the prototypes that are left and solved again, until items stay where they are.

    After a last night items keep their prototypes, new ones find a place among them (see `extend`), and the solver goes
    on from last night's memberships with its gammas and temperatures, held back by them (see `Inertia`): an unchanged
    graph changes nothing, and a little news moves few items. Where being held back costs a level a tenth of last
    night's soft modularity, the news is not little and the level is clustered afresh.

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
        q_soft, entropy, largest_share, iterations, converged, held) and, with links, "links", "auc_hard", "auc_soft",
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
    levels = _levels(network, config, last, seed, found)
    test = None if validation_links is None else link_test(network.matrix, validation_links, seed=seed)
    metadata: dict[str, Any] = {"gammas": [level.problem.gamma for level in levels]}
    temperatures = config.temperatures or (None if last is None else last.temperatures)
    if temperatures is not None and len(temperatures) != len(levels):
        raise RecsysError(
            f"{len(temperatures)} temperatures are set for {len(levels)} levels.", mend="give one for each level."
        )
    starts = [level.start for level in levels]
    if temperatures is None and test is not None:
        rough = ROUGHLY * config.tolerance
        choice = choose_temperatures(
            [level.problem for level in levels],
            [level.hard for level in levels],
            test,
            lambda problem, start, temperature: config.solve(problem, start, temperature, rough),
            config.published,
            config.temperature_grid,
            config.max_modularity_loss,
        )
        temperatures, starts = choice.temperatures, [solution.p for solution in choice.solutions]
        metadata["temperatures_tried"] = choice.tried
    else:
        temperatures = temperatures or [DEFAULT_TEMPERATURE] * len(levels)

    def settled_level(number: int) -> Settled:
        if last is None:
            return settle(network, levels[number], starts[number], temperatures[number], config)
        q_last = float(last.levels[number]["q_soft"])
        return settle_warm(network, levels[number], temperatures[number], config, q_last, seed)

    settled = list(in_parallel(settled_level, range(len(levels))))
    for level in settled:
        if not level.solution.converged:
            logger.warning("soft memberships at gamma %g stopped before converging", level.problem.gamma)
    metadata["temperatures"] = [float(temperature) for temperature in temperatures]
    metadata["levels"] = [level.report(temperature) for level, temperature in zip(settled, temperatures, strict=True)]
    if test is not None:
        metadata |= _judged(test, settled)
    return _table([level.published for level in settled]), metadata


def _levels(
    network: Network, config: SoftConfig, last: LastNight | None, seed: int, found: Sequence[Partition] | None
) -> list[Level]:
    def make(number: int) -> Level:
        if last is not None:
            return warm_level(network, last, number, config, seed)
        if found is not None:
            return adopted_level(network, found[number], config)
        return cold_level(network, config.resolutions[number], config, seed)

    levels = []
    with Progress("soft memberships: levels", len(config.resolutions), "levels") as progress:
        for level in in_parallel(make, range(len(config.resolutions))):
            levels.append(level)
            progress.update(note=f"gamma {level.problem.gamma:g}, {level.problem.support.n_prototypes} prototypes")
    return levels


def _judged(test: LinkTest, settled: Sequence[Settled]) -> dict[str, Any]:
    """Quality on links of the hard and of the soft memberships, all levels together."""
    by_hard = sum(test.scores(found.level.problem.support.matrix(found.level.hard)) for found in settled)
    by_soft = sum(test.scores(found.published) for found in settled)
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
