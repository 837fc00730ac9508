"""Cross-entropy over the whole catalogue in bounded memory, and the loss of pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from recsys_dagster.training.distributed import share_of_mean

CHUNK_ELEMENTS = 1_200_000
"""Scores of one interest held at once (5 MB) on a CPU: they stay in the cache between the passes over them."""
DEVICE_CHUNK_ELEMENTS = 2**26
"""The same on other devices (268 MB): there starting an operation costs more than its bytes do."""

SAFE_SCORE = 40.0
"""Where no score is beyond this on either side, exponentials of a whole catalogue add up to no more than 1e27."""


@dataclass(frozen=True)
class ScoreBias:
    """Something added to the scores of a few (position, item) pairs, each pair at most once.

    Attributes:
        positions: int64 [pairs].
        items: int64 [pairs].
        values: float [pairs].
    """

    positions: torch.Tensor
    items: torch.Tensor
    values: torch.Tensor


def catalogue_cross_entropy(
    queries: torch.Tensor,
    items: torch.Tensor,
    targets: torch.Tensor,
    valid: torch.Tensor | None = None,
    bias: ScoreBias | None = None,
    stands_for: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean cross-entropy of each target against every item, where an item's score is the best over several queries.

    With one query a position this is the usual full softmax; with K interests it is LARMI's Eq. 11 and 12 (the hard
    readout stands in the numerator and in every term of the denominator). The [positions, items] scores are never held
    as a whole: they are made in chunks, and the gradient of each chunk is taken on the spot.

    Args:
        queries: float [positions, d] or [positions, K, d].
        items: float [N, d].
        targets: int64 [positions].
        valid: bool [positions, K]; False where an interest does not exist. At least one a row is True.
        bias: added to the scores of some pairs, after the best query is chosen.
        stands_for: how often an item counts in the sum over items, float [N]; 1 for targets (`Candidates`); None: 1.

    Returns:
        A scalar.
    """
    if queries.dim() == 2:
        queries = queries[:, None]
    rows = None
    if valid is None:
        counts = torch.full((len(queries),), queries.shape[1], device=queries.device)
    else:
        # existing interests first, positions with many interests first: then each chunk works on plain slices, and
        # interests that do not exist cost nothing
        order = valid.byte().argsort(dim=1, descending=True, stable=True)
        queries = queries.gather(1, order[..., None].expand_as(queries))
        counts, rows = valid.sum(1).sort(descending=True, stable=True)
        queries, targets = queries[rows], targets[rows]
    pairs: tuple[torch.Tensor | None, ...] = (None, None, None)
    if bias is not None:
        places = bias.positions if rows is None else rows.argsort()[bias.positions]
        places, by_place = places.sort(stable=True)
        pairs = (places, bias.items[by_place], bias.values[by_place])
    loss: torch.Tensor = _CatalogueCrossEntropy.apply(queries, items, targets, counts, stands_for, *pairs)
    return share_of_mean(loss, len(queries))


def rows_at_once(n_items: int, device: torch.device) -> int:
    """Positions whose scores of the catalogue are held at once on a device."""
    return max((CHUNK_ELEMENTS if device.type == "cpu" else DEVICE_CHUNK_ELEMENTS) // n_items, 16)


def with_item_bias(queries: torch.Tensor, items: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One more coordinate on both sides, so that an inner product has the item's bias in it.

    Args:
        queries: float [positions, d].
        items: float [N, d].
        bias: float [N].

    Returns:
        float [positions, d + 1] and float [N, d + 1].
    """
    return torch.cat([queries, torch.ones_like(queries[:, :1])], dim=1), torch.cat([items, bias[:, None]], dim=1)


def pairwise_loss(positive: torch.Tensor, negative: torch.Tensor, vectors: torch.Tensor, l2: float) -> torch.Tensor:
    """BPR-Opt (Rendle et al., 2009): -log sigmoid of the difference of two scores, and the size of what made them.

    Args:
        positive: float [pairs]; scores of the items that the users have.
        negative: float [pairs]; scores of those that they do not have.
        vectors: float [3, pairs, d]; the user's and the two items' vectors of each pair.
        l2: weight of half their squared length.

    Returns:
        A scalar, the mean over pairs.
    """
    size = 0.5 * vectors.square().sum() / len(positive)
    return share_of_mean(-functional.logsigmoid(positive - negative).mean() + l2 * size, len(positive))


class _CatalogueCrossEntropy(torch.autograd.Function):
    """Computes the gradients of its inputs while it computes the loss, so that no scores are kept or made twice."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        items: torch.Tensor,
        targets: torch.Tensor,
        counts: torch.Tensor,
        stands_for: torch.Tensor | None,
        places: torch.Tensor | None,
        biased: torch.Tensor | None,
        values: torch.Tensor | None,
    ) -> torch.Tensor:
        device = queries.device
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
        q, v = queries.detach().to(dtype), items.detach().to(dtype)
        weighed = v if stands_for is None else (items.detach() * stands_for[:, None]).to(dtype)
        catalogue = (v, weighed, stands_for)
        wanted = any(ctx.needs_input_grad)
        grad_q = torch.zeros_like(q, dtype=torch.float32) if wanted else None
        grad_v = torch.zeros_like(v, dtype=torch.float32) if wanted else None
        grad_values = torch.zeros_like(values, dtype=torch.float32) if wanted and values is not None else None
        total = torch.zeros((), device=device, dtype=torch.float64)
        chunk = rows_at_once(len(v), device)
        starts = torch.arange(0, len(q) + chunk, chunk, device=device)
        ends = [] if places is None else torch.searchsorted(places, starts).tolist()
        room = torch.empty(min(chunk, len(q)), len(v), device=device, dtype=dtype)
        with torch.autocast(device.type, enabled=False):
            # no score is beyond this: where it is small, rows need not be searched for their largest
            bound = q.float().norm(dim=2).amax() * v.float().norm(dim=1).amax() if len(q) else torch.zeros(())
            if values is not None and len(values):
                bound = bound + values.detach().float().abs().amax()
            safe = float(bound) <= SAFE_SCORE
            for index, start in enumerate(range(0, len(q), chunk)):
                part = slice(start, min(start + chunk, len(q)))
                bias = None
                if places is not None and biased is not None and values is not None:
                    own = slice(ends[index], ends[index + 1])
                    into = None if grad_values is None else grad_values[own]
                    bias = (places[own] - start, biased[own], values.detach()[own].float(), into)
                into_q = None if grad_q is None else grad_q[part]
                total += _chunk(q[part], catalogue, targets[part], counts[part], safe, into_q, grad_v, bias, room)
        if grad_v is not None and stands_for is not None:
            grad_v *= stands_for[:, None]
        ctx.save_for_backward(grad_q, grad_v, grad_values)
        ctx.positions = max(len(q), 1)
        return (total / ctx.positions).to(torch.float32)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_q, grad_v, grad_values = ctx.saved_tensors
        scale = grad_outputs[0] / ctx.positions
        return (
            grad_q * scale,
            grad_v * scale,
            None,
            None,
            None,
            None,
            None,
            None if grad_values is None else grad_values * scale,
        )


def _chunk(
    q: torch.Tensor,
    catalogue: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    targets: torch.Tensor,
    counts: torch.Tensor,
    safe: bool,
    grad_q: torch.Tensor | None,
    grad_v: torch.Tensor | None,
    bias: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None] | None,
    room: torch.Tensor,
) -> torch.Tensor:
    """Summed loss of a few positions; fills `grad_q` and adds to `grad_v`, unnormalised.

    `catalogue` is v, v times how often each item counts, and how often; `grad_v` is still to be multiplied with that.
    q is [positions, K, d] with each row's existing queries first and `counts` (how many exist) descending; unless
    scores are `safe`, each row's largest is subtracted from it. `bias` is row, item, value and room for the gradient
    of each biased pair; `room` holds the scores of one query.
    """
    v, weighed, stands_for = catalogue
    room = room[: len(q)]
    sizes = [len(q)]
    if q.shape[1] > 1:
        sizes = [n for n in (counts[:, None] > torch.arange(q.shape[1], device=q.device)).sum(0).tolist() if n]
    several = len(sizes) > 1
    if several:  # one matrix: the rows of the first interest, then those of the second, ...
        stacked = torch.cat([q[:size, k] for k, size in enumerate(sizes)])
        scores = stacked @ v.T
        best = room.copy_(scores[: len(q)])
        for values in scores.split(sizes)[1:]:
            head = best[: len(values)]
            torch.maximum(head, values, out=head)
        for values in scores.split(sizes):
            values.eq_(best[: len(values)])  # 1 where the interest is the best; products with booleans would be slow
    else:
        stacked = q[:, 0]
        best = scores = torch.mm(stacked, v.T, out=room)
    logits = best.float()
    if bias is not None:
        logits[bias[0], bias[1]] += bias[2]
    rows = torch.arange(len(q), device=q.device)
    own = logits[rows, targets]
    if not safe:
        top = logits.amax(1, keepdim=True)
        logits.sub_(top)
        own = own - top[:, 0]
    weights = logits.exp_()
    norm = weights.sum(1) if stands_for is None else torch.mv(weights, stands_for)
    loss = (norm.log() - own).sum(dtype=torch.float64)
    if grad_q is None or grad_v is None:
        return loss
    # the rows are left unnormalised, and the small matrices beside them scaled instead
    inverse = norm.reciprocal()[:, None]
    if bias is not None and bias[3] is not None:
        probability = weights[bias[0], bias[1]] * inverse[bias[0], 0]
        if stands_for is not None:
            probability = probability * stands_for[bias[1]]
        bias[3].copy_(probability - (bias[1] == targets[bias[0]]).float())
    weights[rows, targets] -= norm
    share = weights.to(v.dtype)
    if several:  # only the interest that won an item learns from it
        for values in scores.split(sizes):
            values.mul_(share[: len(values)])
        share, inverse = scores, torch.cat([inverse[:size] for size in sizes])
    for k, part in enumerate((share @ weighed).float().mul_(inverse).split(sizes)):
        grad_q[: len(part), k] = part
    scaled = (stacked.float() * inverse).to(v.dtype)
    if v.dtype == grad_v.dtype:
        grad_v.addmm_(share.T, scaled)  # no second matrix of this size is made and added
    else:
        grad_v += share.T @ scaled
    return loss
