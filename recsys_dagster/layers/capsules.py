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


def dynamic_routing(
    mapped: torch.Tensor,
    visible: torch.Tensor,
    logits: torch.Tensor,
    valid: torch.Tensor,
    rounds: int,
    decay: torch.Tensor | None = None,
    maps: torch.Tensor | None = None,
) -> torch.Tensor:
    """The capsules m of `route`, without the weights."""
    return route(mapped, visible, logits, valid, rounds, decay, maps)[0]


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

    Sums and inner products are two batched matrix products a round; the vectors are never repeated for each interest.
    That holds with a map for each interest too, since sum_j b_jk W_k v_j = W_k sum_j b_jk v_j.

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
    fixed, fixed_seen = mapped.detach(), seen.detach()
    fixed_maps = None if maps is None else maps.detach()
    g = logits.movedim(-1, -2).to(mapped)  # [(batch,) K, length]
    g = g[None, None] if g.dim() == 2 else g[:, None]
    if not bool(valid.all()):
        g = g.masked_fill(~valid[..., None], -torch.inf)
    for _ in range(rounds - 1):
        e = squash(_gather(torch.softmax(g, dim=2) * fixed_seen, fixed, fixed_maps))
        g = g + _agree(e, fixed, fixed_maps)
    weights = torch.softmax(g, dim=2) * seen
    return _gather(weights, mapped, maps), weights


def _gather(weights: torch.Tensor, vectors: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
    """sum_j weights[b, t, k, j] vectors[b, j] as one batched matrix product, then W_k where there are maps."""
    batch, prefixes, interests, length = weights.shape
    m = torch.bmm(weights.reshape(batch, -1, length), vectors).view(batch, prefixes, interests, -1)
    return m if maps is None else _each(m, maps.transpose(1, 2))


def _agree(capsules: torch.Tensor, vectors: torch.Tensor, maps: torch.Tensor | None) -> torch.Tensor:
    """Inner products of every capsule [b, t, k] with every item [b, j], or of W_k' times it where there are maps."""
    batch, prefixes, interests, d = capsules.shape
    if maps is not None:
        capsules = _each(capsules, maps)
    return torch.bmm(capsules.reshape(batch, -1, d), vectors.transpose(1, 2)).view(batch, prefixes, interests, -1)


def _each(capsules: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Capsule k of float [batch, prefixes, K, d] times matrix k of [K, d, d]: K products, not one a capsule."""
    batch, prefixes, interests, d = capsules.shape
    by_interest = capsules.permute(2, 0, 1, 3).reshape(interests, -1, d)
    return torch.bmm(by_interest, matrices).view(interests, batch, prefixes, d).permute(1, 2, 0, 3)
