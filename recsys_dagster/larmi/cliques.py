"""Synthesized users (LARMI, Eq. 5): every user's items together with those of the users most like them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from recsys_dagster.data.histories import Histories
from recsys_dagster.progress import Progress


class CliqueConfig(BaseModel):
    """How users are synthesized."""

    n_neighbours: int = Field(
        default=10, ge=1, description="n of Eq. 5: users joined with each user, beside the user itself"
    )
    synthesis: Literal["neighbours", "random"] = Field(
        default="neighbours",
        description="neighbours: the users with the largest overlap; random: as many users drawn at random, the "
        "ablation w/o-com",
    )
    max_item_users: int | None = Field(
        default=None,
        ge=2,
        description="items with more users than this do not count as overlap (they stay in the cliques); bounds the "
        "work on very popular items",
    )
    block_users: int = Field(default=2_048, ge=1, description="users whose overlaps are held in memory at a time")
    seed: int = Field(default=0, ge=0, description="seed of the random groups")


def build_cliques(histories: Histories, config: CliqueConfig | None = None) -> pd.DataFrame:
    """Synthesize a user from every user with at least one item.

    N(u) is u itself, then the users that share the most distinct items with u (ties: higher Jaccard index, then smaller
    id), at most `n_neighbours` of them and none without an overlap. The clique is the union of their items.

    Args:
        histories: train histories.
        config: number of neighbours, cap on popular items, ablation.

    Returns:
        user_cliques: clique_id i32 (= user_id), members list[i32] (u first, then by rank), items list[i32] (sorted,
        distinct).
    """
    config = config or CliqueConfig()
    matrix = _matrix(histories)
    counted = matrix
    if config.max_item_users is not None:
        keep = np.bincount(matrix.indices, minlength=histories.n_items) <= config.max_item_users
        counted = (matrix @ _diagonal(keep)).tocsr()
        counted.eliminate_zeros()
    transposed = counted.T.tocsr()
    sizes = np.diff(counted.indptr)
    active = np.flatnonzero(np.diff(matrix.indptr) > 0)
    rng = np.random.default_rng(config.seed)
    members: list[NDArray[np.int32]] = []
    items: list[NDArray[np.int32]] = []
    with Progress("cliques", len(active), "users") as progress:
        for start in range(0, len(active), config.block_users):
            users = active[start : start + config.block_users]
            if config.synthesis == "neighbours":
                owners, others = _neighbours(counted[users] @ transposed, users, sizes, config.n_neighbours)
            else:
                owners, others = _random_groups(users, active, config.n_neighbours, rng)
            counts = np.bincount(owners, minlength=len(users)) + 1
            ends = np.cumsum(counts)
            joined = np.empty(ends[-1], dtype=np.int32)
            own = np.zeros(len(joined), dtype=bool)
            own[ends - counts] = True
            joined[own], joined[~own] = users, others
            unions = _unions(joined, counts, matrix)
            members += np.split(joined, ends[:-1])
            items += np.split(unions.indices.astype(np.int32), unions.indptr[1:-1])
            progress.update(len(users))
    return pd.DataFrame(
        {
            "clique_id": active.astype(np.int32),
            "members": pd.Series(members, dtype=object),
            "items": pd.Series(items, dtype=object),
        }
    )


def clique_users(cliques: pd.DataFrame, chosen: Sequence[int] | NDArray[np.integer]) -> list[tuple[int, NDArray]]:
    """Pairs (clique_id, item ids) of the chosen cliques in the given order, as `clusters.cluster_users` takes them."""
    items = cliques.set_index("clique_id")["items"]
    return [(int(clique), np.asarray(items.loc[int(clique)])) for clique in chosen]


def _matrix(histories: Histories) -> Any:
    """Binary users x items matrix (CSR, int32) of the distinct items of each user."""
    from scipy.sparse import csr_array

    ones = np.ones(len(histories.items), dtype=np.int32)
    # Copies: sum_duplicates sorts within rows, and the histories must keep their order.
    parts = (ones, histories.items.copy(), histories.indptr.copy())
    matrix = csr_array(parts, shape=(histories.n_users, histories.n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def _diagonal(keep: NDArray[np.bool_]) -> Any:
    from scipy.sparse import dia_array

    return dia_array((keep.astype(np.int32)[None], [0]), shape=(len(keep), len(keep)))


def _neighbours(
    overlaps: Any, users: NDArray[np.int64], sizes: NDArray[np.integer], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The top-n of each row of a block of overlaps [block, U].

    Of two users with the same overlap with u the one with fewer items has the higher Jaccard index
    |a & b| / (|a| + |b| - |a & b|), so the number of items breaks ties in whole numbers.

    Returns:
        row within the block and neighbour's id, by row and rank.
    """
    row = np.repeat(np.arange(len(users)), np.diff(overlaps.indptr))
    other, overlap = overlaps.indices, overlaps.data
    kept = other != users[row]
    # Only overlaps that can be among the first n are sorted: those from the n-th largest on.
    largest = int(overlap.max(initial=0))
    histogram = np.bincount(row[kept] * (largest + 1) + overlap[kept], minlength=len(users) * (largest + 1))
    at_least = np.cumsum(histogram.reshape(len(users), -1)[:, ::-1], axis=1)[:, ::-1]
    enough = at_least >= n
    least = np.where(enough.any(axis=1), enough.shape[1] - 1 - np.argmax(enough[:, ::-1], axis=1), 0)
    kept &= overlap >= least[row]
    row, other, overlap = row[kept], other[kept].astype(np.int64), overlap[kept].astype(np.int64)
    size = sizes[other].astype(np.int64)
    bounds = [len(users), largest + 1, int(size.max(initial=0)) + 1, int(other.max(initial=0)) + 1]
    if float(np.prod(np.array(bounds, dtype=float))) < 2**62:
        key = ((row * bounds[1] + largest - overlap) * bounds[2] + size) * bounds[3] + other
        order = np.argsort(key)
    else:
        order = np.lexsort((other, size, -overlap, row))
    row, other = row[order], other[order]
    counts = np.bincount(row, minlength=len(users))
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row[rank < n], other[rank < n]


def _random_groups(
    users: NDArray[np.int64], active: NDArray[np.int64], n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """n distinct other users for each user, in random order; all others if there are no more than n."""
    own = np.searchsorted(active, users)
    n = min(n, len(active) - 1)
    if 2 * n >= len(active) - 1:
        shifts = np.stack([rng.permutation(len(active) - 1)[:n] for _ in users])
    else:
        shifts = rng.integers(0, len(active) - 1, (len(users), n))
        while len(again := np.flatnonzero((np.diff(np.sort(shifts, axis=1), axis=1) == 0).any(axis=1))):
            shifts[again] = rng.integers(0, len(active) - 1, (len(again), n))
    # A shift of 0..active-2 past the user's own place names every other user exactly once.
    others = active[(own[:, None] + 1 + shifts) % len(active)]
    return np.repeat(np.arange(len(users)), n), others.ravel()


def _unions(members: NDArray[np.int32], counts: NDArray[np.int64], matrix: Any) -> Any:
    """Union of the members' items for each group: CSR [groups, N] with sorted columns."""
    from scipy.sparse import csr_array

    indptr = np.concatenate([[0], np.cumsum(counts)])
    groups = csr_array((np.ones(len(members), dtype=np.int32), members, indptr), shape=(len(counts), matrix.shape[0]))
    unions = (groups @ matrix).tocsr()
    unions.sort_indices()
    return unions
