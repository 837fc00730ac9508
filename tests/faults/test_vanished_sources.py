"""Sources and stored files that are gone: the error names them, the rest stays, and with them back the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.storage import local_directory


def test_a_source_that_vanished(world):
    select = ("materialize", "-d", "shop", "-s", "raw_items", "users")
    world.run(*select)
    stored = {path: path.read_bytes() for path in (world.home / "assets").rglob("*.parquet")}
    assert len(stored) == 5
    source = world.folder / "shop.csv"
    log = source.read_bytes()
    source.unlink()
    (error,) = world.run(*select, code=1).stderr.splitlines()
    assert error.startswith("error: shop: raw_data: dataset 'shop': source 'shop.csv' (or shop.csv.gz) is not in ")
    assert "To mend: correct the place in datasets.toml, or get the file" in error
    assert {path: path.read_bytes() for path in stored} == stored
    source.write_bytes(log)
    world.run(*select)
    assert {path: path.read_bytes() for path in stored} == stored


def test_a_stored_table_that_vanished(store, materialize):
    materialize("raw_items", "users")
    items = Path(store.path("items", "sample").path)
    before = items.read_bytes()
    items.unlink()
    said = materialize("negatives", code=1)
    assert "items has not been materialized for sample. To mend: recsys-dagster materialize --dataset sample" in said
    materialize("items")
    assert items.read_bytes() == before


def test_a_model_whose_files_vanished(store):
    folder = Path(store.path("sasrec_model", "sample", "").path)
    folder.mkdir(parents=True)
    (folder / "current").write_text("20260101-000000")
    with pytest.raises(FileNotFoundError, match="materialize sasrec_model for sample first"):
        local_directory(store.path("sasrec_model", "sample", ""))
