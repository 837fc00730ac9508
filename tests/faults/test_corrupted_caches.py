"""Caches that were cut or garbled: what can be made again is, what was paid for is named and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys_dagster.errors import RecsysError
from recsys_dagster.larmi.llm.cache import AnswerCache, Kept
from resources.storage import AssetStore, local_directory

DRAW = "import logging; logging.basicConfig(); from recsys_dagster.compiled import uniform; print(uniform(1, 2, 3))"


def draw(folder: Path) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", DRAW], capture_output=True, text=True, env={**os.environ, "NUMBA_CACHE_DIR": str(folder)}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_compiled_code_that_was_cut_is_compiled_anew(tmp_path, kind):
    right, said = draw(tmp_path)
    assert said == ""
    for file in tmp_path.rglob(f"*.{kind}"):
        file.write_bytes(file.read_bytes()[:-40])
    again, said = draw(tmp_path)
    assert again == right
    assert "compiled code cannot be read" in said
    assert draw(tmp_path) == (right, "")


def test_answers_that_were_paid_for_are_not_thrown_away(tmp_path):
    path = tmp_path / "llm.sqlite"
    with AnswerCache(path) as cache:
        cache.put_many([Kept(f"{number:064}", "m", "1", "{}" * 300) for number in range(100)])
    assert not path.with_name("llm.sqlite-wal").exists()
    damaged = path.read_bytes()[:4096] + b"\xff" * 40_000
    path.write_bytes(damaged)
    with pytest.raises(RecsysError, match=r"llm\.sqlite: not a cache of answers.*move the file away"):
        AnswerCache(path).get_many([f"{number:064}" for number in range(100)])
    assert path.read_bytes() == damaged
    path.unlink()
    with AnswerCache(path) as cache:
        assert cache.get_many(["0"]) == {}


def test_a_damaged_copy_of_a_remote_model_is_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    store = AssetStore(root=f"memory://{tmp_path.name}")
    path = store.base() / "model" / "a"
    path.fs.makedirs(f"{path.path}/v1")
    path.fs.pipe(f"{path.path}/v1/config.json", b'{"model": "x"}')
    path.fs.pipe(f"{path.path}/current", b"v1")
    copy = local_directory(path) / "config.json"
    assert copy.is_relative_to(tmp_path)
    copy.write_text('{"mod')
    assert (local_directory(path) / "config.json").read_text() == '{"model": "x"}'
