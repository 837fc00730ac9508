"""Reader `table`: a CSV or Parquet file with named columns, and another for the items."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd

from recsys_dagster.data.raw import RawLog
from recsys_dagster.data.readers.common import broken, clean, first_repeat, items_table, refuse_repeats
from recsys_dagster.data.registry import DatasetSpec, Role
from recsys_dagster.data.sources import GZIP_ERRORS, open_source


def read(spec: DatasetSpec, files: dict[Role, Path]) -> RawLog:
    """Read the columns that the dataset's entry names.

    The log needs a user, an item and a timestamp column (whole numbers such as seconds or the position within the
    user, or ISO 8601 dates); the items file an item and a title column, and may have categories. Keys are text:
    ``007`` and ``7`` differ in CSV.

    Raises:
        RecsysError: a missing column, an empty or unreadable cell, the same user, item and timestamp twice, an item
            twice in the items file.
    """
    path, names = files["source"], spec.columns
    frame = _load(spec, path, [names.user, names.item, names.timestamp])
    interactions = pd.DataFrame(
        {
            "user": _keys(spec, path, frame, names.user),
            "item": _keys(spec, path, frame, names.item),
            "timestamp": _times(spec, path, frame, names.timestamp),
        }
    )
    refuse_repeats(spec, path, interactions, lambda row: _line(spec, path, row))
    keys = interactions["item"].unique().tolist()
    about = files.get("items_source")
    return RawLog(interactions, items_table(spec, about, keys, None if about is None else _items(spec, about)))


def _items(spec: DatasetSpec, path: Path) -> dict[str, tuple[str, str]]:
    names = spec.columns
    required = [names.item, names.title] + ([names.categories] if "categories" in names.model_fields_set else [])
    frame = _load(spec, path, required)
    keys = _keys(spec, path, frame, names.item)
    row = first_repeat(keys.to_frame(), [str(keys.name)])
    if row is not None and spec.duplicate_items == "error":
        raise broken(
            spec, path, _line(spec, path, row), f"item '{keys.iloc[row]}' has a line above",
            mend="remove one of the two, or set duplicate_items = \"first\" in the dataset's entry.",
        )  # fmt: skip
    blank = pd.Series("", index=frame.index)
    titles = frame[names.title].map(clean, na_action="ignore").fillna("")
    categories = frame[names.categories].map(_joined) if names.categories in frame else blank
    described: dict[str, tuple[str, str]] = {}
    for key, title, category in zip(keys, titles, categories, strict=True):
        described.setdefault(key, (title, category))
    return described


def _joined(value: object) -> str:
    """Categories as one text: a list (Parquet) joined by commas, text as it is, nothing as ''."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return ", ".join(clean(part) for part in value)
    return clean(value) if isinstance(value, str) else ""


def _load(spec: DatasetSpec, path: Path, required: list[str]) -> pd.DataFrame:
    try:
        with open_source(path) as file:
            if _is_parquet(path):
                frame = pd.read_parquet(io.BytesIO(file.read()))
            else:
                # The C parser reads short rows as missing cells and keeps every other cell as the text it is.
                frame = pd.read_csv(
                    file, sep=spec.delimiter, dtype="str", keep_default_na=False, na_values=[], encoding="utf-8-sig",
                    on_bad_lines="error",
                )  # fmt: skip
                if not isinstance(frame.index, pd.RangeIndex):  # pandas took the surplus field for an index
                    raise ValueError("line 2 has more fields than the header")
    except GZIP_ERRORS as error:
        raise broken(spec, path, None, f"not a whole gzip file ({error})", mend="fetch it again.") from None
    except UnicodeDecodeError as error:
        raise broken(spec, path, None, f"not UTF-8 text ({error.reason})", mend="re-encode the file.") from None
    except (ValueError, OSError) as error:  # ParserError, EmptyDataError and pyarrow's errors are ValueErrors
        found = re.search(r"line (\d+)", str(error))
        raise broken(
            spec, path, int(found[1]) if found else None, f"unreadable ({' '.join(str(error).split())})",
            mend="give every row as many fields as the header, quote fields that hold the delimiter, and check "
            "`delimiter` in the dataset's entry.",
        ) from None  # fmt: skip
    for column in required:
        if column not in frame.columns:
            raise broken(
                spec, path, None if _is_parquet(path) else 1,
                f"there is no column '{column}', there are: {', '.join(map(str, frame.columns))}",
                mend="correct `columns` in the dataset's entry, or the header of the file.",
            )  # fmt: skip
    if frame.empty:
        raise broken(spec, path, None, "the table has no row", mend="name a file with rows.")
    return frame


def _keys(spec: DatasetSpec, path: Path, frame: pd.DataFrame, column: str) -> pd.Series:
    values = frame[column]
    if pd.api.types.is_float_dtype(values):
        raise broken(
            spec, path, None, f"column '{column}' holds decimals (or gaps), expected whole numbers or text",
            mend="fill the gaps and store keys as integers or text.",
        )  # fmt: skip
    texts = values.astype("str").str.strip()
    bad = (values.isna() | (texts == "")).to_numpy()
    if bad.any():
        raise broken(
            spec, path, _line(spec, path, int(bad.argmax())), f"column '{column}' is empty",
            mend="fill the cell, or remove the row.",
        )  # fmt: skip
    return texts


def _times(spec: DatasetSpec, path: Path, frame: pd.DataFrame, column: str) -> np.ndarray:
    """int64 timestamps: whole numbers as they are, dates as seconds since 1970 (UTC)."""
    values = frame[column]
    numbers = pd.to_numeric(values, errors="coerce") if not pd.api.types.is_datetime64_any_dtype(values) else None
    if numbers is not None and numbers.notna().any():
        good = numbers.notna() & (numbers % 1 == 0)
        if pd.api.types.is_integer_dtype(numbers) and good.all():
            return numbers.to_numpy(dtype=np.int64)
        if good.all():
            return numbers.to_numpy().astype(np.int64)
    else:
        dates = pd.to_datetime(values, errors="coerce", utc=True, format=None if numbers is None else "ISO8601")
        good = dates.notna()
        if good.all():
            return dates.astype("datetime64[s, UTC]").astype(np.int64).to_numpy()
    row = int((~good.to_numpy(dtype=bool)).argmax())
    raise broken(
        spec, path, _line(spec, path, row), f"column '{column}' holds {str(values.iloc[row])!r}",
        mend="expected a whole number (seconds or a position) or an ISO 8601 date, the same kind in every row.",
    )  # fmt: skip


def _is_parquet(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith((".parquet", ".pq"))


def _line(spec: DatasetSpec, path: Path, row: int) -> int:
    """Number of the line in which a row (from 0) ends; quoted fields may span lines. For Parquet, the row from 1."""
    if _is_parquet(path):
        return row + 1
    with open_source(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        reader = csv.reader(text, delimiter=spec.delimiter)
        kept = -1  # the header is row -1; like pandas, blank lines are no rows
        for fields in reader:
            kept += bool(fields)
            if kept == row + 1:
                break
        return reader.line_num
