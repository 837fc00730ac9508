"""One HTML page about a dataset: who leads, how training went, and what interests the models found.

Titles, labels and names come from other people's data, so all of them are escaped; the page loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recsys_dagster.evaluation.leaderboard import Leaderboard, column_title
from recsys_dagster.evaluation.page import lines_html, list_html, page_html, table_html, text

N_USERS, N_PROTOTYPES, N_ITEMS = 6, 20, 8
"""Example users, prototypes a level, and items a list that the page shows."""

MODEL_TITLES = {"larmi": "LARMI", "g2rec": "G2Rec", "sasrec": "SASRec", "popularity": "Popularity"}


def interest_report(
    *,
    dataset: str,
    items: pd.DataFrame,
    leaderboard: Leaderboard,
    training: Mapping[str, pd.DataFrame],
    prototypes: pd.DataFrame,
    user_clusters: pd.DataFrame,
    recommendations: pd.DataFrame,
    interactions: pd.DataFrame | None = None,
    users: Sequence[int] | None = None,
    facts: Mapping[str, object] | None = None,
) -> str:
    """Build the page.

    Args:
        dataset: name of the dataset.
        items: the items table (item_id, title, text, source_key).
        leaderboard: the comparison of the models; other datasets in it are left out.
        training: for each model its `training.parquet` (epoch, loss, validation_recall).
        prototypes: the prototypes table.
        user_clusters: the users' interests found by the clusterer.
        recommendations: the recommendations of any number of models; LARMI and G2Rec are shown.
        interactions: the interactions, to show each example user's latest items.
        users: users to show; unless given, a few spread over those with several interests.
        facts: short facts for the head of the page, for example ``{"users": 1200}``.

    Returns:
        A whole HTML document that makes no request.
    """
    names = ItemNames(items)
    chosen = list(users) if users is not None else example_users(user_clusters, N_USERS)
    sections = {
        "Leaderboard": _leaderboard_html(leaderboard, dataset),
        "Training": _training_html(training),
        "Interest prototypes": _prototypes_html(prototypes, names),
        "Example users": "\n".join(
            _user_html(user, user_clusters, recommendations, interactions, names) for user in chosen
        ),
    }
    told = {"items": f"{len(items):,}", **(facts or {})}
    introduction = "<p>" + " · ".join(f"{text(_figure(value))} {text(name)}" for name, value in told.items()) + "</p>"
    return page_html(f"Interests in {dataset}", sections, introduction)


class ItemNames:
    """What to call an item: its title, else its text, else its key in the source, else its id."""

    def __init__(self, items: pd.DataFrame) -> None:
        columns = [items[name].fillna("").astype(str) for name in ("title", "text", "source_key") if name in items]
        self._names: dict[int, str] = {}
        for item, *candidates in zip(items["item_id"], *columns, strict=True):
            name = next((candidate for candidate in candidates if candidate.strip()), f"item {item}")
            self._names[int(item)] = name if len(name) <= 100 else name[:99] + "…"

    def of(self, items: Sequence[int]) -> list[str]:
        """Names of some items, in their order."""
        return [self._names.get(int(item), f"item {item}") for item in items]


def example_users(user_clusters: pd.DataFrame, n: int) -> list[int]:
    """Up to `n` users spread evenly from the most interests to the fewest, among those with at least two if any.

    >>> example_users(pd.DataFrame({"user_id": [4, 4, 5, 6, 6, 6], "cluster": [0, 1, 0, 0, 1, 2]}), 2)
    [6, 4]
    """
    counts = user_clusters.groupby("user_id")["cluster"].nunique()
    several = counts[counts >= 2] if (counts >= 2).any() else counts
    order = several.sort_index().sort_values(ascending=False, kind="stable").index.to_numpy()
    return [
        int(user) for user in order[np.unique(np.linspace(0, len(order) - 1, min(n, len(order))).round().astype(int))]
    ]


def _leaderboard_html(board: Leaderboard, dataset: str) -> str:
    parts = []
    for standing in board.standings:
        if standing.dataset != dataset:
            continue
        rows = [
            [
                text(MODEL_TITLES.get(model, model)),
                *(f'<span class="best">{text(cell)}</span>' if best else text(cell) for cell, best in cells),
            ]
            for model, cells in standing.cells()
        ]
        columns = ["model", *(column_title(*column) for column in standing.columns)]
        parts.append(f"<h3>{text(standing.title)}</h3>" + table_html(columns, rows, range(1, len(columns))))
        parts += [f'<p class="note">{text(test.sentence())}</p>' for test in standing.tests]
    return "\n".join(parts)


def _training_html(training: Mapping[str, pd.DataFrame]) -> str:
    charts = []
    for column, title in (("loss", "Train loss"), ("validation_recall", "Validation Recall@20")):
        series = {
            MODEL_TITLES.get(model, model): (
                table["epoch"].to_numpy(dtype=np.float64),
                table[column].to_numpy(dtype=np.float64, na_value=np.nan),
            )
            for model, table in training.items()
            if column in table and len(table)
        }
        charts.append(lines_html(title, series, "epoch"))
    return f'<div class="cards">{"".join(charts)}</div>' if any(charts) else ""


def _prototypes_html(prototypes: pd.DataFrame, names: ItemNames) -> str:
    parts = []
    for level, (_, part) in enumerate(prototypes.groupby("level", sort=True)):
        shown = part.sort_values(["size", "prototype_id"], ascending=[False, True]).head(N_PROTOTYPES)
        rows = [
            [
                text(row.label) or f"prototype {row.prototype_id}",
                f"{row.n_items:,}",
                f"{row.size:,.1f}",
                text(" · ".join(names.of(list(row.top_items)[:N_ITEMS]))),
                "new" if row.previous_id < 0 else f"{row.drift:.0%}",
            ]
            for row in _tuples(shown)
        ]
        head = ["label", "items", "size", "top items", "drift"]
        count = (
            f"{len(part):,} prototype{'s' * (len(part) > 1)}"
            if len(part) == len(shown)
            else f"{len(shown)} largest of {len(part):,}"
        )
        gamma = float(part["gamma"].iloc[0])
        summary = f"<summary>Level {level}, resolution {gamma:g}: {count}</summary>"
        opened = " open" if level == 0 else ""
        parts.append(f"<details{opened}>{summary}{table_html(head, rows, (1, 2, 4))}</details>")
    if not parts:
        return ""
    note = "Size is the sum of membership probabilities; drift is the share of the last run's members that left."
    return f'<p class="note">{note}</p>' + "\n".join(parts)


def _user_html(
    user: int,
    user_clusters: pd.DataFrame,
    recommendations: pd.DataFrame,
    interactions: pd.DataFrame | None,
    names: ItemNames,
) -> str:
    own = user_clusters[user_clusters["user_id"] == user]
    cards = ["<h4>Interests found in the train items</h4>"]
    for _, part in own.groupby("cluster", sort=True):
        label = text(part["label"].iloc[0])
        cards.append(f"<div><strong>{label}</strong>{list_html(names.of(part['item_id'].tolist()[:N_ITEMS]))}</div>")
    columns = ["".join(cards)]
    if interactions is not None:
        latest = interactions.loc[interactions["user_id"] == user, "item_id"].tolist()[-N_ITEMS:][::-1]
        columns[0] += "<h4>Latest items</h4>" + list_html(names.of(latest))
    for model in ("larmi", "g2rec"):
        best = recommendations[(recommendations["user_id"] == user) & (recommendations["model"] == model)]
        if len(best):
            listed = names.of(best.sort_values("rank")["item_id"].tolist()[:N_ITEMS])
            columns.append(f"<h4>{MODEL_TITLES[model]} recommends</h4>{list_html(listed, ordered=True)}")
    body = "".join(f'<div class="card">{column}</div>' for column in columns)
    return f'<h3>User {user}</h3><div class="cards">{body}</div>'


def _figure(value: object) -> str:
    if isinstance(value, (float, np.floating)):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)


def _tuples(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples(index=False))
