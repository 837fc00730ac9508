"""Training speed: SASRec beside the peers' SASRec, G2Rec's profile tokens beside items alone, LARMI beside MIND.

All take turns in one run, on one machine with the same number of threads: a window of steps each, again and again; a
figure is the median of its windows. Ours run the project's own loop, the peers their libraries'.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from benchmarks.common import main
from benchmarks.items_only import ItemsOnly
from benchmarks.peers import environment_argument
from benchmarks.peers.comparison import Rater, exchange_folder, task_of, worker_command
from benchmarks.peers.environment import python_of
from benchmarks.ranking import load
from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.baselines.sasrec import SASRec
from recsys_dagster.data.histories import TEST
from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.coengagement import build_graph
from recsys_dagster.g2rec.config import G2RecConfig
from recsys_dagster.g2rec.decoding import TERMS
from recsys_dagster.g2rec.evidence import EvidenceTables
from recsys_dagster.g2rec.links import validation_links
from recsys_dagster.g2rec.model import G2Rec
from recsys_dagster.g2rec.profiles import profile_arrays
from recsys_dagster.g2rec.soft_modularity import SoftConfig, soft_memberships
from recsys_dagster.progress import Progress
from recsys_dagster.training.batching import Batches, SequenceBatch
from recsys_dagster.training.config import TrainingConfig
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.loop import SequentialModel, _train_epoch, deterministic_algorithms, optimiser_of
from recsys_dagster.training.runtime import Runtime

PEERS = (("recbole", 256), ("recbole", 2048), ("cornac", 512))
"""Libraries and batch sizes (samples); 2,048 and 512 are their defaults. Of RecBole's two the faster one counts."""
BATCH = 256
SCORED_BATCHES = 8
"""Batches of a window of inference."""
WHOLE = "_whole_catalogue"
"""After the name of a model: its loss compares with the whole catalogue, not with a sample of it."""


class Trainee(Protocol):
    """Something that trains for a number of steps when told to."""

    batch_size: int

    def window(self, steps: int) -> dict[str, float]:
        """Train for so many steps: seconds, steps, targets, items, cells."""
        ...


class Window:
    """Consecutive batches of an endless stream of epochs, a few at a time, and what they held (`Batches`)."""

    def __init__(self, batches: Batches) -> None:
        self.positions, self.batches = batches.positions, batches
        self.steps, self.seen = 0, dict.fromkeys(("targets", "items", "cells"), 0)
        self.stream = self._endless()

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, generator: np.random.Generator) -> Iterator[SequenceBatch]:
        """The next `steps` batches; the stream has a generator of its own."""
        for _ in range(self.steps):
            batch = next(self.stream)
            read = int(batch.lengths.sum())
            for name, count in (("targets", read), ("items", read), ("cells", batch.items.numel())):
                self.seen[name] += count
            yield batch

    def _endless(self) -> Iterator[SequenceBatch]:
        generator = np.random.default_rng(0)
        while True:
            for batch in self.batches.epoch(generator):
                assert isinstance(batch, SequenceBatch)
                yield batch


class Ours:
    """A model of the project under its own training loop (`Trainee`).

    Args:
        model: fresh.
        data: the splits.
        config: the model's settings.
        clock: what tells seconds. Where all trainees run in this process, `clock_of` its device.
        device: torch device.
    """

    def __init__(
        self,
        model: SequentialModel,
        data: SequenceData,
        config: TrainingConfig,
        clock: Callable[[], float] = time.perf_counter,
        device: str = "cpu",
    ) -> None:
        self.model, self.data, self.config, self.batch_size = model.to(device), data, config, config.batch_size
        self.clock, self.runtime = clock, Runtime(device=device)
        self.batches = Window(model.batches(data, config))
        self.optimiser = optimiser_of(model, config)

    def window(self, steps: int) -> dict[str, float]:
        """Train for so many steps."""
        self.batches.steps, self.batches.seen = steps, dict.fromkeys(self.batches.seen, 0)
        started = self.clock()
        with Progress("training", None) as progress:
            # the loop of `fit` itself, so that all it does in a step counts
            _train_epoch(
                self.model, self.model.loss, self.optimiser, self.batches, self.config, self.runtime, 0, progress
            )  # fmt: skip
        return {"seconds": self.clock() - started, "steps": steps, **self.batches.seen}

    def scoring(self, users: np.ndarray) -> float:
        """Seconds of scoring the whole catalogue for these users, a batch at a time."""
        histories = self.data.history(TEST)
        started = self.clock()
        users = users[np.argsort(histories.lengths[users], kind="stable")]  # as the evaluation has them
        for batch in np.array_split(users, max(len(users) // BATCH, 1)):
            self.model.score(batch, histories)
        return self.clock() - started


def clock_of(device: str) -> Callable[[], float]:
    """The clock that neighbours on the machine touch least: processor time, or, on CUDA, the time when all is done."""
    if not device.startswith("cuda"):
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return clock


def g2rec_models(data: SequenceData, links: np.ndarray, device: str = "cpu") -> tuple[dict[str, Ours], dict[str, Any]]:
    """G2Rec in both layouts and on items alone, with the project's graph and memberships; and facts of these.

    `links` are what temperatures are chosen on (`validation_links`): costs depend on the prototypes that an item has.
    Each with its own loss, and with `WHOLE` after its name with the loss over the whole catalogue.
    """
    graph = build_graph(data.train)
    table, _ = soft_memberships(graph, data.n_items, SoftConfig(), validation_links=links)
    columns, weights, ends, ids = profile_arrays(table, data.n_items)
    evidence = EvidenceTables.of(graph, data.train, None, G2RecConfig().neighbours)
    shape = {
        "n_items": data.n_items, "max_length": data.max_length, "prototypes": len(ids), "levels": len(ends),
        "width": columns.shape[1], **evidence.shape,
    }  # fmt: skip
    models = {}
    kinds: list[tuple[str, type[G2Rec], dict[str, Any]]] = [
        ("items", ItemsOnly, {"layout": "fused", "profile_weight": 0.0}),
        ("fused", G2Rec, {"layout": "fused"}),
        ("interleaved", G2Rec, {"layout": "interleaved"}),
    ]
    for name, kind, settings in kinds + [(name + WHOLE, kind, {**more, "negatives": 0}) for name, kind, more in kinds]:
        torch.manual_seed(0)
        config = G2RecConfig.model_validate({"batch_size": BATCH, **settings})
        model = kind(config, **shape)
        model.fill((columns, weights, ends), evidence)
        models[name] = Ours(model, data, config, clock=clock_of(device), device=device)
    return models, {"prototypes": len(ids), "prototypes_an_item": round(len(table) / data.n_items, 2)}


def take_turns(trainees: dict[str, Trainee], steps: int, rounds: int) -> dict[str, dict[str, float]]:
    """Windows of all in turn, the first one unmeasured; medians of what a second holds.

    A window is `steps` steps of `BATCH` rows; where batches are larger it has as many fewer of them.
    """
    rows = []
    for turn in range(rounds + 1):
        for name, trainee in trainees.items():
            found = trainee.window(max(round(steps * BATCH / trainee.batch_size), 2))
            print(f"{'warm-up' if turn == 0 else f'round {turn}'}: {name} {found['seconds']:.2f} s", flush=True)
            if turn:
                rates = {unit: found[unit] / found["seconds"] for unit in ("targets", "items", "cells")}
                rows.append({"name": name, **rates, "steps": found["steps"] / found["seconds"]})
    medians = pd.DataFrame(rows).groupby("name", sort=False).median()
    return {
        str(name): {f"{unit}_per_second": round(float(row[unit]), 2) for unit in medians.columns}
        for name, row in medians.iterrows()
    }


def scoring_seconds(models: dict[str, Ours], rounds: int) -> dict[str, float]:
    """Median seconds of the same few batches of users for each, in turn; the first turn is unmeasured."""
    data = next(iter(models.values())).data
    users = np.random.default_rng(0).permutation(data.n_users)[: SCORED_BATCHES * BATCH].astype(np.int64)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, model in models.items():
            seconds[name].append(model.scoring(users))
    return {name: float(np.median(each[1:])) for name, each in seconds.items()}


def overheads(data: SequenceData, links: np.ndarray, steps: int, rounds: int, device: str = "cpu") -> dict[str, Any]:
    """Time (`clock_of` the device) of each layout of G2Rec over that of items alone: 1.1 is a tenth more."""
    models, facts = g2rec_models(data, links, device)
    rates = take_turns(dict(models), steps, rounds)
    models = {name: model for name, model in models.items() if WHOLE not in name}  # they score alike
    plain = scoring_seconds(models, rounds)
    for name in ("fused", "interleaved"):
        decoding = models[name].model.decoding
        decoding.deep.copy_(
            torch.tensor([0.3 * (term in decoding.names) for term in TERMS])
        )  # any weight costs the same
    decoded = scoring_seconds(models, rounds)
    timed = {"scoring_seconds": plain, "scoring_seconds_with_decoding": decoded}
    rounded = {key: {name: round(value, 4) for name, value in each.items()} for key, each in timed.items()}
    result: dict[str, Any] = {"g2rec": rates, **rounded}
    for layout in ("fused", "interleaved"):
        for loss in ("", WHOLE):  # the batches are the same
            cost = rates["items" + loss]["steps_per_second"] / rates[layout + loss]["steps_per_second"]
            result[f"overhead_{layout}_training{loss}"] = round(cost, 3)
        result[f"overhead_{layout}"] = result[f"overhead_{layout}_training"]
        result[f"overhead_{layout}_inference"] = round(plain[layout] / plain["items"], 3)
        result[f"overhead_{layout}_inference_with_decoding"] = round(decoded[layout] / decoded["items"], 3)
    return {**facts, **result}


def speeds(
    data: SequenceData, pythons: dict[str, Path], steps: int, rounds: int, device: str = "cpu"
) -> dict[str, Any]:
    """SASRec here and there: medians of targets, items and cells a second."""
    # the loss over the whole catalogue, as RecBole has it
    config = SASRecConfig(batch_size=BATCH, layers=2, heads=2, negatives=0)
    model = SASRec(config, n_items=data.n_items, max_length=data.max_length)
    trainees: dict[str, Trainee] = {"ours": Ours(model, data, config, device=device)}
    with contextlib.ExitStack() as stack:
        for library, batch_size in PEERS:
            if library not in pythons:
                continue
            folder = Path(stack.enter_context(exchange_folder()))
            task = task_of(
                data, folder, library=library, model="SASRec", mode="rate", epochs=10**6, batch_size=batch_size,
                threads=torch.get_num_threads(), device=device,
            )  # fmt: skip
            rater = Rater(worker_command(pythons[library], library, folder), task)
            stack.callback(rater.close)
            trainees[f"{library}_{batch_size}"] = rater
        rates = take_turns(trainees, steps, rounds)
    result: dict[str, Any] = {"sasrec": rates}
    for library in pythons:
        best = max(rate["targets_per_second"] for name, rate in rates.items() if name.startswith(library))
        result[f"ratio_vs_{library}"] = round(rates["ours"]["targets_per_second"] / best, 2)
    return result


def run(options: argparse.Namespace) -> dict[str, Any]:
    if options.model == "larmi":
        return larmi_run(options)
    wanted = [library for library in ("recbole", "cornac") if library not in options.without]
    try:
        pythons = {library: python_of(library, getattr(options, f"python_env_{library}")) for library in wanted}
    except RecsysError as error:
        raise SystemExit(f"error: {error}") from None
    steps = options.steps or 20
    data, tables = load(options.dataset or "beauty")
    deterministic_algorithms()  # as our training has it
    positions = int(np.minimum(np.maximum(data.train.lengths - 1, 0), data.max_length).sum())
    return {
        "dataset": options.dataset or "beauty",
        "steps": steps,
        "rounds": options.rounds,
        "targets_an_epoch": positions,
        **speeds(data, pythons, steps, options.rounds, options.device),
        **overheads(data, validation_links(tables.interactions), steps, options.rounds, options.device),
    }


def larmi_run(options: argparse.Namespace) -> dict[str, Any]:
    """LARMI beside MIND, and routing beside the ports'."""
    from benchmarks import larmi_training

    dataset, steps = options.dataset or "office_622", options.steps or round(1 / larmi_training.WEIGHT)
    data, tables = load(dataset)
    deterministic_algorithms()
    costs = larmi_training.overhead(data, tables, steps, options.rounds, options.device)
    return {"dataset": dataset, "steps": steps, "rounds": options.rounds, **costs, **larmi_training.routing()}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        choices=["g2rec", "larmi"],
        default="g2rec",
        help="larmi: LARMI and MIND in place of G2Rec and SASRec",
    )
    parser.add_argument("--dataset", help="a dataset of datasets.toml; beauty, or office_622 for LARMI, unless given")
    parser.add_argument("--steps", type=int, help="steps of a window: 20, or 1 / lambda for LARMI, unless given")
    parser.add_argument("--rounds", type=int, default=5, help="measured windows of each")
    parser.add_argument("--without", nargs="*", default=[], choices=["recbole", "cornac"], help="peers to leave out")
    parser.add_argument("--device", default="cpu", help="torch device; routing is timed on the CPU in any case")
    for library in ("recbole", "cornac"):
        environment_argument(parser, library)


if __name__ == "__main__":
    main(run, arguments)
