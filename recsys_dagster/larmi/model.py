"""LARMI: semantic clusters and collaborative capsules of a user, aligned into K interests (Eq. 2-4 and 11-15)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from recsys_dagster.larmi.config import LARMIConfig
from recsys_dagster.larmi.contrastive import SynthesizedUsers, contrastive_loss
from recsys_dagster.larmi.memberships import cluster_columns, cluster_members
from recsys_dagster.layers.capsules import recency_decay, route, visible_prefixes
from recsys_dagster.layers.collapse import collapse_measures, interest_cosine
from recsys_dagster.layers.features import FeatureVectors, vectors_with
from recsys_dagster.layers.interests import best_interest_scores, first_interests
from recsys_dagster.layers.pooling import prefix_cluster_pooling
from recsys_dagster.layers.repeats import RepeatBias
from recsys_dagster.layers.similarity import Similarity
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.candidates import WHOLE, Candidates, draw_candidates
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.distributed import batch_mean
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import catalogue_cross_entropy

ROUTING_SEED = 2027
"""Of the starting logits of the routing: part of the model, not of the training run."""

STRENGTH_START = 1.0
"""Of the weight of log mass in an interest's scores; at 1 an interest's prior is its share of the history."""

SMALLEST_MASS = 1e-3

NO_MASS = 1e-6
"""Below this a capsule holds nothing and is divided by this."""

CLUSTER_START = 2.0
"""What the starting logits of the routing add for the interest of an item's semantic cluster."""

ALIGNMENT_START = 8.0
"""W_1 starts as this times the identity: an interest then takes the clusters that it is like, not the mean of all."""


@dataclass(frozen=True)
class Anatomy:
    """What the interests of whole histories are made of; F counts the semantic clusters.

    Attributes:
        vectors: o of Eq. 4, float [batch, K, d].
        valid: bool [batch, K]; the interest exists.
        routing: b of Eq. 14, recency included, float [batch, K, length]; 0 without the capsules. It sums to the mass.
        attention: alpha_j of Eq. 2, float [batch, F, length]; 0 for items that the cluster does not have.
        alignment: alpha_kf, float [batch, K, F]; 0 without the semantic clusters, the identity without the capsules.
        mass: how much of the history an interest holds, float [batch, K].
    """

    vectors: torch.Tensor
    valid: torch.Tensor
    routing: torch.Tensor
    attention: torch.Tensor
    alignment: torch.Tensor
    mass: torch.Tensor


class LARMI(SequentialModel):
    """A user's interests o_k = m_k + weight * z_k, scored by the best of them.

    m_k is the mean of what Eq. 14 sums up. z_k is a mean too, of clusters: beside a sum, whose length falls as its
    items grow old, it would take old interests over.

    Args:
        config: settings.
        n_items: size of the catalogue.
        max_length: longest history.
        memberships: how many rows the table of clusters has (`cluster_table`); the rows are part of the state.
        n_features: number of words in the names of clusters; 0 for a model without.
        feature_entries: number of (item, word) pairs.
        crowd_interests: number of interests of synthesized users that items stand in; 0 for a model without.
        crowd_entries: number of (item, interest) pairs.
    """

    def __init__(
        self,
        config: LARMIConfig,
        *,
        n_items: int,
        max_length: int,
        memberships: int,
        n_features: int = 0,
        feature_entries: int = 0,
        crowd_interests: int = 0,
        crowd_entries: int = 0,
    ) -> None:
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
        self.strength = nn.Parameter(torch.tensor(STRENGTH_START))
        self.repeats = RepeatBias()
        self.similarity = Similarity(config.similarity)
        nn.init.normal_(self.items.weight, std=d**-0.5)
        nn.init.eye_(self.capsule_map.weight)  # a capsule starts as a weighted sum of item vectors
        nn.init.eye_(self.alignment.weight)
        with torch.no_grad():
            self.alignment.weight.mul_(ALIGNMENT_START)
        self.labels = FeatureVectors(n_items, n_features, feature_entries, d) if n_features else None
        self.crowd = FeatureVectors(n_items, crowd_interests, crowd_entries, d) if crowd_interests else None
        generator = torch.Generator().manual_seed(ROUTING_SEED)
        self.register_buffer("routing_logits", torch.randn(max_length, config.interests, generator=generator))
        self.register_buffer("cluster_keys", torch.zeros(memberships, dtype=torch.int64))
        self.register_buffer("cluster_values", torch.zeros(memberships, dtype=torch.int64))
        self.routing_logits: torch.Tensor
        self.cluster_keys: torch.Tensor
        self.cluster_values: torch.Tensor
        self.synthesized: list[SynthesizedUsers] = []

    def item_vectors(self, candidates: Candidates = WHOLE) -> torch.Tensor:
        """v, float [m, d]: a candidate's own vector, and what it shares with others through names and interests."""
        return vectors_with(self.items.weight, candidates, self.labels, self.crowd)

    def interests(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Interests of every prefix of every history.

        Returns:
            o float [batch, length, K, d] and bool [batch, length, K]: the interest exists. (Without the capsules K is
            the number of clusters.)
        """
        interests, valid, _ = self._interests(batch, self._read(batch, self.item_vectors()))
        return interests, valid

    def queries(self, interests: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
        """Interests float [..., d] as what the `keys` of items are multiplied with, float [..., d + 1].

        The last coordinate is strength * log mass. A cosine forgets how much of the history an interest holds, and the
        best of several cosines would give every interest the same voice.

        Args:
            interests: o, float [..., d].
            mass: how much of the history each holds, float [...].
        """
        voice = self.strength * mass.clamp(min=SMALLEST_MASS).log()
        return torch.cat([self.similarity.queries(interests), voice[..., None]], dim=-1)

    def keys(self, items: torch.Tensor) -> torch.Tensor:
        """Item vectors float [N, d] as float [N, d + 1]; the inner product with `queries` is the score."""
        return torch.cat([self.similarity.items(items), torch.ones_like(items[:, :1])], dim=1)

    def _interests(
        self, batch: SequenceBatch, vectors: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`interests` from what `_read` gives, and how much of each prefix each of them holds: [batch, length, K]."""
        members = self._members(batch, vectors)
        semantic, present = prefix_cluster_pooling(vectors, self._scores(vectors), members)
        if not self.config.collaborative:
            return semantic, present, self._decay(members) @ members.float()
        capsules, routing, valid = self._capsules(vectors, batch, members)
        mass = routing.sum(-1)
        if not self.config.semantic:
            return capsules, valid, mass
        return self._joined(capsules, self._align(capsules, semantic, present), semantic), valid, mass

    def _decay(self, members: torch.Tensor) -> torch.Tensor:
        """What each item still counts in each prefix, float [length, length]; 0 for later ones."""
        return recency_decay(self.recency[1], members.shape[1]).tril()

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Eq. 12 at every position, Eq. 10 by the update strategy (Eq. 13), and what keeps the interests apart."""
        assert batch.targets is not None
        candidates = draw_candidates(self.n_items, self.config.negatives, batch)
        mask, numbered, items = batch.mask, candidates.of(batch), self.item_vectors(candidates)
        assert numbered.targets is not None
        interests, valid, mass = (each[mask] for each in self._interests(batch, self._read(numbered, items)))
        loss = catalogue_cross_entropy(
            self.queries(interests, mass),
            self.keys(items),
            numbered.targets[mask],
            valid,
            self.repeats.prefixes(numbered),
            candidates.stands_for,
        )
        if self.config.apart_weight > 0:
            several = valid.sum(1) > 1
            loss = loss + self.config.apart_weight * batch_mean(interest_cosine(interests[several], valid[several]))
        weight = self._contrastive_weight(step)
        if weight > 0 and self.synthesized:
            everything = items if candidates.items is None else self.item_vectors()
            loss = loss + weight * contrastive_loss(everything, self.synthesized, self.config.contrastive_temperature)
        return loss, {}

    def _contrastive_weight(self, step: int) -> float:
        """What the contrastive loss counts in a step: the paper's two update strategies (Section 4.4.1)."""
        weight = self.config.contrastive_weight
        if self.config.contrastive_update == "weighted" or weight == 0:
            return weight
        # one step stands for the round(1 / lambda) steps that it is taken in, each of weight lambda
        return 1.0 if step % max(round(1 / weight), 1) == 0 else 0.0

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """Eq. 11: an item's best score among the interests of the whole history, plus the repeat bias."""
        items = self.item_vectors()
        queries, valid = self.user_queries(batch, items)
        best = best_interest_scores(queries, valid, self.keys(items))
        best = self.repeats.add_to(best, batch)
        return best.masked_fill_((batch.lengths == 0)[:, None], 0.0)

    def user_interests(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Interests after the whole history: float [batch, K, d] and bool [batch, K]."""
        interests, valid = self.interests(batch)
        return batch.last(interests), batch.last(valid)

    def user_queries(self, batch: SequenceBatch, items: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`queries` after the whole history, float [batch, K, d + 1], and bool [batch, K]: the interest exists."""
        interests, valid, mass = (batch.last(each) for each in self._interests(batch, self._read(batch, items)))
        return self.queries(interests, mass), valid

    def anatomy(self, batch: SequenceBatch) -> Anatomy:
        """What the interests of whole histories are made of."""
        vectors = self._read(batch, self.item_vectors())
        members = self._members(batch, vectors)
        scores = self._scores(vectors)
        semantic, present = (
            batch.last(each)[:, None] for each in prefix_cluster_pooling(vectors, scores, members)
        )  # [batch, 1, F, d] and [batch, 1, F]: the last prefix alone
        spread = scores[:, None, :].masked_fill(~members.transpose(1, 2), torch.finfo(scores.dtype).min)
        attention = torch.softmax(spread, dim=2) * members.transpose(1, 2)
        if not self.config.collaborative:
            kept = present[:, 0]
            alignment = torch.eye(kept.shape[1], device=kept.device) * kept[..., None]
            mass = batch.last(self._decay(members) @ members.float())
            return Anatomy(semantic[:, 0], kept, torch.zeros_like(attention), attention, alignment, mass)
        capsules, routing, valid = (batch.last(each) for each in self._capsules(vectors, batch, members))
        if not self.config.semantic:
            nothing = torch.zeros(len(capsules), capsules.shape[1], attention.shape[1], device=capsules.device)
            return Anatomy(capsules, valid, routing, attention, nothing, routing.sum(-1))
        alignment = self._align(capsules[:, None], semantic, present)[:, 0] * valid[..., None]
        vectors = self._joined(capsules, alignment, semantic[:, 0])
        return Anatomy(vectors, valid, routing, attention, alignment, routing.sum(-1))

    def user_routing(self, batch: SequenceBatch) -> torch.Tensor:
        """What each item of the whole history counts in each interest, float [batch, K, length].

        Its weight in the capsule and, through the clusters, in what is aligned with it.
        """
        parts = self.anatomy(batch)
        if not self.config.collaborative:
            return parts.alignment @ parts.attention
        return self._joined(parts.routing / parts.mass.clamp(min=NO_MASS)[..., None], parts.alignment, parts.attention)

    def epoch_measures(self, data: SequenceData) -> dict[str, float]:
        """How far the interests of a user are apart."""
        return collapse_measures(self, data)

    def _read(self, batch: SequenceBatch, items: torch.Tensor) -> torch.Tensor:
        """Vectors of the histories' items, rows of `items`, 0 at padding: float [batch, length, d]."""
        return self.dropout(functional.embedding(batch.items, items)) * batch.mask[..., None]

    def _members(self, batch: SequenceBatch, vectors: torch.Tensor) -> torch.Tensor:
        """Which semantic cluster each item stands in, by what `_read` gives: bool [batch, length, F]."""
        return cluster_members(batch, self.cluster_keys, self.cluster_values, self.n_items, vectors)

    def _capsules(
        self, vectors: torch.Tensor, batch: SequenceBatch, members: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """m of Eq. 14, as a mean, for every prefix, what each item counts in it, and which of them exist."""
        length, k = vectors.shape[1], self.config.interests
        counts = torch.arange(1, length + 1, device=vectors.device)
        logits = self.routing_logits[:length]
        if self.config.semantic:  # items of one cluster start in one interest; the routing may move them
            logits = logits + CLUSTER_START * cluster_columns(members, k)
            # an interest where no cluster starts would be a faint copy of the others
            counts = torch.minimum(counts, (members.cumsum(1) > 0).sum(2).clamp(min=1))
        valid = first_interests(batch.mask, k, counts)
        capsules, weights = route(
            self.capsule_map(vectors),
            visible_prefixes(batch.mask),
            logits,
            valid,
            self.config.routing_rounds,
            recency_decay(self.recency[1], length),
        )
        return capsules / weights.sum(-1, keepdim=True).clamp(min=NO_MASS), weights, valid

    def _joined(self, capsules: torch.Tensor, alignment: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        """Eq. 4: capsules [..., K, d] with what they align [..., K, F] of the clusters [..., F, d]."""
        return capsules + self.config.semantic_weight * (alignment @ semantic)

    def _align(self, capsules: torch.Tensor, semantic: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """alpha_kf: how much of semantic cluster f is added to capsule k. float [batch, length, K, F]."""
        scores = capsules @ torch.tanh(self.alignment(semantic)).transpose(-1, -2)
        scores = scores.masked_fill(~present[:, :, None, :], torch.finfo(scores.dtype).min)
        return torch.softmax(scores, dim=-1) * present[:, :, None, :]

    def _scores(self, vectors: torch.Tensor) -> torch.Tensor:
        """w . v + b of Eq. 2 and recency, float [batch, length]."""
        # a weight that falls by a constant factor per step back is, up to the norm, one that rises with the position
        age = torch.arange(vectors.shape[1], device=vectors.device)
        scores: torch.Tensor = self.attention(vectors)[..., 0] + self.recency[0] * age
        return scores
