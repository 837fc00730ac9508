"""A stored table that is read in pieces: for assets whose input may be larger than memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from upath import UPath


class StoredTable:
    """One Parquet file of the store, not read yet.

    An asset gets it in place of the DataFrame for an input with ``AssetIn(input_manager_key="table_io")``, and may hand
    it to worker processes, which read from the store themselves.

    Args:
        path: the file, local or remote.
    """

    def __init__(self, path: "UPath") -> None:
        self.path = path

    def __len__(self) -> int:
        """Number of rows, from the file's footer."""
        import pyarrow.parquet as pq

        with self.path.open("rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def n_users(self) -> int:
        """Users of a log that is sorted by user_id, dense from 0: one more than the last, from the file's footer."""
        import pyarrow.parquet as pq

        with self.path.open("rb") as file:
            found = pq.ParquetFile(file).metadata
        column = found.schema.to_arrow_schema().get_field_index("user_id")
        groups = [found.row_group(group).column(column) for group in range(found.num_row_groups)]
        return max((int(group.statistics.max) + 1 for group in groups if group.num_values), default=0)

    def read(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """The whole table, or some columns of it."""
        import pyarrow.parquet as pq

        with self.path.open("rb") as file:
            return pq.read_table(file, columns=None if columns is None else list(columns)).to_pandas()

    def users(self, first: int, last: int, columns: Sequence[str]) -> "pd.DataFrame":
        """The rows of users first to last - 1, in the order of the table; other parts of the file are not kept."""
        import pyarrow.parquet as pq

        with self.path.open("rb") as file:
            rows = pq.read_table(file, columns=list(columns), filters=[("user_id", ">=", first), ("user_id", "<", last)])
        return rows.to_pandas()
