"""Cliques over several workers: the inverted index is made once and shared, users are dealt out."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.data.histories import UserLog, read_histories
from recsys_dagster.larmi.cliques import CliqueConfig, CliqueInputs, neighbour_recall, synthesize
from recsys_dagster.parallel import Arrays, Engine, Output, UserRange, add_counts, user_ranges
from recsys_dagster.progress import Progress


@dataclass(frozen=True)
class CliqueFigures:
    """What cliques add up to.

    Attributes:
        certain: how many are certain to be of the nearest users.
        sizes: int64, how many cliques have 0, 1, 2, ... items.
        members: int64, how many have 0, 1, 2, ... members.
        recall: of `neighbour_recall`, where `max_reads` is set.
    """

    certain: int
    sizes: NDArray[np.int64]
    members: NDArray[np.int64]
    recall: dict[str, float] = field(default_factory=dict)

    def __add__(self, other: CliqueFigures) -> CliqueFigures:
        return CliqueFigures(
            self.certain + other.certain, add_counts(self.sizes, other.sizes), add_counts(self.members, other.members),
            self.recall | other.recall,
        )  # fmt: skip


def build_clique_parts(
    log: UserLog, n_users: int, n_items: int, config: CliqueConfig, engine: Engine, output: Output
) -> tuple[list[Any], CliqueFigures]:
    """The table of `cliques.build_cliques`, part by part.

    Args:
        log: `interactions`; its train split is read, once, by the worker that makes the index.
        n_users: users 0..U-1.
        n_items: items 0..N-1.
        config: as for `build_cliques`.
        engine: who works.
        output: takes the parts.

    Returns:
        What `output` gave for each part, in the order of the table; and the figures.
    """
    shared = engine.share(_inputs, log, n_users, n_items, config)
    kept: list[Any] = []
    none = np.zeros(1, dtype=np.int64)
    (recall,) = [{}] if config.max_reads is None else engine.map(_recall, [config], shared)
    figures = CliqueFigures(0, none, none, recall)
    parts = user_ranges(n_users, config.block_users, engine.workers)
    with Progress("cliques", n_users, "users") as progress:
        for part, (stored, found) in zip(
            parts, engine.map(partial(_synthesize, config, output), parts, shared), strict=True
        ):
            kept.append(stored)
            figures = figures + found
            progress.update(part[2] - part[1])
    return kept, figures


def _inputs(log: UserLog, n_users: int, n_items: int, config: CliqueConfig) -> Arrays:
    return CliqueInputs.of(read_histories(log, 0, n_users, n_items=n_items), config).arrays()


def _recall(config: CliqueConfig, arrays: Arrays) -> dict[str, float]:
    return neighbour_recall(CliqueInputs.shared(arrays), config)


def _synthesize(config: CliqueConfig, output: Output, part: UserRange, arrays: Arrays) -> tuple[Any, CliqueFigures]:
    number, first, last = part
    table, certain = synthesize(CliqueInputs.shared(arrays), config, first, last)
    sizes, members = (np.bincount(table[name].map(len).to_numpy(dtype=np.int64)) for name in ("items", "members"))
    return output.put(number, table), CliqueFigures(certain, sizes, members)
