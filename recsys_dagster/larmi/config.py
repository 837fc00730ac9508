"""Settings of LARMI (no torch import: Dagster reads them while loading)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys_dagster.training.config import NEGATIVES, TrainingConfig


class LARMIConfig(TrainingConfig):
    """LARMI's model.

    Its ablations: `semantic` and `collaborative` here, `synthesis` of the cliques, `solver` of the cover.
    """

    epochs: int = Field(8, ge=1, description="Most passes over the train split")
    interests: int = Field(
        4, ge=1, description="K, the most interests of a user; a history of fewer clusters has fewer"
    )
    routing_rounds: int = Field(3, ge=1, description="Rounds of dynamic routing")
    negatives: int = Field(4096, ge=0, description=NEGATIVES)
    learning_rate: float = Field(5e-3, gt=0, description="Adam's step size after a warm-up of 100 steps")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay (AdamW)")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout of the item vectors that the model reads")
    contrastive_weight: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Lambda, the weight of the contrastive loss; 0 leaves it out",
    )
    contrastive_update: Literal["periodic", "weighted"] = Field(
        "periodic",
        description="periodic: the contrastive loss is taken whole every round(1 / lambda) steps; weighted: times "
        "lambda in every step (Eq. 13), which costs more time",
    )
    contrastive_temperature: float = Field(0.1, gt=0, description="Tau of the contrastive loss")
    apart_weight: float = Field(
        0.05, ge=0, description="Weight of the mean cosine between a user's interests, which keeps them apart"
    )
    similarity: Literal["cosine", "inner"] = Field(
        "cosine", description="Score of an item: cosine over a learned temperature, or inner product (Eq. 11)"
    )
    labels: bool = Field(
        True, description="Add to an item the mean vector of the words in the names of the users' clusters that hold it"
    )
    crowd: bool = Field(
        True, description="Add to an item the mean vector of the synthesized users' interests that hold it"
    )
    semantic: bool = Field(True, description="Use the language model's clusters of each user (off: ablation w/o-sem)")
    semantic_weight: float = Field(
        0.3, ge=0, description="What the clusters aligned with a capsule count beside it in an interest (the paper's 1)"
    )
    collaborative: bool = Field(True, description="Use the capsules (off: ablation w/o-col)")
