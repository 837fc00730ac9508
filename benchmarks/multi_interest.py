"""LARMI beside Pop, GRU4Rec and the multi-interest baselines, on one split and with one budget (the paper's Table 1).

Every model has the same epochs, patience, batch size and dimension, those that LARMI has by default, and the epoch is
chosen on the validation split; so are learning rate and number of interests with `--tune`, for LARMI too. The figures
are of the test split, ranked in the whole catalogue. LARMI is tested against the best baseline over users (paired
t-test, the mean over seeds of each user), and the best is chosen by the test figure itself, which favours the baseline.

Models are trained in processes of one thread each; how many there are changes no figure.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.common import main
from benchmarks.larmi_ablation import METRICS, per_user
from benchmarks.larmi_stages import Stages
from benchmarks.ranking import load
from recsys_dagster.baselines.pop import train_popularity
from recsys_dagster.data.prepare import Prepared
from recsys_dagster.evaluation.leaderboard import paired_tests
from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.larmi.train import train_larmi
from recsys_dagster.models import MODELS, load_model
from recsys_dagster.parallel import cores
from recsys_dagster.training.config import TrainingConfig
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.runtime import Runtime

OURS = "larmi"
SINGLE = ("popularity", "gru4rec")
SEVERAL = ("mind", "comirec_sa", "comirec_dr", "re4", "remi")
NAMES = (OURS, *SINGLE, *SEVERAL)
"""LARMI first: it takes longest, and the others are trained beside it."""

SHARED = ("epochs", "patience", "batch_size", "dimension", "negatives")
"""Settings that all models take from LARMI's defaults."""
RATES, NUMBERS = (1e-2, 5e-3, 1e-3, 1e-4), (2, 4, 6, 8)
"""The paper's grid of learning rates and numbers of interests (its C.1), and one more rate."""
BARE = ("repeats", "recency")
"""What the baselines are given beyond their papers because LARMI has it."""


@dataclass(frozen=True)
class Trial:
    """One model to train: its name, what differs from its defaults, and the seed."""

    dataset: str
    name: str
    settings: dict[str, Any]
    seed: int
    device: str


@dataclass(frozen=True)
class Outcome:
    """What a trained model came to: `METRICS` of every user, and figures of its training."""

    users: pd.DataFrame
    facts: dict[str, Any]


@functools.lru_cache(maxsize=1)
def read(dataset: str) -> tuple[SequenceData, Prepared]:
    """The dataset, once a process."""
    return load(dataset)


@functools.lru_cache(maxsize=1)
def stages(dataset: str) -> Stages:
    """The clusters and cliques that LARMI learns from, once a process."""
    data, tables = read(dataset)
    return Stages(data, tables.items)


def config_of(name: str, settings: dict[str, Any]) -> TrainingConfig:
    """Settings of a model; those that it does not have are left out."""
    module, config_class, _ = MODELS[name]
    kind = getattr(import_module(f"recsys_dagster.{module.split('.')[0]}.config"), config_class)
    config: TrainingConfig = kind(**{key: value for key, value in settings.items() if key in kind.model_fields})
    return config


def trained(
    name: str, data: SequenceData, settings: dict[str, Any], runtime: Runtime, output: Path
) -> dict[str, float | int | str]:
    """Train a baseline by the function that its asset calls; figures of its training."""
    if name == "popularity":
        return train_popularity(data, output)
    train = getattr(import_module(f"recsys_dagster.{MODELS[name][0]}"), f"train_{name}")
    facts: dict[str, float | int | str] = train(data, config_of(name, settings), runtime, output)
    return facts


def attempt(trial: Trial) -> Outcome:
    """Train a model by the functions that its asset calls, and rank the test targets with it."""
    torch.set_num_threads(1)
    data, _ = read(trial.dataset)
    runtime = Runtime(device=trial.device, seed=trial.seed)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / trial.name
        if trial.name == OURS:
            made, config = stages(trial.dataset), LARMIConfig(**trial.settings)
            facts = train_larmi(data, made.user_clusters, made.selected().clusters, config, runtime, output)
        else:
            facts = trained(trial.name, data, trial.settings, runtime, output)
        return Outcome(per_user(load_model(output, trial.device), data), facts)


def attempts(trials: Iterable[Trial], workers: int) -> Iterator[tuple[Trial, Outcome]]:
    """All trials, in their order, on so many processes (1: this one)."""
    wanted = list(trials)
    if workers == 1:
        results: Iterable[Outcome] = map(attempt, wanted)
        yield from _told(wanted, results)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from _told(wanted, pool.map(attempt, wanted))


def _told(trials: list[Trial], results: Iterable[Outcome]) -> Iterator[tuple[Trial, Outcome]]:
    for trial, outcome in zip(trials, results, strict=True):
        found = {name: round(float(value), 4) for name, value in outcome.users.mean().items()}
        valid = {name: outcome.facts[name] for name in ("validation_recall", "best_epoch") if name in outcome.facts}
        print(trial.name, trial.settings, f"seed {trial.seed}", found, valid, flush=True)
        yield trial, outcome


def tuned(base: Trial, workers: int) -> dict[str, Any]:
    """Learning rate, then number of interests, by validation Recall@20 with the first seed."""
    chosen = dict(base.settings)
    if base.name == "popularity":
        return chosen
    for setting, values in (("learning_rate", RATES), ("interests", NUMBERS)):
        if setting not in type(config_of(base.name, {})).model_fields:
            continue
        trials = [Trial(base.dataset, base.name, {**chosen, setting: value}, 0, base.device) for value in values]
        best = max(attempts(trials, workers), key=lambda each: each[1].facts["validation_recall"])
        chosen = best[0].settings
    return chosen


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Means over seeds, and the spread of each metric where there are several."""
    table = pd.DataFrame([outcome.users.mean() for outcome in outcomes])
    found: dict[str, Any] = {name: round(float(value), 4) for name, value in table.mean().items()}
    if len(outcomes) > 1:
        found["spread"] = {name: round(float(value), 4) for name, value in table.std().items()}
    facts = pd.DataFrame([outcome.facts for outcome in outcomes])
    for name in ("validation_recall", "best_epoch", "seconds", "interest_cosine", "routing_entropy"):
        if name in facts:
            found[name] = round(float(facts[name].mean()), 4)
    return found


def comparison(users: dict[str, list[pd.DataFrame]], metric: str) -> dict[str, Any]:
    """LARMI against the best baseline by one metric: relative margin and paired test."""
    name, k = metric.split("@")
    rows = [
        pd.DataFrame({"user_id": each.index, "model": model, "metric": name, "k": int(k), "value": each[metric]})
        for model, seeds in users.items()
        for each in seeds
    ]
    (test,) = paired_tests(pd.concat(rows, ignore_index=True))
    means = {model: sum(each[metric].mean() for each in seeds) / len(seeds) for model, seeds in users.items()}
    values = {
        "larmi": means[OURS],
        "baseline": means[test.baseline],
        "relative": means[OURS] / means[test.baseline] - 1,
    }
    interval = {"difference": test.difference, "low": test.low, "high": test.high, "p_value": test.p_value}
    return {"best_baseline": test.baseline, **{key: round(float(v), 5) for key, v in (values | interval).items()}}


def run(options: argparse.Namespace) -> dict[str, Any]:
    budget = LARMIConfig().model_dump(include=set(SHARED))
    if options.epochs:
        budget["epochs"] = options.epochs
    trials = []
    for name in (name for name in NAMES if name in options.only):
        settings = {**budget, **(dict.fromkeys(BARE, False) if options.bare and name in SEVERAL else {})}
        first = Trial(options.dataset, name, settings, 0, options.device)
        chosen = tuned(first, options.workers) if options.tune else settings
        seeds = range(1 if name == "popularity" else options.seeds)
        trials += [Trial(options.dataset, name, chosen, seed, options.device) for seed in seeds]
    done: dict[str, list[Outcome]] = {}
    for trial, outcome in attempts(trials, options.workers):
        done.setdefault(trial.name, []).append(outcome)
    settings_of = {trial.name: trial.settings for trial in trials}
    models = {name: {**summary(outcomes), "settings": settings_of[name]} for name, outcomes in done.items()}
    users = {name: [outcome.users for outcome in outcomes] for name, outcomes in done.items()}
    told = {"dataset": options.dataset, "seeds": options.seeds, "models": models}
    if OURS not in users or len(users) == 1:
        return told
    against = {metric: comparison(users, metric) for metric in METRICS}
    first_metric = against[METRICS[0]]
    return {
        **told,
        "against_best_baseline": against,
        "best_baseline": first_metric["best_baseline"],
        "larmi_recall_20": first_metric["larmi"],
        "best_baseline_recall_20": first_metric["baseline"],
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="sample_622", help="name of a dataset")
    parser.add_argument("--seeds", type=int, default=1, help="models of each kind, from seeds 0, 1, ...")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="MODEL", help=", ".join(NAMES))
    parser.add_argument(
        "--tune", action="store_true", help="choose learning rate and interests on the validation split"
    )
    parser.add_argument("--epochs", type=int, help="most epochs of every model, in place of LARMI's default")
    parser.add_argument(
        "--bare", action="store_true", help="baselines without repeat bias and recency, as in their papers"
    )
    parser.add_argument("--workers", type=int, default=cores(), help="processes of one thread each")
    parser.add_argument("--device", default="cpu", help="torch device")


if __name__ == "__main__":
    main(run, arguments)
