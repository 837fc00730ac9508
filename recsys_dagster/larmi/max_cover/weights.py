"""Business weights of items in place of Eq. 7's, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.errors import RecsysError


def read_item_values(path: Path, column: str, keys: pd.Series) -> tuple[NDArray[np.float64], int]:
    """Read one weight an item.

    Args:
        path: CSV (with a header) or Parquet, with the columns `item` and `column`.
        column: name of the column of weights, numbers of 0 or more.
        keys: source keys of the items, in the order of their ids.

    Returns:
        float64 [N], 0 for items that the file does not name; and how many these are.

    Raises:
        RecsysError: no such file or column, an item twice, a weight that is no number or negative, or no known item.
    """
    setting = f"value_file {path}"
    if not path.is_file():
        raise RecsysError(f"{setting}: no such file.", mend="name a CSV or Parquet file, or leave `value_file` out.")
    try:
        parquet = path.suffix == ".parquet"
        table = pd.read_parquet(path) if parquet else pd.read_csv(path, dtype={"item": str}, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise RecsysError(f"{setting}: cannot be read ({error}).", mend="save it as CSV or Parquet.") from error
    for name in ("item", column):
        if name not in table:
            raise RecsysError(
                f"{setting}: no column '{name}', found {', '.join(map(str, table.columns))}.",
                mend="name the weights' column in `value_column` and the source keys `item`.",
            )
    names = table["item"].astype(str)
    if names.duplicated().any():
        row = int(np.flatnonzero(names.duplicated())[0])
        raise RecsysError(
            f"{setting}, row {row + 1}: item '{names.iloc[row]}' has a row above.", mend="keep one row an item."
        )
    numbers = pd.to_numeric(table[column], errors="coerce").to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if len(wrong):
        row = int(wrong[0])
        raise RecsysError(
            f"{setting}, row {row + 1}, column '{column}': found '{table[column].iloc[row]}', expected a number >= 0.",
            mend="correct the weight.",
        )
    found = pd.Series(numbers, index=names).reindex(keys.astype(str))
    if found.isna().all():
        raise RecsysError(
            f"{setting}: none of its {len(names)} items is in the dataset (which has '{keys.iloc[0]}', for one).",
            mend="write the source keys of the items into the column `item`.",
        )
    return found.fillna(0.0).to_numpy(dtype=np.float64), int(found.isna().sum())
