import gzip
import json

import pandas as pd
import pytest

from recsys_dagster.data.new_entry import add_entry, entry_text, look_at, look_at_items
from recsys_dagster.data.registry import load_registry
from recsys_dagster.errors import RecsysError

CSV = "Customer-ID;SKU;amount;ordered_at\n7;x1;3;2026-01-02\n8;x2;1;2026-01-03\n"


def place(folder, name, text) -> str:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return str(path)


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_columns_are_guessed_by_name(tmp_path, name):
    guess = look_at(place(tmp_path, name, CSV))
    assert (guess.reader, guess.delimiter, guess.rows) == ("table", ";", 2)
    assert guess.columns == {"user": "Customer-ID", "item": "SKU", "timestamp": "ordered_at"}
    assert guess.examples["SKU"] == ["x1", "x2"]


def test_the_time_is_found_by_its_values_if_it_is_the_only_one(tmp_path):
    log = "user,item,stars,w\n1,a,5,1700000000\n2,b,4,1700000001\n"
    assert look_at(place(tmp_path, "a.csv", log)).columns["timestamp"] == "w"
    two = "user,item,v,w\n1,a,1700000000,1700000000\n"
    with pytest.raises(RecsysError, match=r"is the timestamp by its name, there are: user, item, v, w.*--timestamp"):
        look_at(place(tmp_path, "b.csv", two))
    assert look_at(place(tmp_path, "c.csv", two), {"timestamp": "v"}).columns["timestamp"] == "v"


def test_columns_may_be_chosen(tmp_path):
    path = place(tmp_path, "log.csv", "who,what,user,timestamp\n1,a,z,3\n")
    chosen = look_at(path, {"user": "who", "item": "what", "timestamp": ""}).columns
    assert chosen == {"user": "who", "item": "what", "timestamp": "timestamp"}
    with pytest.raises(RecsysError, match="there is no column 'whom', there are: who, what, user, timestamp"):
        look_at(path, {"user": "whom"})


def test_parquet(tmp_path):
    path = tmp_path / "log.parquet"
    pd.DataFrame({"visitorId": [1, 2], "productId": [3, 4], "ts": [5, 6]}).to_parquet(path)
    guess = look_at(str(path))
    assert guess.columns == {"user": "visitorId", "item": "productId", "timestamp": "ts"}
    assert guess.examples["ts"] == ["5", "6"]


def test_formats_without_a_header(tmp_path):
    review = json.dumps({"reviewerID": "A1", "asin": "B1", "unixReviewTime": 3})
    assert look_at(place(tmp_path, "reviews.json.gz", review + "\n" + review)).reader == "amazon"
    assert look_at(place(tmp_path, "u.data", "1\t5\t3.0\t881250949\n2\t6\t4\t881250950\n")).reader == "movielens"
    assert look_at(place(tmp_path, "ratings.dat", "1::5::3::881250949\n")).reader == "movielens"
    assert look_at(place(tmp_path, "log.txt", "1 5 6 7\n2 6 8\n")).reader == "sequences"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.csv", "\n\n", "is empty"),
        ("binary.csv", "a\x00b", "is no text"),
        ("odd.csv", "a,b\n1,2\n", "no column that is the user by its name"),
        ("broken.parquet", "no parquet", "cannot be read"),
    ],
)
def test_what_is_no_log_is_refused(tmp_path, name, text, message):
    with pytest.raises(RecsysError, match=message):
        look_at(place(tmp_path, name, text))
    with pytest.raises(RecsysError, match="cannot be read"):
        look_at(str(tmp_path / "absent.csv"))


def test_items_need_the_item_column_and_a_title(tmp_path):
    path = place(tmp_path, "items.csv", "sku,Product Name,genre\nx1,Lamp,Light\n")
    assert look_at_items(path, "sku", ",") == {"title": "Product Name", "categories": "genre"}
    with pytest.raises(RecsysError, match="there is no item column 'item', there are: sku, Product Name, genre"):
        look_at_items(path, "item", ",")


def test_an_entry_is_appended_and_the_rest_left_as_it_is(tmp_path):
    path = tmp_path / "datasets.toml"
    before = b'# mine\r\n[a]\nreader = "sample" # keep this'
    path.write_bytes(before)
    columns = {"user": "who is", "item": 'it"em'}
    settings = {"reader": "table", "source": 'x/"odd" \\ name ä.csv', "columns": columns}
    with pytest.raises(RecsysError):
        add_entry(path, "b", {**settings, "columns": {"who is": "user"}})
    assert path.read_bytes() == before
    spec = add_entry(path, "b", settings)
    assert path.read_bytes().startswith(before)
    assert (spec.source, spec.columns.user, spec.columns.item) == (settings["source"], "who is", 'it"em')
    assert list(load_registry(path)) == ["a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == ["datasets.toml"]
    with pytest.raises(RecsysError, match="there is a dataset 'b' already"):
        add_entry(path, "b", settings)
    with pytest.raises(RecsysError, match="may hold letters"):
        add_entry(path, '"b c"', settings)
    assert entry_text("c", {"k_core_users": 3}) == "[c]\nk_core_users = 3\n"
