import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from recsys_dagster.data.readers import RawLog, read_raw
from recsys_dagster.data.readers.movielens import GENRES_100K
from recsys_dagster.data.registry import DatasetSpec
from recsys_dagster.errors import RecsysError

NAMES = {
    "sequences": ("log.txt", "items.json"),
    "amazon": ("reviews.json", "meta.json"),
    "movielens": ("u.data", "u.item"),
    "table": ("log.csv", "items.csv"),
}


def read(folder: Path, reader: str, log: str, items: str | None = None, **settings) -> RawLog:
    source, items_source = NAMES[reader]
    (folder / source).write_bytes(log.encode("latin-1" if reader == "movielens" else "utf-8"))
    entry = {"name": "mine", "reader": reader, "source": source, "folder": folder, **settings}
    if items is not None:
        (folder / items_source).write_bytes(items.encode("latin-1" if reader == "movielens" else "utf-8"))
        entry["items_source"] = items_source
    return read_raw(DatasetSpec.model_validate(entry), None, folder)


def rows(raw: RawLog) -> list[tuple[str, str, int]]:
    return list(raw.interactions.itertuples(index=False, name=None))


def review(user: str, item: str, time: int) -> str:
    return json.dumps({"reviewerID": user, "asin": item, "unixReviewTime": time, "overall": 5.0})


def test_sequences(tmp_path):
    (tmp_path / "attributes.json").write_text('{"7": [17, 4], "9": []}')
    raw = read(tmp_path, "sequences", "u1 7 9 7\nu2 9", attributes_source="attributes.json")
    assert rows(raw) == [("u1", "7", 0), ("u1", "9", 1), ("u1", "7", 2), ("u2", "9", 0)]
    assert raw.interactions.dtypes.astype(str).to_dict() == {"user": "str", "item": "str", "timestamp": "int64"}
    assert raw.items.to_dict("list") == {
        "item": ["7", "9"], "title": ["", ""], "categories": ["", ""], "text": ["attribute_17 attribute_4", ""],
    }  # fmt: skip
    assert raw.truth is None


def test_sequences_with_titles_under_shifted_keys(tmp_path):
    items = {"0": {"title": "Sal&#39;s  Pizza", "description": "Pizza, Food"}, "1": {"title": "Cigars"}}
    raw = read(tmp_path, "sequences", "1 2 1\n", json.dumps(items), item_key_offset=-1)
    assert raw.items.to_dict("list") == {
        "item": ["2", "1"], "title": ["Cigars", "Sal's Pizza"], "categories": ["", "Pizza, Food"],
        "text": ["Cigars", "Sal's Pizza. Pizza, Food"],
    }  # fmt: skip


def test_amazon_keeps_the_earliest_of_repeated_reviews(tmp_path):
    log = "\n".join([review("a", "x", 30), review("b", "x", 5), review("a", "y", 20), review("a", "x", 10)])
    edition_2018 = json.dumps({"asin": "x", "title": "Soap &amp; Brush", "category": ["Beauty", "Soap"]})
    edition_2014 = "{'asin': 'y', 'title': 'Comb', 'categories': [['Beauty', 'Hair'], ['Beauty', 'Tools']]}"
    script = json.dumps({"asin": "z", "title": "not reviewed"})
    raw = read(tmp_path, "amazon", log, "\n".join([edition_2018, edition_2014, script]))
    assert rows(raw) == [("b", "x", 5), ("a", "y", 20), ("a", "x", 10)]
    assert raw.items["title"].tolist() == ["Soap & Brush", "Comb"]
    assert raw.items["categories"].tolist() == ["Beauty, Soap", "Beauty, Hair, Tools"]
    assert len(read(tmp_path, "amazon", log, repeats="keep").interactions) == 4


def test_amazon_script_titles_and_repeated_items(tmp_path):
    items = "\n".join(
        [json.dumps({"asin": "x", "title": "var aPageStart = (new Date()).getTime();", "category": ["Beauty"]}),
         json.dumps({"asin": "x", "title": "second"})]
    )  # fmt: skip
    raw = read(tmp_path, "amazon", review("a", "x", 1), items, duplicate_items="first")
    assert raw.items.to_dict("list") == {"item": ["x"], "title": [""], "categories": ["Beauty"], "text": ["Beauty"]}


def test_movielens_100k_and_1m(tmp_path):
    flags = "|".join("1" if genre in ("Comedy", "Drama") else "0" for genre in GENRES_100K)
    unknown = "|".join("1" if genre == "unknown" else "0" for genre in GENRES_100K)
    items = f"242|Caf\xe9 Noir (1996)|24-Jan-1997||http://x|{flags}\n302|Odd|||x|{unknown}\n"
    raw = read(tmp_path, "movielens", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n", items)
    assert rows(raw) == [("196", "242", 881250949), ("186", "302", 891717742)]
    assert raw.items["title"].tolist() == ["Café Noir (1996)", "Odd"]
    assert raw.items["categories"].tolist() == ["Comedy, Drama", ""]
    raw = read(tmp_path, "movielens", "1::11::5::978300760\n", "11::Am\xe9lie (2001)::Comedy|Romance\n")
    assert rows(raw) == [("1", "11", 978300760)]
    assert raw.items["text"].tolist() == ["Amélie (2001). Comedy, Romance"]


def test_table_csv_keeps_keys_as_text(tmp_path):
    raw = read(
        tmp_path, "table", "when,user,item\n5,007,NA\n3,7,x\n", 'item,title\nNA,"a, b\nc"\nx,\n',
        columns={"timestamp": "when"},
    )  # fmt: skip
    assert rows(raw) == [("007", "NA", 5), ("7", "x", 3)]
    assert raw.items["title"].tolist() == ["a, b c", ""]


def test_table_dates_become_seconds(tmp_path):
    raw = read(tmp_path, "table", "user;item;timestamp\na;x;1970-01-02\na;y;1970-01-01T01:00:00+00:00\n", delimiter=";")
    assert raw.interactions["timestamp"].tolist() == [86_400, 3_600]


def test_table_parquet(tmp_path):
    when = pd.to_datetime(["1970-01-01 00:00:07", "1970-01-01 00:00:03"])
    pd.DataFrame({"user": [1, 1], "item": ["x", "y"], "timestamp": when}).to_parquet(tmp_path / "log.parquet")
    items = pd.DataFrame({"item": ["x", "y"], "title": ["X", None], "categories": [["p", "q"], []]})
    items.to_parquet(tmp_path / "items.parquet")
    packed = tmp_path / "packed.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "log.parquet").read_bytes()))
    for source in ("log.parquet", "packed.parquet"):
        entry = {"name": "mine", "reader": "table", "source": source, "items_source": "items.parquet"}
        raw = read_raw(DatasetSpec.model_validate(entry), tmp_path, tmp_path)
        assert rows(raw) == [("1", "x", 7), ("1", "y", 3)]
        assert raw.items["text"].tolist() == ["X. p, q", ""]


def test_earliest_of_repeats_is_a_setting_of_every_reader(tmp_path):
    log = "user,item,timestamp\na,x,9\na,x,2\na,x,2\nb,x,1\n"
    assert rows(read(tmp_path, "table", log, repeats="earliest")) == [("a", "x", 2), ("b", "x", 1)]


SPARE_FLAGS = "|".join("0" * len(GENRES_100K))
MISTAKES = [
    ("sequences", "1 2 3\n2\n", None, {}, ["log.txt, line 2", "unreadable: '2'"]),
    ("sequences", "1 2 3\n\n2 3\n", None, {}, ["log.txt, line 2", "unreadable"]),
    ("sequences", "1,2,3\n", None, {}, ["log.txt, line 1", "separated by spaces"]),
    ("sequences", "1 2\n2 3\n1 4\n", None, {}, ["log.txt, line 3", "user '1' has a line above"]),
    ("sequences", "", None, {}, ["log.txt", "the file is empty"]),
    ("sequences", "1 2\n", "[1]", {}, ["items.json, line 1", "expected one JSON object, found a list"]),
    ("sequences", "1 2\n", '{"2": {"title": "a"},\n "3" }', {}, ["items.json, line 2", "not JSON"]),
    ("sequences", "1 2\n", '{"2": {"title": "a"},\n"2": {"title": "b"}}', {}, ["items.json, line 2", "'2' stands"]),
    ("sequences", "1 2\n", '{"2": {"name": "a"}}', {}, ["items.json", "key '2'", '"title"']),
    ("sequences", "1 2\n", '{"3": {"title": "a"}}', {}, ["items.json", "none of the log's 1 items (such as '2')"]),
    ("sequences", "1 b2\n", '{"b2": {"title": "a"}}', {"item_key_offset": 1}, ["item_key_offset", "'b2'"]),
    ("amazon", review("a", "x", 1) + "\n{oops", None, {}, ["reviews.json, line 2", "not a JSON object"]),
    ("amazon", "[1]\n", None, {}, ["reviews.json, line 1", "not a JSON object"]),
    ("amazon", '{"reviewerID": "a", "unixReviewTime": 1}', None, {}, ["reviews.json, line 1", "lacks 'asin'"]),
    ("amazon", review("a", "x", 1).replace(": 1,", ': "noon",'), None, {}, ["line 1", "unixReviewTime is 'noon'"]),
    ("amazon", review("a", "x", 1), '{"title": "t"}', {}, ["meta.json, line 1", "lacks 'asin'"]),
    ("amazon", review("a", "x", 1), '{"asin": "x"}\n{"asin": "x"}', {}, ["meta.json, line 2", "item 'x' has"]),
    ("movielens", "1\t2\t3\t4\n1\t2\t3\n", None, {}, ["u.data, line 2", "unreadable"]),
    ("movielens", "1\t2\t3\tx\n", None, {}, ["u.data, line 1", "unreadable"]),
    ("movielens", "1\t2\t3\t4\n1\t2\t5\t4\n", None, {}, ["u.data, line 2", "user '1', item '2', timestamp 4"]),
    ("movielens", "1\t2\t3\t4\n", "2|Title|x\n", {}, ["u.item, line 1", "expected 24 fields"]),
    ("movielens", "1\t2\t3\t4\n", f"2|T|||x|{SPARE_FLAGS}\n2|T|||x|{SPARE_FLAGS}\n", {}, ["u.item, line 2"]),
    ("table", "user,item\na,x\n", None, {}, ["log.csv, line 1", "no column 'timestamp'", "user, item"]),
    ("table", "user,item,timestamp\na,x,1\na,,2\n", None, {}, ["log.csv, line 3", "column 'item' is empty"]),
    ("table", "user,item,timestamp\na,x,1\na,y\n", None, {}, ["log.csv, line 3", "column 'timestamp'"]),
    ("table", "user,item,timestamp\na,x,1\na,y,2,3\n", None, {}, ["log.csv, line 3", "unreadable"]),
    ("table", "user,item,timestamp\na,x,1,5\na,y,2,3\n", None, {}, ["log.csv", "unreadable"]),
    ("table", "user,item,timestamp\na,x,1\na,y,soon\n", None, {}, ["log.csv, line 3", "holds 'soon'"]),
    ("table", "user,item,timestamp\na,x,1.5\n", None, {}, ["log.csv, line 2", "holds '1.5'"]),
    ("table", "user,item,timestamp\na,x,2020-01-01\nb,x,later\n", None, {}, ["log.csv, line 3", "holds 'later'"]),
    ("table", 'user,item,timestamp\n"a\nb",x,1\n\nb,x,1\nb,x,1\n', None, {}, ["log.csv, line 6", "item 'x'", "twice"]),
    ("table", "user,item,timestamp\n", None, {}, ["log.csv", "no row"]),
    ("table", "", None, {}, ["log.csv", "unreadable"]),
    ("table", "user,item,timestamp\na,x,1\n", "item,name\nx,t\n", {}, ["items.csv, line 1", "no column 'title'"]),
    ("table", "user,item,timestamp\na,x,1\n", "item,title\nx,t\nx,t\n", {}, ["items.csv, line 3", "'x' has"]),
    ("table", "user,item,timestamp\na,x,1\n", "item,title\nx,t\n", {"columns": {"categories": "kind"}}, ["'kind'"]),
    ("table", "user,item,timestamp\na,x,1\n", "item,title\ny,t\n", {}, ["items.csv", "none of the log's 1 items"]),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "log", "items", "settings", "parts"), MISTAKES)
def test_every_mistake_is_one_line_with_file_and_line(tmp_path, reader, log, items, settings, parts):
    with pytest.raises(RecsysError) as caught:
        read(tmp_path, reader, log, items, **settings)
    message = str(caught.value)
    assert "\n" not in message
    for part in ["dataset 'mine'", "To mend:", *parts]:
        assert part in message


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "log.txt").write_bytes(b"1 2\n2 \xff\n")
    spec = DatasetSpec.model_validate({"name": "mine", "reader": "sequences", "source": "log.txt"})
    with pytest.raises(RecsysError, match=r"log\.txt, line 2: not utf-8 text \(byte 0xff\)"):
        read_raw(spec, tmp_path, tmp_path)
    table = DatasetSpec.model_validate({"name": "mine", "reader": "table", "source": "log.txt"})
    with pytest.raises(RecsysError, match=r"log\.txt: not UTF-8 text"):
        read_raw(table, tmp_path, tmp_path)


def test_a_gzip_file_cut_short(tmp_path):
    packed = gzip.compress(b"".join(b"%d %d %d\n" % (n, n + 1, n * 7919 % 1000) for n in range(20_000)))
    (tmp_path / "log.txt.gz").write_bytes(packed[: len(packed) // 2])
    spec = DatasetSpec.model_validate({"name": "mine", "reader": "sequences", "source": "log.txt"})
    with pytest.raises(RecsysError, match=r"log\.txt\.gz, line [\d,]+: the gzip file ends or breaks"):
        read_raw(spec, tmp_path, tmp_path)


def test_attributes_of_the_wrong_form(tmp_path):
    (tmp_path / "attributes.json").write_text('{"7": 17}')
    with pytest.raises(RecsysError, match=r"attributes\.json: item '7' has 17, expected a list"):
        read(tmp_path, "sequences", "1 7\n", attributes_source="attributes.json")
