"""Settings that every trained model shares."""

from __future__ import annotations

from pydantic import BaseModel, Field


class TrainingConfig(BaseModel):
    """The training loop: how long, how fast, when to stop."""

    epochs: int = Field(
        12, ge=1, description="Most passes over the train split; the step size falls linearly over them, to a tenth"
    )
    patience: int = Field(5, ge=1, description="Stop after this many epochs without a better validation figure")
    batch_size: int = Field(
        128,
        ge=1,
        description="Average number of users in a batch; fewer where an epoch would have less than 100 batches",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step size after a warm-up of 100 steps")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW)")
    dimension: int = Field(64, ge=4, description="Size d of item and interest vectors")
