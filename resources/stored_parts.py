"""A table that worker processes write part by part, and that becomes one stored table without being in memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resources.storage import STALE_S, as_local, write_atomically

if TYPE_CHECKING:
    import pandas as pd
    from upath import UPath

ROWS = 1 << 20
"""Rows of a row group of the stored table: what is in memory when parts are joined."""


class Part(NamedTuple):
    """A part that has been written: the name of its file and its rows."""

    name: str
    rows: int


class StoredParts:
    """A folder of the store for the parts of one table, and for what workers hand to each other on the way.

    The names of files are chosen by the parts and every file appears whole, so a part that is done twice, because its
    worker died after writing, is there once.

    Args:
        folder: on a file system or object store that all workers reach.
        prepare: puts columns into their final order and types.
    """

    def __init__(self, folder: UPath, prepare: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        self.folder, self._prepare = folder, prepare
        local = as_local(folder)
        if local is not None and local.parent.is_dir():
            for left in local.parent.iterdir():
                if time.time() - left.stat().st_mtime > STALE_S:
                    shutil.rmtree(left, ignore_errors=True)

    def put(self, number: int, frame: pd.DataFrame) -> Part:
        """Write a part."""
        table, name = self._prepare(frame), f"{number:08}.parquet"
        self.write(name, lambda local: table.to_parquet(local, index=False, compression="zstd"))
        return Part(name, len(table))

    def write(self, name: str, fill: Callable[[Path], Any]) -> None:
        """Write a file that `open` finds on any worker."""
        write_atomically(self.folder / name, fill)

    def open(self, name: str) -> Any:
        """A file that was written by `write`, for reading; mapped into memory where it is local."""
        import pyarrow as pa

        local = as_local(self.folder / name)
        return (self.folder / name).open("rb") if local is None else pa.memory_map(str(local))

    def remove(self) -> None:
        """Remove all of it."""
        if self.folder.exists():
            self.folder.fs.rm(self.folder.path, recursive=True)


class PartedTable:
    """The parts of a table in order: what an asset returns in place of a DataFrame.

    Args:
        source: where they lie.
        parts: in the order of the table.
    """

    def __init__(self, source: StoredParts, parts: Sequence[Part]) -> None:
        self.source = source
        self.parts = [part for part in parts if part.rows] or list(parts[:1])

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    def batches(self) -> Iterator[Any]:
        """The rows as Arrow tables of about `ROWS` rows."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        held: list[Any] = []
        for part in self.parts:
            with self.source.open(part.name) as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=ROWS):
                    held.append(batch)
                    if sum(len(each) for each in held) >= ROWS:
                        yield pa.Table.from_batches(held)
                        held = []
        if held or not len(self):
            yield pa.Table.from_batches(held, schema=self.schema())

    def schema(self) -> Any:
        """Columns and types."""
        import pyarrow.parquet as pq

        with self.source.open(self.parts[0].name) as file:
            return pq.read_schema(file)

    def write(self, local: Path) -> None:
        """Write the whole table as one Parquet file."""
        import pyarrow.parquet as pq

        with pq.ParquetWriter(local, self.schema(), compression="zstd") as writer:
            for table in self.batches():
                writer.write_table(table, row_group_size=2 * ROWS)
