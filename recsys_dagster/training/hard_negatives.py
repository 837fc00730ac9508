"""Cross-entropy against negatives that the query itself makes likely, in bounded memory."""

from __future__ import annotations

import math

import torch
from torch.utils.checkpoint import checkpoint

from recsys_dagster.training.loss import CHUNK_ELEMENTS, ScoreBias


def hard_negative_cross_entropy(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    hardness: float,
    bias: ScoreBias | None = None,
) -> torch.Tensor:
    """Mean of ``-s_y + log(exp(s_y) + (N - 1) E exp(s_j))``, the expectation over negatives j != y drawn by the query.

    Negative j is drawn with probability ``exp(beta s_j) / sum over negatives`` (REMI, Xie et al., 2023, the ideal
    distribution of its interest-aware hard negatives). The paper draws uniformly and weighs by importance; here the
    whole catalogue is there, so the expectation is taken exactly. As with any drawing, no gradient flows through the
    probabilities. At beta = 0 this is the full cross-entropy.

    Scores are made in chunks, and again for the gradient, so that memory is bounded by a chunk.

    Args:
        queries: float [positions, d].
        items: float [N, d], at least two.
        targets: int64 [positions].
        hardness: beta, at least 0.
        bias: added to the scores of some pairs.
    """
    chunk = max(CHUNK_ELEMENTS // len(items), 16)
    total = queries.new_zeros(())
    places = values = biased = None
    if bias is not None:
        places, order = bias.positions.sort(stable=True)
        biased, values = bias.items[order], bias.values[order]
    for start in range(0, len(queries), chunk):
        part = slice(start, min(start + chunk, len(queries)))
        own: tuple[torch.Tensor | None, ...] = (None, None, None)
        if places is not None and biased is not None and values is not None:
            first, last = torch.searchsorted(
                places, torch.tensor([part.start, part.stop], device=places.device)
            ).tolist()
            own = (places[first:last] - start, biased[first:last], values[first:last])
        summed: torch.Tensor = checkpoint(
            _summed, queries[part], items, targets[part], hardness, *own, use_reentrant=False, preserve_rng_state=False
        )
        total = total + summed
    return total / max(len(queries), 1)


def _summed(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    hardness: float,
    places: torch.Tensor | None,
    biased: torch.Tensor | None,
    values: torch.Tensor | None,
) -> torch.Tensor:
    """Summed loss of a few positions."""
    scores = queries @ items.T
    if places is not None and biased is not None and values is not None:
        scores = scores.index_put((places, biased), values.to(scores), accumulate=True)
    rows = torch.arange(len(targets), device=targets.device)
    own = scores[rows, targets]
    nothing = torch.full((), -torch.inf, device=scores.device, dtype=scores.dtype)
    log_p = (hardness * scores.detach()).index_put((rows, targets), nothing).log_softmax(1)
    expected = (scores + log_p).logsumexp(1) + math.log(len(items) - 1)
    return (torch.logaddexp(own, expected) - own).sum()
