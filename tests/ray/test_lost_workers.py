"""Workers that die, a node that is lost, an object store that is full: the stage finishes, and counts nothing twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.graph_parts import LogGroups, build_graph_here, build_graph_parts
from recsys_dagster.g2rec.sampling import CoengagementConfig
from resources.stored_parts import StoredParts
from resources.stored_table import PartedTable

MEBI = 2**20


class Deadly(StoredParts):
    """The worker that writes the third group dies before it has told anybody, and so does the one of the first part."""

    def write(self, name: str, fill: Callable[[Path], Any]) -> None:
        super().write(name, fill)
        died = Path(self.folder.path) / f"{name}.died"
        if name in ("group-00000002.arrow", "00000000.parquet") and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Slow(StoredParts):
    """Every file takes a moment, long enough to lose a node in the middle."""

    def write(self, name: str, fill: Callable[[Path], Any]) -> None:
        time.sleep(0.2)
        super().write(name, fill)


def graph_of(shop: Any, engine: Any, kind: type[StoredParts]) -> tuple[pd.DataFrame, StoredParts]:
    groups = LogGroups(shop.log, shop.n_users, shop.n_items, CoengagementConfig(group_rows=900))
    output = shop.parts("coengagement_graph", kind)
    parts, figures = build_graph_parts(groups, 0, engine, output)
    table = pd.concat([batch.to_pandas() for batch in PartedTable(output, parts).batches()], ignore_index=True)
    assert figures.edges == len(table)
    pd.testing.assert_frame_equal(table, build_graph_here(groups, 0), check_exact=True)
    return table, output


def test_killed_workers_cost_no_correctness(on_ray, shop):
    _, output = graph_of(shop, on_ray, Deadly)
    assert len(list(Path(output.folder.path).glob("*.died"))) == 2
    output.remove()


def store(part: int) -> dict[str, np.ndarray]:
    return {"numbers": np.full(60 * MEBI // 8, float(part))}


def total(part: int, *shared: Any) -> float:
    return part + sum(float(arrays["numbers"].sum()) for arrays in shared)


def test_more_is_shared_than_the_object_store_holds(on_ray):
    shared = [on_ray.share(store, part) for part in range(4)]
    length = 60 * MEBI // 8
    assert list(on_ray.map(total, range(6), *shared)) == [part + 6.0 * length for part in range(6)]


def refuse(part: int) -> None:
    raise RecsysError(f"part {part} is no good.", mend="a better one")


def test_an_error_of_the_work_comes_back_as_it_is(on_ray):
    with pytest.raises(RecsysError, match=r"^part 1 is no good\. To mend: a better one$"):
        list(on_ray.map(refuse, [1, 2]))
    with pytest.raises(RecsysError, match="part 5"):
        on_ray.share(refuse, 5)


def test_a_lost_node_costs_no_correctness(cluster, node, on_ray, shop):
    lost = next(node for node in cluster.worker_nodes)
    timer = threading.Timer(1.0, cluster.remove_node, [lost], {"allow_graceful": False})
    timer.start()
    _, output = graph_of(shop, on_ray, Slow)
    timer.join()
    assert len(cluster.worker_nodes) == 0
    output.remove()
    cluster.add_node(**node)
    cluster.wait_for_nodes()
