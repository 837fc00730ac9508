"""Tables that are never in memory as a whole: one that is read in pieces, one that workers wrote in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from resources.files import reading

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from upath import UPath

ROWS = 1 << 20
"""Rows of a row group of the stored table: what is in memory when parts are joined."""


class StoredTable:
    """One Parquet file of the store, not read yet.

    An asset gets it in place of the DataFrame for an input with ``AssetIn(input_manager_key="table_io")``, and may hand
    it to worker processes, which read from the store themselves.

    Args:
        path: the file, local or remote.
    """

    def __init__(self, path: UPath) -> None:
        self.path = path

    def __len__(self) -> int:
        """Number of rows, from the file's footer."""
        import pyarrow.parquet as pq

        with reading(self.path), self.path.open("rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def n_users(self) -> int:
        """Users of a log that is sorted by user_id, dense from 0: one more than the last, from the file's footer."""
        import pyarrow.parquet as pq

        with reading(self.path), self.path.open("rb") as file:
            found = pq.ParquetFile(file).metadata
        column = found.schema.to_arrow_schema().get_field_index("user_id")
        groups = [found.row_group(group).column(column) for group in range(found.num_row_groups)]
        return max((int(group.statistics.max) + 1 for group in groups if group.num_values), default=0)

    def columns(self) -> list[str]:
        """Names of the columns."""
        import pyarrow.parquet as pq

        with reading(self.path), self.path.open("rb") as file:
            return list(pq.read_schema(file).names)

    def values(self, column: str) -> Iterator[NDArray[Any]]:
        """A column of numbers in pieces, at least one."""
        import pyarrow.parquet as pq

        with reading(self.path), self.path.open("rb") as file:
            source = pq.ParquetFile(file, pre_buffer=False)  # what is buffered stays until the file is closed
            if not source.metadata.num_rows:
                yield source.schema_arrow.empty_table().column(column).to_numpy()
            for group in range(source.num_row_groups):
                yield source.read_row_group(group, columns=[column], use_threads=False).column(0).to_numpy()

    def read(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """The whole table, or some columns of it."""
        import pyarrow.parquet as pq

        with reading(self.path), self.path.open("rb") as file:
            return pq.read_table(file, columns=None if columns is None else list(columns)).to_pandas()

    def users(self, first: int, last: int, columns: Sequence[str]) -> pd.DataFrame:
        """The rows of users first to last - 1, in the order of the table; other parts of the file are not kept."""
        import pyarrow.parquet as pq

        with reading(self.path), self.path.open("rb") as file:
            rows = pq.read_table(
                file, columns=list(columns), filters=[("user_id", ">=", first), ("user_id", "<", last)]
            )
        return rows.to_pandas()


class Part(NamedTuple):
    """A part that has been written: the name of its file and its rows."""

    name: str
    rows: int


class PartSource(Protocol):
    """A folder of parts (`resources.stored_parts.StoredParts`)."""

    def open(self, name: str) -> Any:
        """A file in it, for reading."""
        ...

    def remove(self) -> None:
        """Remove all of it."""
        ...


class PartedTable:
    """The parts of a table in order: what an asset returns in place of a DataFrame.

    Args:
        source: where they lie.
        parts: in the order of the table.
    """

    def __init__(self, source: PartSource, parts: Sequence[Part]) -> None:
        self.source = source
        self.parts = [part for part in parts if part.rows] or list(parts[:1])

    def __len__(self) -> int:
        return sum(part.rows for part in self.parts)

    def batches(self) -> Iterator[Any]:
        """The rows as Arrow tables of at most `ROWS` rows, or one row group of a part."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        held, rows = [self.schema().empty_table()], 0
        for part in self.parts:
            with self.source.open(part.name) as file:
                source = pq.ParquetFile(file, pre_buffer=False)  # what is buffered stays until the file is closed
                for group in range(source.num_row_groups):
                    more = source.metadata.row_group(group).num_rows
                    if rows and rows + more > ROWS:
                        yield pa.concat_tables(held)
                        held, rows = held[:1], 0
                    held.append(source.read_row_group(group, use_threads=False))
                    rows += more
        yield pa.concat_tables(held)

    def schema(self) -> Any:
        """Columns and types."""
        import pyarrow.parquet as pq

        with self.source.open(self.parts[0].name) as file:
            return pq.read_schema(file)

    def write(self, local: Path) -> None:
        """Write the whole table as one Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(local, self.schema(), compression="zstd") as writer:
            for table in self.batches():
                writer.write_table(table, row_group_size=ROWS)
                del table
                pa.default_memory_pool().release_unused()  # else the largest of many buffers of each kind stay
