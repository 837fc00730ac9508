"""State directories to break: of `sample` with the command line in this process, of a small shop with processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from operated import GROUPS, World, write_log

from benchmarks.common import NO_COMPUTE_LOGS
from recsys_dagster.cli import main
from resources.instance import SETTINGS
from resources.storage import AssetStore


@pytest.fixture
def store(tmp_path, monkeypatch) -> AssetStore:
    """The store of a fresh state directory, which this process works in."""
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    (tmp_path / "dagster").mkdir()
    (tmp_path / "dagster" / "dagster.yaml").write_text(SETTINGS + NO_COMPUTE_LOGS)
    return AssetStore()


@pytest.fixture
def materialize(store, capsys) -> Callable[..., str]:
    """`recsys-dagster materialize --dataset sample`: what it said, and its errors where it had to fail."""

    def run(*select: str, code: int = 0, config: Path | None = None) -> str:
        chosen = [part for name in select for part in ("--select", name)]
        settings = [] if config is None else ["--config", str(config)]
        with pytest.raises(SystemExit) as ended:
            main(["materialize", "--dataset", "sample", *chosen, *settings])
        said = capsys.readouterr()
        assert (ended.value.code or 0) == code, said.out + said.err
        assert "Traceback" not in said.err
        return said.err if code else said.out

    return run


@pytest.fixture
def world(tmp_path) -> World:
    """A state directory with one dataset `shop`, a CSV file."""
    write_log(tmp_path / "shop.csv", GROUPS)
    return World(tmp_path, '[shop]\nreader = "table"\nsource = "shop.csv"\nk_core_users = 3\nk_core_items = 3\n')
