"""Settings that every trained model shares."""

from __future__ import annotations

from pydantic import BaseModel, Field


class TrainingConfig(BaseModel):
    """The training loop: how long, how fast, when to stop."""

    epochs: int = Field(40, ge=1, description="Most passes over the train split")
    patience: int = Field(4, ge=1, description="Stop after this many epochs without a better validation figure")
    batch_size: int = Field(128, ge=1, description="Average number of users in a batch")
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step size after warm-up")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW)")
    dimension: int = Field(64, ge=4, description="Size d of item and interest vectors")
