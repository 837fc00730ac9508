"""Popularity: the same ranking for everybody, by the number of train interactions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories
from recsys_dagster.training.artifact import save_model
from recsys_dagster.training.data import SequenceData


class Popularity:
    """Scores every item by how often it occurs in the train split."""

    def __init__(self, counts: torch.Tensor) -> None:
        self.counts = counts  # [N]
        self.n_items = len(counts)

    def score(self, users: NDArray[np.int64], histories: Histories) -> torch.Tensor:
        """The counts, once for each user: float [len(users), N]."""
        return self.counts.float().expand(len(users), -1).clone()


def train_popularity(data: SequenceData, output: Path) -> dict[str, float | int | str]:
    """Count the train split and write a model directory to `output`."""
    counts = torch.from_numpy(data.train.popularity())
    save_model(
        output,
        name="popularity",
        config={},
        shape={"n_items": data.n_items},
        state={"counts": counts},
        history=pd.DataFrame({"epoch": [0]}),
    )
    return {"items_seen": int((counts > 0).sum())}
