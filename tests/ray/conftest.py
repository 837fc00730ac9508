"""A real Ray cluster of two nodes on this machine, made once, and what the stages work on."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

# Both before Ray is imported: the nodes listen on the loopback address only, and nothing is reported to anybody.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Workers as urgent as the tests themselves, and kept although two jobs take turns on two cores.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (its name)
os.environ["RAY_idle_worker_killing_time_threshold_ms"] = "60000"  # noqa: SIM112

from assets.tables import conform
from recsys_dagster.data.prepare import Prepared, prepare, sample_negatives
from recsys_dagster.data.registry import get_dataset
from recsys_dagster.data.sample import generate_sample
from resources.compute import ComputeResource
from resources.processes import Processes
from resources.ray_cluster import RayCluster
from resources.stored_parts import StoredParts
from resources.stored_table import StoredTable

NODE = {
    "num_cpus": 1,
    "node_ip_address": "127.0.0.1",
    "object_store_memory": 80 * 2**20,
    "include_dashboard": False,
}
"""A node; its object store is small, so that larger things spill to disk."""


@pytest.fixture(scope="session")
def cluster() -> Any:
    """Two nodes of one core each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'recsys-dagster[ray]'")
    from ray.cluster_utils import Cluster

    # What tests hand to workers is defined in the tests.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    nodes = Cluster(initialize_head=True, head_node_args=NODE)
    nodes.add_node(**NODE)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="session")
def on_ray(cluster: Any) -> Any:
    """The engine on that cluster."""
    with ComputeResource(engine="ray", address=cluster.address).open() as engine:
        assert engine.workers == 2
        yield engine


@pytest.fixture(scope="session")
def processes() -> Any:
    """The engine of two processes."""
    with ComputeResource(processes=2).open() as engine:
        yield engine


@pytest.fixture(params=["processes", "on_ray"])
def engine(request: pytest.FixtureRequest) -> Processes | RayCluster:
    """Each of the engines in turn."""
    return request.getfixturevalue(request.param)


class Shop:
    """The generated dataset as the store holds it.

    Attributes:
        folder: of its files, and of parts.
        data: its tables.
        log: `interactions`, stored.
        negatives: stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: Prepared = prepare(generate_sample(seed=0), get_dataset("sample"))
        self.log = self._stored("interactions", self.data.interactions)
        drawn = sample_negatives(self.data.interactions, self.n_users, self.n_items)
        self.negatives = self._stored("negatives", drawn)

    @property
    def n_users(self) -> int:
        return len(self.data.users)

    @property
    def n_items(self) -> int:
        return len(self.data.items)

    def _stored(self, name: str, table: Any) -> StoredTable:
        path = self.folder / f"{name}.parquet"
        conform(table, name).to_parquet(path, index=False)
        return StoredTable(UPath(path))

    def parts(self, table: str, kind: type[StoredParts] = StoredParts) -> StoredParts:
        """A place for the parts of a table."""
        return kind(UPath(self.folder / "parts" / f"{table}-{os.urandom(4).hex()}"), partial(conform, table=table))


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def node() -> dict[str, Any]:
    """What a node is made of."""
    return NODE
