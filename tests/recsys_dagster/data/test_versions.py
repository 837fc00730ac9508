import gzip
import os
import time

import fsspec
import pytest

from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.data.sources import checksum, fetch
from recsys_dagster.data.versions import current_fingerprint, fingerprint, is_settled, is_watched, marks
from recsys_dagster.errors import RecsysError

CONTENT = b"1 2 3\n2 3 4\n"


def spec(source: str = "log.txt", **settings) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "mine", "reader": "sequences", "source": source, **settings})


@pytest.fixture
def store():
    yield fsspec.filesystem("memory")
    fsspec.filesystem("memory").rm("/arrivals", recursive=True)


def test_the_fingerprint_is_of_content_and_settings(tmp_path):
    (tmp_path / "log.txt").write_bytes(CONTENT)
    here = spec(folder=tmp_path)
    first = current_fingerprint(here, None)
    assert first == fingerprint(here, fetch(here, None, tmp_path / "cache"))
    # The same content elsewhere, packed, or written again is the same; so is another time table.
    (tmp_path / "other.txt.gz").write_bytes(gzip.compress(CONTENT))
    assert current_fingerprint(spec("other.txt.gz", folder=tmp_path, nightly={"hour": 3}), None) == first
    os.utime(tmp_path / "log.txt", (1, 1))
    assert current_fingerprint(here, None) == first
    # Other content, or another way to read it, is not.
    assert current_fingerprint(spec(folder=tmp_path, k_core_users=3), None) != first
    (tmp_path / "log.txt").write_bytes(CONTENT + b"5 6 7\n")
    assert current_fingerprint(here, None) != first


def test_marks_move_when_a_local_file_is_replaced(tmp_path):
    here = spec(folder=tmp_path)
    assert marks(here, None) is None
    (tmp_path / "log.txt").write_bytes(CONTENT)
    before = marks(here, None)
    assert marks(here, None) == before
    (tmp_path / "new").write_bytes(CONTENT)
    (tmp_path / "new").replace(tmp_path / "log.txt")
    assert marks(here, None) != before


def test_a_file_that_is_still_written_is_not_settled(tmp_path):
    (tmp_path / "log.txt").write_bytes(CONTENT)
    assert not is_settled(spec(folder=tmp_path), None)
    assert is_settled(spec(folder=tmp_path), None, now=time.time() + 11)


def test_published_files_are_not_watched():
    assert is_watched(spec())
    assert is_watched(spec("s3://bucket/log.txt"))
    assert not is_watched(spec("https://host.invalid/log.txt"))
    assert not is_watched(spec("zip://a.txt::https://host.invalid/log.zip"))
    assert not is_watched(spec(sha256={"source": "0" * 64}))
    assert not is_watched(DatasetSpec.model_validate({"name": "s", "reader": "sample"}))
    mixed = spec(sha256={"source": "0" * 64}, items_source="items.json")
    assert is_watched(mixed)


@pytest.mark.parametrize("packed", [False, True])
def test_an_object_that_is_replaced_is_fetched_again(tmp_path, store, packed):
    place = "memory://arrivals/log.txt"

    def put(content: bytes) -> None:
        with fsspec.open(place, "wb") as file:
            file.write(gzip.compress(content) if packed else content)

    put(CONTENT)
    remote, cache = spec(place), tmp_path / "cache"
    before = marks(remote, None)
    first = fetch(remote, None, cache)
    assert current_fingerprint(remote, None) == fingerprint(remote, first)
    assert fetch(remote, None, cache) == first
    put(CONTENT * 2)
    assert marks(remote, None) != before
    second = fetch(remote, None, cache)
    assert checksum(second["source"])[1] == 2 * len(CONTENT)
    assert current_fingerprint(remote, None) == fingerprint(remote, second)
    assert [path.name for path in cache.iterdir()] == [second["source"].name]  # the older one is gone


def test_what_cannot_be_read_is_said(tmp_path, store):
    with pytest.raises(RecsysError, match=r"memory://arrivals/gone\.txt could not be fetched"):
        marks(spec("memory://arrivals/gone.txt"), None)
    with pytest.raises(RecsysError, match=r"log\.txt cannot be read \(FileNotFoundError"):
        current_fingerprint(spec(folder=tmp_path), None)
    (tmp_path / "log.txt").write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(RecsysError, match=r"cannot be read \(EOFError.*put the whole file there"):
        current_fingerprint(spec(folder=tmp_path), None)
    with fsspec.open("memory://arrivals/x", "wb") as file:
        file.write(b"x")
