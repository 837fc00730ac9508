"""LARMI: semantic clusters and collaborative capsules of a user, aligned into K interests (Eq. 2-4 and 11-15)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.larmi.contrastive import SynthesizedUser, contrastive_loss, synthesized_users
from recsys_dagster.layers.capsules import dynamic_routing
from recsys_dagster.layers.pooling import prefix_cluster_pooling
from recsys_dagster.layers.repeats import RepeatBias
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import catalogue_cross_entropy
from recsys_dagster.training.runtime import Runtime
from recsys_dagster.training.train import train_and_save

ROUTING_SEED = 2027
"""Of the starting logits of the routing: part of the model, not of the training run."""


class LARMI(SequentialModel):
    """A user's interests o_k = m_k + z_k, scored by the best of them.

    Args:
        config: settings.
        n_items: size of the catalogue.
        max_length: longest history.
        memberships: how many rows the table of clusters has (`cluster_table`); the rows are part of the state.
    """

    def __init__(self, config: LARMIConfig, *, n_items: int, max_length: int, memberships: int) -> None:
        super().__init__(n_items, max_length)
        self.config = config
        d = config.dimension
        self.items = nn.Embedding(n_items, d)
        self.capsule_map = nn.Linear(d, d, bias=False)  # W of Eq. 14
        self.attention = nn.Linear(d, 1)  # w, b of Eq. 2
        self.alignment = nn.Linear(d, d, bias=False)  # W_1 of the alignment
        self.dropout = nn.Dropout(config.dropout)
        # per step back in time: of the clusters' attention, of the capsules
        self.recency = nn.Parameter(torch.zeros(2))
        self.repeats = RepeatBias()
        nn.init.normal_(self.items.weight, std=d**-0.5)
        nn.init.eye_(self.capsule_map.weight)  # a capsule starts as a weighted sum of item vectors
        generator = torch.Generator().manual_seed(ROUTING_SEED)
        self.register_buffer("routing_logits", torch.randn(max_length, config.interests, generator=generator))
        self.register_buffer("cluster_keys", torch.zeros(memberships, dtype=torch.int64))
        self.register_buffer("cluster_values", torch.zeros(memberships, dtype=torch.int64))
        self.routing_logits: torch.Tensor
        self.cluster_keys: torch.Tensor
        self.cluster_values: torch.Tensor
        self.synthesized: list[SynthesizedUser] = []

    def interests(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Interests of every prefix of every history.

        Returns:
            o float [batch, length, K, d] and bool [batch, length, K]: the interest exists. (Without the capsules K is
            the number of clusters.)
        """
        vectors = self.dropout(self.items(batch.items)) * batch.mask[..., None]
        semantic, present = self._clusters(vectors, batch)
        if not self.config.collaborative:
            return semantic, present
        length, k = vectors.shape[1], self.config.interests
        causal = torch.ones(length, length, dtype=torch.bool, device=vectors.device).tril()
        count = torch.arange(1, length + 1, device=vectors.device)
        valid = (torch.arange(k, device=vectors.device) < count[:, None]).expand(len(vectors), -1, -1)
        capsules = dynamic_routing(
            self.capsule_map(vectors),
            causal & batch.mask[:, None, :],
            self.routing_logits[:length],
            valid,
            self.config.routing_rounds,
            self._decay(length),
        )
        if not self.config.semantic:
            return capsules, valid
        return capsules + self._align(capsules, semantic, present), valid

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Eq. 12 at every position, and Eq. 10 (Eq. 13) by the update strategy."""
        assert batch.targets is not None
        mask = batch.mask
        interests, valid = self.interests(batch)
        loss = catalogue_cross_entropy(
            interests[mask], self.items.weight, batch.targets[mask], valid[mask], self.repeats.prefixes(batch)
        )
        weight = self._contrastive_weight(step)
        if weight > 0 and self.synthesized:
            loss = loss + weight * contrastive_loss(
                self.items.weight, self.synthesized, self.config.contrastive_temperature
            )
        return loss, {}

    def _contrastive_weight(self, step: int) -> float:
        """What the contrastive loss counts in a step: the paper's two update strategies (Section 4.4.1)."""
        weight = self.config.contrastive_weight
        if self.config.contrastive_update == "weighted" or weight == 0:
            return weight
        # one step stands for the round(1 / lambda) steps that it is taken in, each of weight lambda
        return 1.0 if step % max(round(1 / weight), 1) == 0 else 0.0

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Eq. 11: the best inner product of an item with the interests of the whole history, plus the repeat bias."""
        interests, valid = self.user_interests(batch)
        best = torch.full((len(interests), self.n_items), -torch.inf, device=interests.device)
        for k in range(interests.shape[1]):  # one interest at a time: memory stays that of one score matrix
            scores = interests[:, k] @ self.items.weight.T
            torch.maximum(best, scores.masked_fill_(~valid[:, k, None], -torch.inf), out=best)
        best = self.repeats.add_to(best, batch)
        return best.masked_fill_((batch.lengths == 0)[:, None], 0.0)

    def user_interests(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Interests after the whole history: float [batch, K, d] and bool [batch, K]."""
        interests, valid = self.interests(batch)
        return batch.last(interests), batch.last(valid)

    def _align(self, capsules: torch.Tensor, semantic: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """z_k: the semantic clusters summed by their attention to capsule k. float [batch, length, K, d]."""
        scores = capsules @ torch.tanh(self.alignment(semantic)).transpose(-1, -2)  # [batch, length, K, F]
        scores = scores.masked_fill(~present[:, :, None, :], torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1) * present[:, :, None, :]
        return weights @ semantic

    def _clusters(self, vectors: torch.Tensor, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """h_f of Eq. 2 for every prefix: float [batch, length, F, d], bool [batch, length, F]."""
        members = self.cluster_members(batch)
        # a weight that falls by a constant factor per step back is, up to the norm, one that rises with the position
        age = torch.arange(vectors.shape[1], device=vectors.device)
        scores = self.attention(vectors)[..., 0] + self.recency[0] * age
        return prefix_cluster_pooling(vectors, scores, members)

    def _decay(self, length: int) -> torch.Tensor:
        """exp(-recency * steps back) of every position j in every prefix t: float [length, length]; j <= t matters."""
        place = torch.arange(length, device=self.recency.device)
        return torch.exp(-self.recency[1] * (place[:, None] - place).clamp(min=0))

    def cluster_members(self, batch: SequenceBatch) -> torch.Tensor:
        """Which cluster each item of each history stands in: bool [batch, length, F].

        An item that its user's clusters do not name (it came after they were made) is a cluster of its own.
        """
        mask = batch.mask
        keys = batch.users[:, None] * self.n_items + batch.items
        left = torch.searchsorted(self.cluster_keys, keys)
        count = (torch.searchsorted(self.cluster_keys, keys, right=True) - left) * mask
        row, position = mask.nonzero(as_tuple=True)
        count, left = count[row, position], left[row, position]
        entry = torch.repeat_interleave(torch.arange(len(row), device=row.device), count)
        offset = torch.arange(len(entry), device=row.device) - (count.cumsum(0) - count)[entry]
        cluster = self.cluster_values[left[entry] + offset]
        alone = count == 0
        known = int(cluster.max()) + 1 if len(cluster) else 0
        ordinal = torch.zeros_like(batch.items)
        ordinal[row[alone], position[alone]] = 1
        column = ordinal.cumsum(1)[row[alone], position[alone]] - 1 + known
        width = max(known, int(column.max()) + 1 if len(column) else 0, 1)
        members = torch.zeros(*batch.items.shape, width, dtype=torch.bool, device=row.device)
        members[row[entry], position[entry], cluster] = True
        members[row[alone], position[alone], column] = True
        return members


def cluster_table(user_clusters: pd.DataFrame, n_items: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The clusters as sorted keys user * N + item (int64 [rows]) and the cluster of each (int64 [rows])."""
    keys = user_clusters["user_id"].to_numpy().astype(np.int64) * n_items + user_clusters["item_id"].to_numpy()
    order = np.argsort(keys, kind="stable")
    clusters = user_clusters["cluster"].to_numpy().astype(np.int64)
    return torch.from_numpy(keys[order]), torch.from_numpy(clusters[order])


def train_larmi(
    data: SequenceData,
    user_clusters: pd.DataFrame,
    representative_clusters: pd.DataFrame,
    config: LARMIConfig,
    runtime: Runtime,
    output: Path,
    checkpoint: Path | None = None,
) -> dict[str, float | int | str]:
    """Train LARMI, write its model directory to `output` and return figures for people.

    Args:
        data: the splits.
        user_clusters: Eq. 1 for every user.
        representative_clusters: Eq. 9 for the selected synthesized users.
        config: settings.
        runtime: device, precision, seed.
        output: directory to write.
        checkpoint: directory for the state of an unfinished run.
    """
    keys, values = cluster_table(user_clusters, data.n_items)
    synthesized = synthesized_users(representative_clusters)
    shape = {"n_items": data.n_items, "max_length": data.max_length, "memberships": len(keys)}

    def build(config: LARMIConfig, **sizes: int) -> LARMI:
        model = LARMI(config, **sizes)
        model.cluster_keys.copy_(keys)
        model.cluster_values.copy_(values)
        model.synthesized = synthesized
        return model

    facts = train_and_save("larmi", build, shape, data, config, runtime, output, checkpoint)
    return facts | {"synthesized_users": len(synthesized)}
