"""Interest profiles: the table of soft memberships as arrays and matrices, and the loss that predicts them (Eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recsys_dagster.layers.sparse import csr_pair


def profile_arrays(
    memberships: pd.DataFrame, n_items: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """P of the table `soft_memberships` in a fixed number of entries an item.

    Returns:
        columns int64 [N, width] and weights float32 [N, width] (0 in unused entries), the end column of each level
        int64 [levels], and the prototype id of each column int64 [C] (ordered by level, then id).
    """
    keys = memberships[["level", "prototype_id"]].drop_duplicates().sort_values(["level", "prototype_id"])
    ids = keys["prototype_id"].to_numpy().astype(np.int64)
    column_of = pd.Series(np.arange(len(ids)), index=ids)
    ends = np.cumsum(keys.groupby("level").size().to_numpy()).astype(np.int64)
    table = memberships.sort_values(["item_id", "level"], kind="stable")
    items = table["item_id"].to_numpy()
    counts = np.bincount(items, minlength=n_items)
    slot = np.arange(len(items)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(int(counts.max(initial=0)), 1)
    columns = np.zeros((n_items, width), dtype=np.int64)
    weights = np.zeros((n_items, width), dtype=np.float32)
    columns[items, slot] = column_of.loc[table["prototype_id"].to_numpy()].to_numpy()
    weights[items, slot] = table["probability"].to_numpy()
    return columns, weights, ends, ids


def mean_memberships(
    columns: torch.Tensor, weights: torch.Tensor, n_prototypes: int, levels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """P / levels as a sparse matrix [N, C], and its transpose."""
    rows, slot = weights.nonzero(as_tuple=True)
    return csr_pair(rows, columns[rows, slot], weights[rows, slot] / levels, (len(weights), n_prototypes))


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
    loss: torch.Tensor = _ProfileCrossEntropy.apply(queries.to(keys.dtype), keys, columns, weights, tuple(ends))
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
                top = level.amax(1, keepdim=True)
                norm = level.sub_(top).exp_().sum(1, keepdim=True)
                loss += (norm.log() + top)[:, 0]
                level.div_(norm)
            gradient = logits.scatter_add_(1, columns, -weights)
        ctx.save_for_backward(queries, keys, gradient)
        ctx.levels = len(ends)
        return loss.div_(len(ends))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        queries, keys, gradient = ctx.saved_tensors
        scale = grad_outputs[0][:, None] / ctx.levels
        return gradient @ keys * scale, gradient.T @ (queries * scale), None, None, None
