"""Reader `amazon`: review and metadata JSON lines of the Amazon sets of 2014 and 2018.

Both editions share the keys reviewerID, asin, unixReviewTime and title; categories stand under `categories` (2014, a
list of paths) or `category` (2018, one path). The metadata of 2014 are Python literals rather than JSON.
"""

from __future__ import annotations

import ast
import json
import logging
from pathlib import Path
from typing import Any

from recsys_dagster.data.raw import RawLog
from recsys_dagster.data.readers.common import LogBuilder, broken, clean, items_table, lines, whole_number
from recsys_dagster.data.registry import DatasetSpec, Role

logger = logging.getLogger("recsys_dagster")

_SCRIPT = "getTime"
"""Some titles of 2018 are a piece of the page's script, known by this word; they count as no title."""


def read(spec: DatasetSpec, files: dict[Role, Path]) -> RawLog:
    """Read reviews as interactions (any rating), and the metadata of the items reviewed.

    A user who reviews an item more than once keeps the earliest review, unless the dataset says ``repeats = "keep"``.

    Raises:
        RecsysError: a line that is no object, lacks a key or has an unreadable time; an item that stands twice in the
            metadata (unless ``duplicate_items = "first"``).
    """
    path, log = files["source"], LogBuilder()
    for number, line in lines(spec, path):
        review = _object(spec, path, number, line)
        for key in ("reviewerID", "asin", "unixReviewTime"):
            if not review.get(key) and review.get(key) != 0:
                raise broken(
                    spec, path, number, f"the review lacks '{key}'",
                    mend="use the review files, not the ratings-only files, or remove the line.",
                )  # fmt: skip
        time = whole_number(review["unixReviewTime"])
        if time is None:
            raise broken(
                spec, path, number, f"unixReviewTime is {review['unixReviewTime']!r}, expected seconds",
                mend="correct the line.",
            )  # fmt: skip
        log.add(str(review["reviewerID"]), str(review["asin"]), time)
    about = files.get("items_source")
    described = {} if about is None else _metadata(spec, about, log.items)
    return RawLog(log.interactions(), items_table(spec, about, log.items, described))


def _metadata(spec: DatasetSpec, path: Path, wanted: dict[str, int]) -> dict[str, tuple[str, str]]:
    described: dict[str, tuple[str, str]] = {}
    folded = 0
    for number, line in lines(spec, path):
        entry = _object(spec, path, number, line)
        if not entry.get("asin"):
            raise broken(spec, path, number, "the item lacks 'asin'", mend="remove the line, or fetch the file again.")
        item = str(entry["asin"])
        if item not in wanted:
            continue
        if item in described:
            if spec.duplicate_items == "error":
                raise broken(
                    spec, path, number, f"item '{item}' has a line above",
                    mend="remove one of the two, or set duplicate_items = \"first\" in the dataset's entry.",
                )  # fmt: skip
            folded += 1
            continue
        title = clean(entry.get("title"))
        described[item] = ("" if _SCRIPT in title else title, ", ".join(_categories(entry)))
    if folded:
        logger.warning("%s: %s repeated items in %s, the first of each is kept", spec.name, f"{folded:,}", path.name)
    return described


def _categories(entry: dict[str, Any]) -> list[str]:
    """Categories of either edition, each once, in order."""
    found: dict[str, None] = {}
    for part in entry.get("category") or entry.get("categories") or []:
        for name in part if isinstance(part, list) else [part]:
            found.setdefault(clean(name))
    found.pop("", None)
    return list(found)


def _object(spec: DatasetSpec, path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        value = _literal(line)
        if value is None:
            raise broken(
                spec, path, number, f"not a JSON object ({error.msg}): {line[:40]!r}",
                mend="fetch the file again, or remove the line.",
            ) from None  # fmt: skip
    if not isinstance(value, dict):
        raise broken(spec, path, number, f"not a JSON object: {line[:40]!r}", mend="remove the line.")
    return value


def _literal(line: str) -> object:
    """The line as a Python literal, the form of the 2014 metadata, or None."""
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
