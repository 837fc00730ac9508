"""ComiRec: interests by self-attention (SA) or by the dynamic routing of capsule networks (DR).

Cen et al., "Controllable multi-interest framework for recommendation", 2020. Full cross-entropy takes the place of
sampled softmax, and every prefix of a history is an example. Its re-ranking for diversity is no part of the comparison.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from recsys_dagster.baselines.config import ComiRecDRConfig, ComiRecSAConfig
from recsys_dagster.layers.capsules import recency_decay, route, squash, visible_prefixes
from recsys_dagster.layers.interests import Interests, MultiInterestModel, first_interests
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save


class ComiRecSA(MultiInterestModel):
    """K weighted sums of the item vectors: A = softmax(W_2' tanh(W_1 H))', V_u = H A (its Eq. 5 and 6).

    Positions are added to the item vectors for the weights alone, as the authors' code has it.
    """

    def __init__(self, config: ComiRecSAConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(config, n_items=n_items, max_length=max_length)
        d = config.dimension
        self.positions = nn.Embedding(max_length, d)
        self.hidden = nn.Linear(d, config.hidden * d, bias=False)  # W_1
        self.heads = nn.Linear(config.hidden * d, config.interests, bias=False)  # W_2
        nn.init.normal_(self.positions.weight, std=d**-0.5)

    def attention(self, vectors: torch.Tensor, batch: SequenceBatch) -> torch.Tensor:
        """A of every prefix, a softmax over the items it has: float [batch, length, K, length], 0 for others."""
        places = self.positions.weight[: vectors.shape[1]]
        scores = self.heads(torch.tanh(self.hidden(vectors + places))).transpose(1, 2)  # [batch, K, length]
        seen = visible_prefixes(batch.mask)[:, :, None, :]
        lowest = torch.finfo(scores.dtype).min  # not -inf: an empty history has no item to share the weight
        return scores[:, None].masked_fill(~seen, lowest).softmax(-1) * seen

    def values(self, vectors: torch.Tensor) -> torch.Tensor:
        """What is summed: the item vectors."""
        return vectors

    def extract(self, vectors: torch.Tensor, batch: SequenceBatch) -> Interests:
        """K sums for every prefix."""
        weights = self.attention(vectors, batch)
        size, length, k, _ = weights.shape
        sums = torch.bmm(weights.view(size, length * k, length), self.values(vectors)).view(size, length, k, -1)
        return Interests(sums, torch.ones(size, length, k, dtype=torch.bool, device=sums.device), weights)


class ComiRecDR(MultiInterestModel):
    """Routing as in capsule networks: each interest has a map of its own and all logits start at 0 (its Algorithm 1).

    The paper's W_ij belongs to a place j of the history as well; here one W_k serves all places, as few histories are
    long enough to teach the later ones anything. Each starts near the identity, and apart from the others.
    """

    def __init__(self, config: ComiRecDRConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(config, n_items=n_items, max_length=max_length)
        d = config.dimension
        self.rounds = config.routing_rounds
        self.maps = nn.Parameter(torch.eye(d) + torch.randn(config.interests, d, d) * 0.1 * d**-0.5)
        self.recency = nn.Parameter(torch.zeros(())) if config.recency else None

    def extract(self, vectors: torch.Tensor, batch: SequenceBatch) -> Interests:
        """Capsules of every prefix, at most as many as it has items."""
        length = vectors.shape[1]
        valid = first_interests(batch.mask, self.k, torch.arange(1, length + 1, device=vectors.device))
        logits = vectors.new_zeros(length, self.k)
        decay = None if self.recency is None else recency_decay(self.recency, length)
        capsules, weights = route(
            vectors, visible_prefixes(batch.mask), logits, valid, self.rounds, decay, self.maps
        )  # fmt: skip
        return Interests(squash(capsules), valid, weights)


@data_parallel
def train_comirec_sa(
    data: SequenceData, config: ComiRecSAConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train ComiRec-SA, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("comirec_sa", ComiRecSA, shape, data, config, runtime, output, checkpoint)


@data_parallel
def train_comirec_dr(
    data: SequenceData, config: ComiRecDRConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train ComiRec-DR, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("comirec_dr", ComiRecDR, shape, data, config, runtime, output, checkpoint)
