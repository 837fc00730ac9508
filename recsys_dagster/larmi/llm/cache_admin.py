"""Looking into the cache of answers, cleaning it, and copying it out: `recsys-dagster llm cache ...`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.llm.cache import AnswerCache

COLUMNS = (
    "key", "model", "prompt_version", "created", "answer", "items", "prompt_bytes", "prompt_tokens",
    "completion_tokens",
)  # fmt: skip


def open_existing(path: Path) -> AnswerCache:
    """The cache at `path`.

    Raises:
        RecsysError: if there is none.
    """
    if not path.exists():
        raise RecsysError(f"{path}: there is no cache of answers.", mend="name it with --cache, or ask a model first.")
    return AnswerCache(path)


def stats(cache: AnswerCache) -> dict[str, Any]:
    """Size of the file, rows and tokens by model and prompt version, claims, and batches that are not collected."""
    with cache.guarded():
        rows = cache.connection.execute(
            "SELECT model, prompt_version, COUNT(*), SUM(answer IS NULL), MIN(created), MAX(created), "
            "SUM(COALESCE(prompt_tokens, 0)), SUM(COALESCE(completion_tokens, 0)) FROM answers "
            "GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
        (claims,) = cache.connection.execute("SELECT COUNT(*) FROM claims").fetchone()
        batches = cache.connection.execute(
            "SELECT s.batch_id, s.created, COUNT(l.key) FROM submissions s "
            "LEFT JOIN batch_lines l ON l.submission = s.id GROUP BY s.id ORDER BY s.created"
        ).fetchall()
    names = ("model", "prompt_version", "answers", "unusable", "oldest", "newest", "prompt_tokens", "completion_tokens")
    models = [dict(zip(names, row, strict=True)) for row in rows]
    for model in models:
        model |= {name: _date(model[name]) for name in ("oldest", "newest")}
    return {
        "file": str(cache.path),
        "bytes": cache.path.stat().st_size,
        "answers": sum(model["answers"] for model in models),
        "models": models,
        "claims": claims,
        "batches": [{"batch_id": name, "created": _date(made), "questions": n} for name, made, n in batches],
    }


def prune(
    cache: AnswerCache,
    *,
    older_than_days: float | None = None,
    model: str | None = None,
    prompt_version: str | None = None,
    unusable: bool = False,
    batches: bool = False,
) -> int:
    """Drop the answers that fit all the conditions that are given, and shrink the file; returns how many.

    Args:
        cache: the cache.
        older_than_days: kept before that many days.
        model: of this model.
        prompt_version: of this version of the prompt.
        unusable: the marks of unusable answers only, so that those users are asked again.
        batches: forget the batches that are not collected in place of answers; they are then paid for in vain.

    Raises:
        RecsysError: if no condition is given.
    """
    conditions: list[tuple[str, Any]] = []
    if older_than_days is not None:
        conditions.append(("created < ?", time.time() - older_than_days * 86_400))
    if model is not None:
        conditions.append(("model = ?", model))
    if prompt_version is not None:
        conditions.append(("prompt_version = ?", prompt_version))
    if unusable:
        conditions.append(("answer IS ?", None))
    if batches:
        if conditions:
            raise RecsysError("--batches goes with no other condition.", mend="prune answers in a second command.")
        with cache.transaction() as connection:
            count = connection.execute("DELETE FROM submissions").rowcount
            connection.execute("DELETE FROM batch_lines")
        return count
    if not conditions:
        raise RecsysError(
            "nothing says which answers to drop.",
            mend="give --older-than DAYS, --model NAME, --prompt-version VERSION, --unusable or --batches.",
        )
    where = " AND ".join(condition for condition, _ in conditions)
    with cache.transaction() as connection:
        count = connection.execute(f"DELETE FROM answers WHERE {where}", [value for _, value in conditions]).rowcount
    with cache.guarded():
        cache.connection.execute("VACUUM")
        cache.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return count


def export(cache: AnswerCache, target: Path) -> int:
    """Write all answers to a .jsonl or .parquet file, whole or not at all; returns how many.

    Raises:
        RecsysError: if the name ends otherwise, or the folder does not exist.
    """
    if target.suffix not in (".jsonl", ".parquet"):
        raise RecsysError(f"{target}: unknown kind of file.", mend="let the name end in .jsonl or .parquet.")
    if not target.parent.is_dir():
        raise RecsysError(f"{target.parent}: there is no such folder.", mend="make it first.")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    count = 0
    try:
        if target.suffix == ".jsonl":
            with part.open("w", encoding="utf-8") as file:
                for block in _blocks(cache):
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in block)
                    count += len(block)
        else:
            count = _write_parquet(cache, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_parquet(cache: AnswerCache, path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = dict.fromkeys(COLUMNS[:5], pa.string()) | dict.fromkeys(COLUMNS[5:], pa.int64())
    schema, count = pa.schema(kinds), 0
    with pq.ParquetWriter(path, schema) as writer:
        for block in _blocks(cache):
            writer.write_table(pa.Table.from_pylist(block, schema))
            count += len(block)
    return count


def _blocks(cache: AnswerCache, size: int = 10_000) -> Iterator[list[dict[str, Any]]]:
    with cache.guarded():
        cursor = cache.connection.execute(f"SELECT {', '.join(COLUMNS)} FROM answers ORDER BY key")
        while rows := cursor.fetchmany(size):
            block = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
            yield [row | {"created": _date(row["created"])} for row in block]


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
