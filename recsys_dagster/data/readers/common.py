"""What the readers share: lines with numbers, strict JSON, and the items table."""

from __future__ import annotations

import html
import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recsys_dagster.data.raw import item_text
from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.data.sources import GZIP_ERRORS, open_source
from recsys_dagster.errors import RecsysError

logger = logging.getLogger("recsys_dagster")


def broken(spec: DatasetSpec, path: Path, line: int | None, what: str, *, mend: str) -> RecsysError:
    """The error of a file that cannot be used, with its place."""
    at = "" if line is None else f", line {line:,}"
    return RecsysError(f"dataset '{spec.name}': {path.name}{at}: {what}.", mend=mend)


def lines(spec: DatasetSpec, path: Path, *, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Lines of a text file, gzipped or not, with their numbers from 1 and without the line end.

    Raises:
        RecsysError: the file is empty, cut short, or a line is not in the encoding.
    """
    number = 0
    try:
        with open_source(path) as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise broken(
            spec,
            path,
            number,
            f"not {encoding} text (byte {error.object[error.start]:#04x})",
            mend="re-encode the file.",
        ) from None
    except GZIP_ERRORS as error:
        raise broken(
            spec, path, number, f"the gzip file ends or breaks after it ({error})", mend="fetch it again."
        ) from None
    if number == 0:
        raise broken(spec, path, None, "the file is empty", mend="fetch it again, or name another source.")


class LogBuilder:
    """Collects interactions compactly: every key is kept once, each row as two codes and a time."""

    def __init__(self) -> None:
        self.users: dict[str, int] = {}
        self.items: dict[str, int] = {}
        self._user, self._item, self._time = array("l"), array("l"), array("q")

    def add(self, user: str, item: str, timestamp: int) -> None:
        """Append one interaction."""
        self._user.append(self.users.setdefault(user, len(self.users)))
        self._item.append(self.items.setdefault(item, len(self.items)))
        self._time.append(timestamp)

    def interactions(self) -> pd.DataFrame:
        """The table of `RawLog.interactions`, rows in the order they were added."""
        users, items = pd.Index(list(self.users), dtype="str"), pd.Index(list(self.items), dtype="str")
        return pd.DataFrame(
            {
                "user": users.take(np.frombuffer(self._user, dtype=np.int64)),
                "item": items.take(np.frombuffer(self._item, dtype=np.int64)),
                "timestamp": np.frombuffer(self._time, dtype=np.int64).copy(),
            }
        )


def clean(text: object) -> str:
    """One line of plain text: entities such as ``&amp;`` resolved, white space collapsed."""
    return " ".join(html.unescape(str(text)).split()) if text is not None else ""


def items_table(
    spec: DatasetSpec,
    path: Path | None,
    keys: Iterable[str],
    described: dict[str, tuple[str, str]] | None = None,
    words: dict[str, str] | None = None,
) -> pd.DataFrame:
    """The table of `RawLog.items` for the items of a log.

    Args:
        spec: the dataset.
        path: the file that describes the items, for messages.
        keys: the items of the log, each once.
        described: title and categories by item.
        words: text of items that have neither (attribute words).

    Raises:
        RecsysError: the file describes no item of the log.
    """
    described, words = described or {}, words or {}
    keys = list(keys)
    rows = [described.get(key, ("", "")) for key in keys]
    if path is not None and keys:
        missing = sum(key not in described and key not in words for key in keys)
        if missing == len(keys):
            raise broken(
                spec, path, None, f"it describes none of the log's {len(keys):,} items (such as '{keys[0]}')",
                mend="name the items file that belongs to this log, and check its keys.",
            )  # fmt: skip
        if missing:
            logger.warning("%s: %s of %s items are not in %s", spec.name, f"{missing:,}", f"{len(keys):,}", path.name)
    table = {
        "item": keys,
        "title": [title for title, _ in rows],
        "categories": [categories for _, categories in rows],
        "text": [item_text(*row) or words.get(key, "") for key, row in zip(keys, rows, strict=True)],
    }
    return pd.DataFrame(table, dtype="str")


def json_object(spec: DatasetSpec, path: Path) -> dict[str, Any]:
    """A file that is one JSON object, with no key twice.

    Raises:
        RecsysError: not JSON, not an object, or a repeated key.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen: set[str] = set()
            double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise broken(
                spec, path, _line_of_repeat(spec, path, double), f"the key '{double}' stands twice",
                mend="remove one of the two entries.",
            )  # fmt: skip
        return found

    text = "\n".join(line for _, line in lines(spec, path))
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise broken(spec, path, error.lineno, f"not JSON ({error.msg})", mend="fetch the file again.") from None
    if not isinstance(value, dict):
        raise broken(
            spec, path, 1, f"expected one JSON object, found a {type(value).__name__}",
            mend="give an object from item key to value.",
        )  # fmt: skip
    return value


def _line_of_repeat(spec: DatasetSpec, path: Path, key: str) -> int | None:
    """Number of the line that holds a JSON key for the second time."""
    seen, mark = 0, json.dumps(key)
    for number, line in lines(spec, path):
        seen += line.count(f"{mark}:")
        if seen >= 2:
            return number
    return None


def whole_number(text: object) -> int | None:
    """`text` as an integer, or None if it is not one."""
    if isinstance(text, bool):
        return None
    if isinstance(text, int):
        return text
    try:
        return int(str(text))
    except ValueError:
        return None


def first_repeat(frame: pd.DataFrame, columns: list[str]) -> int | None:
    """Row number (from 0) of the first row that repeats an earlier one in `columns`, or None."""
    repeated = frame.duplicated(columns).to_numpy()
    return int(repeated.argmax()) if repeated.any() else None


LineOf = Callable[[int], int]
"""From a row number (from 0) to the number of its line in the file."""


def refuse_repeats(spec: DatasetSpec, path: Path, interactions: pd.DataFrame, line_of: LineOf) -> None:
    """Raise if the same user, item and timestamp stand twice, unless the dataset folds repeats anyway."""
    if spec.repeats == "earliest":
        return
    row = first_repeat(interactions, ["user", "item", "timestamp"])
    if row is not None:
        values = interactions.iloc[row]
        raise broken(
            spec, path, line_of(row),
            f"user '{values['user']}', item '{values['item']}', timestamp {values['timestamp']} stand twice",
            mend="remove the line, or set repeats = \"earliest\" in the dataset's entry.",
        )  # fmt: skip
