"""From a fresh model to its directory: what the training functions of the models have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from recsys_dagster.training.artifact import save_model
from recsys_dagster.training.config import TrainingConfig
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.distributed import rank
from recsys_dagster.training.loop import SequentialModel, fit
from recsys_dagster.training.repeat_offset import choose_repeat_offset
from recsys_dagster.training.runtime import Runtime


def train_and_save(
    name: str,
    build: Callable[..., SequentialModel],
    shape: Mapping[str, int],
    data: SequenceData,
    config: TrainingConfig,
    runtime: Runtime,
    output: Path,
    checkpoint: Path | None = None,
    finish: Callable[[SequentialModel], Mapping[str, float]] | None = None,
) -> dict[str, float | int | str]:
    """Build a model from the run's seed, train it and write its model directory.

    Args:
        name: the model's key in `recsys_dagster.models`; also what progress lines call the run.
        build: called as ``build(config, **shape)``; the model's class, or something that prepares one for training.
        shape: integers that the model's constructor needs beside the settings.
        data: the splits.
        config: settings.
        runtime: device, precision, seed.
        output: directory to write.
        checkpoint: directory for the state of an unfinished run; None keeps no state.
        finish: called with the trained model before it is written, for what is set after training; returns figures.
            Unless given, the offset of repeats is chosen, where the model has one.

    Returns:
        Figures for people.
    """
    torch.manual_seed(runtime.seed)
    model = build(config, **shape)
    trained = fit(model, data, config, runtime, label=name, checkpoint=checkpoint)
    finished = choose_repeat_offset(model, data) if finish is None else finish(model)
    if rank() == 0:
        save_model(
            output,
            name=name,
            config=config.model_dump(),
            shape=dict(shape),
            state=model.learned_state(),
            history=trained.history,
        )
    return {**trained.facts, **finished}
