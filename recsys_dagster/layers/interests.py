"""What models of several interests share: reading a history, scoring by the best interest, learning by the target's."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from recsys_dagster.layers.collapse import collapse_measures
from recsys_dagster.layers.repeats import RepeatBias
from recsys_dagster.layers.similarity import Similarity
from recsys_dagster.training.batching import SequenceBatch
from recsys_dagster.training.candidates import draw_candidates
from recsys_dagster.training.config import MultiInterestConfig
from recsys_dagster.training.data import SequenceData
from recsys_dagster.training.loop import SequentialModel
from recsys_dagster.training.loss import catalogue_cross_entropy


@dataclass(frozen=True)
class Interests:
    """The interests of every prefix of every history.

    Attributes:
        vectors: float [batch, length, K, d]; at t, of the history up to its t-th item.
        valid: bool [batch, length, K]; the interest exists.
        weights: float [batch, length, K, length]; what each item counts in each interest, 0 where a prefix has it not.
    """

    vectors: torch.Tensor
    valid: torch.Tensor
    weights: torch.Tensor


class MultiInterestModel(SequentialModel, abc.ABC):
    """A user is a few vectors; an item's score is the best of its similarities to them.

    Every prefix of a history is an example: the interest that likes the target best is the query of a cross-entropy
    over the catalogue or a sample of it (MIND's label-aware attention in its limit of hard attention, ComiRec Eq. 9).

    Args:
        config: settings.
        n_items: size of the catalogue.
        max_length: longest history.
    """

    def __init__(self, config: MultiInterestConfig, *, n_items: int, max_length: int) -> None:
        super().__init__(n_items, max_length)
        self.k, self.negatives = config.interests, config.negatives
        self.items = nn.Embedding(n_items, config.dimension)
        self.dropout = nn.Dropout(config.dropout)
        self.similarity = Similarity(config.similarity)
        self.repeats = RepeatBias() if config.repeats else None
        self.cross_entropy: Callable[..., torch.Tensor] = catalogue_cross_entropy
        nn.init.normal_(self.items.weight, std=config.dimension**-0.5)

    @abc.abstractmethod
    def extract(self, vectors: torch.Tensor, batch: SequenceBatch) -> Interests:
        """The interests of every prefix, from item vectors float [batch, length, d] (0 at padding)."""

    def regularisation(self, found: Interests, batch: SequenceBatch) -> tuple[torch.Tensor | None, dict[str, float]]:
        """What a model adds to the cross-entropy (None: nothing), and its named parts."""
        return None, {}

    def interests(self, batch: SequenceBatch) -> Interests:
        """The interests of every prefix of every history."""
        return self.extract(self.dropout(self.items(batch.items)) * batch.mask[..., None], batch)

    def loss(self, batch: SequenceBatch, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """Cross-entropy at every real position, by the interest of its target, and the model's regularisation."""
        assert batch.targets is not None
        mask, found = batch.mask, self.interests(batch)
        candidates = draw_candidates(self.n_items, self.negatives, batch)
        numbered = candidates.of(batch)
        assert numbered.targets is not None
        targets, items = numbered.targets[mask], self.similarity.items(candidates.rows(self.items.weight))
        each = self.similarity.queries(found.vectors[mask])  # [positions, K, d]
        queries = interest_of_target(each, found.valid[mask], items[targets])
        bias = None if self.repeats is None else self.repeats.prefixes(numbered)
        loss = self.cross_entropy(queries, items, targets, bias=bias, stands_for=candidates.stands_for)
        extra, parts = self.regularisation(found, batch)
        return (loss if extra is None else loss + extra), parts

    def score_batch(self, batch: SequenceBatch) -> torch.Tensor:
        """The best similarity of an item to the interests of the whole history, plus the repeat bias."""
        vectors, valid = self.user_interests(batch)
        best = best_interest_scores(
            self.similarity.queries(vectors), valid, self.similarity.items(self.items.weight)
        )  # fmt: skip
        return best if self.repeats is None else self.repeats.add_to(best, batch)

    def user_interests(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Interests after the whole history: float [batch, K, d] and bool [batch, K]."""
        found = self.interests(batch)
        return batch.last(found.vectors), batch.last(found.valid)

    def user_routing(self, batch: SequenceBatch) -> torch.Tensor:
        """What each item of the whole history counts in each interest: float [batch, K, length]."""
        return batch.last(self.interests(batch).weights)

    def epoch_measures(self, data: SequenceData) -> dict[str, float]:
        """How far the interests of a user are apart."""
        return collapse_measures(self, data)


def interest_of_target(candidates: torch.Tensor, valid: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The interest whose inner product with the target is largest (hard readout): float [positions, d].

    Args:
        candidates: float [positions, K, d].
        valid: bool [positions, K]; at least one True a row.
        targets: vectors of the targets, float [positions, d].
    """
    with torch.no_grad():
        scores = (candidates @ targets[..., None])[..., 0]
        best = scores.masked_fill(~valid, -torch.inf).argmax(1)
    return candidates[torch.arange(len(best), device=best.device), best]


def best_interest_scores(interests: torch.Tensor, valid: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """The largest inner product of each item with the interests of each user: float [users, N] (LARMI Eq. 11).

    One interest at a time, so memory stays that of two score matrices; 0 for a user without an interest.

    Args:
        interests: float [users, K, d].
        valid: bool [users, K].
        items: float [N, d].
    """
    best = torch.full((len(interests), len(items)), -torch.inf, device=interests.device)
    for k in range(interests.shape[1]):
        scores = interests[:, k] @ items.T
        torch.maximum(best, scores.masked_fill_(~valid[:, k, None], -torch.inf), out=best)
    return best.masked_fill_(~valid.any(1)[:, None], 0.0)


def first_interests(mask: torch.Tensor, k: int, counts: torch.Tensor) -> torch.Tensor:
    """The first so many of K interests exist: bool [batch, length, K].

    Args:
        mask: bool [batch, length], for the shape.
        k: K.
        counts: int64 [length] or [batch, length]; interests of the prefix of 1, 2, ... items.
    """
    return (torch.arange(k, device=mask.device) < counts[..., None]).expand(len(mask), -1, -1)
