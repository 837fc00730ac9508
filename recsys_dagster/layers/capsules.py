"""Dynamic routing: a set of item vectors becomes K interest capsules (LARMI Eq. 14 and 15)."""

from __future__ import annotations

import torch


def squash(x: torch.Tensor) -> torch.Tensor:
    """Shorten vectors to a length below 1 and keep their direction: ||x||^2 / (1 + ||x||^2) * x / ||x||."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # its gradient at 0 is 0, that of a square root is not
    return x * (norm / (1 + norm.square()))


def visible_prefixes(mask: torch.Tensor) -> torch.Tensor:
    """Items that the prefix ending at t has: bool [batch, t, length], of a mask of real positions [batch, length]."""
    length = mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return causal & mask[:, None, :]


def recency_decay(rate: torch.Tensor, length: int) -> torch.Tensor:
    """exp(-rate * steps back) of every position j in every prefix t: float [length, length]; j <= t matters."""
    place = torch.arange(length, device=rate.device)
    return torch.exp(-rate * (place[:, None] - place).clamp(min=0))


def route(
    mapped: torch.Tensor,
    visible: torch.Tensor,
    logits: torch.Tensor,
    valid: torch.Tensor,
    rounds: int,
    decay: torch.Tensor | None = None,
    maps: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Route items to interests by agreement, for many prefixes of each history at once.

    A round: b = softmax of the logits over the *interests*, m_k = sum_j b_jk W v_j (Eq. 14), logits_jk += W v_j . e_k
    with e_k the squashed m_k (Eq. 15). Gradients flow through the last round alone; the routing itself is no parameter.

    The rounds before the last need no capsule, only its inner products with the items and its length, and both follow
    from the inner products of the items: with G = V V', v_j . m_k = (b_k G)_j and ||m_k||^2 = b_k G b_k'. So a round is
    one batched product of [prefixes * K, length] and [length, length], and vectors are never repeated for an interest.

    Args:
        mapped: W v, float [batch, length, d]; v itself where `maps` are given.
        visible: bool [batch, prefixes, length]; which items a prefix has. Applied after the softmax, so padding
            neither takes part nor shifts the weights.
        logits: starting logits, float [length, K] or [batch, length, K]; fixed, so that scoring is deterministic.
        valid: bool [batch, prefixes, K]; interests that this prefix may use.
        rounds: how often the weights are computed, at least 1.
        decay: float [prefixes, length]; what an item counts in a prefix, for example less when it is old. 1 unless
            given.
        maps: W_k, float [K, d, d]; a map for each interest in place of one for all.

    Returns:
        m, float [batch, prefixes, K, d], zero where an interest is not valid; and the weights of the last round, float
        [batch, prefixes, K, length], zero where an interest is not valid or an item not visible.
    """
    seen = visible[:, :, None, :].to(mapped.dtype)  # [batch, prefixes, 1, length]
    if decay is not None:
        seen = seen * decay[:, None, :]
    g = logits.movedim(-1, -2).to(mapped)  # [(batch,) K, length]
    g = g[None, None] if g.dim() == 2 else g[:, None]
    if not bool(valid.all()):
        g = g.masked_fill(~valid[..., None], -torch.inf)
    with torch.no_grad():
        gram = _gram(mapped, maps) if rounds > 1 else mapped
        for _ in range(rounds - 1):
            b = torch.softmax(g, dim=2) * seen
            agreement = _times_gram(b, gram)  # of m_k and item j: [batch, prefixes, K, length]
            norm = (agreement * b).sum(-1, keepdim=True).clamp(min=0).sqrt()
            g = g + agreement * (norm / (1 + norm.square()))  # m_k squashed
    weights = torch.softmax(g, dim=2) * seen
    batch, prefixes, k, length = weights.shape
    m = torch.bmm(weights.view(batch, prefixes * k, length), mapped).view(batch, prefixes, k, -1)
    return m if maps is None else torch.einsum("btkd,ked->btke", m, maps), weights


def _gram(vectors: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
    """Inner products of the items of each history: float [batch, length, length], or [batch, K, ...] under each map."""
    if maps is None:
        return torch.bmm(vectors, vectors.transpose(1, 2))
    each = [torch.bmm(vectors @ (w.T @ w), vectors.transpose(1, 2)) for w in maps]
    return torch.stack(each, dim=1)


def _times_gram(b: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """b_k G for every prefix and interest: float [batch, prefixes, K, length]."""
    batch, prefixes, k, length = b.shape
    if gram.dim() == 3:
        return torch.bmm(b.reshape(batch, prefixes * k, length), gram).view(batch, prefixes, k, length)
    return (b.transpose(1, 2) @ gram).transpose(1, 2)
