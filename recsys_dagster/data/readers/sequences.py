"""Reader `sequences`: one user a line, the user's key and then item keys in time order."""

from __future__ import annotations

import re
from pathlib import Path

from recsys_dagster.data.raw import RawLog
from recsys_dagster.data.readers.common import LogBuilder, broken, clean, items_table, json_object, lines, whole_number
from recsys_dagster.data.registry import DatasetSpec, Role

_LINE = re.compile(r"[\w.:-]+(?:[ \t]+[\w.:-]+)+[ \t]*")


def read(spec: DatasetSpec, files: dict[Role, Path]) -> RawLog:
    """Read the sequences, and titles or attributes where the dataset has them.

    The timestamp of an interaction is its position in the line, from 0. `items_source` is a JSON object from item
    key to ``{"title", "description"}`` (the description holds the categories, separated by commas); its keys are
    the log's item numbers plus `item_key_offset`. `attributes_source` is a JSON object from item key to a list of
    attribute numbers; attribute 17 becomes the word ``attribute_17`` of the item's text where there is no title.

    Raises:
        RecsysError: a line without items or with other characters than those of keys, a user or a key that stands
            twice, a description of the wrong form.
    """
    path, log = files["source"], LogBuilder()
    for number, line in lines(spec, path):
        if not _LINE.fullmatch(line):
            raise broken(
                spec, path, number, f"unreadable: {line[:40]!r}",
                mend="write a user key and one or more item keys (letters, digits, '_', '.', ':', '-'), "
                "separated by spaces.",
            )  # fmt: skip
        user, *items = line.split()
        if user in log.users:
            raise broken(
                spec, path, number, f"user '{user}' has a line above", mend="join the two lines, or rename one user."
            )
        for position, item in enumerate(items):
            log.add(user, item, position)
    described, words, about = {}, {}, None
    if "items_source" in files:
        about = files["items_source"]
        described = _titles(spec, about, list(log.items))
    if "attributes_source" in files:
        about = files["attributes_source"]
        words = _attribute_words(spec, about)
    return RawLog(log.interactions(), items_table(spec, about, log.items, described, words))


def _titles(spec: DatasetSpec, path: Path, keys: list[str]) -> dict[str, tuple[str, str]]:
    found = json_object(spec, path)
    described = {}
    for key in keys:
        number = whole_number(key)
        if spec.item_key_offset and number is None:
            raise broken(
                spec, path, None, f"item_key_offset needs item numbers, the log has the item '{key}'",
                mend="remove item_key_offset from the dataset's entry.",
            )  # fmt: skip
        entry = found.get(str((number or 0) + spec.item_key_offset) if spec.item_key_offset else key)
        if entry is None:
            continue
        if not isinstance(entry, dict) or "title" not in entry:
            raise broken(
                spec, path, None, f"the item of key '{key}' (offset {spec.item_key_offset}) has no \"title\"",
                mend='give every item an object {"title": ..., "description": "category, category"}.',
            )  # fmt: skip
        described[key] = (clean(entry["title"]), clean(entry.get("description", "")))
    return described


def _attribute_words(spec: DatasetSpec, path: Path) -> dict[str, str]:
    words = {}
    for key, numbers in json_object(spec, path).items():
        if not isinstance(numbers, list) or not all(whole_number(n) is not None for n in numbers):
            raise broken(
                spec, path, None, f"item '{key}' has {str(numbers)[:40]}, expected a list of attribute numbers",
                mend="give a list such as [17, 4].",
            )  # fmt: skip
        words[key] = " ".join(f"attribute_{number}" for number in numbers)
    return words
