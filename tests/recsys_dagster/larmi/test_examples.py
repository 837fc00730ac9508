"""The table of examples: what it shows, and that no title can do more than be read."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from recsys_dagster.larmi.examples import example_table, inert


def _clusters(n_users: int) -> pd.DataFrame:
    rows = [(user, cluster, f"label {cluster}", item, "openai") for user in range(n_users) for cluster, item in ((0, 0),
            (0, 1), (1, 2))]  # fmt: skip
    return pd.DataFrame(rows, columns=["user_id", "cluster", "label", "item_id", "source"])


def _items(titles: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"item_id": np.arange(len(titles)), "title": titles, "text": [f"text {k}" for k in range(3)]})


def test_ten_users_from_first_to_last() -> None:
    lines = example_table(_clusters(91), _items(["tent", "lamp", ""])).splitlines()[2:]
    assert len(lines) == 20
    assert lines[0] == "| 0 | `label 0` | 2 | `tent`, `lamp` | openai |"
    assert lines[1] == "| 0 | `label 1` | 1 | `text 2` | openai |"
    assert [line.split("|")[1].strip() for line in lines[::2]] == [str(user) for user in range(0, 91, 10)]
    assert len(example_table(_clusters(0), _items(["", "", ""])).splitlines()) == 2


@given(st.text(max_size=100))
def test_foreign_text_stays_in_its_code_span(text: str) -> None:
    shown = inert(text)
    assert shown == "-" or (shown[0] == shown[-1] == "`" and len(shown) > 2)
    assert "`" not in shown[1:-1]
    assert "|" not in shown
    assert len(shown.splitlines()) == 1
