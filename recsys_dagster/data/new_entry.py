"""A new entry of `datasets.toml`: guessed from the head of a file, and added without touching the rest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import fsspec
import pandas as pd

from recsys_dagster.data.registry import DatasetSpec, load_registry
from recsys_dagster.errors import RecsysError

HEAD_BYTES = 1 << 18
ROWS = 1000
DELIMITERS = ",;\t|"
NAMES: dict[str, tuple[str, ...]] = {
    "user": ("user", "userid", "reviewerid", "customer", "customerid", "visitor", "visitorid", "member", "memberid",
             "account", "accountid", "client", "clientid", "session", "sessionid", "uid"),
    "item": ("item", "itemid", "asin", "product", "productid", "sku", "movie", "movieid", "article", "articleid",
             "isbn", "track", "trackid", "business", "businessid", "content", "contentid", "iid"),
    "timestamp": ("timestamp", "time", "datetime", "date", "ts", "unixreviewtime", "createdat", "orderedat",
                  "eventtime", "position", "rank", "order", "purchasedat", "viewedat"),
    "title": ("title", "name", "itemname", "productname", "itemtitle", "producttitle"),
    "categories": ("categories", "category", "genres", "genre", "department", "tags"),
}  # fmt: skip
"""Column names that say what a column is, compared in lower case without separators."""


@dataclass
class Guess:
    """What the head of a file looks like.

    Attributes:
        reader: reader of the entry.
        columns: for the reader `table`: the file's column by role (user, item, timestamp).
        delimiter: of a CSV file.
        examples: the first values by column.
        rows: rows that were looked at.
    """

    reader: Literal["table", "sequences", "amazon", "movielens"]
    columns: dict[str, str] = field(default_factory=dict)
    delimiter: str = ","
    examples: dict[str, list[str]] = field(default_factory=dict)
    rows: int = 0


def look_at(place: str, chosen: dict[str, str] | None = None) -> Guess:
    """Guess reader and columns of a log from its first rows.

    Args:
        place: a path, or an address that fsspec understands.
        chosen: columns that are known already, by role.

    Raises:
        RecsysError: the file cannot be read, looks like no log, or leaves a column open.
    """
    chosen = {role: name for role, name in (chosen or {}).items() if name}
    if _is_parquet(place):
        return _table(place, _parquet_head(place), ",", chosen)
    lines = _head_lines(place)
    if not chosen and (found := _known_format(lines)) is not None:
        return found
    delimiter = _delimiter(lines)
    try:
        text = io.StringIO("\n".join(lines))
        frame = pd.read_csv(text, sep=delimiter, dtype="str", keep_default_na=False, nrows=ROWS)
    except ValueError as error:
        raise _refused(place, f"is no table ({' '.join(str(error).split())})") from None
    return _table(place, frame, delimiter, chosen)


def look_at_items(place: str, item: str, delimiter: str) -> dict[str, str]:
    """The title and categories columns of an items file, by role.

    Raises:
        RecsysError: it has no such column as `item`, or none for the title.
    """
    if _is_parquet(place):
        columns = [str(name) for name in _parquet_head(place).columns]
    else:
        columns = next(csv.reader(_head_lines(place)[:1], delimiter=delimiter))
    found = {role: name for role in ("title", "categories") if (name := _by_name(columns, role)) is not None}
    for role, there in (("item", item in columns), ("title", "title" in found)):
        if not there:
            raise RecsysError(
                f"{place}: there is no {role} column{f' {item!r}' if role == 'item' else ''}, there are: "
                f"{', '.join(columns)}.",
                mend="rename the column, or write the entry by hand (docs/your-own-data.md).",
            )
    return found


def entry_text(name: str, settings: dict[str, Any]) -> str:
    """The entry as TOML."""
    return "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in settings.items())]) + "\n"


def add_entry(path: Path, name: str, settings: dict[str, Any]) -> DatasetSpec:
    """Append an entry to a `datasets.toml` in one step; the rest of the file stays as it is, byte by byte.

    Raises:
        RecsysError: the name is taken, or the file with the entry would not be valid.
    """
    if name in load_registry(path):
        raise RecsysError(f"{path}: there is a dataset '{name}' already.", mend="choose another with --name.")
    before = path.read_bytes()
    gap = b"" if before.endswith(b"\n\n") else b"\n" if before.endswith(b"\n") else b"\n\n"
    target = path.resolve()  # a link stays one
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    part = Path(temporary)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(before + gap + entry_text(name, settings).encode())
            file.flush()
            os.fsync(file.fileno())
        part.chmod(target.stat().st_mode)
        try:
            spec = load_registry(part)[name]
        except RecsysError as error:
            raise RecsysError(
                str(error).partition(" To mend: ")[0].replace(str(part), str(path)), mend="choose other settings."
            ) from None
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return spec


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)  # strings and numbers are written alike in both


def _is_parquet(place: str) -> bool:
    return place.removesuffix(".gz").endswith((".parquet", ".pq"))


def _refused(place: str, what: str) -> RecsysError:
    return RecsysError(f"{place} {what}.", mend="name a CSV or Parquet file, or write the entry by hand.")


def _open(place: str) -> Any:
    return fsspec.open(place, "rb")


def _head_lines(place: str) -> list[str]:
    """The first whole lines that are not empty."""
    try:
        with _open(place) as file:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            head = (gzip.GzipFile(fileobj=file) if compressed else file).read(HEAD_BYTES)
    except Exception as error:  # fsspec's backends share no base class of errors
        raise _refused(place, f"cannot be read ({type(error).__name__}: {error})") from None
    if b"\x00" in head:
        raise _refused(place, "is no text")
    text = head.decode("utf-8-sig", errors="replace")
    lines = text.splitlines()[: -1 if len(head) == HEAD_BYTES else None]
    lines = [line for line in lines if line.strip()][: ROWS + 1]
    if not lines:
        raise _refused(place, "is empty")
    return lines


def _parquet_head(place: str) -> pd.DataFrame:
    import pyarrow.parquet as pq

    try:
        with _open(place) as file:
            return next(pq.ParquetFile(file).iter_batches(ROWS)).to_pandas()
    except StopIteration:
        raise _refused(place, "has no row") from None
    except Exception as error:
        raise _refused(place, f"cannot be read ({type(error).__name__}: {error})") from None


def _known_format(lines: list[str]) -> Guess | None:
    """Formats that have no header."""
    first = lines[0]
    if first.startswith("{"):
        try:
            keys = json.loads(first)
        except ValueError:
            return None
        if {"reviewerID", "asin"} <= set(keys):
            examples = {key: [str(keys[key])] for key in ("reviewerID", "asin", "unixReviewTime") if key in keys}
            return Guess("amazon", examples=examples, rows=len(lines))
        return None
    if all(re.fullmatch(r"\d+(::|\t)\d+\1[\d.]+\1\d+", line) for line in lines):
        fields = re.split(r"::|\t", first)
        examples = {name: [fields[number]] for number, name in ((0, "user"), (1, "item"), (3, "timestamp"))}
        return Guess("movielens", examples=examples, rows=len(lines))
    split = [line.split() for line in lines]
    several = len({len(parts) for parts in split}) > 1 and all(len(parts) >= 2 for parts in split)
    if several and not any(mark in line for line in lines for mark in DELIMITERS):
        return Guess("sequences", examples={"user": [split[0][0]], "items": split[0][1:4]}, rows=len(lines))
    return None


def _delimiter(lines: list[str]) -> str:
    """The delimiter that cuts the header into most fields."""
    return max(DELIMITERS, key=lambda mark: len(next(csv.reader([lines[0]], delimiter=mark))))


def _table(place: str, frame: pd.DataFrame, delimiter: str, chosen: dict[str, str]) -> Guess:
    columns = [str(name) for name in frame.columns]
    found: dict[str, str] = {}
    for role in ("user", "item", "timestamp"):
        name = chosen.get(role) or _by_name([column for column in columns if column not in chosen.values()], role)
        if name is None and role == "timestamp":
            name = _only_time(
                frame, [column for column in columns if column not in {*found.values(), *chosen.values()}]
            )
        if name is None or name not in columns:
            what = f"no column '{name}'" if name else f"no column that is the {role} by its name"
            raise RecsysError(
                f"{place}: there is {what}, there are: {', '.join(columns)}.",
                mend=f"say which one it is: --{role} COLUMN.",
            )
        found[role] = name
    if len(set(found.values())) < len(found):
        raise RecsysError(f"{place}: one column stands for two: {found}.", mend="give --user, --item and --timestamp.")
    examples = {name: [str(value) for value in frame[name].head(3)] for name in found.values()}
    return Guess("table", found, delimiter, examples, len(frame))


def _by_name(columns: Sequence[str], role: str) -> str | None:
    """The first column, in the order of `NAMES`, that is called so."""
    plain = {re.sub(r"[^a-z0-9]", "", column.lower()): column for column in reversed(columns)}
    return next((plain[name] for name in NAMES[role] if name in plain), None)


def _only_time(frame: pd.DataFrame, columns: list[str]) -> str | None:
    """The one column that holds dates, or numbers as large as seconds since 2001; None if there are several or none."""
    fits = []
    for column in columns:
        values = frame[column]
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.notna().all():
            good = bool((numbers >= 1e9).all())
        else:
            good = bool(pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601").notna().all())
        if good:
            fits.append(column)
    return fits[0] if len(fits) == 1 else None
