"""BPR: matrix factorisation that ranks what a user has above what the user does not have.

Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", 2009.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from recsys_dagster.baselines.config import BPRConfig
from recsys_dagster.training.batching import PairBatch, PairBatches, SequenceBatch
from recsys_dagster.training.config import TrainingConfig
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import pairwise_loss
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class BPR(SequentialModel):
    """One vector a user, one vector and one bias an item; the order of a history plays no part."""

    def __init__(self, config: BPRConfig, *, n_users: int, n_items: int) -> None:
        super().__init__(n_items, max_length=1)  # scores ask for the user's id alone
        self.config = config
        d = config.dimension
        self.users, self.items = nn.Embedding(n_users, d), nn.Embedding(n_items, d)
        self.bias = nn.Parameter(torch.zeros(n_items))
        # users start at zero: one without train items then stays there and is ranked by the items' biases
        nn.init.zeros_(self.users.weight)
        nn.init.normal_(self.items.weight, std=d**-0.5)

    def batches(self, data: SequenceData, config: TrainingConfig) -> PairBatches:
        """Every train interaction beside an item that its user does not have."""
        return PairBatches(data.train, config.batch_size)

    def loss(self, batch: PairBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """BPR-Opt: -log sigmoid(x_ui - x_uj), and the squared length of the three vectors of a pair."""
        user, item, other = self.users(batch.users), self.items(batch.items), self.items(batch.negatives)
        positive = (user * item).sum(1) + self.bias[batch.items]
        negative = (user * other).sum(1) + self.bias[batch.negatives]
        return pairwise_loss(positive, negative, torch.stack([user, item, other]), self.config.l2), {}

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """x_ui of every item."""
        return self.users(batch.users) @ self.items.weight.T + self.bias


@data_parallel
def train_bpr(
    data: SequenceData, config: BPRConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train BPR, write its model directory to `output` and return figures for people."""
    shape = {"n_users": data.n_users, "n_items": data.n_items}
    return train_and_save("bpr", BPR, shape, data, config, runtime, output, checkpoint)
