"""A stored table that is read in pieces: for assets whose input may be larger than memory."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from resources.files import reading

if TYPE_CHECKING:
    import pandas as pd
    from upath import UPath


class StoredTable:
    """One Parquet file of the store, not read yet.

    An asset gets it in place of the DataFrame for an input with ``AssetIn(input_manager_key="table_io")``.

    Args:
        path: the file, local or remote.
    """

    def __init__(self, path: "UPath") -> None:
        self.path = path

    def batches(self, columns: Sequence[str], rows: int = 1 << 21) -> "Iterator[pd.DataFrame]":
        """Consecutive pieces of the table.

        Args:
            columns: which columns to read.
            rows: most rows of a piece.
        """
        import pyarrow.parquet as pq

        with reading(self.path), self.path.open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=rows, columns=list(columns)):
                yield batch.to_pandas()
