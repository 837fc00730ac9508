"""One contract for every model: scores of the whole catalogue, and the exact rank of each target among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from recsys_dagster.data.histories import Histories
from recsys_dagster.progress import Progress
from recsys_dagster.training.distributed import gathered, own_of, size

BLOCK_BATCHES = 8
"""Batches in a block of users: batches are made within blocks, so that nobody's batch depends on users far away."""


def block_users(batch_size: int) -> int:
    """Users (by id) of a block."""
    return BLOCK_BATCHES * batch_size


class Scorer(Protocol):
    """Anything that can score the whole catalogue for some users."""

    n_items: int

    def score(self, users: NDArray[np.int64], histories: Histories) -> torch.Tensor:
        """Scores float [len(users), n_items]; `histories` is indexed by user id."""
        ...


@dataclass(frozen=True)
class Ranks:
    """The rank of every target.

    Attributes:
        users: int64 [targets].
        items: int32 [targets].
        ranks: float64 [targets]; 1 + the number of candidates that score higher + half of those that score the same.
            A user's other targets are candidates too.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int32]
    ranks: NDArray[np.float64]


def target_ranks(
    scorer: Scorer,
    histories: Histories,
    targets: Histories,
    *,
    mask_seen: bool,
    negatives: NDArray[np.int32] | None = None,
    batch_size: int = 256,
    label: str = "ranking",
    first_user: int = 0,
) -> tuple[Ranks, Ranks | None]:
    """Rank every target among the whole catalogue, and among the stored negatives, in one pass of scoring.

    Memory is bounded by `batch_size` times the catalogue. Where several processes train together each ranks a part of
    the batches, the very ones that one process makes, and all get the ranks of all users.

    Args:
        scorer: the model.
        histories: what the model may see of each user.
        targets: the items to find; users without any are left out.
        mask_seen: items of the history are no candidates (unless they are the target itself).
        negatives: int32 [U, n] stored negatives of each user, or None for full ranking alone. Entries below 0 are
            no candidates.
        batch_size: users scored at once.
        label: what the progress line calls this.
        first_user: the user of the first row of `negatives`.

    Returns:
        Ranks in the full catalogue, and among the negatives (None without them).

    Raises:
        FloatingPointError: a score is NaN or infinite.
    """
    users = np.flatnonzero(targets.lengths > 0)
    owners: list[NDArray[np.int64]] = []
    found: list[NDArray[np.int64]] = []
    full: list[NDArray[np.float64]] = []
    sampled: list[NDArray[np.float64]] = []
    with Progress(label, len(users), "users") as progress:
        batches = list(_batches(users, histories, batch_size))
        for index in own_of(range(len(batches))):
            batch = users[batches[index]]
            scores = _finite_scores(scorer, batch, histories)
            row, item = entries_of(targets, batch)
            owners.append(batch[row])
            found.append(item)
            rows, items = torch.from_numpy(row).to(scores.device), torch.from_numpy(item).to(scores.device)
            own = scores[rows, items]
            if negatives is not None:
                sampled.append(_among(scores, own, rows, batch, targets, negatives[batch - first_user]))
            full.append(catalogue_ranks(scores, rows, items, histories if mask_seen else None, batch))
            progress.update(len(batch) * size())
    owners, found, full, sampled = (
        [part for parts in everyone for part in parts]
        for everyone in zip(*gathered((owners, found, full, sampled)), strict=True)
    )
    owner = np.concatenate(owners) if owners else np.empty(0, np.int64)
    order = np.argsort(owner, kind="stable")

    def collect(parts: list[NDArray[np.float64]]) -> Ranks:
        item_ids = np.concatenate(found)[order].astype(np.int32) if found else np.empty(0, np.int32)
        return Ranks(owner[order], item_ids, np.concatenate(parts)[order] if parts else np.empty(0))

    return collect(full), collect(sampled) if negatives is not None else None


def catalogue_ranks(
    scores: torch.Tensor, rows: torch.Tensor, items: torch.Tensor, seen: Histories | None, users: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Ranks of some targets in the whole catalogue, float64 [targets] (see `Ranks`).

    Args:
        scores: float [users, N]; written over.
        rows: int64 [targets], the row of each target (see `entries_of`).
        items: int64 [targets].
        seen: items of these histories are no candidates (unless they are the target itself); None: all are.
        users: int64 [users], whose scores they are.
    """
    own = scores[rows, items]
    if seen is not None:
        _mask(scores, seen, users)
        scores[rows, items] = own
    return _rank(own, scores[rows] if len(rows) != len(users) else scores)


def top_n(
    scorer: Scorer,
    users: NDArray[np.int64],
    histories: Histories,
    *,
    n: int,
    mask_seen: bool,
    batch_size: int = 256,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The exact `n` best items of each user, best first; of equal scores among them the smaller item id comes first.

    Returns:
        items int32 [users, n] and scores float32 [users, n]; where fewer than n items are candidates, the rest is -1
        and -inf.
    """
    n = min(n, scorer.n_items)
    items = np.empty((len(users), n), dtype=np.int32)
    values = np.empty((len(users), n), dtype=np.float32)
    for rows in _batches(users, histories, batch_size):
        batch = users[rows]
        scores = _finite_scores(scorer, batch, histories)
        if mask_seen:
            _mask(scores, histories, batch)
        best, index = (tensor.cpu() for tensor in torch.topk(scores, n, dim=1))
        # topk leaves equal scores in any order: put the smaller id first
        by_id = index.argsort(dim=1)
        best, index = best.gather(1, by_id), index.gather(1, by_id)
        by_score = best.argsort(dim=1, descending=True, stable=True)
        best, index = best.gather(1, by_score), index.gather(1, by_score)
        items[rows] = torch.where(best == -torch.inf, -1, index).numpy()
        values[rows] = best.numpy()
    return items, values


def _batches(users: NDArray[np.int64], histories: Histories, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Places in `users` of those who are scored together: of one block, and of about equal lengths."""
    block = users // block_users(batch_size)
    order = np.lexsort((histories.lengths[users], block))  # little padding in a batch
    ends = np.append(np.flatnonzero(np.diff(block[order])) + 1, len(order))
    start = 0
    for end in ends.tolist():
        for first in range(start, end, batch_size):
            yield order[first : min(first + batch_size, end)]
        start = end


def _finite_scores(scorer: Scorer, users: NDArray[np.int64], histories: Histories) -> torch.Tensor:
    with torch.no_grad():
        scores = scorer.score(users, histories).float()
    # one sum tells in a single pass that all is well; only where it does not is every score looked at
    if not bool(torch.isfinite(scores.sum())) and not bool(torch.isfinite(scores).all()):
        raise FloatingPointError(
            f"{type(scorer).__name__} gave scores that are not finite for users {users[:3].tolist()}..."
        )
    return scores


def entries_of(histories: Histories, users: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row in the batch and item of every entry of the given users."""
    lengths = histories.lengths[users]
    row = np.repeat(np.arange(len(users)), lengths)
    within = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return row, histories.items[np.repeat(histories.indptr[users], lengths) + within].astype(np.int64)


def _mask(scores: torch.Tensor, histories: Histories, users: NDArray[np.int64]) -> None:
    row, item = entries_of(histories, users)
    scores[torch.from_numpy(row).to(scores.device), torch.from_numpy(item).to(scores.device)] = -torch.inf


def _rank(own: torch.Tensor, candidates: torch.Tensor) -> NDArray[np.float64]:
    """1 + greater + half the ties; `candidates` [targets, n] holds the target itself once."""
    greater = (candidates > own[:, None]).sum(1)
    equal = (candidates == own[:, None]).sum(1) - 1
    return (1 + greater + 0.5 * equal).double().cpu().numpy()


def _among(
    scores: torch.Tensor,
    own: torch.Tensor,
    rows: torch.Tensor,
    users: NDArray[np.int64],
    targets: Histories,
    negatives: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Ranks among the stored negatives and the user's targets."""
    drawn = torch.from_numpy(negatives.astype(np.int64)).to(scores.device)
    values = scores.gather(1, drawn.clamp(min=0)).masked_fill(drawn < 0, -torch.inf)
    lengths = targets.lengths[users]
    together = torch.full((len(users), int(lengths.max())), -torch.inf, device=scores.device)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    together[rows, torch.from_numpy(within).to(scores.device)] = own
    return _rank(own, torch.cat([values, together], dim=1)[rows])
