"""GRU4Rec: a recurrent network reads the history item by item and says what comes next.

Hidasi et al., "Session-based recommendations with recurrent neural networks", 2016; Hidasi and Karatzoglou, "Recurrent
neural networks with top-k gains for session-based recommendations", 2018 (item vectors shared by input and output).
Full cross-entropy takes the place of the sampled losses of both.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from recsys_dagster.baselines.config import GRU4RecConfig
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import catalogue_cross_entropy, with_item_bias
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class GRU4Rec(SequentialModel):
    """Item embeddings, a GRU, scores by inner product with the item embeddings and a bias of each item."""

    def __init__(self, config: GRU4RecConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(n_items, max_length)
        d = config.dimension
        self.items = nn.Embedding(n_items, d)
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.gru = nn.GRU(d, d, num_layers=config.layers, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.items.weight, std=d**-0.5)

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """States float [batch, length, d]; the state at t has seen the items up to t, so padding comes too late."""
        states: torch.Tensor = self.gru(self.dropout(self.items(batch.items)))[0]
        return self.dropout(states)

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the next item at every real position."""
        assert batch.targets is not None
        mask = batch.mask
        queries, items = with_item_bias(self(batch)[mask], self.items.weight, self.bias)
        return catalogue_cross_entropy(queries, items, batch.targets[mask]), {}

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Scores after the last item; after an empty history the state is still zero and the biases decide."""
        states = batch.last(self(batch)).masked_fill((batch.lengths == 0)[:, None], 0.0)
        return states @ self.items.weight.T + self.bias


@data_parallel
def train_gru4rec(
    data: SequenceData, config: GRU4RecConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train GRU4Rec, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("gru4rec", GRU4Rec, shape, data, config, runtime, output, checkpoint)
