"""The contrastive loss over the selected synthesized users (LARMI, the user loss before Eq. 10, and Eq. 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from recsys_dagster.layers.similarity import unit_vectors
from recsys_dagster.training.distributed import own_of, share_of_mean

GROUP_PAIRS = 500_000
"""Pairs of items that are looked at in one piece, padding included."""


@dataclass(frozen=True)
class SynthesizedUsers:
    """Some synthesized users of about the same number of items, n at most, and which clusters their items stand in.

    Attributes:
        items: int64 [users, n], distinct in a user; padding is item 0.
        members: float [users, n, F], 1 where an item stands in a cluster; an item may stand in several, padding stands
            in none.
    """

    items: torch.Tensor
    members: torch.Tensor


def synthesized_users(representative_clusters: pd.DataFrame) -> list[SynthesizedUsers]:
    """Read the table `representative_clusters` (user_id, cluster, item_id), users of like size together."""
    rows = []
    for _, own in representative_clusters.groupby("user_id", sort=True):
        items, place = np.unique(own["item_id"].to_numpy(), return_inverse=True)
        rows.append((items, place, np.unique(own["cluster"].to_numpy(), return_inverse=True)[1]))
    rows.sort(key=lambda row: len(row[0]))
    groups: list[SynthesizedUsers] = []
    stop = len(rows)
    while stop:  # the largest first: the first of a group tells its width
        width = len(rows[stop - 1][0])
        start = max(stop - max(GROUP_PAIRS // width**2, 1), 0)
        clusters = max(int(cluster.max()) for _, _, cluster in rows[start:stop]) + 1
        ids = torch.zeros(stop - start, width, dtype=torch.int64)
        members = torch.zeros(stop - start, width, clusters)
        for user, (items, place, cluster) in enumerate(rows[start:stop]):
            ids[user, : len(items)] = torch.from_numpy(items.astype(np.int64))
            members[user, torch.from_numpy(place), torch.from_numpy(cluster)] = 1.0
        groups.append(SynthesizedUsers(ids, members))
        stop = start
    return groups


def contrastive_loss(embeddings: torch.Tensor, groups: list[SynthesizedUsers], temperature: float) -> torch.Tensor:
    """Mean over synthesized users of -sum_j sum_j* log( exp(s_jj* / tau) / sum_j' exp(s_jj' / tau) ).

    j* are the other items that share a cluster with j; j' are those that share none, and they alone stand in the
    denominator (a decoupled loss). s is the cosine similarity: without normalisation exp(s / 0.1) overflows. The paper
    negates twice, in the user loss and in Eq. 10, which would maximise it; the mean is meant. A user's sum is divided
    by its number of pairs (j, j*), so that lambda means the same for a synthesized user of 30 items and of 300. Items
    without a negative have no denominator and are left out, and so are users without a pair.

    Args:
        embeddings: item embeddings, float [N, d].
        groups: the selection B; of several processes that train together each takes every n-th user of a group.
        temperature: tau.

    Returns:
        A scalar; 0 where no item has both a positive and a negative.
    """
    total, users = embeddings.sum() * 0, 0
    for group in groups:
        items, members = (own_of(each).to(embeddings.device) for each in (group.items, group.members))
        real = members.any(2)
        unit = unit_vectors(functional.embedding(items, embeddings))
        scores = unit @ unit.transpose(1, 2) / temperature  # [users, n, n]
        together = members @ members.transpose(1, 2) > 0
        negatives = ~together & real[:, :, None] & real[:, None, :]
        usable = negatives.any(2)
        positives = together & usable[:, :, None]
        positives.diagonal(dim1=1, dim2=2).fill_(False)
        pairs = positives.sum(2)
        denominator = scores.masked_fill(~negatives, -torch.inf).logsumexp(2).masked_fill(~usable, 0.0)
        numerator = (scores * positives).sum(2)
        own = pairs.sum(1)
        total = total + ((pairs * denominator - numerator).sum(1) / own.clamp(min=1)).sum()
        users += int((own > 0).sum())
    return share_of_mean(total / max(users, 1), users)
