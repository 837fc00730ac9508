"""Settings that every trained model shares."""

from __future__ import annotations

from typing import Literal

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
    accumulate: int = Field(
        1,
        ge=1,
        description="Batches whose gradients are averaged for one step: a larger batch in the memory of a small one",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Adam's step size after a warm-up of 100 steps")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay (AdamW)")
    seeds: int = Field(
        1,
        ge=1,
        description="Models trained one after the other, each from its own seed; metrics tell mean and spread, "
        "recommendations come from the first",
    )
    dimension: int = Field(64, ge=4, description="Size d of item and interest vectors")


NEGATIVES = (
    "Where the catalogue is larger than this, the loss is over the batch's items and so many others, drawn for each "
    "batch, each of which counts for all those that it stands for; 0: always over the whole catalogue"
)


class NextItemConfig(TrainingConfig):
    """What a model of the next item is trained to do."""

    weight_decay: float = Field(
        0.1, ge=0, description="Decoupled weight decay (AdamW): what an item's own vector has learned of noise fades"
    )
    similarity: Literal["cosine", "inner"] = Field(
        "cosine", description="Score of an item: cosine over a learned temperature, or inner product"
    )
    negatives: int = Field(0, ge=0, description=NEGATIVES)
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the target's probability spread over all items"
    )
    features: bool = Field(
        False, description="Add the mean vector of the words of an item's text (titles, categories, attributes) to it"
    )


class MultiInterestConfig(TrainingConfig):
    """What the models of several interests a user share."""

    interests: int = Field(4, ge=1, description="K, the most interests of a user")
    negatives: int = Field(4096, ge=0, description=NEGATIVES)
    learning_rate: float = Field(1e-2, gt=0, description="Adam's step size after a warm-up of 100 steps")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout of the item vectors that the model reads")
    similarity: Literal["cosine", "inner"] = Field(
        "cosine", description="Score of an item: cosine over a learned temperature, or inner product"
    )
    repeats: bool = Field(
        True, description="Learn how much likelier people come back to an item of their history, as LARMI does"
    )
