"""The contrastive loss over the selected synthesized users (LARMI, the user loss before Eq. 10, and Eq. 10)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from recsys_dagster.training.distributed import share_of_mean


@dataclass(frozen=True)
class SynthesizedUser:
    """Items of one synthesized user and which interest clusters they stand in.

    Attributes:
        items: int64 [n], distinct.
        members: bool [n, F]; an item may stand in several clusters.
    """

    items: torch.Tensor
    members: torch.Tensor


def synthesized_users(representative_clusters: pd.DataFrame) -> list[SynthesizedUser]:
    """Read the table `representative_clusters` (user_id, cluster, item_id)."""
    users = []
    for _, rows in representative_clusters.groupby("user_id", sort=True):
        items, place = np.unique(rows["item_id"].to_numpy(), return_inverse=True)
        cluster = np.unique(rows["cluster"].to_numpy(), return_inverse=True)[1]
        members = torch.zeros(len(items), int(cluster.max()) + 1, dtype=torch.bool)
        members[torch.from_numpy(place), torch.from_numpy(cluster)] = True
        users.append(SynthesizedUser(torch.from_numpy(items.astype(np.int64)), members))
    return users


def contrastive_loss(embeddings: torch.Tensor, users: Sequence[SynthesizedUser], temperature: float) -> torch.Tensor:
    """Mean over synthesized users of -sum_j sum_j* log( exp(s_jj* / tau) / sum_j' exp(s_jj' / tau) ).

    j* are the other items that share a cluster with j; j' are those that share none, and they alone stand in the
    denominator (a decoupled loss). s is the cosine similarity: without normalisation exp(s / 0.1) overflows. The paper
    negates twice, in the user loss and in Eq. 10, which would maximise it; the mean is meant. A user's sum is divided
    by its number of pairs (j, j*), so that lambda means the same for a synthesized user of 30 items and of 300. Items
    without a negative have no denominator and are left out.

    Args:
        embeddings: item embeddings, float [N, d].
        users: the selection B; of several processes that train together each has a part.
        temperature: tau.

    Returns:
        A scalar; 0 where no item has both a positive and a negative.
    """
    losses = []
    for user in users:
        items, members = user.items.to(embeddings.device), user.members.to(embeddings.device).float()
        unit = functional.normalize(embeddings[items], dim=1)
        scores = unit @ unit.T / temperature  # [n, n]
        together = (members @ members.T) > 0
        negatives = ~together
        usable = negatives.any(1)
        positives = together & usable[:, None]
        positives.fill_diagonal_(False)
        pairs = positives.sum(1)
        if int(pairs.sum()) == 0:
            continue
        denominator = scores.masked_fill(~negatives, -torch.inf).logsumexp(1).masked_fill(~usable, 0.0)
        numerator = (scores * positives).sum(1)
        losses.append((pairs * denominator - numerator).sum() / pairs.sum())
    return share_of_mean(torch.stack(losses).mean() if losses else embeddings.sum() * 0, len(losses))
