"""The co-engagement graph over several workers: pairs are summed by groups of users, then by ranges of items.

Map: a worker reads a group of users, sums its pairs as `coengagement` does, and leaves the sums in one file, cut into
ranges of the smaller item. Reduce: a worker adds up one range over all groups, in the order and the tree in which one
process would. So the table is the same to the last bit, and nobody holds all edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.data.histories import TRAIN, Histories, UserLog, read_histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.coengagement import build_graph, group_sum
from recsys_dagster.g2rec.graph import GraphFigures
from recsys_dagster.g2rec.partial_sums import PartialSums, edge_table
from recsys_dagster.g2rec.sampling import CoengagementConfig
from recsys_dagster.parallel import HERE, Engine, Output, UserRange
from recsys_dagster.progress import Progress


class BlockOutput(Output, Protocol):
    """An output that also takes what workers hand to each other (`resources.stored_parts.StoredParts`)."""

    def write(self, name: str, fill: Callable[[Path], Any]) -> None:
        """Let `fill` write a file."""
        ...

    def open(self, name: str) -> Any:
        """Read a file that any worker wrote."""
        ...


@dataclass(frozen=True)
class LogGroups:
    """A stored log as groups of users, the same for every engine.

    Attributes:
        log: `interactions`.
        n_users: users 0..U-1.
        n_items: items 0..N-1.
        config: says how many rows make a group, and whether times are read.
    """

    log: UserLog
    n_users: int
    n_items: int
    config: CoengagementConfig

    def ranges(self) -> list[UserRange]:
        """The groups."""
        size = max(self.n_users * self.config.group_rows // max(len(self.log), 1), 1)
        bounds = range(0, self.n_users, size)
        return [(number, first, min(first + size, self.n_users)) for number, first in enumerate(bounds)]

    def read(self, part: UserRange) -> Histories:
        """The train histories of a group, its users numbered from 0."""
        dated = self.config.half_life_days is not None
        return read_histories(self.log, *part[1:], n_items=self.n_items, times=dated)

    def newest(self, engine: Engine = HERE) -> int | None:
        """The time of the newest train interaction, from which ages are reckoned; None where age does not matter."""
        if self.config.half_life_days is None:
            return None
        return max(engine.map(partial(_newest, self.log), self.ranges()), default=0)


def _newest(log: UserLog, part: UserRange) -> int:
    table = log.users(*part[1:], ["split", "timestamp"])
    return int(table.loc[table["split"] == TRAIN, "timestamp"].max()) if (table["split"] == TRAIN).any() else 0


def build_graph_here(groups: LogGroups, seed: int) -> pd.DataFrame:
    """The graph of a stored log in this process; see `build_graph`."""
    histories = (groups.read(part) for part in groups.ranges())
    return build_graph(histories, groups.config, seed=seed, newest=groups.newest())


def graph_of_log(groups: LogGroups, seed: int, engine: Engine, output: Any) -> tuple[list[Any], GraphFigures]:
    """`build_graph_here` or `build_graph_parts`, as the engine asks."""
    if engine is not HERE:
        return build_graph_parts(groups, seed, engine, output)
    table = build_graph_here(groups, seed)
    return [output.put(0, table)], GraphFigures.of(table, groups.n_items)


def build_graph_parts(
    groups: LogGroups, seed: int, engine: Engine, output: BlockOutput
) -> tuple[list[Any], GraphFigures]:
    """The same graph by the workers of an engine.

    Args:
        groups: the log.
        seed: of the draws.
        engine: who works.
        output: takes the parts of the table, and the sums on their way from one worker to another.

    Returns:
        What `output` gave for each part, in the order of the table; and the figures of the graph.

    Raises:
        RecsysError: no user has two distinct items; or a half-life is set and there are no times.
    """
    parts = groups.ranges()
    (bounds,) = engine.map(partial(_item_ranges, groups, engine.workers, len(parts)), parts[:1]) if parts else ([0],)
    count = partial(_sum_group, groups, seed, groups.newest(engine), bounds, output)
    names: list[str] = []
    with Progress("coengagement: users", groups.n_users, "users") as progress:
        for part, name in zip(parts, engine.map(count, parts), strict=True):
            names += [name] if name else []
            progress.update(part[2] - part[1])
    if not names:
        raise RecsysError(
            f"The co-engagement graph is empty: none of {groups.n_users:,} users has two distinct items in the "
            "train split.",
            mend="use a log with longer histories, or lower the k-core of the dataset.",
        )
    add = partial(_sum_range, groups, names, bounds, output)
    kept: list[Any] = []
    figures = GraphFigures.none(groups.n_items)
    with Progress("coengagement: ranges of items", len(bounds) - 1, "ranges") as progress:
        for stored, found in engine.map(add, range(len(bounds) - 1)):
            kept.append(stored)
            figures = figures + found
            progress.update()
    return kept, figures


def _item_ranges(groups: LogGroups, workers: int, n_groups: int, part: UserRange) -> list[int]:
    """Bounds of ranges of items with about equal numbers of pairs, going by the first group.

    Two ranges a worker, and more where a range would hold more pairs than one may hold at once. Where the bounds lie
    changes no result.
    """
    from recsys_dagster.g2rec import pair_kernels as kernels

    histories = groups.read(part)
    ordered = np.sort(histories.items + histories.users.astype(np.int64) * groups.n_items)
    items = (ordered % groups.n_items).astype(np.int32)
    ends = np.repeat(histories.indptr[1:], histories.lengths)
    cost = kernels.clique_costs(*kernels.group_by_item(items, groups.n_items), ends)
    most = max(2 * workers, int(cost[-1]) * n_groups // groups.config.chunk_pairs + 1)
    inner = np.searchsorted(cost, np.linspace(0, cost[-1], most + 1)[1:-1])
    return [int(bound) for bound in np.unique(np.concatenate([[0], inner, [groups.n_items]]))]


def _sum_group(
    groups: LogGroups, seed: int, newest: int | None, bounds: list[int], output: BlockOutput, part: UserRange
) -> str:
    """Map: the sums of a group as a file of one record batch a range; returns its name, "" for no pair."""
    import pyarrow as pa

    number, first, _ = part
    sums = group_sum(groups.read(part), first, groups.config, seed=seed, newest=newest)
    if sums is None:
        return ""

    def fill(local: Path) -> None:
        schema = pa.schema({"items": pa.large_list(pa.int32()), "weights": pa.large_list(pa.float64())})
        with pa.OSFile(str(local), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for begin, stop in pairwise(bounds):
                rows = slice(int(sums.indptr[begin]), int(sums.indptr[stop]))
                starts = pa.array(sums.indptr[begin : stop + 1].astype(np.int64) - rows.start)
                columns = [
                    pa.LargeListArray.from_arrays(starts, pa.array(values[rows]))
                    for values in (sums.indices.astype(np.int32, copy=False), sums.data)
                ]
                writer.write_batch(pa.record_batch(columns, schema=schema))

    name = f"group-{number:08}.arrow"
    output.write(name, fill)
    return name


def _sum_range(
    groups: LogGroups, names: list[str], bounds: list[int], output: BlockOutput, number: int
) -> tuple[Any, GraphFigures]:
    """Reduce: the edges whose smaller item lies in a range."""
    import pyarrow as pa

    tree = PartialSums()
    shape = (bounds[number + 1] - bounds[number], groups.n_items)
    for name in names:
        with output.open(name) as file:
            batch = pa.ipc.open_file(file).get_batch(number)
            columns, weights = batch.column(0), batch.column(1)
            starts: NDArray[Any] = columns.offsets.to_numpy()
            if starts[-1] < np.iinfo(np.int32).max:
                starts = starts.astype(np.int32)
            # A copy: the file may be unmapped before the last sum is done.
            values = (weights.values.to_numpy().copy(), columns.values.to_numpy().copy(), starts)
            part = sparse.csr_array(values, shape=shape)
        part.has_canonical_format = True
        tree.push(part)
    table = edge_table(tree.total(), bounds[number], groups.config)
    return output.put(number, table), GraphFigures.of(table, groups.n_items)
