"""Stored files that were cut: the error names the file and the command that makes it anew, and that command does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assets.search import TRIALS, stored_trials
from recsys_dagster.errors import DamagedFileError
from resources.storage import AssetStore, local_directory, read_parquet
from resources.stored_table import StoredTable


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def test_a_cut_table_is_named_and_the_command_in_the_message_mends_it(store, materialize):
    materialize("data")
    users, negatives = (Path(store.path(name, "sample").path) for name in ("users", "negatives"))
    whole, before = users.read_bytes(), negatives.read_bytes()
    cut(users, 0.5)
    said = materialize("negatives", code=1)
    assert f"{users} is damaged" in said
    assert said.count("\n") == 1
    assert negatives.read_bytes() == before
    command = said.partition("To mend: recsys-dagster materialize --dataset sample --select ")[2].split()
    assert command == ["users"]
    materialize(*command)
    assert users.read_bytes() == whole
    materialize("negatives")
    assert negatives.read_bytes() == before


def test_memberships_that_were_cut_are_made_afresh_though_they_start_from_themselves(store, materialize):
    materialize("raw_items", "users", "coengagement_graph", "soft_memberships")
    path = Path(store.path("soft_memberships", "sample").path)
    whole = store.previous_table("soft_memberships", "sample")
    cut(path, 0.7)
    with pytest.raises(DamagedFileError, match=r"soft_memberships/sample\.parquet is damaged"):
        store.previous_table("soft_memberships", "sample")
    said = materialize("soft_memberships")
    assert "is damaged" in said
    assert "prototypes get new ids: train the models again" in said
    again = store.previous_table("soft_memberships", "sample")
    pd.testing.assert_frame_equal(again, whole)  # the first night once more


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 0.999])
def test_no_form_is_read_in_part(tmp_path, share):
    from safetensors.numpy import save_file
    from upath import UPath

    store = AssetStore(root=str(tmp_path))
    table = tmp_path / "thing" / "a.parquet"
    table.parent.mkdir()
    pd.DataFrame({"x": np.arange(1000)}).to_parquet(table)
    model = tmp_path / "model" / "a"
    (model / "v1" / "seed-1").mkdir(parents=True)
    (model / "current").write_text("v1")
    tensors = {"w": np.arange(1000, dtype=np.float32)}
    for file in (model / "v1" / "model.safetensors", model / "v1" / "seed-1" / "model.safetensors"):
        save_file(tensors, file)
    (model / "v1" / "config.json").write_text('{"model": "x", "shape": {"n_items": 3}}')
    pd.DataFrame({"epoch": [1]}).to_parquet(model / "v1" / "training.parquet")
    assert local_directory(store.path("model", "a", "")) == model / "v1"

    for file in sorted(path for path in (model / "v1").rglob("*") if path.is_file()):
        whole = file.read_bytes()
        cut(file, share)
        with pytest.raises(DamagedFileError, match=r"model/a is damaged.*--dataset a --select model"):
            local_directory(store.path("model", "a", ""))
        file.write_bytes(whole)
    cut(table, share)
    with pytest.raises(DamagedFileError, match=r"thing/a\.parquet is damaged.*--dataset a --select thing"):
        read_parquet(UPath(table))
    for read in (len, StoredTable.columns, StoredTable.read, lambda stored: list(stored.values("x"))):
        with pytest.raises(DamagedFileError, match="is damaged"):
            read(StoredTable(UPath(table)))


def test_a_cut_trial_is_named_with_the_command_that_trains_it_again(tmp_path):
    store = AssetStore(root=str(tmp_path))
    first, second = list(TRIALS)[:2]
    for trial in (first, second):
        path = Path(store.path("larmi_trials", f"sample/{trial}").path)
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"trial": [trial]}).to_parquet(path)
    assert list(stored_trials(store, "sample")) == [first, second]
    cut(path, 0.5)
    with pytest.raises(DamagedFileError, match=rf"{second}.*remove that file.*--dataset sample --trial {second}"):
        stored_trials(store, "sample")
