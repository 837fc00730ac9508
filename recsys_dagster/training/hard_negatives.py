"""Cross-entropy against negatives that the query itself makes likely, in bounded memory."""

from __future__ import annotations

import math
from typing import Any

import torch

from recsys_dagster.training.distributed import share_of_mean
from recsys_dagster.training.loss import ScoreBias, rows_at_once


def hard_negative_cross_entropy(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    hardness: float,
    bias: ScoreBias | None = None,
    stands_for: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of ``-s_y + log(exp(s_y) + (N - 1) E exp(s_j))``, the expectation over negatives j != y drawn by the query.

    Negative j is drawn with probability ``exp(beta s_j) / sum over negatives`` (REMI, Xie et al., 2023, the ideal
    distribution of its interest-aware hard negatives). The paper draws uniformly and weighs by importance; here the
    whole catalogue is there, so the expectation is taken exactly, or as a sum over candidates. As with any drawing, no
    gradient flows through the probabilities. At beta = 0 this is the full cross-entropy.

    The [positions, N] scores are made in chunks, and the gradient of each chunk is taken on the spot.

    Args:
        queries: float [positions, d].
        items: float [N, d], at least two.
        targets: int64 [positions].
        hardness: beta, at least 0.
        bias: added to the scores of some pairs.
        stands_for: how many items of the catalogue each one stands for, float [N] (`Candidates`); None: 1.
    """
    pairs: tuple[torch.Tensor | None, ...] = (None, None, None)
    if bias is not None:
        places, order = bias.positions.sort(stable=True)
        pairs = (places, bias.items[order], bias.values[order])
    loss: torch.Tensor = _HardNegativeCrossEntropy.apply(queries, items, targets, hardness, stands_for, *pairs)
    return share_of_mean(loss, len(queries))


class _HardNegativeCrossEntropy(torch.autograd.Function):
    """Computes the gradients of its inputs while it computes the loss, so that no scores are kept."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        items: torch.Tensor,
        targets: torch.Tensor,
        hardness: float,
        stands_for: torch.Tensor | None,
        places: torch.Tensor | None,
        biased: torch.Tensor | None,
        values: torch.Tensor | None,
    ) -> torch.Tensor:
        q, v = queries.detach().float(), items.detach().float()
        grad_q, grad_v = torch.zeros_like(q), torch.zeros_like(v)
        grad_values = None if values is None else torch.zeros_like(values, dtype=torch.float32)
        total = torch.zeros((), device=q.device, dtype=torch.float64)
        counts = torch.ones(len(v), device=q.device) if stands_for is None else stands_for
        log_counts, log_others = counts.log(), math.log(float(counts.sum()) - 1)
        chunk = rows_at_once(len(v), q.device)
        starts = torch.arange(0, len(q) + chunk, chunk, device=q.device)
        ends = [] if places is None else torch.searchsorted(places, starts).tolist()
        with torch.autocast(q.device.type, enabled=False):
            for index, start in enumerate(range(0, len(q), chunk)):
                part = slice(start, min(start + chunk, len(q)))
                scores = q[part] @ v.T
                pair = None
                if places is not None and biased is not None and values is not None:
                    own = slice(ends[index], ends[index + 1])
                    pair = (places[own] - start, biased[own])
                    scores[pair] += values.detach()[own].float()
                loss, grad = _chunk(scores, targets[part], hardness, log_counts, log_others)
                total += loss
                grad_q[part] = grad @ v
                grad_v += grad.T @ q[part]
                if pair is not None and grad_values is not None:
                    grad_values[own] = grad[pair]
        ctx.save_for_backward(grad_q, grad_v, grad_values)
        ctx.positions = max(len(q), 1)
        return (total / ctx.positions).to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_q, grad_v, grad_values = ctx.saved_tensors
        scale = grad_outputs[0] / ctx.positions
        own = None if grad_values is None else grad_values * scale
        return grad_q * scale, grad_v * scale, None, None, None, None, None, own


def _chunk(
    scores: torch.Tensor, targets: torch.Tensor, hardness: float, log_counts: torch.Tensor, log_others: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed loss of a few positions and its gradient by their scores float [positions, N].

    `log_counts` is the log of how often each item counts, `log_others` that of all but one.
    """
    rows = torch.arange(len(targets), device=targets.device)
    own, likely = scores[rows, targets], torch.add(log_counts, scores, alpha=hardness)
    likely[rows, targets] = -torch.inf
    # log of p_j exp(s_j), and of its sum over the negatives
    weighed = likely.log_softmax(1).add_(scores)
    drawn = weighed.logsumexp(1)
    against = drawn + log_others
    loss = (torch.logaddexp(own, against) - own).sum(dtype=torch.float64)
    missed = torch.sigmoid(against - own)  # the share of the softmax that is not the target's
    grad = weighed.sub_(drawn[:, None]).exp_().mul_(missed[:, None])
    grad[rows, targets] = -missed
    return loss, grad
