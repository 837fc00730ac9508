"""Settings of the baselines (no torch import: Dagster reads them while loading)."""

from __future__ import annotations

from pydantic import Field

from recsys_dagster.training.config import NextItemConfig


class SASRecConfig(NextItemConfig):
    """Self-attentive sequential recommendation (Kang and McAuley, 2018) with full cross-entropy."""

    layers: int = Field(2, ge=1, description="Transformer blocks")
    heads: int = Field(2, ge=1, description="Attention heads; divides dimension")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout of embeddings, attention and feed-forward layers")
