import base64
import re

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.evaluation import plots

TRAINING = pd.DataFrame({"epoch": [1, 2, 3], "loss": [3.0, 2.0, 1.5], "validation_recall": [0.1, np.nan, 0.2]})

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
