"""The product: the best items for every user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys_dagster.data.histories import TEST

if TYPE_CHECKING:
    from recsys_dagster.training.data import SequenceData
    from recsys_dagster.training.ranking import Scorer


def recommendations(
    scorer: Scorer,
    data: SequenceData,
    *,
    model: str,
    n: int = 20,
    users: NDArray[np.int64] | None = None,
    whole_history: bool = True,
    batch_size: int = 256,
) -> pd.DataFrame:
    """The exact `n` best items of each user, best first.

    A model scores the whole catalogue and the best are taken from that, with no approximate search; for LARMI the score
    of an item is the largest over the user's interests.

    Args:
        scorer: the trained model.
        data: the splits. Items of a user's history are left out where `data.mask_seen` says so.
        model: name of the model, for the table.
        n: items a user; fewer where the user has seen nearly the whole catalogue.
        users: int64 [users]; all users unless given.
        whole_history: let the model see the user's test items too, as it would in use, so that it recommends what
            comes after them. False stops before the test split, to look at what the metrics measured. The model itself
            has been trained without those items either way.
        batch_size: users scored at once.

    Returns:
        Columns user_id i32, rank i32 (from 1), item_id i32, score f32, model; sorted by user and rank.

    Raises:
        ValueError: `n` is below 1.
        FloatingPointError: the model gives a score that is not finite.
    """
    from recsys_dagster.training.ranking import top_n

    if n < 1:
        raise ValueError(f"n must be at least 1, found {n}")
    wanted = np.arange(data.n_users) if users is None else np.unique(np.asarray(users, dtype=np.int64))
    histories = data.whole() if whole_history else data.history(TEST)
    items, scores = top_n(scorer, wanted, histories, n=n, mask_seen=data.mask_seen, batch_size=batch_size)
    there = items >= 0
    width = items.shape[1]
    table = pd.DataFrame(
        {
            "user_id": np.repeat(wanted, width)[there.ravel()].astype(np.int32),
            "rank": np.tile(np.arange(1, width + 1, dtype=np.int32), len(wanted))[there.ravel()],
            "item_id": items[there],
            "score": scores[there],
        }
    )
    return table.assign(model=model)
