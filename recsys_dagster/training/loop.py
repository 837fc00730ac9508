"""The one training loop: every model learns, is validated, stopped, saved and resumed here."""

from __future__ import annotations

import abc
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from recsys_dagster.data.histories import VALIDATION, Histories
from recsys_dagster.memory import peak_memory_mb
from recsys_dagster.one_thread import one_thread
from recsys_dagster.progress import Progress
from recsys_dagster.training.batching import Batches, SequenceBatch, TrainBatches, pad
from recsys_dagster.training.checkpoint import Checkpoint
from recsys_dagster.training.config import TrainingConfig
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.distributed import own_part, seed_epoch, sum_figures, sum_gradients, wait_for_all
from recsys_dagster.training.ranking import target_ranks
from recsys_dagster.training.runtime import Runtime

logger = logging.getLogger("recsys_dagster")

VALIDATION_CUTOFF = 20
"""k of the Recall@k that chooses the epoch."""

SMALL_STEP = 1_000_000
"""Scores of a step: positions times items. Below this a second thread saves nothing on a CPU, and where other work
keeps a core busy the threads wait for each other many times as long as they work."""

WARM_UP_STEPS = 100
"""Steps over which the step size rises from 0."""


class SequentialModel(nn.Module, abc.ABC):
    """A model that reads item sequences: it gives a loss to the loop and scores to the evaluation.

    Attributes:
        n_items: size of the catalogue.
        max_length: longest history it reads.
    """

    def __init__(self, n_items: int, max_length: int) -> None:
        super().__init__()
        self.n_items, self.max_length = n_items, max_length

    def learned_state(self) -> dict[str, torch.Tensor]:
        """The state without frozen parameters (those of a pretrained backbone are read again from their own place)."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in self.state_dict().items() if name not in frozen}

    def load_learned_state(self, state: dict[str, torch.Tensor]) -> None:
        """Load what `learned_state` gave; raises KeyError where a tensor is missing or unknown."""
        missing, unknown = self.load_state_dict(state, strict=False)
        absent = set(missing) & set(self.learned_state())
        if absent or unknown:
            raise KeyError(f"tensors missing: {sorted(absent)}; unknown: {sorted(unknown)}")

    def batches(self, data: SequenceData, config: TrainingConfig) -> Batches:
        """What the model learns from: the train sequences, unless a model says otherwise."""
        return TrainBatches(data.train, config.batch_size, self.max_length)

    def epoch_measures(self, data: SequenceData) -> dict[str, float]:
        """Figures that the model's maker wants to watch after every epoch, beside loss and validation: none."""
        return {}

    @abc.abstractmethod
    def loss(self, batch: Any, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss of one train batch (a scalar) and its named parts; `step` counts from 0 over all epochs.

        Means are taken with `batch_mean` or `share_of_mean`, so that the losses of the processes that share a batch
        add up to the loss of all of it.

        `batch` is one of those that `batches` yields: a `SequenceBatch` unless the model says otherwise.
        """

    @abc.abstractmethod
    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Scores float [batch, N] of every item as the next one."""

    def score(self, users: NDArray[np.int64], histories: Histories) -> torch.Tensor:
        """Scores float [len(users), N] (the `Scorer` contract)."""
        self.eval()
        device = next(self.parameters()).device
        with torch.no_grad():
            return self.score_batch(pad(histories, users, self.max_length).to(str(device)))


@dataclass(frozen=True)
class Trained:
    """What the loop returns.

    Attributes:
        history: one row an epoch: epoch, loss, its parts, validation_recall, the model's own measures, seconds.
        facts: figures for people: best_epoch, epochs, validation_recall, measures of that epoch, ...
    """

    history: pd.DataFrame
    facts: dict[str, float | int | str]


def fit(
    model: SequentialModel,
    data: SequenceData,
    config: TrainingConfig,
    runtime: Runtime,
    *,
    label: str,
    checkpoint: Path | None = None,
) -> Trained:
    """Train `model` in place; it ends with the weights of its best validation epoch.

    Each epoch starts from a random state made of the seed and its number, so a killed run goes on from the last
    whole epoch to the very weights of an undisturbed one. The epoch is chosen by `validation_recall`.

    Args:
        model: initialised model.
        data: the splits.
        config: how long and how fast.
        runtime: device, precision, seed.
        label: what progress lines call this run.
        checkpoint: directory for the state of an unfinished run; None keeps no state.
    """
    if runtime.deterministic:
        deterministic_algorithms()
    model.to(runtime.device)
    batches = model.batches(data, config)
    with one_thread(batches.positions / max(len(batches), 1) * data.n_items < SMALL_STEP):
        return _fit(model, data, batches, config, runtime, label, checkpoint)


def _fit(
    model: SequentialModel,
    data: SequenceData,
    batches: Batches,
    config: TrainingConfig,
    runtime: Runtime,
    label: str,
    checkpoint: Path | None,
) -> Trained:
    optimiser = optimiser_of(model, config)
    keeper = Checkpoint(checkpoint, fingerprint={"config": config.model_dump(), "seed": runtime.seed, "label": label})
    state = keeper.resume(model, optimiser)
    wait_for_all()
    step_of = torch.compile(model.loss) if runtime.compile else model.loss
    started = time.monotonic()
    with Progress(f"{label}: training", config.epochs * len(batches), "batches") as progress:
        progress.update(state.epoch * len(batches))
        while state.epoch < config.epochs and state.epoch - state.best_epoch < config.patience:
            row = _train_epoch(model, step_of, optimiser, batches, config, runtime, state.epoch, progress)
            row["validation_recall"] = validation_recall(model, data)
            row |= model.epoch_measures(data)
            state.record(row, model)
            logger.info(
                "%s: epoch %d, loss %.4f, validation Recall@20 %.4f, %.1f s",
                label, state.epoch, row["loss"], row["validation_recall"], row["seconds"],
            )  # fmt: skip
            keeper.save(model, optimiser, state)
    model.load_learned_state(state.best_weights)
    history = pd.DataFrame(state.history)
    seconds = float(history["seconds"].sum())
    logger.info(
        "%s: best epoch %d of %d, validation Recall@20 %.4f, %.0f s",
        label, state.best_epoch, state.epoch, state.best_value, time.monotonic() - started,
    )  # fmt: skip
    facts: dict[str, float | int | str] = {
        "best_epoch": state.best_epoch,
        "epochs": state.epoch,
        "validation_recall": state.best_value,
        "seconds": seconds,
        "positions_per_second": batches.positions * state.epoch / max(seconds, 1e-9),
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_memory_mb": peak_memory_mb(runtime.device),
        **model.epoch_measures(data),
    }
    keeper.clear()
    return Trained(history, facts)


def deterministic_algorithms() -> None:
    """Ask PyTorch for algorithms that give the same result twice; where there is none, it warns and goes on."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    # else every new tensor is filled before it is written; nothing here reads what it has not written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def optimiser_of(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """What trains the parameters that are not frozen; fused: one pass over each parameter a step, not ten."""
    return torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        betas=(0.9, 0.98),
        fused=True,
    )


def validation_recall(model: SequentialModel, data: SequenceData) -> float:
    """Recall@20 of the validation targets in the full catalogue, the mean over users; 0 where there are none.

    Over users, as the leaderboard's: over targets, users with long histories would choose the epoch for the others.
    """
    targets = data.targets(VALIDATION)
    ranks, _ = target_ranks(model, data.history(VALIDATION), targets, mask_seen=data.mask_seen, label="validation")
    if not len(ranks.ranks):
        return 0.0
    found = (ranks.ranks <= VALIDATION_CUTOFF) / targets.lengths[ranks.users]
    return float(found.sum() / np.count_nonzero(targets.lengths))


def learning_rate_factor(step: int, total: int) -> float:
    """Share of the full step size at a step: a short linear rise, then a linear fall to a tenth at the last step.

    >>> [round(learning_rate_factor(step, 1000), 3) for step in (0, 99, 500, 1000)]
    [0.01, 0.911, 0.55, 0.1]
    """
    return min(1.0, (step + 1) / WARM_UP_STEPS) * max(1 - 0.9 * step / max(total, 1), 0.1)


def _train_epoch(
    model: SequentialModel,
    step_of: object,
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    config: TrainingConfig,
    runtime: Runtime,
    epoch: int,
    progress: Progress,
) -> dict[str, float]:
    """One pass over the train split; returns the means of the loss and its parts."""
    assert callable(step_of)
    model.train()
    optimiser.zero_grad(set_to_none=True)
    draws = seed_epoch(runtime.seed * 100_003 + epoch)
    generator = np.random.default_rng([runtime.seed, epoch])
    totals: dict[str, float] = {}
    started, count = time.monotonic(), 0
    for index, batch in enumerate(batches.epoch(generator)):
        step = epoch * len(batches) + index
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step, config.epochs * len(batches))
        with torch.autocast(
            torch.device(runtime.device).type, dtype=torch.bfloat16, enabled=runtime.precision == "bf16"
        ):
            loss, parts = step_of(own_part(batch.to(runtime.device), draws), step)
        figures = sum_figures({"loss": loss.item(), **parts})
        if not math.isfinite(figures["loss"]):
            raise FloatingPointError(f"the loss is {figures['loss']} in epoch {epoch + 1}: lower learning_rate")
        (loss / config.accumulate).backward()
        if (index + 1) % config.accumulate == 0:
            _take_step(model, optimiser)
        for name, value in figures.items():
            totals[name] = totals.get(name, 0.0) + value
        count += 1
        progress.update(1, f"epoch {epoch + 1}, loss {totals['loss'] / count:.3f}")
    if count % config.accumulate:
        _take_step(model, optimiser)
    means = {name: value / max(count, 1) for name, value in totals.items()}
    return {"epoch": epoch + 1, **means, "seconds": time.monotonic() - started}


def _take_step(model: SequentialModel, optimiser: torch.optim.Optimizer) -> None:
    sum_gradients(model)
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimiser.step()
    # a fused step writes without saying so, and what is made of the parameters and kept (`Made`) would never age
    torch.autograd.graph.increment_version(tuple(model.parameters()))
    optimiser.zero_grad(set_to_none=True)
