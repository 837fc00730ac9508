"""SASRec: next-item prediction by causal self-attention, trained with cross-entropy over the whole catalogue.

Kang and McAuley, "Self-attentive sequential recommendation", 2018. Differences that make it strong: full cross-entropy
instead of one sampled negative, pre-norm blocks, batches by length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.layers.transformer import CausalBlock
from recsys_dagster.training.artifact import read_state, save_model
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.loop import SequentialModel, fit
from recsys_dagster.training.loss import catalogue_cross_entropy
from recsys_dagster.training.runtime import Runtime


class SASRec(SequentialModel):
    """Item and position embeddings, causal blocks, scores by inner product with the item embeddings."""

    def __init__(self, config: SASRecConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(n_items, max_length)
        d = config.dimension
        self.items, self.positions = nn.Embedding(n_items, d), nn.Embedding(max_length, d)
        self.blocks = nn.ModuleList(CausalBlock(d, config.heads, config.dropout) for _ in range(config.layers))
        # without the first one the small vectors of untrained items drown in what the blocks add to them
        self.token_norm, self.norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, batch: SequenceBatch) -> torch.Tensor:
        """States float [batch, length, d]; the state at t has seen the items up to t."""
        length = batch.items.shape[1]
        x = self.dropout(self.token_norm(self.items(batch.items) + self.positions.weight[:length]))
        for block in self.blocks:
            x = block(x)
        normed: torch.Tensor = self.norm(x)
        return normed

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the next item at every real position."""
        assert batch.targets is not None
        mask = batch.mask
        return catalogue_cross_entropy(self(batch)[mask], self.items.weight, batch.targets[mask]), {}

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Inner products of the last state with all items."""
        last = (batch.lengths - 1).clamp(min=0)
        states = self(batch)[torch.arange(len(last), device=last.device), last]
        return states @ self.items.weight.T


def train_sasrec(
    data: SequenceData, config: SASRecConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train SASRec, write its model directory to `output` and return figures for people."""
    torch.manual_seed(runtime.seed)
    model = SASRec(config, n_items=data.n_items, max_length=data.max_length)
    trained = fit(model, data, config, runtime, label="sasrec", checkpoint=checkpoint)
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    save_model(
        output,
        name="sasrec",
        config=config.model_dump(),
        shape=shape,
        state=model.learned_state(),
        history=trained.history,
    )
    return trained.facts


def item_embeddings(directory: Path) -> NDArray[np.float32]:
    """Item embeddings X float32 [N, d] of a trained SASRec."""
    embeddings: NDArray[np.float32] = read_state(directory)["items.weight"].float().numpy()
    return embeddings
