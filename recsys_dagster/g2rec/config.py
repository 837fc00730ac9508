"""Settings of the generative recommender (no torch import: Dagster reads them while loading)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys_dagster.training.config import NEGATIVES, NextItemConfig


class G2RecConfig(NextItemConfig):
    """G2Rec's recommender: a causal decoder over items and interest profile tokens (Eq. 8-13)."""

    epochs: int = Field(20, ge=1, description="Most passes over the train split")
    negatives: int = Field(2048, ge=0, description=NEGATIVES)
    start: Literal["random", "sasrec"] = Field(
        "random",
        description="sasrec: item vectors start as SASRec's, prototypes as the interest tokens made of them (Eq. 6)",
    )
    layout: Literal["interleaved", "fused"] = Field(
        "fused",
        description="interleaved: BOS, x1, y1, x2, y2, ... (Eq. 8); fused: one position an item, y added to x",
    )
    repeats: bool = Field(
        True, description="Learn how much more or less likely people are to come back to an item of their history"
    )
    decoding: bool = Field(
        True,
        description="Let the predicted profile, the graph and popularity have a say in the ranking, with weights from "
        "the validation split",
    )
    neighbours: int = Field(
        200, ge=1, description="Most neighbours and successors of an item that are kept for the ranking"
    )
    profile_weight: float = Field(0.1, ge=0, description="Lambda: weight of the profile loss (Eq. 13)")
    backbone: str = Field(
        "llama",
        description="llama: a small Llama decoder trained from scratch; otherwise the local path or hub name of a "
        "pretrained causal language model, adapted by LoRA (needs the extra `peft`)",
    )
    layers: int = Field(2, ge=1, description="Decoder layers of the small Llama")
    heads: int = Field(2, ge=1, description="Attention heads of the small Llama; divides dimension")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Dropout of the input tokens and of each sublayer of the small Llama"
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Compute the states of a pretrained backbone again in the backward pass in place of keeping them",
    )
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA adapters of a pretrained backbone")
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout of the LoRA adapters")
