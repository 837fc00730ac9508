"""Small trainings for processes that tests start: every model, with what it learns from, and what is seen of it."""

from __future__ import annotations

import os
import signal
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import save_file

from recsys_dagster.errors import RecsysError
from recsys_dagster.models import MODELS
from recsys_dagster.training import batching, loop
from recsys_dagster.training.distributed import rank, size, wait_for_all
from recsys_dagster.training.launch import data_parallel

SETTINGS = {"epochs": 2, "patience": 2, "dimension": 8, "batch_size": 16, "learning_rate": 1e-3, "dropout": 0.0}

CASES = {
    **{name: (name, {}) for name in MODELS},
    "sasrec_sampled": ("sasrec", {"negatives": 8, "label_smoothing": 0.1, "accumulate": 2}),
    "g2rec_interleaved": ("g2rec", {"layout": "interleaved", "negatives": 8, "repeats": False}),
    "larmi_clusters_alone": ("larmi", {"collaborative": False, "contrastive_update": "weighted"}),
}
"""Every model as it comes, and settings that add terms to a loss."""


def clusters_of(histories, users):
    """Each user's train items in two clusters by parity."""
    rows = [
        (user, item % 2, "even" if item % 2 == 0 else "odd", item)
        for user in users
        for item in dict.fromkeys(histories.of(user).tolist())
    ]
    return pd.DataFrame(rows, columns=["user_id", "cluster", "label", "item_id"]).assign(source="local")


def further_inputs(model, data):
    """What the training function takes between the data and the settings."""
    if model == "larmi":
        return clusters_of(data.train, range(data.n_users)), clusters_of(data.train, range(0, data.n_users, 4))
    if model == "g2rec":
        graph = pd.DataFrame({"source": [0, 0, 3, 5, 20], "target": [1, 3, 4, 21, 21], "weight": [2.0, 1, 4, 1, 3]})
        rows = [(item, 0, item // 12, 0.75) for item in range(24)] + [
            (item, 0, 1 - item // 12, 0.25) for item in range(24)
        ]
        rows += [(item, 1, 10 + item % 3, 1.0) for item in range(24)]
        memberships = pd.DataFrame(rows, columns=["item_id", "level", "prototype_id", "probability"])
        ids = np.array([0, 1, 10, 11, 12])
        tokens = {"prototype_ids": ids, "prototype_embeddings": np.zeros((5, 8), np.float32)}
        return graph, memberships, tokens, np.zeros((24, 8), np.float32)
    return ()


def learn(case, data, folder, runtime, checkpoint=None, *, dies_in_epoch=0, **changes):
    """Train a case to `folder`/case; the gradients of its first step lie beside it. Process 1 may die on the way."""
    model, own = CASES[case]
    module, config_class, _ = MODELS[model]
    kind = getattr(import_module(f"recsys_dagster.{module.split('.')[0]}.config"), config_class)
    settings = {name: value for name, value in {**SETTINGS, **own, **changes}.items() if name in kind.model_fields}
    train = getattr(import_module(f"recsys_dagster.{module}"), f"train_{model}")
    gradients, epochs = {}, []
    real_sum, real_recall = loop.sum_gradients, loop.validation_recall

    def sum_gradients(learner):
        real_sum(learner)
        if not gradients:
            gradients.update({n: p.grad.clone() for n, p in learner.named_parameters() if p.grad is not None})

    def validation_recall(learner, seen):
        epochs.append(1)
        if len(epochs) == dies_in_epoch and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return real_recall(learner, seen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "STEPS_AN_EPOCH", 6)
        patch.setattr(loop, "VALIDATION_CUTOFF", 2)
        patch.setattr(loop, "sum_gradients", sum_gradients)
        patch.setattr(loop, "validation_recall", validation_recall)
        facts = train(data, *further_inputs(model, data), kind(**settings), runtime, folder / case, checkpoint)
    if rank() == 0:
        save_file(gradients, folder / f"{case}.gradients")
    return facts


@data_parallel
def learn_all(data, folder: Path, runtime):
    """Every case in turn; then the figures of one of them, by all processes together."""
    for case in CASES:
        learn(case, data, folder, runtime)
    learn("sasrec", data, folder / "dropout", runtime, dropout=0.3)
    learn("bert4rec", data, folder / "dropout", runtime, dropout=0.3)
    return size(), figures_of(folder / "sasrec", data, runtime)


def figures_of(directory, data, runtime):
    """Metrics and per-user figures of a stored model, scored in several batches."""
    from assets.evaluation import evaluate_stored  # dagster takes seconds, and one launch of several needs it

    drawn = np.random.default_rng(0).integers(data.n_items, size=(data.n_users, 9), dtype=np.int32)
    negatives = pd.DataFrame({"user_id": np.arange(data.n_users), "item_ids": list(drawn)})
    names = {"dataset": "toy", "model": "sasrec", "protocol": "leave_one_out", "seed": 0}
    return evaluate_stored(directory, data, negatives, runtime=runtime, batch_size=7, **names)


@data_parallel
def learn_one(case, data, folder: Path, runtime, checkpoint, dies_in_epoch=0):
    """One case with dropout."""
    return learn(case, data, folder, runtime, checkpoint, dies_in_epoch=dies_in_epoch, dropout=0.3)


@data_parallel
def fail(runtime):
    """Process 1 raises while process 0 waits for it."""
    if rank() == 1:
        raise RecsysError("row 3 is odd.", mend="make it even.")
    wait_for_all()
