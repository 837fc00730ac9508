"""Dynamic routing: a set of item vectors becomes K interest capsules (LARMI Eq. 14 and 15)."""

from __future__ import annotations

import torch


def squash(x: torch.Tensor) -> torch.Tensor:
    """Shorten vectors to a length below 1 and keep their direction: ||x||^2 / (1 + ||x||^2) * x / ||x||."""
    squared = x.square().sum(-1, keepdim=True)
    return x * squared.sqrt() / (1 + squared)


def dynamic_routing(
    mapped: torch.Tensor,
    visible: torch.Tensor,
    logits: torch.Tensor,
    valid: torch.Tensor,
    rounds: int,
    decay: torch.Tensor | None = None,
) -> torch.Tensor:
    """Route items to interests by agreement, for many prefixes of each history at once.

    A round: b = softmax of the logits over the *interests*, m_k = sum_j b_jk W v_j (Eq. 14), logits_jk += W v_j . e_k
    with e_k the squashed m_k (Eq. 15). Gradients flow through the last round alone; the routing itself is no parameter.

    Args:
        mapped: W v, float [batch, length, d].
        visible: bool [batch, prefixes, length]; which items a prefix has. Applied after the softmax, so padding
            neither takes part nor shifts the weights.
        logits: starting logits, float [length, K] or [batch, length, K]; fixed, so that scoring is deterministic.
        valid: bool [batch, prefixes, K]; interests that this prefix may use.
        rounds: how often the weights are computed, at least 1.
        decay: float [prefixes, length]; what an item counts in a prefix, for example less when it is old. 1 unless
            given.

    Returns:
        m, float [batch, prefixes, K, d]; zero where an interest is not valid.
    """
    fixed = mapped.detach()
    seen = visible[:, :, None, :]  # [batch, prefixes, 1, length]
    g = logits.movedim(-1, -2).to(mapped)  # [(batch,) K, length]
    g = g[None, None] if g.dim() == 2 else g[:, None]
    g = g.masked_fill(~valid[..., None], -torch.inf)
    for turn in range(rounds):
        weights = torch.softmax(g, dim=2).masked_fill(~seen, 0.0)  # [batch, prefixes, K, length]
        if decay is not None:
            weights = weights * decay[:, None, :]
        if turn == rounds - 1:
            break
        e = squash(_gather(weights.detach(), fixed))
        g = g + _agree(e, fixed)
    return _gather(weights, mapped)


def _gather(weights: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """sum_j weights[b, t, k, j] vectors[b, j] as one batched matrix product."""
    batch, prefixes, interests, length = weights.shape
    return torch.bmm(weights.reshape(batch, -1, length), vectors).view(batch, prefixes, interests, -1)


def _agree(capsules: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Inner products of every capsule [b, t, k] with every item [b, j]."""
    batch, prefixes, interests, d = capsules.shape
    return torch.bmm(capsules.reshape(batch, -1, d), vectors.transpose(1, 2)).view(batch, prefixes, interests, -1)
