"""How an asset's work is dealt out to the workers of `ComputeResource`, and how its table comes back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.tables import conform
from recsys_dagster.parallel import HERE, IN_MEMORY, Engine

if TYPE_CHECKING:
    from resources.compute import ComputeResource
    from resources.storage import AssetStore


def in_pieces(*tables: str) -> dict[str, dg.AssetIn]:
    """Inputs that an asset gets as `StoredTable`, to read what it needs where it is needed."""
    return {table: dg.AssetIn(input_manager_key="table_io") for table in tables}


@dataclass(frozen=True)
class Spread:
    """Who works on a table, and where its parts go.

    Attributes:
        table: name of the table.
        engine: the workers.
        output: takes the parts: in memory for a single process, else in the store.
    """

    table: str
    engine: Engine
    output: Any

    @property
    def here(self) -> bool:
        """Whether the step works on its own."""
        return self.engine is HERE

    def joined(self, parts: Sequence[Any]) -> Any:
        """The value of the asset: a DataFrame, or the stored parts, which the IO manager joins."""
        import pandas as pd

        from resources.stored_table import PartedTable

        if self.output is IN_MEMORY:
            return conform(pd.concat(parts, ignore_index=True), self.table)
        return PartedTable(self.output, parts)


@contextmanager
def spread(compute: ComputeResource, store: AssetStore, table: str, partition: str) -> Iterator[Spread]:
    """The engine that the resource asks for, until the block ends; what workers wrote goes where the block fails."""
    if compute.in_process:
        yield Spread(table, HERE, IN_MEMORY)
        return
    from resources.stored_parts import StoredParts

    output = StoredParts(store.parts(table, partition), partial(conform, table=table))
    try:
        with compute.open() as engine:
            yield Spread(table, engine, output)
    except BaseException:
        output.remove()
        raise
