import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.evaluation.leaderboard import leaderboard
from recsys_dagster.evaluation.report import example_users, interest_report
from recsys_dagster.evaluation.report.charts import lines_html
from recsys_dagster.evaluation.report.names import ItemNames
from recsys_dagster.evaluation.report.page import json_text

EVIL = "<script>alert('x')</script> & \"quotes\" </script\u2028>"
TRAINING = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.5], "validation_recall": [0.1, np.nan, 0.2]})


class Tags(HTMLParser):
    """Collects tags, addresses and the contents of scripts and styles, and complains of an unclosed tag."""

    VOID = ("meta", "line", "circle", "rect", "input")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.addresses, self.inner, self.handlers = [], [], [], {}, []
        self.policy = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        given = dict(attrs)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if tag not in self.VOID:
            self.open.append(tag)
            self.kind = "data" if given.get("type") == "application/json" else tag

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.inner[self.kind] = self.inner.get(self.kind, "") + data

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    return tags


def report(**changes):
    items = pd.DataFrame(
        {
            "item_id": range(6),
            "source_key": list("abcdef"),
            "title": [EVIL, "Blue mug", "", "Red mug", "Lamp", "Desk"],
            "categories": "",
            "text": [EVIL, "Blue mug", "attribute 17", "Red mug", "Lamp", "Desk"],
            "train_popularity": [9, 1, 4, 1, 0, 2],
        }
    )
    prototypes = pd.DataFrame(
        {
            "prototype_id": [0, 1, 2],
            "level": [0, 1, 1],
            "gamma": [1.0, 10.0, 10.0],
            "parent": [-1, 0, 0],
            "size": [6.0, 4.0, 2.0],
            "n_items": [6, 4, 2],
            "label": [EVIL, "mugs", "desks"],
            "top_items": [[0, 1], [1, 3], [5]],
            "previous_id": [-1, 1, 2],
            "drift": [0.0, 0.25, 0.0],
        }
    )
    coarse = [(item, 0, 0, 1.0) for item in range(6)]
    fine = [(0, 1, 1, 1.0), (1, 1, 1, 0.75), (1, 1, 2, 0.25), (2, 1, 1, 1.0), (3, 1, 1, 0.6), (3, 1, 2, 0.4)]
    fine += [(4, 1, 2, 1.0), (5, 1, 2, 1.0)]
    clusters = pd.DataFrame(
        {"user_id": [7, 7, 7], "cluster": [0, 0, 1], "label": [EVIL, EVIL, "light"], "item_id": [0, 1, 4]}
    )
    recommended = pd.DataFrame(
        {"user_id": 7, "rank": [2, 1, 1], "item_id": [3, 2, 5], "score": 1.0, "model": ["larmi", "larmi", "g2rec"]}
    )
    rows = [
        ("toy<i>", model, "leave_one_out", "full", metric, k, 0, value, 9)
        for model, value in {"larmi": 0.25, "popularity": 0.125}.items()
        for metric, k in [("Recall", 10), ("NDCG", 10)]
    ]
    columns = ["dataset", "model", "protocol", "candidates", "metric", "k", "seed", "value", "n_users"]
    given = {
        "dataset": "toy<i>",
        "items": items,
        "leaderboard": json.loads(json.dumps(leaderboard(pd.DataFrame(rows, columns=columns)).plain())),
        "training": {EVIL: TRAINING},
        "memberships": pd.DataFrame(coarse + fine, columns=["item_id", "level", "prototype_id", "probability"]),
        "prototypes": prototypes,
        "vectors": np.eye(3),
        "overlaps": [{"level": 1, "prototypes": [1, 2], "labels": ["mugs", EVIL], "cosine": 0.3}],
        "user_clusters": clusters,
        "recommendations": recommended,
        "interactions": pd.DataFrame({"user_id": [7, 7], "item_id": [0, 5]}),
        "facts": {"users": 1234, EVIL: EVIL},
        "titles": {"larmi": "LARMI", "popularity": "Popularity", "g2rec": "G2Rec"},
    }
    return interest_report(**{**given, **changes})


def test_untrusted_text_is_escaped_everywhere():
    page = report(user_keys=[EVIL] * 8)
    tags = parse(page)
    # One script of data, one of ours; what is in the titles opened none and closed none.
    assert tags.seen.count("script") == 2
    assert page.lower().count("<script") == 2
    assert page.lower().count("</script") == 2
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;quotes&quot;" in page
    assert "<i>" not in page
    assert tags.handlers == []
    data = json.loads(tags.inner["data"])
    assert data["items"]["name"][0] == " ".join(EVIL.split())
    assert data["prototypes"][0]["label"] == EVIL


def test_page_loads_nothing():
    page = report()
    addresses = parse(page).addresses
    assert addresses
    assert all(re.fullmatch(r"#[a-z-]+", address) for address in addresses)
    for address in ("http://", "https://", "url(", "@import", "import(", "fetch(", "XMLHttpRequest", "WebSocket"):
        assert address not in page
    assert "default-src 'none'" in page


def test_policy_allows_this_script_and_this_style_and_no_other():
    tags = parse(report())
    rules = dict(rule.strip().split(" ", 1) for rule in tags.policy.split(";"))
    assert set(rules) == {"default-src", "style-src", "script-src", "base-uri", "form-action"}
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(tags.inner[kind].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in tags.policy


def test_page_fits_dark_mode_and_telephones():
    page = report()
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page


def test_every_link_leads_to_a_part_of_the_page():
    page = report()
    there = re.findall(r'<section id="([^"]+)">', page)
    assert [address[1:] for address in parse(page).addresses] == there
    assert len(there) == 6


def test_page_shows_every_part():
    page = report()
    for heading in ("Map of interests", "Leaderboard", "Prototypes", "Overlaps", "Example users", "Training"):
        assert f"<h2>{heading}</h2>" in page
    assert '<span class="best">0.2500</span>' in page
    assert "LARMI leads with NDCG@10 0.2500 in the whole catalogue, 100% above Popularity, the best baseline." in page
    assert "Fine <small>resolution 10: 2 prototypes</small>" in page
    assert "4 items · 25% left" in page
    assert ">1,234</dd><dt>users<" in page
    # Between mugs and desks lies the red mug (0.6 * 0.4) before the blue one (0.75 * 0.25).
    assert "<td>Red mug · Blue mug</td>" in page
    larmi = page[page.index("LARMI recommends") : page.index("G2Rec recommends")]
    assert larmi.index("attribute 17") < larmi.index("Red mug")
    assert re.search(r'<h4>Latest items</h4><ul><li><i class="dot h0"></i>Desk</li>', page)


def test_parts_without_content_are_left_out():
    page = report(training={}, users=[], overlaps=[])
    parse(page)
    for heading in ("Training", "Example users", "Overlaps", "Nights"):
        assert f"<h2>{heading}</h2>" not in page


def test_the_same_tables_give_the_same_page():
    assert report() == report()


def test_a_baseline_that_leads_is_told():
    rows = [("d", model, "leave_one_out", "full", "NDCG", 10, 0, value, 9) for model, value in
            {"sasrec": 0.5, "larmi": 0.4, "g2rec": 0.25}.items()]  # fmt: skip
    columns = ["dataset", "model", "protocol", "candidates", "metric", "k", "seed", "value", "n_users"]
    page = report(dataset="d", leaderboard=leaderboard(pd.DataFrame(rows, columns=columns)).plain())
    assert "sasrec leads with NDCG@10 0.5000 in the whole catalogue, 25% above LARMI, the better of our two." in page


def nights(n):
    time = pd.date_range("2026-11-01 02:00", periods=n, tz="UTC")
    moved = [np.nan, 0.125, 0.5][:n]
    return pd.DataFrame(
        {"time": time, "level_0_moved_mass": moved, "level_1_births": [np.nan, 2.0, 1.0][:n], "auc_soft": 0.7}
    )


def test_nights_are_drawn_and_listed_the_last_one_first():
    page = report(nights=nights(3))
    part = page[page.index('<section id="nights">') :]
    rows = re.findall(r'<tr><th scope="row">(\d)</th><td>([^<]*) UTC</td>(.*?)</tr>', part)
    assert [row[0] for row in rows] == ["3", "2", "1"]
    assert rows[0][1] == "2026-11-03 02:00"
    assert re.findall(r">([^<]+)</td>", rows[0][2]) == ["50.0%", "–", "1", "0"]
    assert re.findall(r">([^<]+)</td>", rows[2][2]) == ["–", "–", "0", "0"]
    assert "Moved mass" in part
    assert "Held-out links" in part


def test_one_night_is_no_line():
    part = report(nights=nights(1)).partition('<section id="nights">')[2]
    assert "One clustering of this dataset so far" in part
    assert "Held-out links" not in part
    assert "<h2>Nights</h2>" not in report(nights=pd.DataFrame())


def test_names_fall_back_to_key_and_id():
    names = ItemNames(
        pd.DataFrame({"item_id": [0, 1], "source_key": ["k", ""], "title": ["", None], "text": ["", " "]})
    )
    assert names.of([0, 1, 9]) == ["k", "item 1", "item 9"]


def test_example_users_of_an_empty_table():
    assert example_users(pd.DataFrame({"user_id": [], "cluster": []}), 3) == []


@pytest.mark.parametrize("value", [EVIL, ["</SCRIPT>"], {"<!--": "-->"}, "]]>", "\u2029"])
def test_data_cannot_end_its_script(value):
    inside = json_text(value)
    assert not re.search("[<>&\u2028\u2029]", inside)
    assert json.loads(inside) == value


def test_lines_skip_what_is_not_finite():
    chart = lines_html("loss", {"a": (np.array([1.0, 2, 3]), np.array([1.0, np.nan, 3]))}, "epoch")
    points = re.search(r'points="([^"]*)"', chart).group(1)
    assert len(points.split()) == 2
    assert "nan" not in chart
    assert lines_html("loss", {"a": (np.array([1.0]), np.array([np.nan]))}, "epoch") == ""
