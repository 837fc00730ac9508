"""What each part of G2Rec is worth: the same training with one thing changed (its Figure 2 and Table 3, and more).

The first row is SASRec; `--only sasrec whole` compares these two alone.

Everything stands on the train split; the figures are of the test split, full ranking and among 99 stored negatives. The
weights of the decoding are chosen on the validation split for every variant.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.common import main
from benchmarks.items_only import ItemsOnly
from benchmarks.ranking import load, ranked
from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.baselines.sasrec import item_embeddings, train_sasrec
from recsys_dagster.data.features import item_features
from recsys_dagster.g2rec import model as g2rec
from recsys_dagster.g2rec.coengagement import build_graph
from recsys_dagster.g2rec.config import G2RecConfig
from recsys_dagster.g2rec.links import validation_links
from recsys_dagster.g2rec.night import hard_labels
from recsys_dagster.g2rec.soft_modularity import SoftConfig, soft_memberships
from recsys_dagster.g2rec.tokens import interest_tokens
from recsys_dagster.models import load_model
from recsys_dagster.training.runtime import Runtime


@dataclass(frozen=True)
class Variant:
    """One change: settings of the recommender, of the memberships, or of the model's class."""

    settings: dict[str, Any] = field(default_factory=dict)
    temperature_scale: float = 1.0
    change: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    model: type[g2rec.G2Rec] = g2rec.G2Rec


def hard(table: pd.DataFrame) -> pd.DataFrame:
    """Each item wholly in its most probable prototype of each level."""
    n_items = int(table["item_id"].max()) + 1
    parts = []
    for level in sorted(table["level"].unique()):
        labels = hard_labels(table, n_items, level)
        parts.append(pd.DataFrame({"item_id": np.arange(n_items), "level": level, "prototype_id": labels}))
    return pd.concat(parts).assign(probability=1.0).sort_values(["item_id", "level"], ignore_index=True)


def one_level(number: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Keep a single level."""
    return lambda table: table[table["level"] == number].reset_index(drop=True)


FROM_SASREC = "start from SASRec"
VARIANTS: dict[str, Variant] = {
    "whole": Variant(),
    "without profile loss": Variant({"profile_weight": 0.0}),
    "profile loss x 3": Variant({"profile_weight": 0.3}),
    "profile loss x 10": Variant({"profile_weight": 1.0}),
    "hard memberships": Variant(change=hard),
    "temperatures / 3": Variant(temperature_scale=1 / 3),
    "temperatures x 3": Variant(temperature_scale=3.0),
    "coarse level alone": Variant(change=one_level(0)),
    "middle level alone": Variant(change=one_level(1)),
    "fine level alone": Variant(change=one_level(2)),
    "without interest tokens": Variant({"profile_weight": 0.0}, model=ItemsOnly),
    "interleaved layout": Variant({"layout": "interleaved"}),
    "inner products": Variant({"similarity": "inner"}),
    "loss over the whole catalogue": Variant({"negatives": 0}),
    "without repeat bias": Variant({"repeats": False}),
    FROM_SASREC: Variant({"start": "sasrec"}),
    "decoder's scores alone": Variant({"decoding": False}),
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    data, tables = load(options.dataset)
    graph, links = build_graph(data.train), validation_links(tables.interactions)
    memberships, facts = soft_memberships(graph, data.n_items, SoftConfig(), validation_links=links)
    features = item_features(tables.items) if options.features else None
    runtime, rows = Runtime(device=options.device, seed=options.seed), {}

    def measured(directory: Path, trained: dict[str, Any]) -> dict[str, Any]:
        scorer = load_model(directory, options.device)
        names = ("best_epoch", "validation_recall", "seconds")
        found = ranked(scorer, data, tables.interactions, options.dataset, "model")
        found |= {name: trained[name] for name in trained if name in names or name.startswith(("first_", "deep_"))}
        print(found, flush=True)
        return found

    wanted = {"features": options.features, **({"epochs": options.epochs} if options.epochs else {})}
    with tempfile.TemporaryDirectory() as folder:
        names = options.only or ["sasrec", *VARIANTS]
        embeddings = np.random.default_rng(options.seed).standard_normal((data.n_items, 64)).astype(np.float32)
        if {"sasrec", FROM_SASREC} & set(names):
            start = Path(folder) / "sasrec"
            trained = train_sasrec(data, SASRecConfig(features=options.features), runtime, start, features=features)
            embeddings = item_embeddings(start)
            rows["sasrec"] = measured(start, trained)
        for name in (name for name in names if name != "sasrec"):
            variant, table = VARIANTS[name], memberships
            if variant.temperature_scale != 1:
                temperatures = [t * variant.temperature_scale for t in facts["temperatures"]]
                table, _ = soft_memberships(graph, data.n_items, SoftConfig(temperatures=temperatures))
            table = variant.change(table)
            g2rec.G2Rec = variant.model  # type: ignore[misc]  # the class that `train_g2rec` and `load_model` build
            trained = g2rec.train_g2rec(
                data, graph, table, interest_tokens(table, embeddings), embeddings,
                G2RecConfig(**{**wanted, **variant.settings}), runtime, Path(folder) / "g2rec", features=features,
            )  # fmt: skip
            rows[name] = measured(Path(folder) / "g2rec", trained)
            g2rec.G2Rec = VARIANTS["whole"].model  # type: ignore[misc]
    result: dict[str, Any] = {"dataset": options.dataset, "seed": options.seed, "features": options.features}
    return result | {"temperatures": facts["temperatures"], "variants": rows}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="beauty", help="name of a dataset")
    parser.add_argument("--only", nargs="+", choices=["sasrec", *VARIANTS], metavar="NAME", help="some rows")
    parser.add_argument("--epochs", type=int, help="most epochs of G2Rec, in place of its default")
    parser.add_argument("--features", action="store_true", help="give both models the items' features")
    parser.add_argument("--seed", type=int, default=0, help="seed of the models")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch on the CPU")


if __name__ == "__main__":
    main(run, arguments)
