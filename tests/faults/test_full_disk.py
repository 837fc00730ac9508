"""A full disk: what was stored stays, nothing half-written is left, the error says so, and with room it goes on."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from upath import UPath

from recsys_dagster.compiled import MendingCache
from recsys_dagster.errors import RecsysError
from recsys_dagster.training.checkpoint import Checkpoint, State
from resources.files import write_atomically


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own of that size (a tmpfs), where this user may mount one."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system; the tests with a limit on file sizes run everywhere")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def limit_on_files(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes; a write that does fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".part", ".tmp"))]


def test_assets_on_a_full_disk(store, materialize, tmp_path):
    assets = tmp_path / "home" / "assets"
    with small_disk(assets, "48k"):
        said = materialize("raw_items", code=1)
        assert "could not be written: the disk is full" in said
        assert "To mend: make room there, or set RECSYS_HOME to a larger disk" in said
        assert said.count("\n") == 1
        assert parts(assets) == []
        subprocess.run(["mount", "-o", "remount,size=144k", str(assets)], check=True)
        materialize("raw_items")
        raw = [Path(store.path(name, "sample").path) for name in ("raw_interactions", "raw_items")]
        before = [path.read_bytes() for path in raw]
        # Of three tables that belong together the first fits; none of them may appear.
        said = materialize("users", code=1)
        assert "the disk is full" in said
        assert [store.previous_table(name, "sample") for name in ("interactions", "users", "items")] == [None] * 3
        assert [path.read_bytes() for path in raw] == before
        subprocess.run(["mount", "-o", "remount,size=2m", str(assets)], check=True)
        materialize("users")
        assert len(store.previous_table("users", "sample")) == 600
        assert parts(assets) == []


def test_the_whole_state_directory_on_a_full_disk(store, materialize, tmp_path, monkeypatch):
    """Dagster's own database has no room either."""
    home = tmp_path / "home"
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    with small_disk(home, "600k"):
        said = materialize("raw_items", code=1)
        assert "the disk is full" in said
        assert "To mend: make room there" in said


@pytest.mark.parametrize("form", ["parquet", "safetensors", "text"])
def test_a_write_that_does_not_fit_leaves_the_old_value_and_nothing_else(tmp_path, form):
    from safetensors.numpy import save_file

    values = np.random.default_rng(0).random(4000)
    writers = {
        "parquet": lambda path: pd.DataFrame({"x": values}).to_parquet(path),
        "safetensors": lambda path: save_file({"x": values}, path),
        "text": lambda path: path.write_text("x" * 9000),
    }
    target = UPath(tmp_path / "thing")
    write_atomically(target, lambda path: path.write_text("old"))
    with limit_on_files(4096), pytest.raises(RecsysError, match=r"thing could not be written: the disk is full"):
        write_atomically(target, writers[form])
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]
    assert target.read_text() == "old"
    write_atomically(target, writers[form])
    assert len(target.read_bytes()) > 4096


def test_a_checkpoint_that_does_not_fit_leaves_the_last_epoch(tmp_path):
    class Model(torch.nn.Linear):
        learned_state = torch.nn.Linear.state_dict

        def load_learned_state(self, state: dict[str, torch.Tensor]) -> None:
            self.load_state_dict(state)

    model = Model(40, 40)
    optimiser = torch.optim.AdamW(model.parameters())
    keeper = Checkpoint(tmp_path / "run", {"config": 1})
    keeper.save(model, optimiser, State(epoch=1))
    with limit_on_files(4096), pytest.raises(RecsysError, match=r"last\.safetensors could not be written"):
        keeper.save(model, optimiser, State(epoch=2))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["last.safetensors"]
    assert keeper.resume(model, optimiser).epoch == 1


def test_compiled_code_that_does_not_fit_is_used_all_the_same(tmp_path, caplog):
    import numba

    def double(x: float) -> float:
        return 2 * x

    dispatcher = numba.njit(double)
    dispatcher._cache = MendingCache(double)
    with limit_on_files(64):
        assert dispatcher(2.0) == 4.0
    assert "compiled code cannot be kept" in caplog.text
