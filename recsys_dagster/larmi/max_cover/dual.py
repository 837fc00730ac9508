"""Fractional selections of exactly Z sets, differentiable: the cardinality layer of CardNN by its exact dual.

The original turns scores into selections with many Sinkhorn rounds of an optimal-transport problem between P scores
and two anchors ("chosen", "not chosen"). With two columns the dual is one scalar nu: x_i = sigmoid((s_i - nu) / tau)
with nu such that sum x = Z. It is found here to machine precision in a few Newton steps and differentiated implicitly.

This module imports torch at the top; import it inside functions only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


class _Cardinality(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, budget: float, tau: float) -> Tensor:
        chosen = torch.sigmoid((scores - dual(scores, budget, tau)) / tau)
        ctx.save_for_backward(chosen)
        ctx.tau = tau
        return chosen

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # sum_i x_i = Z fixes nu, so d nu / d s_i = h_i / sum(h) with h = x (1 - x), the slope of the sigmoid times tau.
        (chosen,) = ctx.saved_tensors
        slope = chosen * (1 - chosen)
        mean = (slope * grad).sum(0, keepdim=True) / slope.sum(0, keepdim=True).clamp_min(1e-30)
        return slope * (grad - mean) / ctx.tau, None, None


def dual(scores: Tensor, budget: float, tau: float, iterations: int = 100) -> Tensor:
    """The scalar nu of each column with sum_i sigmoid((s_i - nu) / tau) = budget.

    Newton's method, with bisection wherever a step would leave the bracket; the bracket is exact, since nu is known in
    closed form when all scores are equal, and the sum grows with every score.

    Args:
        scores: [P, samples].
        budget: 0 < Z < P.
        tau: temperature, > 0.
        iterations: upper bound; about ten are used.

    Returns:
        [1, samples], in the dtype of the scores (computed in float64).
    """
    values = scores.detach().double()
    shift = tau * float(np.log(budget / (values.shape[0] - budget)))
    low, high = values.amin(0, keepdim=True) - shift, values.amax(0, keepdim=True) - shift
    # The Z-th largest score is where a cold sigmoid has its step.
    nu = values.kthvalue(values.shape[0] - round(budget) + 1, dim=0, keepdim=True).values.clamp(low, high)
    for _ in range(iterations):
        chosen = torch.sigmoid((values - nu) / tau)
        excess = chosen.sum(0, keepdim=True) - budget
        if float(excess.abs().max()) <= 1e-10 * values.shape[0]:
            break
        low, high = torch.where(excess > 0, nu, low), torch.where(excess > 0, high, nu)
        slope = (chosen * (1 - chosen)).sum(0, keepdim=True) / tau
        step = nu + excess / slope.clamp_min(1e-300)
        nu = torch.where((step > low) & (step < high), step, (low + high) / 2)
    return nu.to(scores.dtype)


def select_softly(scores: Tensor, budget: float, tau: float) -> Tensor:
    """Fractional selections that sum to exactly `budget` in each column: x_i = sigmoid((s_i - nu) / tau).

    This is the limit of Sinkhorn's rounds for the entropic optimal transport between the scores and the two anchors
    with cost -s_i for "chosen" and 0 for "not chosen". The gradient is that of the implicit function theorem.

    Args:
        scores: [P, samples].
        budget: 0 < Z < P.
        tau: temperature, > 0.

    Returns:
        [P, samples] in [0, 1].
    """
    return _Cardinality.apply(scores, budget, tau)
