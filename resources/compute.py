"""Where the stages that are maps and sums over users are worked on."""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

import dagster as dg
from pydantic import Field, field_validator

if TYPE_CHECKING:
    from resources.processes import Processes
    from resources.ray_cluster import RayCluster


class ComputeResource(dg.ConfigurableResource):
    """One process, several, or a Ray cluster: the same functions, the same tables."""

    engine: Literal["local", "ray"] = Field(
        default="local", description="local: processes on this machine. ray: tasks on a Ray cluster (extra `ray`)."
    )
    processes: int = Field(
        default=1,
        ge=1,
        description="Worker processes; 1 works in the step's own process. With ray and no address: its cores.",
    )
    address: str = Field(
        default="",
        description="With ray: host:port of a running cluster, auto for the one on this machine; empty starts one on "
        "this machine for the step.",
    )

    @field_validator("address")
    @classmethod
    def _no_client(cls, value: str) -> str:
        if value.startswith("ray://"):
            raise ValueError(f"compute.address is {value!r}; expected host:port: steps run on a machine of the cluster")
        return value

    @property
    def in_process(self) -> bool:
        """Whether the step works on its own."""
        return self.engine == "local" and self.processes == 1

    def open(self) -> "AbstractContextManager[Processes | RayCluster]":
        """The workers, until the block ends.

        Raises:
            ImportError: `engine` is ray, and Ray is not installed.
            ConnectionError: no cluster answers at `address`.
        """
        if self.engine == "ray":
            from resources.ray_cluster import RayCluster

            return RayCluster(self.address, self.processes)
        from resources.processes import Processes

        return Processes(self.processes)
