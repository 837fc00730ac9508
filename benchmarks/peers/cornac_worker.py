"""Trains a model of cornac by the library's own `fit`; run with cornac's Python."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.exchange import Task
from benchmarks.peers.worker import Pace, Score, Size, installed, serve, use_torch

BATCH = 512
BPR_RATE = 0.05
"""The library's step size of 0.001 for single samples hardly moves the vectors in tens of epochs."""


def fit(task: Task, pace: Pace) -> Score:
    """Train by the library; the last epoch stays, as it does by the library's default."""
    torch = use_torch(task)
    if task.request.model == "BPR":
        return fit_bpr(task, pace)
    model = sequential(task)
    watch(task, pace)
    model.fit(sessions(task))
    model.model.eval()
    predict = recurrent(task, model, torch) if task.request.model == "GRU4Rec" else transformer(task, model, torch)

    @torch.no_grad()
    def score(users: NDArray[np.int64]) -> NDArray[np.float32]:
        scores = np.zeros((len(users), task.request.n_items), dtype=np.float32)
        cut, lengths = task.histories(users)
        # histories of one length at a time need no padding; users without one have nothing to go by
        for length in np.unique(lengths[lengths > 0]):
            rows = np.flatnonzero(lengths == length)
            found = predict(torch.from_numpy(np.stack([cut[row] for row in rows]).astype(np.int64)))
            scores[rows] = found.float().cpu().numpy()[:, : task.request.n_items]
        return scores

    return score


def sequential(task: Task) -> Any:
    """The model, by the library's defaults but for the sizes that are asked for."""
    from cornac import models  # type: ignore[import-not-found,unused-ignore]

    request = task.request
    common = {"n_epochs": request.epochs, "seed": request.seed, "device": request.device, "verbose": False}
    # the loop over parallel sessions needs as many sessions as a batch has rows
    common["batch_size"] = min(request.batch_size or BATCH, int((np.diff(task.train.indptr) > 1).sum()))
    if request.model == "GRU4Rec":
        return models.GRU4Rec(layers=[request.dimension], **common)
    return getattr(models, request.model)(
        embedding_dim=request.dimension,
        num_blocks=request.layers,
        num_heads=request.heads,
        max_len=request.max_length,
        loss="ce",
        **common,
    )


def watch(task: Task, pace: Pace) -> None:
    """Let the library's loop draw its batches through the pace: its iterator is wrapped where `fit` looks it up."""
    from cornac.models import seq_utils  # type: ignore[import-not-found,unused-ignore]
    from cornac.models.gru4rec import recom_gru4rec  # type: ignore[import-not-found,unused-ignore]
    from cornac.models.sasrec import recom_sasrec  # type: ignore[import-not-found,unused-ignore]

    def prefix_size(batch: Any) -> Size:
        histories = batch[1]
        return Size(len(histories), int((histories < task.request.n_items).sum()), histories.size)

    def step_size(batch: Any) -> Size:
        return Size(len(batch[0]), len(batch[0]), len(batch[0]))

    def paced(iterator: Callable[..., Any], size: Callable[[Any], Size]) -> Callable[..., Any]:
        return lambda *arguments, **named: pace.over(iterator(*arguments, **named), size)

    if task.request.model == "GRU4Rec":
        recom_gru4rec.io_iter = paced(recom_gru4rec.io_iter, step_size)
    elif task.request.model == "SASRec":
        recom_sasrec.session_seq_iter = paced(recom_sasrec.session_seq_iter, prefix_size)
    else:
        seq_utils.session_seq_iter = paced(seq_utils.session_seq_iter, prefix_size)


def transformer(task: Task, model: Any, torch: Any) -> Callable[[Any], Any]:
    """Scores after whole histories int64 [b, length], as the library's `score` makes them one user at a time."""
    items = torch.arange(task.request.n_items, device=task.request.device)

    def predict(histories: Any) -> Any:
        pad = model.max_len - histories.shape[1]
        padded = torch.nn.functional.pad(histories, (pad, 0), value=model.pad_idx).to(task.request.device)
        if task.request.model == "SASRec":
            return model.model(None, padded, items)
        return model.model.score_positions(model.model.encode(padded)[:, -1], items)

    return predict


def recurrent(task: Task, model: Any, torch: Any) -> Callable[[Any], Any]:
    """Scores after whole histories, item by item as the library's `score` does."""

    def predict(histories: Any) -> Any:
        states = [torch.zeros(len(histories), size, device=task.request.device) for size in model.layers]
        for items in histories.to(task.request.device).T:
            found = model.model.forward(items, states, None, training=False)
        return found

    return predict


def sessions(task: Task) -> Any:
    """The train split with one session a user, and our ids as the library's own."""
    from cornac.data import SequentialDataset  # type: ignore[import-not-found,unused-ignore]

    users, items = task.train.users.tolist(), task.train.items.tolist()
    rows = [(user, user, item, time) for time, (user, item) in enumerate(zip(users, items, strict=True))]
    return SequentialDataset.build(rows, fmt="USIT", seed=task.request.seed, **id_maps(task))


def id_maps(task: Task) -> dict[str, Any]:
    """Maps from ids to themselves: items that the train split lacks have their place too."""
    users, items = (OrderedDict((n, n) for n in range(count)) for count in (task.request.n_users, task.request.n_items))
    return {"global_uid_map": users, "global_iid_map": items}


def fit_bpr(task: Task, pace: Pace) -> Score:
    """BPR runs in compiled code, so its loop cannot be watched from here."""
    from cornac.data import Dataset  # type: ignore[import-not-found,unused-ignore]
    from cornac.models import BPR  # type: ignore[import-not-found,unused-ignore]

    request = task.request
    if request.mode == "rate":
        raise ValueError("cornac's BPR has no batches to be timed")
    rows = [(user, item, 1.0) for user, item in zip(task.train.users.tolist(), task.train.items.tolist(), strict=True)]
    data = Dataset.build(rows, seed=request.seed, **id_maps(task))
    model = BPR(k=request.dimension, max_iter=request.epochs, learning_rate=BPR_RATE, seed=request.seed)
    started = time.perf_counter()
    model.fit(data)
    pace.add(request.epochs * data.num_ratings, time.perf_counter() - started, request.epochs)

    def score(users: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (model.u_factors[users] @ model.i_factors.T + model.i_biases).astype(np.float32)
        return found

    return score


if __name__ == "__main__":
    serve(fit, lambda: installed("cornac", "torch", "numpy"))
