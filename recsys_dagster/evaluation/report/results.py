"""The sections of figures: who leads, how training went, how the nights moved the prototypes.

Names come from other people's data: all are escaped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from recsys_dagster.evaluation.leaderboard import OUR_MODELS
from recsys_dagster.evaluation.report.charts import Line, lines_html
from recsys_dagster.evaluation.report.names import counted, level_names
from recsys_dagster.evaluation.report.page import bar_html, table_html, text

N_NIGHTS = 14
"""Nights in the table; the charts show all that are given."""

MOVED = "Share of membership that lies elsewhere than the run before."
LINKS = "How well memberships tell a user's next item from a random one."
FIRST_NIGHT = (
    "One clustering of this dataset so far: from the second on, this section shows how far each moved the prototypes."
)


def facts_html(facts: Mapping[str, object]) -> str:
    """Figures in large type."""
    entries = [f"<div><dd>{text(figure(value))}</dd><dt>{text(name)}</dt></div>" for name, value in facts.items()]
    return f'<dl class="facts">{"".join(entries)}</dl>'


def lede(leaderboard: Mapping[str, Any], dataset: str, titles: Mapping[str, str]) -> str:
    """The result in a sentence: who leads, and by how much. Plain text, empty where nothing can be said."""
    for standing in leaderboard["standings"]:
        column = standing["deciding"]
        if standing["dataset"] != dataset or column is None:
            continue
        value = {row["model"]: row["values"][column] for row in standing["models"]}
        ranked = sorted((name for name in value if value[name] is not None), key=lambda name: -value[name])
        if not ranked:
            continue
        best, metric = ranked[0], standing["columns"][column]
        words = f"{titles.get(best, best)} leads with {metric} {value[best]:.4f} in {standing['among']}"
        rival = next((name for name in ranked if (name in OUR_MODELS) != (best in OUR_MODELS)), None)
        if rival is None or not value[rival]:
            return words + "."
        kind = "the best baseline" if best in OUR_MODELS else "the better of our two"
        return f"{words}, {value[best] / value[rival] - 1:.0%} above {titles.get(rival, rival)}, {kind}."
    return ""


def leaderboard_html(leaderboard: Mapping[str, Any], dataset: str, titles: Mapping[str, str]) -> str:
    """One table a candidate set, with a bar under each figure and the paired tests below."""
    parts = []
    for standing in leaderboard["standings"]:
        if standing["dataset"] != dataset:
            continue
        top = np.array([row["values"] for row in standing["models"]], dtype=np.float64)
        most = np.nanmax(np.where(np.isnan(top), 0.0, top), axis=0)
        rows = []
        for row in standing["models"]:
            name = text(titles.get(row["model"], row["model"]))
            cells = [f'<strong class="ours">{name}</strong>' if row["model"] in OUR_MODELS else name]
            for value, largest, (shown, leads) in zip(row["values"], most, row["cells"], strict=True):
                mark = f'<span class="best">{text(shown)}</span>' if leads else text(shown)
                cells.append(mark + bar_html((value or 0.0) / largest if largest > 0 else 0.0))
            rows.append(cells)
        columns = ["Model", *standing["columns"]]
        protocol = f"<small>{text(standing['protocol'])}</small>"
        parts.append(f"<h3>Ranked among {text(standing['among'])} {protocol}</h3>")
        parts.append(table_html(columns, rows, range(1, len(columns))))
        parts += [f'<p class="note">{text(sentence)}</p>' for sentence in standing["tests"]]
    return "\n".join(parts)


def training_html(training: Mapping[str, pd.DataFrame], titles: Mapping[str, str]) -> str:
    """Loss and validation Recall@20 by epoch."""
    charts = []
    for column, title in (("loss", "Train loss"), ("validation_recall", "Validation Recall@20")):
        series = {
            titles.get(model, model): (
                table["epoch"].to_numpy(dtype=np.float64),
                table[column].to_numpy(dtype=np.float64, na_value=np.nan),
            )
            for model, table in training.items()
            if column in table and len(table)
        }
        charts.append(lines_html(title, series, "epoch"))
    return f'<div class="cards two">{"".join(charts)}</div>' if any(charts) else ""


def nights_html(nights: pd.DataFrame, n_levels: int) -> str:
    """How the clustering moved from run to run.

    Args:
        nights: a row a materialization of the memberships, the oldest first: time, and figures by name
            (``level_0_moved_mass`` and so on; NaN where a night has none).
        n_levels: number of levels.
    """
    if nights.empty:
        return ""
    names, runs = level_names(n_levels), np.arange(1, len(nights) + 1)

    def lines(figures: Mapping[str, str]) -> dict[str, Line]:
        there = {title: nights[name] for title, name in figures.items() if name in nights}
        return {title: (runs.astype(np.float64), _floats(column)) for title, column in there.items()}

    def levels(what: str) -> dict[str, Line]:
        return lines({name: f"level_{level}_{what}" for level, name in enumerate(names)})

    charts = [
        lines_html("Moved mass", levels("moved_mass"), "run", MOVED),
        lines_html("Prototypes", levels("prototypes"), "run", "How many there are at each level."),
        lines_html("Soft modularity", levels("q_soft"), "run", "How well the prototypes fit the graph."),
        lines_html("Held-out links", lines({"AUC, soft": "auc_soft", "AUC, hard": "auc_hard"}), "run", LINKS),
    ]
    rows = []
    for run, row in list(zip(runs, nights.to_dict("records"), strict=True))[: -N_NIGHTS - 1 : -1]:
        moved = [row.get(f"level_{level}_moved_mass", np.nan) for level in range(n_levels)]
        changes = [
            sum(_whole(row.get(f"level_{level}_{what}")) for level in range(n_levels)) for what in ("births", "deaths")
        ]
        shares = ["–" if np.isnan(share) else f"{share:.1%}" for share in moved]
        rows.append([str(run), text(f"{row['time']:%Y-%m-%d %H:%M} UTC"), *shares, *map(str, changes)])
    head = ["Run", "Time", *(f"Moved, {name.lower()}" for name in names), "Born", "Ended"]
    table = table_html(head, rows, range(2, len(head)))
    if len(nights) < 2:
        return f'<p class="note">{FIRST_NIGHT}</p>{table}'
    words = f"{counted(len(nights), 'clustering')} of this dataset, the last one on the right."
    return f'<p class="note">{words}</p><div class="cards two">{"".join(charts)}</div>{table}'


def figure(value: object) -> str:
    """A figure as people write it.

    >>> figure(1234), figure(0.12345), figure("x")
    ('1,234', '0.123', 'x')
    """
    if isinstance(value, (float, np.floating)):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, (int, np.integer)) else str(value)


def _floats(column: pd.Series) -> np.ndarray:
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _whole(value: Any) -> int:
    return 0 if value is None or np.isnan(value) else int(value)
