"""Compare models: mean and spread over seeds, the best in bold, and a paired test against the best baseline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from recsys_dagster.evaluation.protocol import FULL, deciding_k

OUR_MODELS = ("larmi", "g2rec")
"""Models that are compared with the best of the others."""

GROUP = ["dataset", "protocol", "candidates"]

COLUMNS = {
    "leave_one_out": [("Recall", 1), ("Recall", 5), ("Recall", 10), ("NDCG", 5), ("NDCG", 10), ("MRR", 0)],
    "chronological_622": [("Recall", 20), ("NDCG", 20), ("HR", 20), ("Recall", 50), ("NDCG", 50), ("HR", 50)],
}
"""What the tables show, after the papers' tables; the JSON rows have every metric."""

CANDIDATE_TITLES = {FULL: "the whole catalogue", "sampled_99": "99 uniform negatives"}


@dataclass(frozen=True)
class PairedTest:
    """Comparison of two models over the same users (paired t-test, two-sided, not corrected for several tests).

    The interval says how sure the difference is for other users of the same kind. It says nothing of other training
    seeds: for that there is the spread.

    Attributes:
        model: the model tested.
        baseline: the model it is compared with.
        metric: what was measured of each user, for example ``"NDCG@10"``.
        difference: mean over users of the model's value less the baseline's.
        low: lower end of the 95 % interval of the difference.
        high: upper end of it.
        p_value: probability of a difference at least as large if there were none.
        n_users: number of users.
    """

    model: str
    baseline: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    n_users: int

    def sentence(self) -> str:
        """The test in one line of text."""
        return (
            f"{self.model} against {self.baseline} (the best baseline): {self.metric} {self.difference:+.4f} "
            f"(95 % interval {self.low:+.4f} to {self.high:+.4f}, {p_text(self.p_value)}, {self.n_users:,} users)"
        )


@dataclass(frozen=True)
class Standing:
    """One table: a dataset under one protocol with one candidate set.

    Attributes:
        dataset: name of the dataset.
        protocol: name of the split protocol.
        candidates: name of the candidate set.
        columns: (metric, k) of each column.
        values: mean over seeds, index model (best first), one column a pair of `columns`.
        spreads: standard deviation over seeds, laid out like `values`; NaN with one seed.
        n_seeds: seeds of each model, in the order of `values`.
        tests: the paired tests.
    """

    dataset: str
    protocol: str
    candidates: str
    columns: list[tuple[str, int]]
    values: pd.DataFrame
    spreads: pd.DataFrame
    n_seeds: list[int]
    tests: list[PairedTest] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Dataset, protocol and candidate set in words."""
        return (
            f"{self.dataset} ({self.protocol}), ranked among {CANDIDATE_TITLES.get(self.candidates, self.candidates)}"
        )

    def cells(self) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
        """For each model its name and, for each column, the text and whether it is the best of the column."""
        shown = self.values.round(4)
        best = shown.max()
        for model in self.values.index:
            row = []
            for column in self.columns:
                value, spread = shown.loc[model, column], self.spreads.loc[model, column]
                text = "" if np.isnan(value) else f"{value:.4f}" + ("" if np.isnan(spread) else f" ± {spread:.4f}")
                row.append((text, bool(value == best[column])))
            yield str(model), row

    def plain(self) -> dict[str, Any]:
        """The table as plain values: what it compares, its columns, a row a model, the tests as sentences.

        `deciding` is the place of the column that the models are sorted by; None where the table lacks it.
        """
        deciding = ("NDCG", deciding_k(self.protocol))
        rows = self.values.to_numpy(dtype=np.float64).tolist()
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "among": CANDIDATE_TITLES.get(self.candidates, self.candidates),
            "columns": [column_title(*column) for column in self.columns],
            "deciding": self.columns.index(deciding) if deciding in self.columns else None,
            "models": [
                {
                    "model": model,
                    "values": [None if np.isnan(value) else value for value in values],
                    "cells": [[text, best] for text, best in cells],
                }
                for values, (model, cells) in zip(rows, self.cells(), strict=True)
            ],
            "tests": [test.sentence() for test in self.tests],
        }


@dataclass(frozen=True)
class Leaderboard:
    """The comparison as text and as rows.

    Attributes:
        markdown: one table a dataset and candidate set.
        rows: every metric as plain values ready for JSON: dataset, model, protocol, candidates, metric, k, value (mean
            over seeds), spread (sample standard deviation over seeds, None with one), n_seeds, n_users.
        standings: the tables that the markdown shows.
    """

    markdown: str
    rows: list[dict[str, Any]]
    standings: list[Standing]

    def plain(self) -> dict[str, Any]:
        """The whole comparison as plain values ready for JSON: markdown, rows, and the standings for other pages."""
        return {
            "markdown": self.markdown,
            "rows": self.rows,
            "standings": [standing.plain() for standing in self.standings],
        }

    def json(self) -> str:
        """The rows as a JSON list."""
        return json.dumps(self.rows, indent=1, allow_nan=False)


def leaderboard(metrics: pd.DataFrame, per_user: pd.DataFrame | None = None) -> Leaderboard:
    """Build the leaderboard from the tidy `metrics` of any number of datasets, models and seeds.

    Models are sorted by the deciding metric, NDCG@10 with one target a user and NDCG@20 with several, best first;
    ties keep the order of the names.

    Args:
        metrics: columns dataset, model, protocol, candidates, metric, k, seed, value, n_users. A row that is there
            twice (same names, k and seed) counts once, the last one.
        per_user: the per-user values of `Evaluation.per_user`, for the paired tests; no tests without them.

    Returns:
        Empty markdown and rows for empty metrics.
    """
    if not len(metrics):
        return Leaderboard("", [], [])
    keys = [*GROUP, "model", "metric", "k"]
    single = metrics.drop_duplicates([*keys, "seed"], keep="last")
    summary = (
        single.groupby(keys, sort=False)
        .agg(value=("value", "mean"), spread=("value", "std"), n_seeds=("seed", "nunique"), n_users=("n_users", "max"))
        .reset_index()
    )
    standings = [
        _standing(part, paired_tests(_select(per_user, part), metrics=part) if per_user is not None else [])
        for _, part in sorted(summary.groupby(GROUP, sort=False), key=lambda pair: (*pair[0][:2], pair[0][2] != FULL))
    ]
    return Leaderboard("\n\n".join(markdown_table(table) for table in standings), _rows(summary, standings), standings)


def paired_tests(per_user: pd.DataFrame, metrics: pd.DataFrame | None = None) -> list[PairedTest]:
    """Test each of our models against the best baseline, over the users that both have.

    Args:
        per_user: per-user values of one dataset, protocol, candidate set and metric; a user's value is the mean over
            the seeds.
        metrics: rows model, metric, k, value that tell the best baseline by the same metric; by the per-user means
            unless given.

    Returns:
        One test for each of our models, in the order of `OUR_MODELS`; none without a baseline.
    """
    if not len(per_user):
        return []
    metric, k = str(per_user["metric"].iloc[0]), int(per_user["k"].iloc[0])
    table = per_user.pivot_table(index="user_id", columns="model", values="value", aggfunc="mean")
    means = table.mean().astype("float64")
    if metrics is not None:
        deciding = metrics[(metrics["metric"] == metric) & (metrics["k"] == k)].set_index("model")["value"]
        means.update(deciding)
    baselines = [model for model in table.columns if model not in OUR_MODELS]
    if not baselines:
        return []
    baseline = max(baselines, key=lambda name: means[name])
    return [
        _paired_test(table[[model, baseline]].dropna(), model, baseline, f"{metric}@{k}" if k else metric)
        for model in OUR_MODELS
        if model in table.columns
    ]


def markdown_table(standing: Standing) -> str:
    """One table as markdown, best values in bold, with the paired tests below."""
    seeds = sorted(set(standing.n_seeds))
    note = "" if seeds == [1] else f" Mean ± standard deviation over {' or '.join(map(str, seeds))} seeds."
    lines = [f"### {standing.title}", ""]
    lines += [f"{note.strip()}", ""] if note else []
    lines.append("| model | " + " | ".join(column_title(*column) for column in standing.columns) + " |")
    lines.append("|---|" + "---:|" * len(standing.columns))
    for model, cells in standing.cells():
        lines.append(f"| {model} | " + " | ".join(f"**{text}**" if best else text for text, best in cells) + " |")
    if standing.tests:
        lines += ["", *(f"- {test.sentence()}" for test in standing.tests)]
    return "\n".join(lines)


def column_title(metric: str, k: int) -> str:
    """The name of a column.

    >>> column_title("NDCG", 10), column_title("MRR", 0)
    ('NDCG@10', 'MRR')
    """
    return f"{metric}@{k}" if k else metric


def p_text(p_value: float) -> str:
    """A p-value as text.

    >>> p_text(0.0312), p_text(1e-9), p_text(0.0)
    ('p = 0.031', 'p < 0.001', 'p < 0.001')
    """
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def _standing(part: pd.DataFrame, tests: list[PairedTest]) -> Standing:
    dataset, protocol, candidates = (str(part[name].iloc[0]) for name in GROUP)
    there = list(dict.fromkeys(zip(part["metric"], part["k"].astype(int), strict=True)))
    wanted = [column for column in COLUMNS.get(protocol, COLUMNS["leave_one_out"]) if column in there]
    columns = wanted or there[:6]
    wide = part.assign(k=part["k"].astype(int)).pivot(
        index="model", columns=["metric", "k"], values=["value", "spread"]
    )
    deciding = ("NDCG", deciding_k(protocol))
    order = wide["value"][deciding if deciding in there else columns[-1]].sort_index()
    order = order.sort_values(ascending=False, kind="stable")
    wide = wide.loc[order.index]
    seeds = part.groupby("model")["n_seeds"].max().loc[order.index].astype(int).tolist()
    values, spreads = wide["value"][columns].astype(float), wide["spread"][columns].astype(float)
    return Standing(dataset, protocol, candidates, columns, values, spreads, seeds, tests)


def _select(per_user: pd.DataFrame, part: pd.DataFrame) -> pd.DataFrame:
    keep = np.ones(len(per_user), dtype=bool)
    for name in GROUP:
        keep &= (per_user[name] == part[name].iloc[0]).to_numpy()
    return per_user[keep]


def _paired_test(pairs: pd.DataFrame, model: str, baseline: str, metric: str) -> PairedTest:
    from scipy import stats

    difference = pairs[model].to_numpy(np.float64) - pairs[baseline].to_numpy(np.float64)
    n, mean = len(difference), float(difference.mean()) if len(difference) else 0.0
    error = float(difference.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    if n < 2:
        low, high, p_value = -np.inf, np.inf, 1.0
    elif error == 0.0:
        low, high, p_value = mean, mean, 1.0 if mean == 0.0 else 0.0
    else:
        margin = float(stats.t.ppf(0.975, n - 1)) * error
        low, high, p_value = mean - margin, mean + margin, float(2 * stats.t.sf(abs(mean / error), n - 1))
    return PairedTest(model, baseline, metric, mean, low, high, p_value, n)


def _rows(summary: pd.DataFrame, standings: list[Standing]) -> list[dict[str, Any]]:
    place = {
        (table.dataset, table.protocol, table.candidates, str(model)): (index, position)
        for index, table in enumerate(standings)
        for position, model in enumerate(table.values.index)
    }
    names = ["dataset", "model", "protocol", "candidates", "metric", "k", "value", "spread", "n_seeds", "n_users"]
    rows = summary.astype({"k": int, "n_seeds": int, "n_users": int})[names].to_dict("records")
    plain = [{str(name): value for name, value in row.items()} for row in rows]
    for row in plain:
        row["spread"] = None if np.isnan(row["spread"]) else row["spread"]
    return sorted(plain, key=lambda row: place[row["dataset"], row["protocol"], row["candidates"], row["model"]])
