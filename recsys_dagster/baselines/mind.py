"""MIND: the items of a history are routed to a few capsules, and each capsule is an interest.

Li et al., "Multi-interest network with dynamic routing for recommendation at Tmall", 2019. Full cross-entropy takes the
place of sampled softmax, and every prefix of a history is an example.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from recsys_dagster.baselines.config import MINDConfig
from recsys_dagster.layers.capsules import recency_decay, route, squash, visible_prefixes
from recsys_dagster.layers.interests import Interests, MultiInterestModel, first_interests
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.launch import data_parallel
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save

ROUTING_SEED = 2019
"""Of the starting logits of the routing: part of the model, not of the training run."""


class MIND(MultiInterestModel):
    """Behaviour-to-interest routing with one map S for all, and a ReLU layer over each capsule (Sections 4.2 to 4.4).

    The routing logits start at random, or capsules that share their map would all be the same; here they are drawn once
    and kept, where the paper draws them anew for each user, so that a score is the same twice.
    """

    def __init__(self, config: MINDConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(config, n_items=n_items, max_length=max_length)
        d = config.dimension
        self.rounds = config.routing_rounds
        self.capsule_map = nn.Linear(d, d, bias=False)  # S
        self.widen, self.narrow = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.recency = nn.Parameter(torch.zeros(())) if config.recency else None
        nn.init.eye_(self.capsule_map.weight)  # a capsule starts as a weighted sum of item vectors
        nn.init.zeros_(self.narrow.weight)  # and an interest as its capsule
        nn.init.zeros_(self.narrow.bias)
        generator = torch.Generator().manual_seed(ROUTING_SEED)
        self.register_buffer("routing_logits", torch.randn(max_length, config.interests, generator=generator))
        self.routing_logits: torch.Tensor

    def extract(self, vectors: torch.Tensor, batch: SequenceBatch) -> Interests:
        """Capsules of every prefix; one of n items has max(1, min(K, log2 n)) of them (Eq. 9)."""
        length = vectors.shape[1]
        counts = torch.arange(1, length + 1, device=vectors.device).log2().floor().long().clamp(min=1)
        valid = first_interests(batch.mask, self.k, counts)
        decay = None if self.recency is None else recency_decay(self.recency, length)
        capsules, weights = route(
            self.capsule_map(vectors),
            visible_prefixes(batch.mask),
            self.routing_logits[:length],
            valid,
            self.rounds,
            decay,
        )
        capsules = squash(capsules)
        return Interests(capsules + self.narrow(torch.relu(self.widen(capsules))), valid, weights)


@data_parallel
def train_mind(
    data: SequenceData, config: MINDConfig, runtime: Runtime, output: Path, checkpoint: Path | None = None
) -> dict[str, float | int | str]:
    """Train MIND, write its model directory to `output` and return figures for people."""
    shape = {"n_items": data.n_items, "max_length": data.max_length}
    return train_and_save("mind", MIND, shape, data, config, runtime, output, checkpoint)
