"""Reader `movielens`: the 100k (`u.data`, `u.item`) and 1M (`ratings.dat`, `movies.dat`) editions as published."""

from __future__ import annotations

from pathlib import Path

from recsys_dagster.data.raw import RawLog
from recsys_dagster.data.readers.common import LogBuilder, broken, items_table, lines, refuse_repeats, whole_number
from recsys_dagster.data.registry import DatasetSpec, Role

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""Genres of the last 19 columns of `u.item`, in order."""
_TITLES_100K, _TITLES_1M = 5 + len(GENRES_100K), 3


def read(spec: DatasetSpec, files: dict[Role, Path]) -> RawLog:
    """Read ratings as interactions (any rating) and titles with genres as categories.

    The edition is told by the delimiter: tabs (100k) or ``::`` (1M). Titles are Latin-1.

    Raises:
        RecsysError: a line with the wrong number of fields or an unreadable number; a rating or a film twice.
    """
    path, log = files["source"], LogBuilder()
    for number, line in lines(spec, path, encoding="latin-1"):
        fields = line.split("::" if "::" in line else "\t")
        time = whole_number(fields[-1])
        if len(fields) != 4 or time is None or not fields[0] or not fields[1]:
            raise broken(
                spec, path, number, f"unreadable: {line[:40]!r}",
                mend="expected user, item, rating, seconds, separated by tabs (100k) or '::' (1M).",
            )  # fmt: skip
        log.add(fields[0], fields[1], time)
    interactions = log.interactions()
    refuse_repeats(spec, path, interactions, lambda row: row + 1)
    about = files.get("items_source")
    described = {} if about is None else _films(spec, about)
    return RawLog(interactions, items_table(spec, about, log.items, described))


def _films(spec: DatasetSpec, path: Path) -> dict[str, tuple[str, str]]:
    described: dict[str, tuple[str, str]] = {}
    for number, line in lines(spec, path, encoding="latin-1"):
        later_edition = "::" in line
        fields = line.split("::" if later_edition else "|")
        if later_edition and len(fields) == _TITLES_1M:
            genres = fields[2].split("|")
        elif not later_edition and len(fields) == _TITLES_100K and set(fields[5:]) <= {"0", "1"}:
            genres = [name for name, flag in zip(GENRES_100K, fields[5:], strict=True) if flag == "1"]
        else:
            raise broken(
                spec, path, number, f"unreadable: {line[:40]!r}",
                mend=f"expected {_TITLES_100K} fields separated by '|' (u.item) or {_TITLES_1M} by '::' (movies.dat).",
            )  # fmt: skip
        if fields[0] in described:
            raise broken(spec, path, number, f"item '{fields[0]}' has a line above", mend="remove one of the two.")
        described[fields[0]] = (fields[1].strip(), ", ".join(genre for genre in genres if genre != "unknown"))
    return described
