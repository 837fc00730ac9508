"""What the sensor asks for; under a daemon it runs in tests/end_to_end/test_nights.py."""

import os
import time

import dagster as dg
import fsspec
import pytest

from assets.partitions import datasets
from recsys_dagster.automation.arrivals import Seen, arrived, source_arrivals
from recsys_dagster.automation.jobs import DATA, RECLUSTER
from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.data.versions import current_fingerprint
from recsys_dagster.definitions import defs
from recsys_dagster.errors import RecsysError

NAME = "office"
"""A partition of the shipped registry, so that requests for it are valid."""


@pytest.fixture(scope="module")
def instance():
    with dg.instance_for_test() as instance:
        yield instance


def made(instance, asset: str, name: str, version: str = "v") -> None:
    tags = {"dagster/data_version": version}
    instance.report_runless_asset_event(dg.AssetMaterialization(asset_key=asset, partition=name, tags=tags))


def put(path, text: str) -> None:
    path.write_text(text)
    os.utime(path, (time.time() - 60, time.time() - 60))


def test_once_for_each_content(instance, tmp_path):
    spec = DatasetSpec.model_validate({"name": "a", "reader": "sequences", "source": "a.txt", "folder": tmp_path})
    seen, log = Seen(None), tmp_path / "a.txt"
    assert arrived(instance, spec, None, seen) is None  # no file yet
    put(log, "1 2 3\n")
    first = arrived(instance, spec, None, seen)
    assert first == current_fingerprint(spec, None)
    assert arrived(instance, spec, None, seen) is None
    put(log, "1 2 3\n")  # written again
    assert arrived(instance, spec, None, seen) is None
    put(log, "1 2 3 4\n")
    assert arrived(instance, spec, None, seen) not in (None, first)
    assert seen.changes("a") == 2
    put(log, "1 2 3\n")  # content that comes back after other content is new again, under another key
    assert arrived(instance, spec, None, seen) == first
    assert seen.changes("a") == 3
    restarted = Seen(seen.cursor())
    assert arrived(instance, spec, None, restarted) is None
    assert restarted.cursor() == seen.cursor()


def test_what_is_stored_already_is_not_asked_for(instance, tmp_path):
    spec = DatasetSpec.model_validate({"name": "b", "reader": "sequences", "source": "b.txt", "folder": tmp_path})
    put(tmp_path / "b.txt", "1 2 3\n")
    made(instance, "raw_interactions", "b", current_fingerprint(spec, None))
    assert arrived(instance, spec, None, Seen(None)) is None


def test_a_file_that_is_still_copied_waits(instance, tmp_path):
    spec = DatasetSpec.model_validate({"name": "c", "reader": "sequences", "source": "c.txt", "folder": tmp_path})
    (tmp_path / "c.txt").write_text("1 2 3\n")
    seen = Seen(None)
    assert arrived(instance, spec, None, seen) is None
    put(tmp_path / "c.txt", "1 2 3\n")
    assert arrived(instance, spec, None, seen) is not None


def test_an_object_of_a_store(instance):
    spec = DatasetSpec.model_validate({"name": "d", "reader": "sequences", "source": "memory://sensor/d.txt"})
    seen = Seen(None)
    with pytest.raises(RecsysError, match="could not be fetched"):
        arrived(instance, spec, None, seen)
    for text, new in (("1 2 3\n", True), ("1 2 3\n", False), ("1 2 3 4\n", True)):
        with fsspec.open("memory://sensor/d.txt", "w") as file:
            file.write(text)
        assert (arrived(instance, spec, None, seen) is not None) is new
        assert arrived(instance, spec, None, seen) is None


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry with one of the partitions that the definitions were loaded with, and a new one."""
    path = tmp_path / "datasets.toml"
    entry = '[{}]\nreader = "sequences"\nsource = "{}.txt"\n'
    path.write_text(entry.format(NAME, "log") + entry.format("brand_new", "new") + '[sample]\nreader = "sample"\n')
    monkeypatch.setenv("RECSYS_DATASETS", str(path))
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)
    assert NAME in datasets.get_partition_keys()
    put(tmp_path / "log.txt", "1 2 3\n")
    return path


def tick(instance, cursor=None):
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=defs.get_repository_def())
    return source_arrivals.evaluate_tick(context)


def test_a_first_file_asks_for_everything_and_a_later_one_for_what_follows_from_it(instance, registry):
    first = tick(instance)
    (request,) = first.run_requests
    assert (request.job_name, request.partition_key) == ("full_lineage", NAME)
    wanted = {key.to_user_string() for key in request.asset_selection}
    assert {"raw_interactions", "g2rec_model", "leaderboard"} <= wanted
    assert "gru4rec_model" not in wanted
    assert tick(instance, first.cursor).run_requests == []
    made(instance, "interactions", NAME)
    put(registry.parent / "log.txt", "1 2 3 4\n")
    second = tick(instance, first.cursor)
    (request,) = second.run_requests
    assert request.job_name == "refresh"
    wanted = {key.to_user_string() for key in request.asset_selection}
    assert wanted == {*DATA, *RECLUSTER} - {"interest_tokens"}  # there is no SASRec whose vectors tokens are made of
    assert request.run_key.endswith("-2")


def test_an_entry_that_is_no_partition_yet_asks_for_a_reload(instance, registry):
    done = tick(instance, tick(instance).cursor)
    assert "brand_new is new in datasets.toml: reload the code location" in done.skip_message
