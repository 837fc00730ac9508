"""SASRec: next-item prediction by causal self-attention, trained with cross-entropy over items of the catalogue.

Kang and McAuley, "Self-attentive sequential recommendation", 2018. Differences that make it strong: cross-entropy
over the batch's items and some thousand others instead of one sampled negative, cosines over a learned temperature as
scores, pre-norm blocks, batches by length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from recsys_dagster.baselines.config import SASRecConfig
from recsys_dagster.data.features import ItemFeatures
from recsys_dagster.layers.features import FeatureVectors, vectors_with
from recsys_dagster.layers.next_item import NextItem
from recsys_dagster.layers.transformer import TransformerBlock
from recsys_dagster.training.artifact import read_config, read_state
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.candidates import WHOLE, Candidates
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class SASRec(SequentialModel):
    """Item and position embeddings, causal blocks, scores by similarity to the item vectors.

    Args:
        config: settings.
        n_items: size of the catalogue.
        max_length: longest history.
        n_features: number of item features, 0 for none.
        feature_entries: number of (item, feature) pairs.
    """

    def __init__(
        self, config: SASRecConfig, *, n_items: int, max_length: int, n_features: int = 0, feature_entries: int = 0
    ) -> None:
        super().__init__(n_items, max_length)
        d = config.dimension
        self.features = FeatureVectors(n_items, n_features, feature_entries, d) if n_features else None
        self.next_item = NextItem(config)
        self.items, self.positions = nn.Embedding(n_items, d), nn.Embedding(max_length, d)
        self.blocks = nn.ModuleList(TransformerBlock(d, config.heads, config.dropout) for _ in range(config.layers))
        # without the first one the small vectors of untrained items drown in what the blocks add to them
        self.token_norm, self.norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)
        for embedding in (self.items, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)

    def item_vectors(self, candidates: Candidates = WHOLE) -> torch.Tensor:
        """Float [m, d]: a candidate's own vector, plus the mean of its features' where there are any."""
        return vectors_with(self.items.weight, candidates, self.features)

    def forward(self, batch: SequenceBatch, vectors: torch.Tensor) -> torch.Tensor:
        """States float [batch, length, d] from item vectors [m, d]; the state at t has seen the items up to t."""
        tokens = functional.embedding(batch.items, vectors) + self.positions.weight[: batch.items.shape[1]]
        x = self.dropout(self.token_norm(tokens))
        for block in self.blocks:
            x = block(x)
        normed: torch.Tensor = self.norm(x)
        return normed

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy of the next item at every real position."""
        candidates = self.next_item.candidates(batch, self.n_items)
        batch, vectors = candidates.of(batch), self.item_vectors(candidates)
        assert batch.targets is not None
        mask = batch.mask
        states, targets = self(batch, vectors)[mask], batch.targets[mask]
        return self.next_item.loss(states, vectors, targets, stands_for=candidates.stands_for), {}

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Similarity of the last state to all items."""
        vectors = self.item_vectors()
        return self.next_item.scores(batch.last(self(batch, vectors)), vectors)


@data_parallel
def train_sasrec(
    data: SequenceData,
    config: SASRecConfig,
    runtime: Runtime,
    output: Path,
    checkpoint: Path | None = None,
    features: ItemFeatures | None = None,
) -> dict[str, float | int | str]:
    """Train SASRec, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length, **FeatureVectors.shape(features)}

    def build(config: SASRecConfig, **sizes: int) -> SASRec:
        model = SASRec(config, **sizes)
        if model.features is not None and features is not None:
            model.features.fill(features)
        return model

    return train_and_save("sasrec", build, shape, data, config, runtime, output, checkpoint)


def item_embeddings(directory: Path) -> NDArray[np.float32]:
    """Item embeddings X float32 [N, d] of a trained SASRec: its item vectors, features included."""
    contents = read_config(directory)
    model = SASRec(SASRecConfig(**contents["config"]), **contents["shape"])
    model.load_learned_state(read_state(directory))
    with torch.no_grad():
        embeddings: NDArray[np.float32] = model.item_vectors().float().numpy()
    return embeddings
