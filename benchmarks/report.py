"""The interest report of a large catalogue: processor seconds of its map and of the whole page, and its size."""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import main
from recsys_dagster.evaluation.report import interest_report
from recsys_dagster.evaluation.report.atlas import MAX_ITEMS
from recsys_dagster.evaluation.report.layout import map_layout

LEVELS = (40, 430, 2200)
"""Prototypes a level, about as many as Beauty has at the default gammas."""


def catalogue(n_items: int, seed: int = 0) -> dict[str, Any]:
    """Items in nested prototypes of very different sizes; a tenth of an item, on average, belongs to another one."""
    rng = np.random.default_rng(seed)
    weight = rng.pareto(1.2, LEVELS[-1]) + 0.2
    home = [rng.choice(LEVELS[-1], n_items, p=weight / weight.sum())]
    above = [rng.integers(0, coarse, fine) for coarse, fine in itertools.pairwise(LEVELS)]
    for parent in reversed(above):
        home.insert(0, parent[home[0]])
    starts = np.concatenate([[0], np.cumsum(LEVELS)])
    shares, prototypes = [], []
    for level, (size, own) in enumerate(zip(LEVELS, home, strict=True)):
        probability = 1 - rng.beta(1, 9, n_items)
        for prototype, share in ((own, probability), (rng.permutation(own), 1 - probability)):
            table = {"item_id": np.arange(n_items), "level": level, "prototype_id": prototype + starts[level]}
            shares.append(pd.DataFrame({**table, "probability": share}))
        there = np.unique(own)
        parent = np.full(size, -1) if level == 0 else above[level - 1] + starts[level - 1]
        prototypes.append(
            pd.DataFrame(
                {
                    "prototype_id": there + starts[level], "level": level, "gamma": 10.0**level,
                    "parent": parent[there], "n_items": np.bincount(own)[there],
                    "label": [f"words, of prototype, {number}" for number in there], "previous_id": -1, "drift": 0.0,
                }
            )
        )  # fmt: skip
    keys = ["item_id", "level", "prototype_id"]
    memberships = pd.concat(shares).groupby(keys, as_index=False)["probability"].sum()
    described = pd.concat(prototypes, ignore_index=True)
    described["size"] = described["n_items"].astype(float)
    best = memberships.sort_values("probability", ascending=False, kind="stable").groupby("prototype_id")["item_id"]
    top = best.apply(lambda items: items.head(10).tolist())
    described["top_items"] = [top[number] for number in described["prototype_id"]]
    popularity = np.sort(rng.zipf(1.5, n_items).clip(max=50_000))[::-1]
    title = [f"An item with a title of the usual length, number {number}" for number in range(n_items)]
    items = pd.DataFrame({"item_id": np.arange(n_items), "title": title, "train_popularity": popularity})
    vectors = rng.normal(size=(len(described), 64))
    return {"items": items, "memberships": memberships, "prototypes": described, "vectors": vectors}


def run(options: argparse.Namespace) -> dict[str, Any]:
    given = catalogue(options.items)
    began = time.process_time()
    map_layout(given["memberships"], given["prototypes"], given["vectors"], options.items)
    layout_s = time.process_time() - began
    nobody = pd.DataFrame({"user_id": [], "cluster": [], "label": [], "item_id": []})
    rest = {
        "leaderboard": {"standings": []}, "training": {}, "overlaps": [], "user_clusters": nobody,
        "recommendations": pd.DataFrame({"user_id": [], "model": [], "rank": [], "item_id": []}),
    }  # fmt: skip
    began = time.process_time()
    page = interest_report(dataset="large", **given, **rest)
    page_s = time.process_time() - began
    whole = interest_report(dataset="large", **given, **rest, max_items=options.items)
    return {
        "items": options.items,
        "prototypes": len(given["prototypes"]),
        "layout_processor_s": round(layout_s, 1),
        "page_processor_s": round(page_s, 1),
        "shown": min(MAX_ITEMS, options.items),
        "bytes": len(page.encode()),
        "bytes_with_all_items": len(whole.encode()),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=50_000, help="items of the catalogue")


if __name__ == "__main__":
    main(run, arguments)
