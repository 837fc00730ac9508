import base64
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.evaluation import plots
from recsys_dagster.evaluation.leaderboard import leaderboard
from recsys_dagster.evaluation.page import lines_html
from recsys_dagster.evaluation.report import ItemNames, example_users, interest_report

EVIL = "<script>alert('x')</script> & \"quotes\""
TRAINING = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.5], "validation_recall": [0.1, np.nan, 0.2]})


class Tags(HTMLParser):
    """Collects the tags and the addresses of a page, and complains of an unclosed tag."""

    VOID = ("meta", "line", "circle")

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.addresses = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

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
    clusters = pd.DataFrame(
        {"user_id": [7, 7, 7], "cluster": [0, 0, 1], "label": [EVIL, EVIL, "light"], "item_id": [0, 1, 4]}
    )
    recommended = pd.DataFrame(
        {
            "user_id": [7, 7, 7],
            "rank": [2, 1, 1],
            "item_id": [3, 2, 5],
            "score": 1.0,
            "model": ["larmi", "larmi", "g2rec"],
        }
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
        "leaderboard": leaderboard(pd.DataFrame(rows, columns=columns)),
        "training": {EVIL: TRAINING},
        "prototypes": prototypes,
        "user_clusters": clusters,
        "recommendations": recommended,
        "interactions": pd.DataFrame({"user_id": [7, 7], "item_id": [0, 5]}),
        "facts": {"users": 1234, EVIL: EVIL},
    }
    return interest_report(**{**given, **changes})


def test_untrusted_text_is_escaped_everywhere():
    page = report()
    assert "script" not in parse(page).seen
    assert "<script" not in page.lower()
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;quotes&quot;" in page
    assert "<i>" not in page


def test_page_loads_nothing():
    page = report()
    addresses = parse(page).addresses
    assert addresses
    assert all(address.startswith("#part") for address in addresses)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page


def test_page_fits_dark_mode_and_telephones():
    page = report()
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page


def test_page_shows_every_part():
    page = report()
    for heading in ("Leaderboard", "Training", "Interest prototypes", "Example users"):
        assert f">{heading}</h2>" in page
    assert '<span class="best">0.2500</span>' in page
    assert "Level 1, resolution 10: 2 prototypes" in page
    assert "Blue mug · Red mug" in page
    assert "25%" in page
    assert "1,234 users" in page
    larmi = page[page.index("LARMI recommends") : page.index("G2Rec recommends")]
    assert larmi.index("attribute 17") < larmi.index("Red mug")
    assert "<h4>Latest items</h4><ul><li>Desk</li>" in page


def test_parts_without_content_are_left_out():
    page = report(training={}, users=[])
    parse(page)
    assert ">Training<" not in page
    assert ">Example users<" not in page


def test_names_fall_back_to_key_and_id():
    names = ItemNames(
        pd.DataFrame({"item_id": [0, 1], "source_key": ["k", ""], "title": ["", None], "text": ["", " "]})
    )
    assert names.of([0, 1, 9]) == ["k", "item 1", "item 9"]


def test_example_users_of_an_empty_table():
    assert example_users(pd.DataFrame({"user_id": [], "cluster": []}), 3) == []


def test_lines_skip_what_is_not_finite():
    chart = lines_html("loss", {"a": (np.array([1.0, 2, 3]), np.array([1.0, np.nan, 3]))}, "epoch")
    points = re.search(r'points="([^"]*)"', chart).group(1)
    assert len(points.split()) == 2
    assert "nan" not in chart
    assert lines_html("loss", {"a": (np.array([1.0]), np.array([np.nan]))}, "epoch") == ""


FIGURES = {
    "one model": lambda: plots.training_curves(TRAINING),
    "two models": lambda: plots.training_curves({"a": TRAINING, "b": TRAINING}),
    "no epoch": lambda: plots.training_curves(TRAINING.iloc[:0]),
    "degrees": lambda: plots.degree_distribution([0, 1, 1, 2, 50]),
    "no degree": lambda: plots.degree_distribution([]),
    "histogram": lambda: plots.histogram([1, 2, 2, np.nan], "sizes", "items"),
    "long tail": lambda: plots.histogram(np.arange(1000) ** 2, "sizes", "items", log=True),
    "no value": lambda: plots.histogram([], "sizes", "items"),
    "bars": lambda: plots.metric_bars(pd.DataFrame({"MRR": [0.1, 0.2]}, index=["a", "b"]), "models"),
    "bars with spread": lambda: plots.metric_bars(
        pd.DataFrame({"MRR": [0.1]}, index=["a"]), "models", pd.DataFrame({"MRR": [0.01]}, index=["a"])
    ),
    "cover": lambda: plots.cover_curves({"greedy": ([1, 2, 3], [0.5, 0.7, 0.8])}, budget=2, elbow=1),
    "ranked": lambda: plots.ranked([3.0, 1.0], "values", "value"),
    "nothing ranked": lambda: plots.ranked([], "values", "value"),
    "square": lambda: plots.square(np.eye(3), "overlap", "Jaccard index"),
    "one row": lambda: plots.square(np.eye(1), "overlap", "Jaccard index"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_small_pictures(name):
    picture = plots.png(FIGURES[name]())
    assert picture.startswith(b"\x89PNG")
    assert (int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])) == (600, 300)
    assert len(picture) < 60_000


def test_markdown_holds_the_picture_and_words_for_it():
    figure = plots.histogram([1, 2], "t", "x")
    found = re.fullmatch(r"!\[(.*)\]\(data:image/png;base64,(.*)\)", plots.png_markdown(figure, "sizes [of\nlists]"))
    assert found.group(1) == "sizes (of lists)"
    assert base64.b64decode(found.group(2)).startswith(b"\x89PNG")


def test_curves_show_what_they_were_given():
    left, right = plots.training_curves({"a": TRAINING, "b": TRAINING.drop(columns="loss")}).axes
    assert [line.get_label() for line in left.lines] == ["a"]
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [1, 3])
    assert list(right.lines[1].get_xdata()) == [3]


def test_degrees_are_counted_from_above():
    line = plots.degree_distribution([0, 1, 1, 2, 50]).axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 2, 50]
    assert list(line.get_ydata()) == [4, 2, 1]


def test_cover_curves_mark_budget_and_elbow():
    (axis,) = plots.cover_curves({"greedy": ([1, 2], [0.5, 0.7]), "exact": ([2], [0.8])}, budget=2, elbow=1).axes
    assert [line.get_label() for line in axis.get_lines()] == ["greedy", "exact", "budget 2", "elbow 1"]
    assert list(axis.get_lines()[0].get_ydata()) == [0.5, 0.7]
    assert [list(line.get_xdata()) for line in axis.get_lines()[2:]] == [[2, 2], [1, 1]]


def test_a_square_leaves_its_diagonal_out_and_its_argument_alone():
    values = np.array([[1.0, 0.5], [0.5, 1.0]])
    shown = plots.square(values, "overlap", "Jaccard index").axes[0].images[0].get_array()
    np.testing.assert_array_equal(shown.filled(np.nan), [[np.nan, 0.5], [0.5, np.nan]])
    assert values[0, 0] == 1.0


def test_nights_are_one_line_a_measure_and_end_with_tonight():
    figure = plots.over_nights({"auc_soft": [0.6, None, 0.65], "level_0_q_soft": [0.4, 0.41, 0.42]}, "Nights")
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.get_lines()] == ["auc_soft", "level_0_q_soft"]
    assert axis.get_lines()[0].get_xdata().tolist() == [-2, -1, 0]
    np.testing.assert_array_equal(axis.get_lines()[0].get_ydata(), [0.6, np.nan, 0.65])
    assert plots.png(figure).startswith(b"\x89PNG")
