"""Cross-entropy of soft labels over the prototypes of several levels (Eq. 11), with its gradient made on the spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def profile_cross_entropy(
    queries: torch.Tensor, keys: torch.Tensor, columns: torch.Tensor, weights: torch.Tensor, ends: Sequence[int]
) -> torch.Tensor:
    """``mean over levels of -sum_c P_ic log softmax(q . k)_c``, float [positions]; differentiable in queries and keys.

    Eq. 11 with a softmax over the prototypes of each level. The labels of a level add up to 1, so each level gives the
    log-sum-exp of its logits less the labels' mean logit, and only the labels that are not 0 are looked at.

    Args:
        queries: float [positions, d].
        keys: float [C, d], one a prototype, those of a level side by side.
        columns: int64 [positions, width]; prototypes of each position's item.
        weights: float [positions, width]; their probabilities, 0 in unused entries.
        ends: the end column of each level.
    """
    loss: torch.Tensor = _ProfileCrossEntropy.apply(queries, keys, columns, weights, tuple(ends))
    return loss


class _ProfileCrossEntropy(torch.autograd.Function):
    """The softmax of each level is written over its logits: no second matrix of [positions, C] is made.

    PyTorch's own gradient of the pieces fills one such matrix with zeros for each level.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        keys: torch.Tensor,
        columns: torch.Tensor,
        weights: torch.Tensor,
        ends: tuple[int, ...],
    ) -> torch.Tensor:
        with torch.autocast(queries.device.type, enabled=False):
            logits = queries @ keys.T
            loss = (weights * logits.gather(1, columns)).sum(1).neg_()
            for level in logits.tensor_split(ends[:-1], dim=1):
                norm = level.logsumexp(1, keepdim=True)
                loss += norm[:, 0]
                level.sub_(norm).exp_()
            gradient = logits.scatter_add_(1, columns, -weights)
        ctx.save_for_backward(queries, keys, gradient)
        ctx.levels = len(ends)
        return loss.div_(len(ends))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, keys, gradient = ctx.saved_tensors
        scale = grad_outputs[0][:, None] / ctx.levels
        return gradient @ keys * scale, gradient.T @ (queries * scale), None, None, None
