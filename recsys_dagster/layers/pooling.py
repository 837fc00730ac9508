"""Attention pooling of item groups, for every prefix of a history at once."""

from __future__ import annotations

import torch

SCORE_RANGE = 80.0
"""Scores of one cluster may differ by this much (a factor of 10^34) in single precision; below it they are equal."""


def prefix_cluster_pooling(
    vectors: torch.Tensor, scores: torch.Tensor, members: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """h_f = sum of softmax(score_j) v_j over the items of cluster f that a prefix has (LARMI Eq. 2).

    All prefixes come from one running sum: position t of the result has seen items 0..t.

    Args:
        vectors: v, float [batch, length, d].
        scores: w . v + b, float [batch, length].
        members: bool [batch, length, F]; item j belongs to cluster f (padding belongs to none).

    Returns:
        h float [batch, length, F, d] (zero where the cluster has no item yet) and bool [batch, length, F]: it has one.
    """
    spread = scores[..., None].expand(members.shape)
    top = spread.detach().masked_fill(~members, -torch.inf).amax(1, keepdim=True).clamp(min=-1e30)
    # padding's own score may be anything: keep its exponential from overflowing before it is masked away
    weight = (spread - top).clamp(-SCORE_RANGE, 0.0).exp() * members  # [batch, length, F]
    total = weight.cumsum(1)
    sums = torch.cumsum(weight[..., None] * vectors[:, :, None, :], dim=1)  # [batch, length, F, d]
    present = members.cumsum(1) > 0
    return sums / total.clamp(min=1e-36)[..., None], present
