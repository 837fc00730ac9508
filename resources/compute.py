"""Where work that splits into independent parts is done."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import dagster as dg
from pydantic import Field, field_validator

Part = TypeVar("Part")
Result = TypeVar("Result")


class ComputeResource(dg.ConfigurableResource):
    """Runs a function over parts of the work; results keep their order, so that no engine changes a result."""

    engine: str = Field(
        default="local", description="local: processes on this machine. ray is reserved for a later release."
    )
    processes: int = Field(default=1, ge=1, description="Worker processes; 1 works in the step's own process.")

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        if value == "ray":
            raise ValueError("compute.engine 'ray' is not built yet; set it to 'local'")
        if value != "local":
            raise ValueError(f"compute.engine is {value!r}; expected 'local'")
        return value

    def map(self, function: Callable[[Part], Result], parts: Iterable[Part]) -> list[Result]:
        """Apply a picklable function to every part.

        Args:
            function: a module-level function, or a partial of one.
            parts: the work, already split.
        """
        if self.processes == 1:
            return [function(part) for part in parts]
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
            return list(pool.map(function, parts))
