"""The cache: migration, concurrent processes, claims, and the commands that look into it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from asking import USERS, clusterer, items, users

from benchmarks.openai_server import OpenAIServer, Reply
from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.clusters import cluster_users
from recsys_dagster.larmi.llm import cache as cache_module
from recsys_dagster.larmi.llm import cache_admin
from recsys_dagster.larmi.llm.cache import AnswerCache, Kept, answer_key


def test_key_depends_on_everything() -> None:
    keys = {answer_key({"model": m}, t) for m in ("a", "b") for t in (["x", "y"], ["y", "x"], ["x, y"])}
    assert len(keys) == 6


def test_a_file_of_version_1_is_brought_up_to_date(cache: Path) -> None:
    cache.parent.mkdir()
    with sqlite3.connect(cache) as old:
        old.execute(
            "CREATE TABLE answers (key TEXT PRIMARY KEY, model TEXT NOT NULL, prompt_version TEXT NOT NULL, "
            "created REAL NOT NULL, answer TEXT) WITHOUT ROWID"
        )
        old.executemany("INSERT INTO answers VALUES (?, 'm', '1', 5.0, ?)", [("a", '{"clusters":[]}'), ("b", None)])
        old.execute("PRAGMA user_version = 1")
    for _ in range(2):
        with AnswerCache(cache) as answers:
            assert answers.get_many(["a", "b"]) == {"a": '{"clusters":[]}', "b": None}
            answers.put_many([Kept("c", "m", "1", "{}", 3, 100, 30, 10)])
            assert answers.reported("m").prompt_tokens == 30
    with sqlite3.connect(cache) as new:
        assert new.execute("PRAGMA user_version").fetchone() == (cache_module.SCHEMA_VERSION,)


def test_foreign_newer_and_unreadable_files_are_clear_errors(tmp_path: Path) -> None:
    foreign = tmp_path / "note.txt"
    foreign.write_text("this is no database, and long enough to be read as one" * 20)
    with pytest.raises(RecsysError, match="not a cache of answers"):
        AnswerCache(foreign)
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(RecsysError, match="version 99"):
        AnswerCache(newer)
    with pytest.raises(RecsysError, match="cannot be"):
        AnswerCache(foreign / "below" / "a.sqlite")


def test_many_processes_write_at_once(cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from recsys_dagster.larmi.llm.cache import AnswerCache, Kept\n"
        "with AnswerCache(Path(sys.argv[1])) as cache:\n"
        "    for k in range(200):\n"
        "        own = cache.claim([f'{k}'])\n"
        "        cache.put_many([Kept(key, 'm', '1', sys.argv[2]) for key in own])\n"
        "        print(*own)\n"
    )
    command = [sys.executable, "-c", code, str(cache)]
    processes = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
    claimed = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(key for own in claimed for key in own) == sorted(str(k) for k in range(200)), "one process each"
    with AnswerCache(cache) as answers:
        found = answers.get_many([str(k) for k in range(200)])
    assert found == {key: str(n) for n, keys in enumerate(claimed) for key in keys}


def test_claims_keep_others_away_until_answered_given_back_or_dead(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AnswerCache(cache) as one, AnswerCache(cache) as other:
        assert one.claim(["a", "b", "c"]) == {"a", "b", "c"}
        assert other.claim(["a", "d"]) == {"d"}
        one.put_many([Kept("a", "m", "1", "{}")])
        one.release(["b"])
        assert other.claim(["a", "b", "c"]) == {"b"}
        monkeypatch.setattr(cache_module, "LEASE_S", -1.0)
        one.renew()  # says nothing any more
        monkeypatch.undo()
        assert other.claim(["c"]) == {"c"}
    with AnswerCache(cache) as third:
        assert third.claim(["b", "c", "d"]) == {"b", "c", "d"}, "a closed cache holds no claims"


def test_claims_of_a_killed_process_are_free_at_once(cache: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from recsys_dagster.larmi.llm.cache import AnswerCache\n"
        "AnswerCache(Path(sys.argv[1])).claim(['a'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(cache)], check=False)
    with AnswerCache(cache) as answers:
        assert answers.claim(["a"]) == {"a"}


def test_two_processes_with_the_same_users_pay_once(cache: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[3]); from pathlib import Path; from asking import *\n"
        "class At: url = sys.argv[1]\n"
        "table, facts = cluster_users(users(60), items(80), clusterer(At, Path(sys.argv[2]), concurrency=4))\n"
        "print(facts['users_openai'], facts['llm_calls'] + facts['llm_cached'])\n"
    ).replace("from asking import *", "from asking import *; from recsys_dagster.larmi.clusters import cluster_users")
    with OpenAIServer(lambda number, body, headers: Reply(delay_s=0.02)) as server:
        command = [sys.executable, "-c", code, server.url, str(cache), str(Path(__file__).parent)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
        said = [process.communicate(timeout=120)[0].split() for process in processes]
        assert said == [["60", "60"]] * 2
        assert len(server.bodies) == 60


@pytest.fixture
def filled(cache: Path) -> Path:
    with OpenAIServer(lambda number, body, headers: Reply("rubbish" if number < 2 else None)) as server:
        cluster_users(USERS[:3], items(30), clusterer(server, cache, concurrency=1))
        cluster_users(users(2), items(30), clusterer(server, cache, model="other"))
    return cache


def test_stats_count_by_model(filled: Path) -> None:
    with AnswerCache(filled) as answers:
        found = cache_admin.stats(answers)
    assert found["answers"] == 5
    counts = [(row["model"], row["answers"], row["unusable"]) for row in found["models"]]
    assert counts == [("m", 3, 1), ("other", 2, 0)]
    assert [(row["prompt_tokens"], row["completion_tokens"]) for row in found["models"]] == [(40, 20), (20, 10)]
    assert found["batches"] == []


def test_prune_takes_what_fits_all_conditions(filled: Path) -> None:
    with AnswerCache(filled) as answers:
        with pytest.raises(RecsysError, match="nothing says which"):
            cache_admin.prune(answers)
        assert cache_admin.prune(answers, older_than_days=1) == 0
        assert cache_admin.prune(answers, model="other", unusable=True) == 0
        assert cache_admin.prune(answers, unusable=True) == 1
        assert cache_admin.prune(answers, model="m", prompt_version="1") == 2
        answers.connection.execute("UPDATE answers SET created = ?", [time.time() - 2 * 86_400])
        assert cache_admin.prune(answers, older_than_days=1) == 2
        assert cache_admin.stats(answers)["answers"] == 0


def test_export_holds_every_answer_and_nothing_else(filled: Path, tmp_path: Path) -> None:
    with AnswerCache(filled) as answers:
        assert cache_admin.export(answers, tmp_path / "a.jsonl") == 5
        assert cache_admin.export(answers, tmp_path / "a.parquet") == 5
        with pytest.raises(RecsysError, match="unknown kind of file"):
            cache_admin.export(answers, tmp_path / "a.csv")
        with pytest.raises(RecsysError, match="no such folder"):
            cache_admin.export(answers, tmp_path / "none" / "a.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert list(rows[0]) == list(cache_admin.COLUMNS)
    table = pd.read_parquet(tmp_path / "a.parquet")
    assert table["key"].tolist() == [row["key"] for row in rows]
    assert sum(row["answer"] is None for row in rows) == table["answer"].isna().sum() == 1
    assert "title" not in (tmp_path / "a.jsonl").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.parquet", "cache"]
