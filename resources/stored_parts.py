"""Where worker processes write a table part by part."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.files import as_local, write_atomically
from resources.stored_table import Part

if TYPE_CHECKING:
    import pandas as pd
    from upath import UPath

STALE_S = 86_400
"""Seconds after which parts that a killed step left are removed."""


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
        """A file that was written by `write`, for reading; an Arrow file of this machine is mapped into memory."""
        import pyarrow as pa

        local = as_local(self.folder / name)
        mapped = local is not None and local.suffix == ".arrow"
        return pa.memory_map(str(local)) if mapped else (self.folder / name).open("rb")

    def remove(self) -> None:
        """Remove all of it."""
        if self.folder.exists():
            self.folder.fs.rm(self.folder.path, recursive=True)
