"""What each part of LARMI is worth: the same training with one thing changed (its Tables 2, 3 and 6, Figures 4 and 5).

Parts, each beside the whole model: `ablations` (w/o-sem, w/o-col, w/o-com, w/o-rep, and the greedy solver), `solvers`,
`lambda` (the weight of the contrastive loss under both update strategies), `interests` (K). Everything stands on the
train split and the local clusterer; the figures are of the test split, ranked in the whole catalogue. `against_whole`
is a paired test of Recall@20 over users, the mean over seeds of each.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.common import main
from benchmarks.larmi_stages import Solver, Stages, Synthesis
from benchmarks.ranking import load
from recsys_dagster.data.histories import TEST
from recsys_dagster.evaluation.metrics import user_metrics
from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.larmi.explain import attention_facts, cluster_attention
from recsys_dagster.larmi.model import LARMI
from recsys_dagster.larmi.train import train_larmi
from recsys_dagster.models import load_model
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.ranking import target_ranks
from recsys_dagster.training.runtime import Runtime

METRICS = ("Recall@20", "NDCG@20", "HR@20", "Recall@50", "NDCG@50", "HR@50")
"""Columns of the paper's tables."""
TESTED = METRICS[0]
TRAINED = ("validation_recall", "interest_cosine", "routing_entropy", "seconds")
"""What is told of a training beside the test figures."""
WEIGHTS = (1.0, 0.1, 0.01, 0.001)
STRATEGIES = ("periodic", "weighted")
NUMBERS = (2, 4, 6, 8)


@dataclass(frozen=True)
class Variant:
    """One change: of the model's settings, of how users are synthesized, or of the solver."""

    settings: dict[str, Any] = field(default_factory=dict)
    synthesis: Synthesis = "neighbours"
    solver: Solver = "cardnn"


WHOLE = "LARMI"
PARTS: dict[str, dict[str, Variant]] = {
    "ablations": {
        WHOLE: Variant(),
        "w/o-sem": Variant({"semantic": False}),
        "w/o-col": Variant({"collaborative": False}),
        # the paper takes out the similarity of the users and the max cover; the third row takes out the first alone
        "w/o-com": Variant(synthesis="random", solver="random"),
        "random groups, max cover": Variant(synthesis="random"),
        "w/o-rep": Variant(solver="random"),
        "greedy": Variant(solver="greedy"),
        # what is ours and not the paper's
        "clusters weigh as much as capsules": Variant({"semantic_weight": 1.0}),
        "clusters in no interest": Variant({"semantic_weight": 0.0}),
        "without names": Variant({"labels": False}),
        "without the crowd's interests": Variant({"crowd": False}),
        "without both": Variant({"labels": False, "crowd": False}),
        "nothing keeps interests apart": Variant({"apart_weight": 0.0}),
    },
    "solvers": {
        WHOLE: Variant(),
        "greedy": Variant(solver="greedy"),
        "w/o-rep": Variant(solver="random"),
    },
    "lambda": {
        "without contrastive loss": Variant({"contrastive_weight": 0.0}),
        **{
            f"{strategy}, lambda {weight:g}": Variant({"contrastive_weight": weight, "contrastive_update": strategy})
            for weight in WEIGHTS
            for strategy in STRATEGIES
        },
    },
    "interests": {f"K = {number}": Variant({"interests": number}) for number in NUMBERS},
}


class Trials:
    """Trains variants, each only once, and ranks the test targets with them.

    Args:
        dataset: name of a dataset.
        seeds: models a variant.
        settings: of every model, in place of the defaults.
        device: torch device.
    """

    def __init__(self, dataset: str, seeds: int, settings: dict[str, Any], device: str = "cpu") -> None:
        self.data, tables = load(dataset)
        self.stages = Stages(self.data, tables.items)
        self.seeds, self.settings, self.device = seeds, settings, device
        self._known: dict[tuple[str, Synthesis, Solver], dict[str, Any]] = {}
        self._users: dict[tuple[str, Synthesis, Solver], pd.Series] = {}

    def measured(self, variant: Variant) -> dict[str, Any]:
        """Means over seeds of the test figures, of `TRAINED`, and of Figure 6: coarseness against attention."""
        key = self._key(variant)
        if key not in self._known:
            config = LARMIConfig(**{**self.settings, **variant.settings})
            selected = self.stages.selected(variant.synthesis, variant.solver)
            rows, users = [], []
            for seed in range(self.seeds):
                with tempfile.TemporaryDirectory() as folder:
                    facts = train_larmi(
                        self.data, self.stages.user_clusters, selected.clusters, config,
                        Runtime(device=self.device, seed=seed), Path(folder) / "larmi",
                    )  # fmt: skip
                    scorer = load_model(Path(folder) / "larmi", self.device)
                assert isinstance(scorer, LARMI)
                each = per_user(scorer, self.data)
                users.append(each[TESTED])
                explained = attention_facts(cluster_attention(scorer, self.data.train)) if config.semantic else {}
                rows.append({**each.mean(), **{name: facts[name] for name in TRAINED if name in facts}, **explained})
            table = pd.DataFrame(rows)
            found = {name: round(float(value), 4) for name, value in table.mean().items()}
            spread = round(float(table[TESTED].std()), 4) if self.seeds > 1 else None
            self._known[key] = {
                **found, "spread": spread, "covered": round(selected.covered, 4), "synthesized_users": selected.users,
            }  # fmt: skip
            self._users[key] = pd.concat(users, axis=1).mean(axis=1)
        return self._known[key]

    def against(self, variant: Variant, reference: Variant) -> dict[str, float]:
        """The variant less the reference, on `TESTED`: relative difference, 95 % interval over users, p value."""
        from scipy.stats import ttest_rel

        self.measured(variant), self.measured(reference)
        own, other = self._users[self._key(variant)], self._users[self._key(reference)]
        if np.array_equal(own, other):
            return {"relative": 0.0, "difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
        test = ttest_rel(own, other)
        low, high = test.confidence_interval()
        values = {
            "relative": own.mean() / other.mean() - 1, "difference": own.mean() - other.mean(),
            "low": low, "high": high, "p_value": test.pvalue,
        }  # fmt: skip
        return {name: round(float(value), 4) for name, value in values.items()}

    def _key(self, variant: Variant) -> tuple[str, Synthesis, Solver]:
        settings = LARMIConfig(**{**self.settings, **variant.settings}).model_dump_json()
        return settings, variant.synthesis, variant.solver


def per_user(scorer: Any, data: SequenceData) -> pd.DataFrame:
    """The `METRICS` of every user with a test target, ranked in the whole catalogue."""
    targets = data.targets(TEST)
    ranks, _ = target_ranks(scorer, data.history(TEST), targets, mask_seen=data.mask_seen)
    return user_metrics(ranks, targets.lengths, [20, 50]).set_index("user_id")[list(METRICS)]


def run(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    settings = {"epochs": options.epochs} if options.epochs else {}
    trials = Trials(options.dataset, options.seeds, settings, options.device)
    parts: dict[str, Any] = {}
    for part in options.parts:
        parts[part] = {}
        for name, variant in PARTS[part].items():
            if options.only and name not in options.only:
                continue
            found = trials.measured(variant)
            parts[part][name] = (
                found if name == WHOLE else {**found, "against_whole": trials.against(variant, Variant())}
            )
            print(part, name, parts[part][name], flush=True)
    return {"dataset": options.dataset, "seeds": options.seeds, "parts": parts}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="sample_622", help="name of a dataset")
    parser.add_argument("--seeds", type=int, default=1, help="models a variant, from seeds 0, 1, ...")
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=["ablations"], metavar="PART", help=", ".join(PARTS)
    )
    names = [name for variants in PARTS.values() for name in variants]
    parser.add_argument("--only", nargs="+", choices=names, metavar="ROW", help="rows of the parts; all unless given")
    parser.add_argument("--epochs", type=int, help="most epochs, in place of the default")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch on the CPU")


if __name__ == "__main__":
    main(run, arguments)
