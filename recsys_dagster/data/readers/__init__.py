"""Readers: from the files of a dataset to one raw log, strictly.

Whatever a reader cannot understand is an error that names the file, the line and the mend; nothing is skipped in
silence.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from recsys_dagster.data.raw import RawLog
from recsys_dagster.data.readers import amazon, movielens, sequences, table
from recsys_dagster.data.registry import DatasetSpec, Role
from recsys_dagster.data.sample import generate_sample
from recsys_dagster.data.sources import fetch

__all__ = ["RawLog", "keep_earliest", "read_files", "read_raw"]

_READERS = {
    "amazon": amazon.read,
    "movielens": movielens.read,
    "sequences": sequences.read,
    "table": table.read,
}


def read_raw(spec: DatasetSpec, data_dir: Path | None, home: Path) -> RawLog:
    """Fetch a dataset's files and read them.

    Args:
        spec: the dataset.
        data_dir: folder of local files (RECSYS_DATA_DIR), looked into before anything is fetched.
        home: RECSYS_HOME; downloads go to its folder `downloads`.

    Raises:
        RecsysError: a file is missing, has the wrong checksum, or holds something unreadable.
    """
    return read_files(spec, fetch(spec, data_dir, home / "downloads"))


def read_files(spec: DatasetSpec, files: dict[Role, Path]) -> RawLog:
    """Read a dataset as its files give it (`fetch` returns them; the `sample` generator has none).

    Raises:
        RecsysError: a file holds something unreadable.
    """
    if spec.reader == "sample":
        return generate_sample(seed=spec.seed)
    raw = _READERS[spec.reader](spec, files)
    if spec.repeats == "earliest":
        raw = RawLog(keep_earliest(raw.interactions), raw.items, raw.truth)
    return raw


def keep_earliest(interactions: pd.DataFrame) -> pd.DataFrame:
    """Of each user's interactions with the same item keep the earliest (of equals the first), in source order."""
    by_time = interactions.sort_values("timestamp", kind="stable")
    return by_time.drop_duplicates(["user", "item"]).sort_index().reset_index(drop=True)
