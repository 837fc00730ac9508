"""How far a user's interests are apart: what is watched in training so that they do not become one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from recsys_dagster.layers.similarity import unit_vectors
from recsys_dagster.training.batching import SequenceBatch, pad
from recsys_dagster.training.data import SequenceData

MEASURED_USERS = 1_000
"""Users that the measures are taken of: every n-th one that has at least two train items."""
BATCH = 256


class ManyInterests(Protocol):
    """A model (`torch.nn.Module`) whose interests can be looked at."""

    max_length: int

    def user_interests(self, batch: SequenceBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Interests after the whole history, float [batch, K, d], and which of them exist, bool [batch, K]."""
        ...

    def user_routing(self, batch: SequenceBatch) -> torch.Tensor:
        """What each item of the history counts in each interest, float [batch, K, length], 0 at padding."""
        ...


def interest_cosine(interests: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean cosine between the interests of a user, over all pairs: 1 where they are all the same.

    Args:
        interests: float [users, K, d].
        valid: bool [users, K]; the interest exists.

    Returns:
        float [users]; NaN for users with fewer than two interests.

    >>> one, two = torch.tensor([1.0, 0.0]), torch.tensor([0.6, 0.8])
    >>> round(interest_cosine(torch.stack([one, two, one])[None], torch.tensor([[True, True, False]])).item(), 4)
    0.6
    """
    unit = unit_vectors(interests) * valid[..., None]
    n = valid.sum(1)
    # the squared length of the sum is the sum over all ordered pairs, each interest with itself included
    together = unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))
    return torch.where(n > 1, together / (n * (n - 1)).clamp(min=1), torch.nan)


def routing_entropy(weights: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Entropy of an interest's weights over the items of the history, as a share of the largest possible.

    0 where each interest is a single item (REMI's routing collapse), 1 where each is the mean of all items, so that all
    interests are the same.

    Args:
        weights: float [users, K, length], not negative; they need not sum to 1. An item with no weight in any interest
            is padding.
        valid: bool [users, K].

    Returns:
        float [users], the mean over the user's interests; NaN for users with fewer than two items.

    >>> weights = torch.tensor([[[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]])
    >>> routing_entropy(weights, torch.ones(1, 2, dtype=torch.bool)).item()
    0.5
    """
    weights = weights.float() * valid[..., None]
    share = weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)
    entropy = torch.special.entr(share).sum(-1).sum(-1) / valid.sum(1).clamp(min=1)
    items = (weights > 0).any(1).sum(-1)
    return torch.where(items > 1, entropy / items.clamp(min=2).log(), torch.nan)


def collapse_measures(model: ManyInterests, data: SequenceData) -> dict[str, float]:
    """`interest_cosine` and `routing_entropy`, the mean over (a sample of) the users' train histories.

    A measure that no user has is left out, and so is the entropy of a model without `user_routing`.
    """
    assert isinstance(model, torch.nn.Module)
    model.eval()
    device = str(next(model.parameters()).device)
    users = np.flatnonzero(data.train.lengths >= 2)
    users = users[:: -(-len(users) // MEASURED_USERS) or 1]
    found: dict[str, list[torch.Tensor]] = {"interest_cosine": [], "routing_entropy": []}
    with torch.no_grad():
        for start in range(0, len(users), BATCH):
            batch = pad(data.train, users[start : start + BATCH], model.max_length).to(device)
            interests, valid = model.user_interests(batch)
            found["interest_cosine"].append(interest_cosine(interests, valid))
            if hasattr(model, "user_routing"):
                found["routing_entropy"].append(routing_entropy(model.user_routing(batch), valid))
    values = {name: torch.cat(parts) for name, parts in found.items() if parts}
    means = {name: each.nanmean().item() for name, each in values.items()}
    return {name: mean for name, mean in means.items() if not np.isnan(mean)}
