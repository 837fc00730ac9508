import subprocess
import sys
from pathlib import Path

import pytest

from recsys_dagster.data.registry import dataset_names, get_dataset, load_registry, registry_path
from recsys_dagster.errors import RecsysError

ROOT = Path(__file__).resolve().parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "datasets.toml"
    path.write_text(text)
    return path


def test_the_shipped_registry_has_the_promised_datasets():
    registry = load_registry(ROOT / "datasets.toml")
    assert set(registry) == {
        "sample", "sample_622", "beauty", "sports", "toys", "yelp", "yelp_622", "office", "office_622",
        "movielens_100k", "movielens_100k_622", "movielens_1m", "amazon_2018_beauty", "amazon_2018_books",
        "amazon_2018_games",
    }  # fmt: skip
    assert dataset_names(ROOT / "datasets.toml") == list(registry)
    chronological = {name for name, spec in registry.items() if spec.protocol == "chronological_622"}
    assert chronological == {name for name in registry if name.endswith("_622") or name.startswith("amazon_")}
    assert {name for name, spec in registry.items() if not spec.has_titles} == {"beauty", "sports", "toys"}
    assert registry["office"].k_core_items == 1
    assert registry["yelp_622"].sha256 == registry["yelp"].sha256 != {}


def test_extends_takes_over_and_overrides(tmp_path):
    registry = load_registry(
        write(
            tmp_path,
            f"""
            [child]
            extends = "parent"
            protocol = "chronological_622"
            [grandchild]
            extends = "child"
            source = "other.txt"
            k_core_users = 7
            [parent]
            reader = "sequences"
            source = "a.txt"
            items_source = "i.json"
            k_core_items = 3
            sha256 = {{ source = "{"0" * 64}", items_source = "{"1" * 64}" }}
            file_names = {{ source = "local.txt" }}
            """,
        )
    )
    parent, child, grandchild = registry["parent"], registry["child"], registry["grandchild"]
    assert (parent.max_length, child.max_length) == (50, 20)
    assert (child.name, child.source, child.k_core_items) == ("child", "a.txt", 3)
    assert child.sha256 == parent.sha256
    # A new source does not inherit the old one's checksum or local name; the items file keeps its own.
    assert grandchild.sha256 == {"items_source": "1" * 64}
    assert grandchild.file_names == {}
    assert (grandchild.protocol, grandchild.k_core_users) == ("chronological_622", 7)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[a]\nreader = 'sample'\nsorce = 'x'", ["[a]", "unknown key 'sorce'", "'source'"]),
        ("[a]\nreader = 'sequence'\nsource = 'x'", ["[a]", "reader", "'sequences'", "found 'sequence'"]),
        ("[a]\nreader = 'sequences'", ["[a]", "needs a source"]),
        ("[a]\nsource = 'x'", ["[a]", "lacks the key 'reader'"]),
        ("[a]\nreader = 'sample'\nsource = 'x'", ["[a]", "takes no source"]),
        ("[a]\nreader = 'table'\nsource = 'x'\nattributes_source = 'y'", ["attributes_source"]),
        ("[a]\nreader = 'table'\nsource = 'x'\ncolumns = { usr = 'u' }", ["columns.usr", "'user'"]),
        ("[a]\nreader = 'table'\nsource = 'x'\nk_core_users = 0", ["k_core_users", "greater than or equal to 1"]),
        ("[a]\nreader = 'table'\nsource = 'x'\nsha256 = { source = 'abc' }", ["sha256", "hexadecimal"]),
        ("[a]\nreader = 'table'\nsource = 'x'\nsize = { items_source = 3 }", ["size", "items_source"]),
        ("[a]\nextends = 'b'\n[b]\nextends = 'c'\n[c]\nextends = 'a'", ["circle", "a -> b -> c -> a"]),
        ("[a]\nextends = 'smaple'\n[sample]\nreader = 'sample'", ["extends 'smaple'", "did you mean 'sample'"]),
        ("[a]\nname = 'b'\nreader = 'sample'", ["sets 'name'"]),
        ("['a b']\nreader = 'sample'", ["a b", "letters"]),
        ("reader = 'sample'", ["'reader' stands outside"]),
        ("[a\n", ["not valid TOML", "line 1"]),
        ("", ["has no dataset"]),
    ],
)
def test_every_mistake_is_one_line_with_its_place(tmp_path, text, parts):
    path = write(tmp_path, text)
    with pytest.raises(RecsysError) as caught:
        load_registry(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "To mend:" in message
    for part in [str(path), *parts]:
        assert part in message


def test_unknown_dataset_proposes_the_nearest():
    with pytest.raises(RecsysError, match="did you mean 'beauty'"):
        get_dataset("beuty", ROOT / "datasets.toml")


def test_where_the_registry_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("RECSYS_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert registry_path() == ROOT / "datasets.toml"
    write(tmp_path, "[mine]\nreader = 'sample'")
    assert dataset_names() == ["mine"]
    named = tmp_path / "elsewhere.toml"
    named.write_text("[theirs]\nreader = 'sample'")
    monkeypatch.setenv("RECSYS_DATASETS", str(named))
    assert dataset_names() == ["theirs"]
    monkeypatch.setenv("RECSYS_DATASETS", str(tmp_path / "absent.toml"))
    with pytest.raises(RecsysError, match=r"RECSYS_DATASETS=.*absent\.toml is not a file"):
        dataset_names()


def test_importing_the_registry_is_light():
    code = (
        "import sys, recsys_dagster.data.registry as r; r.dataset_names(); "
        "print([m for m in ('pandas', 'numpy', 'torch', 'fsspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
