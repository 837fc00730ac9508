from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys_dagster.g2rec.night import LastNight, collapse, hard_labels, row_argmax


def last_night(rows: list[tuple[int, int, int, float]]) -> LastNight:
    table = pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])
    levels = [{"q_soft": 0.5, "largest_share": 0.3}, {"q_soft": 0.1, "largest_share": 0.05}]
    return LastNight(table, 100, [1.0, 10.0], [1.0, 10.0], [0.02, 0.02], levels)


def test_hard_labels_take_the_most_probable_and_the_smaller_of_equals() -> None:
    rows = [(0, 0, 7, 0.4), (0, 0, 3, 0.6), (1, 0, 9, 0.5), (1, 0, 4, 0.5), (2, 1, 1, 1.0), (9, 0, 5, 1.0)]
    labels = hard_labels(last_night(rows).memberships, 4, 0)
    assert labels.tolist() == [3, 4, -1, -1]


def test_memberships_are_carried_as_a_matrix() -> None:
    last = last_night([(0, 0, 10, 0.7), (0, 0, 20, 0.3), (1, 0, 10, 1.0), (3, 0, 30, 1.0), (3, 1, 40, 1.0)])
    carried = last.carried(0, 5)
    np.testing.assert_allclose(carried.toarray(), [[0.7, 0.3, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    assert row_argmax(carried).tolist() == [0, 0, -1, 2, -1]


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"largest_share": 0.81}, "level 0: one prototype holds 81%"),
        ({"q_soft": 0.39}, "level 0: soft modularity is 0.3900, 0.5000 last night"),
    ],
)
def test_a_collapse_is_told(now: dict[str, float], message: str) -> None:
    last = last_night([])
    sound = [{"q_soft": 0.41, "largest_share": 0.8}, {"q_soft": 0.2, "largest_share": 0.01}]
    assert collapse(sound, last, max_share=0.8, max_drop=0.2) == []
    found = collapse([{**sound[0], **now}, sound[1]], last, max_share=0.8, max_drop=0.2)
    assert len(found) == 1
    assert message in found[0]


def test_a_giant_of_last_night_is_no_news() -> None:
    last = last_night([])
    last.levels[0] = {"q_soft": 0.01, "largest_share": 0.95}
    assert collapse([{"q_soft": 0.01, "largest_share": 0.97}], last, max_share=0.8, max_drop=0.2) == []
