import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from upath import UPath

from resources import io_managers as managers
from resources import storage
from resources.files import write_atomically
from resources.io_managers import StoreIOManager, io_managers
from resources.reports import stored_reports
from resources.storage import AssetStore, local_directory
from resources.stored_table import StoredTable

PARTS = dg.StaticPartitionsDefinition(["a", "b"])


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path, monkeypatch) -> AssetStore:
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "home"))
    if request.param == "s3":
        return AssetStore(root=f"s3://{request.getfixturevalue('s3_store').bucket}/{tmp_path.name}")
    return AssetStore(root=str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}")


def round_trip(store: AssetStore, form: str, value, partition: str = "a"):
    manager = StoreIOManager(store=store, form=form).create_io_manager(dg.build_init_resource_context())
    key = dg.AssetKey("thing")
    out = dg.build_output_context(asset_key=key, partition_key=partition, asset_partitions_def=PARTS)
    manager.handle_output(out, value)
    into = dg.build_input_context(asset_key=key, partition_key=partition, asset_partitions_def=PARTS)
    return manager.load_input(into), out


def files(store: AssetStore) -> set[str]:
    base = store.base()
    return {str(path.path).removeprefix(str(base.path)).lstrip("/") for path in base.rglob("*") if path.is_file()}


def test_table_round_trip_keeps_types_and_lies_at_a_readable_key(store):
    frame = pd.DataFrame(
        {
            "user_id": np.array([0, 1], dtype=np.int32),
            "label": ["x", ""],
            "members": [np.array([1, 2], dtype=np.int32), np.array([], dtype=np.int32)],
        }
    )
    loaded, out = round_trip(store, "parquet", frame)
    assert loaded.dtypes["user_id"] == np.int32
    assert [list(values) for values in loaded["members"]] == [[1, 2], []]
    assert loaded["members"].iloc[0].dtype == np.int32
    assert files(store) == {"thing/a.parquet"}
    assert str(store.path("thing", "a")) == str(out.get_logged_metadata()["path"].value)
    pd.testing.assert_frame_equal(store.previous_table("thing", "a"), loaded)
    assert store.previous_table("thing", "b") is None


def test_tensors_json_and_text_round_trip(store):
    tensors = {"y": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], "ids": np.array([3], dtype=np.int32)}
    loaded, _ = round_trip(store, "safetensors", tensors)
    np.testing.assert_array_equal(loaded["y"], tensors["y"])
    assert loaded["ids"].dtype == np.int32
    rows = {"rows": [{"value": 0.5, "title": "Käse"}]}
    assert round_trip(store, "json", rows)[0] == rows
    assert round_trip(store, "html", "<p>é</p>")[0] == "<p>é</p>"
    assert files(store) == {"thing/a.safetensors", "thing/a.json", "thing/a.html"}


def test_json_refuses_nan(store):
    with pytest.raises(ValueError, match="Out of range float"):
        round_trip(store, "json", {"value": float("nan")})


def test_directory_round_trip_switches_version_and_prunes(store, tmp_path):
    seen = []
    for number in range(4):
        source = store.staging("thing", "a")
        (source / "model.bin").write_text(str(number))
        loaded, out = round_trip(store, "directory", source)
        assert (loaded / "model.bin").read_text() == str(number)
        assert out.get_logged_metadata()["bytes"].value == 1
        assert not source.exists()
        seen.append(loaded.name)
        kept = {name.split("/")[2] for name in files(store) if name.count("/") == 3}
        assert kept == set(seen[-2:])
    assert len(set(seen)) == 4


def test_directory_load_of_nothing_says_what_to_do(store):
    with pytest.raises(FileNotFoundError, match="materialize thing for a first"):
        local_directory(store.path("thing", "a", ""))


@pytest.mark.parametrize("form", ["parquet", "safetensors", "directory", "json", "html"])
def test_missing_input_is_said_in_words(store, form):
    manager = StoreIOManager(store=store, form=form).create_io_manager(dg.build_init_resource_context())
    into = dg.build_input_context(asset_key=dg.AssetKey("thing"), partition_key="b", asset_partitions_def=PARTS)
    with pytest.raises(FileNotFoundError, match=r"thing has not been materialized for b\. To mend: recsys-dagster mat"):
        manager.load_input(into)


def test_empty_directory_is_refused(store):
    with pytest.raises(FileNotFoundError, match="not a directory with files"):
        round_trip(store, "directory", store.staging("thing", "a"))


def test_failed_write_keeps_the_old_value_and_leaves_nothing(store):
    path = store.path("thing", "a", ".txt")
    write_atomically(path, lambda local: local.write_text("old"))

    def half(local: Path) -> None:
        local.write_text("ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert files(store) == {"thing/a.txt"}


def test_reader_sees_old_value_while_a_write_is_under_way(tmp_path):
    path = UPath(tmp_path / "value.txt")
    write_atomically(path, lambda local: local.write_text("old"))

    def write(local: Path) -> None:
        local.write_text("new, but only in part")
        assert path.read_text() == "old"

    write_atomically(path, write)
    assert path.read_text() == "new, but only in part"


def test_directory_whose_switch_fails_stays_at_the_old_version(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    store = AssetStore(root=str(tmp_path / "store"))
    source = store.staging("thing", "a")
    (source / "f").write_text("old")
    round_trip(store, "directory", source)
    source = store.staging("thing", "a")
    (source / "f").write_text("new")
    monkeypatch.setattr(managers, "write_atomically", lambda *_: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        round_trip(store, "directory", source)
    assert (local_directory(store.path("thing", "a", "")) / "f").read_text() == "old"


def test_what_a_killed_run_left_unfinished_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    left, other = tmp_path / ".t.txt.aaaa.part", tmp_path / ".other.txt.bbbb.part"
    for path in (left, other):
        path.write_text("x")
    write_atomically(UPath(tmp_path / "t.txt"), lambda local: local.write_text("y"))
    assert not left.exists()
    assert other.exists()
    dead, living = AssetStore().staging("m", "a"), AssetStore().staging("m", "b")
    again = AssetStore().staging("m", "a")
    assert again.is_dir()
    assert living.is_dir()
    assert not dead.exists()


def test_default_root_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path / "here"))
    assert AssetStore().path("users", "sample").path == str(tmp_path / "here" / "assets" / "users" / "sample.parquet")
    monkeypatch.delenv("RECSYS_HOME")
    monkeypatch.chdir(tmp_path)
    assert storage.home() == tmp_path / ".recsys"


def test_unknown_form_and_wrong_value_are_refused(store):
    with pytest.raises(ValueError, match="storage form 'pickle' is not known"):
        StoreIOManager(store=store, form="pickle").create_io_manager(dg.build_init_resource_context())
    with pytest.raises(TypeError, match="thing: expected a DataFrame, found dict"):
        round_trip(store, "parquet", {})


def test_every_form_has_a_manager(store):
    assert set(io_managers(store)) == {"io_manager", "table_io", "safetensors_io", "directory_io", "json_io", "html_io"}


def test_a_table_is_read_in_pieces_where_the_input_asks_for_it(store):
    frame = pd.DataFrame({"user_id": np.arange(10, dtype=np.int32), "split": np.int8(0), "other": "x"})
    round_trip(store, "parquet", frame)

    @dg.asset(partitions_def=PARTS, ins={"thing": dg.AssetIn(input_manager_key="table_io")})
    def reads(thing: StoredTable) -> None:
        pieces = [thing.users(first, first + 4, ["user_id"]) for first in (0, 4, 8)]
        assert [len(piece) for piece in pieces] == [4, 4, 2]
        pd.testing.assert_frame_equal(pd.concat(pieces, ignore_index=True), thing.read(["user_id"]))
        assert (len(thing), thing.n_users()) == (10, 10)

    def run(partition: str) -> dg.ExecuteInProcessResult:
        thing = dg.AssetSpec("thing", partitions_def=PARTS)
        resources = {"store": store, **io_managers(store)}
        return dg.materialize(
            [thing, reads], selection=[reads], partition_key=partition, resources=resources, raise_on_error=False
        )

    assert run("a").success
    failed = run("b")
    assert "thing has not been materialized for b" in str(failed.get_step_failure_events()[0].step_failure_data.error)


def write_for_ever(root: str, done) -> None:
    """Store a table and a directory, each of one number, of the next, ..., and tell the last that is done."""
    store = AssetStore(root=root)
    manager = StoreIOManager(store=store, form="directory").create_io_manager(dg.build_init_resource_context())
    for number in itertools.count(done.value + 1):
        table = pd.DataFrame({"number": number, "noise": noise(number)})
        write_atomically(store.path("table", "a"), lambda local, table=table: table.to_parquet(local))
        folder = store.staging("directory", "a")
        for name in ("first", "second"):
            (folder / name).write_bytes(number.to_bytes(8, "big") + noise(number).tobytes())
        manager.dump_to_path(dg.build_output_context(), folder, store.path("directory", "a", ""))
        done.value = number


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(1 << 62, size=200_000)


def test_a_writer_killed_at_any_moment_leaves_whole_values_in_an_object_store(s3_store, tmp_path, monkeypatch):
    """SIGKILL while objects of 1.6 MB are put, and a reader all the time."""
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    root, rng, seen = f"s3://{s3_store.bucket}/{tmp_path.name}", np.random.default_rng(0), set()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "pandas", "s3fs", "resources.storage"])
    done = context.Value("q", 0)
    for _ in range(5):
        before = done.value
        writer = context.Process(target=write_for_ever, args=(root, done))
        writer.start()
        while done.value == before:
            assert writer.is_alive()
            time.sleep(0.01)
        end = time.monotonic() + rng.uniform(0, 0.5)
        while time.monotonic() < end:
            seen.add(whole(AssetStore(root=root)))
        writer.kill()
        writer.join()
        # What the cut write had finished may be there already, whole.
        assert set(whole(AssetStore(root=root))) <= {done.value, done.value + 1}
    assert len(seen) > 3


def whole(store: AssetStore) -> tuple[int, int]:
    """Which numbers the table and the directory hold; all parts of each have to be of one."""
    table = store.previous_table("table", "a")
    (number,) = table["number"].unique()
    np.testing.assert_array_equal(table["noise"], noise(number))
    first, second = ((store.previous_directory("directory", "a") / name).read_bytes() for name in ("first", "second"))
    assert first == second
    return int(number), int.from_bytes(first[:8], "big")


def test_a_process_that_lives_long_sees_what_others_store(s3_store, tmp_path):
    store = AssetStore(root=f"s3://{s3_store.bucket}/{tmp_path.name}")
    write_atomically(store.path("interest_report", "a", ".html"), lambda local: local.write_text("one"))
    assert stored_reports(store) == ["a"]
    other = "import sys; from upath import UPath; UPath(sys.argv[1]).write_text('another')"
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", other, str(store.path("interest_report", name, ".html"))], check=True)
    assert stored_reports(store) == ["a", "b"]
    assert store.path("interest_report", "a", ".html").read_text() == "another"


def test_fetched_directories_of_earlier_versions_are_removed_after_a_day(s3_store, tmp_path, monkeypatch):
    monkeypatch.setenv("RECSYS_HOME", str(tmp_path))
    store, fetched = AssetStore(root=f"s3://{s3_store.bucket}/{tmp_path.name}"), []
    for number in range(3):
        source = store.staging("thing", "a")
        (source / "model.bin").write_text(str(number))
        fetched.append(round_trip(store, "directory", source)[0])
        if number == 0:
            os.utime(fetched[0], (1, 1))
    assert [folder.exists() for folder in fetched] == [False, True, True]
    assert fetched[2] == local_directory(store.path("thing", "a", ""))
