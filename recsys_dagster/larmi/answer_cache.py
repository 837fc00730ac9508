"""Answers of a language model on disk, found by what was asked."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys_dagster.errors import RecsysError

SCHEMA_VERSION = 1
"""Stored in the file; a file of another version is refused."""


def answer_key(identity: Mapping[str, str | int | float], titles: Sequence[str]) -> str:
    """SHA-256 of the settings that decide an answer (model, prompt version, ...) and the titles in their order."""
    document = json.dumps({"settings": dict(identity), "titles": list(titles)}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(document.encode()).hexdigest()


class AnswerCache:
    """A table key -> answer in one SQLite file, safe for several threads and processes (write-ahead log).

    Every answer is committed when it arrives. An answer of None means: asked twice, unusable both times. Neither titles
    nor credentials are stored.

    Raises:
        RecsysError: if the file is no cache of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The event loop may run in another thread than the caller (never at the same time).
        self._connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
        version: int | None = None
        try:
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT NOT NULL, "
                    "prompt_version TEXT NOT NULL, created REAL NOT NULL, answer TEXT) WITHOUT ROWID"
                )
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                version = SCHEMA_VERSION
            self._connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.DatabaseError:
            pass
        if version != SCHEMA_VERSION:
            self._connection.close()
            raise RecsysError(
                f"{self.path}: not a cache of answers of version {SCHEMA_VERSION}.",
                mend="move the file away; it will be made anew.",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get_many(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The answers that are known among `keys`."""
        found: dict[str, str | None] = {}
        for start in range(0, len(keys), 500):
            part = list(keys[start : start + 500])
            marks = ",".join("?" * len(part))
            found |= dict(self._connection.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part))
        return found

    def put(self, key: str, model: str, prompt_version: str, answer: str | None) -> None:
        """Keep an answer; the later one wins."""
        self._connection.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", (key, model, prompt_version, time.time(), answer)
        )

    def forget_unusable(self) -> int:
        """Drop the marks of unusable answers, so that those users are asked again; returns how many there were."""
        return self._connection.execute("DELETE FROM answers WHERE answer IS NULL").rowcount
