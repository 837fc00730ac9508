"""How far items of the history are raised when items are ranked: chosen on the validation split after training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recsys_dagster.data.histories import VALIDATION
from recsys_dagster.layers.repeats import RepeatBias
from recsys_dagster.progress import Progress
from recsys_dagster.training.batching import pad
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.distributed import gathered, own_of, size
from recsys_dagster.training.loop import VALIDATION_CUTOFF, SequentialModel
from recsys_dagster.training.ranking import catalogue_ranks, entries_of

OFFSETS = (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, 2.0, 3.0, 4.0)
"""The first of those that are equally good is taken."""
BATCH = 256


def choose_repeat_offset(model: SequentialModel, data: SequenceData) -> dict[str, float]:
    """Set `RepeatBias.offset` to the one of `OFFSETS` with the best validation Recall@20, the mean over users.

    The bias is learned as a probability, over positions, where users with long histories have most. A list of twenty is
    another matter: a history of few items costs few places, and coming back may be commoner late in a log than early.

    All offsets are tried in one pass: the catalogue is scored once.

    Returns:
        The offset and its Recall@20, for people. Nothing, and nothing is set, where the model has no such bias, items
        of the history are no candidates, or there is no validation target.
    """
    repeats = getattr(model, "repeats", None)
    history, targets = data.history(VALIDATION), data.targets(VALIDATION)
    users = np.flatnonzero((targets.lengths > 0) & (history.lengths > 0))
    if not isinstance(repeats, RepeatBias) or data.mask_seen or not len(users):
        return {}
    model.eval()
    found = np.zeros(len(OFFSETS))
    with torch.no_grad(), Progress("repeat offset", len(users), "users") as progress:
        for start in own_of(range(0, len(users), BATCH)):
            chosen = users[start : start + BATCH]
            found += _recalls(model, data, chosen)
            progress.update(len(chosen) * size())
    recalls = np.sum(gathered(found), axis=0) / int((targets.lengths > 0).sum())
    best = int(recalls.argmax())
    repeats.offset.fill_(OFFSETS[best])
    return {"repeat_offset": OFFSETS[best], "repeat_offset_recall": float(recalls[best])}


def _recalls(model: SequentialModel, data: SequenceData, users: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum over the users of Recall@20 with each of `OFFSETS`."""
    history, targets = data.history(VALIDATION), data.targets(VALIDATION)
    scores = model.score(users, history).float()
    batch = pad(history, users, model.max_length).to(str(scores.device))
    rows, places = batch.mask.nonzero(as_tuple=True)
    raised = torch.zeros_like(scores)
    raised[rows, batch.items[rows, places]] = 1.0
    row, item = (torch.from_numpy(each).to(scores.device) for each in entries_of(targets, users))
    weights = 1 / targets.lengths[users][row.cpu().numpy()]
    ranks = (catalogue_ranks(scores + offset * raised, row, item, None, users) for offset in OFFSETS)
    return np.array([((each <= VALIDATION_CUTOFF) * weights).sum() for each in ranks])
