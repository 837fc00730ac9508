"""Settings of the baselines (no torch import: Dagster reads them while loading)."""

from __future__ import annotations

from pydantic import Field

from recsys_dagster.training.config import NEGATIVES, MultiInterestConfig, NextItemConfig, TrainingConfig


class PairwiseConfig(TrainingConfig):
    """What the models that learn from (user, item) pairs share."""

    epochs: int = Field(40, ge=1, description="Most passes over the train split")
    batch_size: int = Field(
        1024, ge=1, description="Pairs in a batch; fewer where an epoch would have less than 100 batches"
    )


class BPRConfig(PairwiseConfig):
    """Matrix factorisation with the BPR loss (Rendle et al., 2009)."""

    l2: float = Field(1e-3, ge=0, description="Weight of half the squared length of the vectors of a pair")


class LightGCNConfig(PairwiseConfig):
    """Light graph convolution with the BPR loss (He et al., 2020)."""

    layers: int = Field(2, ge=1, description="Steps over the graph of users and items")
    l2: float = Field(1e-4, ge=0, description="Weight of half the squared length of the initial vectors of a pair")


class GRU4RecConfig(TrainingConfig):
    """Recurrent sequential recommendation (Hidasi et al., 2016) with full cross-entropy."""

    learning_rate: float = Field(5e-3, gt=0, description="Adam's step size after a warm-up of 100 steps")
    layers: int = Field(1, ge=1, description="GRU layers")
    dropout: float = Field(0.3, ge=0, lt=1, description="Dropout of item vectors and states")


class CaserConfig(TrainingConfig):
    """Convolutional sequential recommendation (Tang and Wang, 2018) with full cross-entropy."""

    learning_rate: float = Field(5e-3, gt=0, description="Adam's step size after a warm-up of 100 steps")
    window: int = Field(5, ge=1, description="L, how many of the last items are read")
    horizontal_filters: int = Field(16, ge=1, description="Filters of each height 1..L")
    vertical_filters: int = Field(4, ge=1, description="Filters over the rows of the window, as weighted sums")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout of what the filters found and of the joint vector")


class BERT4RecConfig(TrainingConfig):
    """Bidirectional transformer trained to fill gaps (Sun et al., 2019) with full cross-entropy."""

    epochs: int = Field(24, ge=1, description="Most passes over the train split")
    layers: int = Field(2, ge=1, description="Transformer blocks")
    heads: int = Field(2, ge=1, description="Attention heads; divides dimension")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout of embeddings, attention and feed-forward layers")
    mask_rate: float = Field(0.2, gt=0, le=1, description="Probability that a position of a train sequence is hidden")
    copies: int = Field(4, ge=1, description="Times that a sequence stands in its batch, each with gaps of its own")
    last_item_share: float = Field(
        0.1, ge=0, le=1, description="Share of the train sequences of which the last item alone is hidden"
    )


class SASRecConfig(NextItemConfig):
    """Self-attentive sequential recommendation (Kang and McAuley, 2018) with cross-entropy over many items."""

    epochs: int = Field(20, ge=1, description="Most passes over the train split")
    negatives: int = Field(2048, ge=0, description=NEGATIVES)
    layers: int = Field(2, ge=1, description="Transformer blocks")
    heads: int = Field(2, ge=1, description="Attention heads; divides dimension")
    dropout: float = Field(0.5, ge=0, lt=1, description="Dropout of embeddings, attention and feed-forward layers")


class RoutedConfig(MultiInterestConfig):
    """What the models with dynamic routing share."""

    interests: int = Field(4, ge=1, description="K, the most interests of a user; a short history has fewer")
    routing_rounds: int = Field(3, ge=1, description="Rounds of dynamic routing")
    recency: bool = Field(True, description="Learn how much less an item counts for each step back, as LARMI does")


class MINDConfig(RoutedConfig):
    """Multi-interest network with dynamic routing (Li et al., 2019) with full cross-entropy."""


class ComiRecDRConfig(RoutedConfig):
    """Controllable multi-interest framework with dynamic routing (Cen et al., 2020) with full cross-entropy."""

    interests: int = Field(2, ge=1, description="K, the most interests of a user; a short history has fewer")


class ComiRecSAConfig(MultiInterestConfig):
    """Controllable multi-interest framework with self-attention (Cen et al., 2020) with full cross-entropy."""

    hidden: int = Field(4, ge=1, description="d_a over d: width of the attention's hidden layer")


class Re4Config(ComiRecSAConfig):
    """Re-contrast, re-attend, re-construct (Zhang et al., 2022) with full cross-entropy."""

    contrast_weight: float = Field(0.1, ge=0, description="Weight of the re-contrast loss")
    contrast_temperature: float = Field(0.1, gt=0, description="Temperature of the re-contrast loss")
    attend_weight: float = Field(0.01, ge=0, description="Weight of the re-attend loss")
    construct_weight: float = Field(0.1, ge=0, description="Weight of the re-construct loss")


class REMIConfig(ComiRecSAConfig):
    """ComiRec-SA trained with hard negatives and routing regularisation (Xie et al., 2023)."""

    interests: int = Field(8, ge=1, description="K, the most interests of a user")

    hardness: float = Field(0.5, ge=0, description="Beta of the negatives' distribution; 0 is full cross-entropy")
    routing_weight: float = Field(1.0, ge=0, description="Weight of the routing regularisation")
