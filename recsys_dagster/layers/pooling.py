"""Attention pooling of item groups, for every prefix of a history at once."""

from __future__ import annotations

import torch


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
    shifted = scores - scores.detach().masked_fill(~members.any(-1), -torch.inf).amax(1, keepdim=True).clamp(min=-1e4)
    # padding's own score may be anything: keep its exponential from overflowing before it is masked away
    weight = shifted.clamp(-60.0, 0.0).exp()[..., None] * members  # [batch, length, F]
    total = weight.cumsum(1)
    sums = torch.cumsum(weight[..., None] * vectors[:, :, None, :], dim=1)  # [batch, length, F, d]
    present = members.cumsum(1) > 0
    return sums / total.clamp(min=1e-30)[..., None], present
