"""Answers of a language model on disk, found by what was asked; and who is asking what at the moment."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.llm.cost import TokenEstimate

SCHEMA_VERSION = 2
"""Stored in the file. A file of version 1 is brought up to this one; a newer file is refused."""

LEASE_S = 60.0
"""Seconds for which a process that says nothing keeps the questions that it has claimed."""

_ANSWERS = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, model TEXT NOT NULL, prompt_version TEXT NOT NULL, created REAL NOT NULL, answer TEXT
) WITHOUT ROWID"""
_VERSION_2 = (
    "ALTER TABLE answers ADD COLUMN items INTEGER",
    "ALTER TABLE answers ADD COLUMN prompt_bytes INTEGER",
    "ALTER TABLE answers ADD COLUMN prompt_tokens INTEGER",
    "ALTER TABLE answers ADD COLUMN completion_tokens INTEGER",
    "CREATE TABLE owners (owner TEXT PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, until REAL NOT NULL)",
    "CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE submissions (id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, file_id TEXT, "
    "creating INTEGER NOT NULL DEFAULT 0, batch_id TEXT, reserved REAL NOT NULL)",
    "CREATE TABLE batch_lines (key TEXT PRIMARY KEY, submission TEXT, items INTEGER NOT NULL, "
    "prompt_bytes INTEGER NOT NULL, attempt INTEGER NOT NULL DEFAULT 1, broken TEXT, problem TEXT) WITHOUT ROWID",
    "CREATE INDEX lines_of_submission ON batch_lines (submission)",
)


def answer_key(identity: Mapping[str, str | int | float], titles: Sequence[str]) -> str:
    """SHA-256 of the settings that decide an answer (model, prompt version, ...) and the titles in their order."""
    document = json.dumps({"settings": dict(identity), "titles": list(titles)}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(document.encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """An answer to keep.

    Attributes:
        key: `answer_key`.
        model: name of the model.
        prompt_version: version of the prompt.
        answer: canonical JSON; None: asked twice, unusable both times.
        items: titles in the question.
        prompt_bytes: bytes of the questions, over both attempts if there were two.
        prompt_tokens: as the server reports.
        completion_tokens: likewise.
    """

    key: str
    model: str
    prompt_version: str
    answer: str | None
    items: int = 0
    prompt_bytes: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class AnswerCache:
    """One SQLite file (write-ahead log) for any number of threads and processes.

    Neither titles nor credentials are stored, but for an answer's labels and reasons. A process claims the questions
    that it is about to ask, so that another one with the same questions waits for the answers in place of paying for
    them too. Claims end with the process, or a minute after its last sign of life.

    Raises:
        RecsysError: if the file is no cache, is newer than this program, or cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.owner = uuid.uuid4().hex
        with self.guarded():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The event loop may run in another thread than the caller (never at the same time).
            self.connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
        try:
            with self.guarded():
                self._open()
        except BaseException:
            self.connection.close()
            raise

    def _open(self) -> None:
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise RecsysError(
                f"{self.path}: a cache of version {version}; this program knows {SCHEMA_VERSION}.",
                mend="update recsys_dagster, or name another file in llm.cache.",
            )
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        if version < SCHEMA_VERSION:
            with self.transaction():
                # Another process may have been quicker.
                version = self.connection.execute("PRAGMA user_version").fetchone()[0]
                if version == 0:
                    self.connection.execute(_ANSWERS)
                if version < SCHEMA_VERSION:
                    for statement in _VERSION_2:
                        self.connection.execute(statement)
                    self.connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn an error of the database into one that people can read."""
        problem = ""
        try:
            yield
        except sqlite3.OperationalError as error:
            problem = f"cannot be used as a cache of answers ({error})"
        except sqlite3.DatabaseError:
            problem = "not a cache of answers"
        except OSError as error:
            problem = f"cannot be made ({error.strerror})"
        if problem:
            raise RecsysError(
                f"{self.path}: {problem}.",
                mend="check the disk and who may write there, or move the file away; it will be made anew.",
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything or nothing; other processes wait their turn (a minute at most)."""
        with self.guarded():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self.transaction() as connection:
                connection.execute("DELETE FROM claims WHERE owner = ?", [self.owner])
                connection.execute("DELETE FROM owners WHERE owner = ?", [self.owner])
        finally:
            self.connection.close()

    def get_many(self, keys: Sequence[str]) -> dict[str, str | None]:
        """The answers that are known among `keys`."""
        found: dict[str, str | None] = {}
        with self.guarded():
            for part, marks in in_parts(keys):
                found |= dict(self.connection.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part))
        return found

    def put_many(self, answers: Iterable[Kept]) -> None:
        """Keep answers in one transaction, and drop the claims on them; the later answer wins."""
        with self.transaction() as connection:
            self.write(connection, answers)

    def write(self, connection: sqlite3.Connection, answers: Iterable[Kept]) -> None:
        """`put_many` within a transaction of the caller's."""
        now = time.time()
        rows = [
            (a.key, a.model, a.prompt_version, now, a.answer, a.items, a.prompt_bytes, a.prompt_tokens,
             a.completion_tokens)
            for a in answers
        ]  # fmt: skip
        connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.executemany("DELETE FROM claims WHERE key = ?", [(row[0],) for row in rows])

    def claim(self, keys: Sequence[str]) -> set[str]:
        """Claim those of `keys` that are neither answered nor claimed by a living process; returns the claimed."""
        with self.transaction() as connection:
            self.sign_of_life(connection)
            self.bury_the_dead(connection)
            known = set(self.get_many(keys))
            wanted = [(key, self.owner) for key in keys if key not in known]
            connection.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", wanted)
            own = connection.execute("SELECT key FROM claims WHERE owner = ?", [self.owner])
            return {key for (key,) in own} & set(keys)

    def release(self, keys: Iterable[str]) -> None:
        """Give claims back without an answer."""
        with self.transaction() as connection:
            connection.executemany(
                "DELETE FROM claims WHERE key = ? AND owner = ?", [(key, self.owner) for key in keys]
            )

    def renew(self) -> None:
        """Say that this process lives; to be called several times in `LEASE_S`."""
        with self.transaction() as connection:
            self.sign_of_life(connection)

    def sign_of_life(self, connection: sqlite3.Connection) -> None:
        """`renew` within a transaction of the caller's."""
        row = (self.owner, socket.gethostname(), os.getpid(), time.time() + LEASE_S)
        connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?, ?)", row)

    def bury_the_dead(self, connection: sqlite3.Connection) -> None:
        """Drop the claims of processes that have ended or say nothing any more."""
        for owner, host, pid, until in connection.execute("SELECT owner, host, pid, until FROM owners").fetchall():
            if until < time.time() or (host == socket.gethostname() and not _lives(pid)):
                connection.execute("DELETE FROM owners WHERE owner = ?", [owner])
        connection.execute("DELETE FROM claims WHERE owner NOT IN (SELECT owner FROM owners)")

    def reported(self, model: str) -> TokenEstimate:
        """Tokens by what the server reported about the answers of a model (ten thousand of them, if there are more)."""
        with self.guarded():
            sums = self.connection.execute(
                "SELECT COUNT(*), SUM(prompt_bytes), SUM(prompt_tokens), SUM(items), SUM(completion_tokens) FROM "
                "(SELECT * FROM answers WHERE model = ? AND prompt_tokens > 0 AND prompt_bytes > 0 LIMIT 10000)",
                [model],
            ).fetchone()
        return TokenEstimate(*(total or 0 for total in sums))


def in_parts(keys: Sequence[str], size: int = 500) -> Iterator[tuple[list[str], str]]:
    """Parts of a list that fit into one statement, each with its question marks."""
    for start in range(0, len(keys), size):
        part = list(keys[start : start + size])
        yield part, ",".join("?" * len(part))


def _lives(pid: int) -> bool:
    """Whether there is a process of this number on this machine (on Windows nobody can tell, so: yes)."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
