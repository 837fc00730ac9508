import gzip
import hashlib
from pathlib import Path

import pytest

from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.data.sources import checksum, data_directory, fetch, file_name, open_source
from recsys_dagster.errors import RecsysError

CONTENT = b"1 2 3\n2 3 4\n" * 100
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def spec(source: str = "log.txt", **settings) -> DatasetSpec:
    return DatasetSpec.model_validate({"name": "mine", "reader": "sequences", "source": source, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_checksum_is_of_the_decompressed_bytes(tmp_path):
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_bytes(CONTENT)
    packed.write_bytes(gzip.compress(CONTENT))
    assert checksum(plain) == checksum(packed) == (DIGEST, len(CONTENT))
    disguised = tmp_path / "c.txt"  # gzip is told by content, not by name
    disguised.write_bytes(gzip.compress(CONTENT))
    with open_source(disguised) as file:
        assert file.read() == CONTENT


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
@pytest.mark.parametrize("below", ["", "mine"])
def test_a_local_file_is_found_gzipped_or_not(folder, name, below):
    (folder / below).mkdir(exist_ok=True)
    path = folder / below / name
    path.write_bytes(gzip.compress(CONTENT) if name.endswith(".gz") else CONTENT)
    checked = spec(sha256={"source": DIGEST}, size={"source": len(CONTENT)})
    assert fetch(checked, folder, folder / "cache") == {"source": path}
    # The same for a remote place: nothing is fetched.
    remote = spec("https://unreachable.invalid/x/Other.txt", file_names={"source": "log.txt"})
    assert fetch(remote, folder, folder / "cache") == {"source": path}
    assert not (folder / "cache").exists()


def test_name_of_a_chained_address():
    assert file_name(spec("zip://ml-1m/ratings.dat::https://host.invalid/ml-1m.zip"), "source") == "ratings.dat"
    assert file_name(spec("https://host.invalid/a%20b.json.gz?x=1"), "source") == "a b.json"


def test_a_relative_path_starts_at_the_registry(folder):
    (folder / "log.txt").write_bytes(CONTENT)
    assert fetch(spec(folder=folder), None, folder / "cache") == {"source": folder / "log.txt"}
    by_address = spec((folder / "log.txt").as_uri())
    assert fetch(by_address, None, folder / "cache") == {"source": folder / "log.txt"}


@pytest.mark.parametrize(
    ("settings", "part"),
    [({"sha256": {"source": "0" * 64}}, f"has sha256 {DIGEST}, expected {'0' * 64}"),
     ({"size": {"source": 7}}, "has 1,200 decompressed bytes, expected 7")],
)  # fmt: skip
def test_wrong_checksum_or_size(folder, settings, part):
    (folder / "log.txt.gz").write_bytes(gzip.compress(CONTENT))
    with pytest.raises(RecsysError) as caught:
        fetch(spec(**settings), folder, folder / "cache")
    assert part in str(caught.value)
    assert "log.txt.gz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cut_gzip_file(folder):
    (folder / "log.txt.gz").write_bytes(gzip.compress(CONTENT)[:-12])
    with pytest.raises(RecsysError, match="not a whole gzip file"):
        fetch(spec(sha256={"source": DIGEST}), folder, folder / "cache")


def test_a_missing_file_says_where_to_get_it(folder):
    with pytest.raises(RecsysError, match=r"'log\.txt' \(or log\.txt\.gz\) is not in RECSYS_DATA_DIR=.*https://home"):
        fetch(spec(homepage="https://home.invalid"), folder, folder / "cache")


def test_a_remote_file_is_fetched_once_and_checked_first(folder):
    import fsspec

    place = "memory://remote/log.txt.gz"
    with fsspec.open(place, "wb") as file:
        file.write(gzip.compress(CONTENT))
    wrong = spec(place, sha256={"source": "0" * 64})
    with pytest.raises(RecsysError, match="has sha256"):
        fetch(wrong, folder, folder / "cache")
    assert list((folder / "cache").iterdir()) == []  # nothing wrong and nothing half-done stays
    right = spec(place, sha256={"source": DIGEST})
    path = fetch(right, folder, folder / "cache")["source"]
    assert checksum(path) == (DIGEST, len(CONTENT))
    fsspec.filesystem("memory").rm("/remote", recursive=True)
    assert fetch(right, None, folder / "cache") == {"source": path}
    with pytest.raises(RecsysError, match=r"memory://remote/gone\.txt could not be fetched .*put it as 'gone\.txt'"):
        fetch(spec("memory://remote/gone.txt"), folder, folder / "cache")


def test_data_directory(monkeypatch, tmp_path):
    monkeypatch.delenv("RECSYS_DATA_DIR", raising=False)
    assert data_directory() is None
    monkeypatch.setenv("RECSYS_DATA_DIR", str(tmp_path))
    assert data_directory() == tmp_path
    monkeypatch.setenv("RECSYS_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(RecsysError, match=r"RECSYS_DATA_DIR=.*absent is not a folder"):
        data_directory()
