"""Batches under way, in the cache's file: every step is on disk before the next is taken, so that none is taken twice.

A submission is planned (its lines are bound to it), uploaded (`file_id`), being created (`creating`), created
(`batch_id`), and forgotten in the very transaction that keeps its answers. A process that dies leaves the last of these
states behind, and the next one goes on from there. Where it died while the batch was being created, the service is
asked for a batch that carries the submission's id before another is created.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recsys_dagster.larmi.llm.cache import AnswerCache, Kept, in_parts


@dataclass(frozen=True)
class Submission:
    """One row of `submissions`."""

    id: str
    owner: str
    file_id: str | None
    creating: bool
    batch_id: str | None
    reserved: float


@dataclass(frozen=True)
class Line:
    """One question of a batch; in its second attempt with the first answer and what is wrong with it.

    Number of items and bytes are kept, so that any process can collect the answer without knowing the titles.
    """

    key: str
    submission: str | None
    items: int
    prompt_bytes: int
    attempt: int
    broken: str | None
    problem: str | None


_COLUMNS = "key, submission, items, prompt_bytes, attempt, broken, problem"


class Submissions:
    """Reads and writes the batches under way; one transaction a method."""

    def __init__(self, cache: AnswerCache) -> None:
        self.cache = cache

    def lines(self, keys: Sequence[str]) -> dict[str, Line]:
        """The lines of those among `keys` that are in a batch, or wait for their second attempt."""
        found: dict[str, Line] = {}
        with self.cache.guarded():
            for part, marks in in_parts(keys):
                query = f"SELECT {_COLUMNS} FROM batch_lines WHERE key IN ({marks})"
                found |= {row[0]: Line(*row) for row in self.cache.connection.execute(query, part)}
        return found

    def get(self, submission: str) -> Submission | None:
        """A submission, if it is still under way."""
        with self.cache.guarded():
            row = self.cache.connection.execute(
                "SELECT id, owner, file_id, creating, batch_id, reserved FROM submissions WHERE id = ?", [submission]
            ).fetchone()
        return None if row is None else Submission(*row)

    def lines_of(self, submission: str) -> dict[str, Line]:
        """The lines of a submission."""
        with self.cache.guarded():
            query = f"SELECT {_COLUMNS} FROM batch_lines WHERE submission = ?"
            return {row[0]: Line(*row) for row in self.cache.connection.execute(query, [submission])}

    def plan(self, questions: Mapping[str, tuple[int, int]], reserved: float) -> tuple[str, list[str]]:
        """Bind questions to a new submission: those that are not answered, and in no other.

        Args:
            questions: key to number of items and bytes.
            reserved: the most that they can cost.

        Returns:
            Its id, and the keys that it holds; there is no such submission if it holds none.
        """
        name, keys = uuid.uuid4().hex, list(questions)
        with self.cache.transaction() as connection:
            self.cache.sign_of_life(connection)
            taken = set(self.cache.get_many(keys))
            taken |= {key for key, line in self.lines(keys).items() if line.submission is not None}
            free = [key for key in keys if key not in taken]
            if free:
                connection.execute(
                    "INSERT INTO submissions (id, owner, created, reserved) VALUES (?, ?, ?, ?)",
                    [name, self.cache.owner, time.time(), reserved],
                )
                connection.executemany(
                    "INSERT INTO batch_lines (key, submission, items, prompt_bytes) VALUES (?, ?, ?, ?) ON CONFLICT "
                    "(key) DO UPDATE SET submission = excluded.submission, prompt_bytes = excluded.prompt_bytes",
                    [(key, name, *questions[key]) for key in free],
                )
        return name, free

    def adopt(self, submission: str) -> bool:
        """Take over a submission whose process has ended before the batch was created; False if it lives."""
        with self.cache.transaction() as connection:
            self.cache.sign_of_life(connection)
            self.cache.bury_the_dead(connection)
            changed = connection.execute(
                "UPDATE submissions SET owner = ? WHERE id = ? AND batch_id IS NULL AND "
                "(owner = ? OR owner NOT IN (SELECT owner FROM owners))",
                [self.cache.owner, submission, self.cache.owner],
            )
            return changed.rowcount == 1

    def uploaded(self, submission: str, file_id: str) -> None:
        """The file of a submission is at the service."""
        self._set(submission, "file_id", file_id)

    def creating(self, submission: str) -> None:
        """From here on there may be a batch."""
        self._set(submission, "creating", 1)

    def created(self, submission: str, batch_id: str) -> None:
        """The batch is there."""
        self._set(submission, "batch_id", batch_id)

    def _set(self, submission: str, column: str, value: str | int) -> None:
        with self.cache.transaction() as connection:
            connection.execute(f"UPDATE submissions SET {column} = ? WHERE id = ?", [value, submission])

    def finish(
        self, submission: str, answers: Sequence[Kept], second: Mapping[str, tuple[str, str]] | None = None
    ) -> bool:
        """Keep the answers, note the second attempts (key to broken answer and problem), set all other lines free.

        Returns:
            False if another process has done so already.
        """
        with self.cache.transaction() as connection:
            if not connection.execute("DELETE FROM submissions WHERE id = ?", [submission]).rowcount:
                return False
            self.cache.write(connection, answers)
            connection.executemany(
                "UPDATE batch_lines SET submission = NULL, attempt = 2, broken = ?, problem = ? WHERE key = ?",
                [(broken, problem, key) for key, (broken, problem) in (second or {}).items()],
            )
            connection.executemany("DELETE FROM batch_lines WHERE key = ?", [(answer.key,) for answer in answers])
            # What was not answered: second attempts stay second attempts.
            connection.execute("DELETE FROM batch_lines WHERE submission = ? AND attempt = 1", [submission])
            connection.execute("UPDATE batch_lines SET submission = NULL WHERE submission = ?", [submission])
            return True
