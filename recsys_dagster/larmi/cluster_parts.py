"""Interest clusters of users, part by part: in one process, or over several workers that share the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.data.histories import UserLog, read_histories
from recsys_dagster.larmi.clusters import Catalogue, Clusterer, ClusterStatistics, iter_user_clusters
from recsys_dagster.larmi.item_texts import ItemTexts, read_texts
from recsys_dagster.larmi.local_clusterer import LocalClusterer, LocalClustererConfig
from recsys_dagster.parallel import (
    HERE,
    Arrays,
    Engine,
    Output,
    UserRange,
    add_counts,
    pack_texts,
    unpack_texts,
    user_ranges,
)
from recsys_dagster.progress import Progress

BLOCK_USERS = 1_024
"""Users that a local clusterer takes at a time."""

EXAMPLES = 10


@dataclass(frozen=True)
class ClusterFigures:
    """What clusters add up to.

    Attributes:
        statistics: counts, of `ClusterStatistics`.
        told: what the clusterers told of themselves.
        interests: int64, how many users have 0, 1, 2, ... interests.
        sizes: int64, how many interests have 0, 1, 2, ... items.
        examples: rows of a few users.
    """

    statistics: ClusterStatistics
    told: Mapping[str, int | float]
    interests: NDArray[np.int64]
    sizes: NDArray[np.int64]
    examples: pd.DataFrame

    @classmethod
    def of(
        cls, table: pd.DataFrame, statistics: ClusterStatistics, told: Mapping[str, int | float], shown: Iterable[int]
    ) -> ClusterFigures:
        """Of some users' table; `shown` are the users to show."""
        sizes = table.groupby(["user_id", "cluster"], sort=False).size().to_numpy(dtype=np.int64)
        interests = table.groupby("user_id")["cluster"].nunique().to_numpy(dtype=np.int64)
        rows = table[table["user_id"].isin(list(shown))].reset_index(drop=True)
        return cls(statistics, told, np.bincount(interests), np.bincount(sizes), rows)

    def __add__(self, other: ClusterFigures) -> ClusterFigures:
        return ClusterFigures(
            self.statistics + other.statistics, _together(self.told, other.told),
            add_counts(self.interests, other.interests), add_counts(self.sizes, other.sizes),
            pd.concat([self.examples, other.examples], ignore_index=True),
        )  # fmt: skip


@dataclass(frozen=True)
class LocalWorkers:
    """Workers that are local clusterers; the catalogue's texts are weighed once and shared."""

    config: LocalClustererConfig
    beside = False
    block_users = BLOCK_USERS

    def arrays(self, titles: list[str], texts: list[str]) -> Arrays:
        """What the workers share."""
        return read_texts(Catalogue(titles, texts), self.config.embeddings).arrays()

    def open(self, arrays: Arrays) -> tuple[Catalogue, Clusterer]:
        """The catalogue and a clusterer."""
        found = _once(arrays, ItemTexts.shared)
        return found.catalogue, LocalClusterer(self.config, found)


@dataclass(frozen=True)
class AskingWorkers:
    """Workers that ask a language model, all on the machine where the answers are kept.

    Attributes:
        make: a new clusterer for each part.
        block_users: users that it wants at a time.
    """

    make: Callable[[], Clusterer]
    block_users: int = BLOCK_USERS
    beside = True

    def arrays(self, titles: list[str], texts: list[str]) -> Arrays:
        """What the workers share."""
        return {**pack_texts("titles", titles), **pack_texts("texts", texts)}

    def open(self, arrays: Arrays) -> tuple[Catalogue, Clusterer]:
        """The catalogue and a clusterer."""
        return _once(arrays, _catalogue), self.make()


def cluster_user_parts(
    log: UserLog,
    n_users: int,
    items: pd.DataFrame,
    clusterers: Clusterer | LocalWorkers | AskingWorkers,
    engine: Engine,
    output: Output,
) -> tuple[list[Any], ClusterFigures]:
    """The table of `clusters.cluster_users` for the users of a stored log, part by part.

    Args:
        log: `interactions`; train items are clustered.
        n_users: users 0..U-1.
        items: the `items` table.
        clusterers: one clusterer, which answers in this process and keeps its limits over all users; or what workers
            make theirs of.
        engine: who works; not asked if there is one clusterer.
        output: takes the parts.

    Returns:
        What `output` gave for each part, in the order of the table; and the figures.
    """
    catalogue = Catalogue.from_items(items)
    shown = np.unique(np.linspace(0, max(n_users - 1, 0), EXAMPLES).round().astype(int)).tolist()
    read = partial(read_histories, log, n_items=len(catalogue.titles))
    if isinstance(clusterers, LocalWorkers | AskingWorkers):
        shared = engine.share(clusterers.arrays, catalogue.titles, catalogue.texts)
        parts = user_ranges(n_users, clusterers.block_users, engine.workers)
        work = partial(_cluster_part, read, clusterers, shown, output)
        found = engine.map(work, parts, shared, beside=clusterers.beside)
    else:
        parts = user_ranges(n_users, getattr(clusterers, "block_users", BLOCK_USERS), HERE.workers)
        found = HERE.map(partial(_cluster_range, read, catalogue, clusterers, shown, output), parts)
    kept: list[Any] = []
    total: ClusterFigures | None = None
    with Progress("interest clusters of users", n_users, "users") as progress:
        for part, (stored, figures) in zip(parts, found, strict=True):
            kept.append(stored)
            total = figures if total is None else total + figures
            progress.update(part[2] - part[1])
    assert total is not None  # a dataset has users
    if not isinstance(clusterers, LocalWorkers | AskingWorkers):
        total = ClusterFigures(total.statistics, clusterers.statistics(), total.interests, total.sizes, total.examples)
    return kept, total


def _cluster_part(
    read: Callable[..., Any],
    clusterers: LocalWorkers | AskingWorkers,
    shown: list[int],
    output: Output,
    part: UserRange,
    arrays: Arrays,
) -> tuple[Any, ClusterFigures]:
    catalogue, clusterer = clusterers.open(arrays)
    stored, figures = _cluster_range(read, catalogue, clusterer, shown, output, part)
    told = clusterer.statistics()
    return stored, ClusterFigures(figures.statistics, told, figures.interests, figures.sizes, figures.examples)


def _cluster_range(
    read: Callable[..., Any],
    catalogue: Catalogue,
    clusterer: Clusterer,
    shown: list[int],
    output: Output,
    part: UserRange,
) -> tuple[Any, ClusterFigures]:
    number, first, last = part
    histories, statistics = read(first, last), ClusterStatistics()
    own = [(first + user, histories.of(user)) for user in range(histories.n_users)]
    blocks = iter_user_clusters(own, catalogue, clusterer, statistics)
    table = pd.concat(list(blocks), ignore_index=True)
    return output.put(number, table), ClusterFigures.of(table, statistics, {}, shown)


def _together(first: Mapping[str, int | float], second: Mapping[str, int | float]) -> dict[str, int | float]:
    """Sums of what two clusterers told, but for the mean silhouette."""
    total = {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}
    if total.get("lists"):
        weighed = [told.get("silhouette", 0.0) * told.get("lists", 0) for told in (first, second)]
        total["silhouette"] = sum(weighed) / total["lists"]
    return total


def _catalogue(arrays: Arrays) -> Catalogue:
    return Catalogue(unpack_texts("titles", arrays), unpack_texts("texts", arrays))


_opened: list[tuple[Arrays, Any]] = []
"""The catalogue that this worker has open."""


def _once(arrays: Arrays, make: Callable[[Arrays], Any]) -> Any:
    """What is made of shared arrays, once for all parts of a worker."""
    if not _opened or _opened[0][0] is not arrays:
        _opened[:] = [(arrays, make(arrays))]
    return _opened[0][1]
