"""Synthesized users (LARMI, Eq. 5): every user's items together with those of the users most like them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from recsys_dagster.data.histories import Histories
from recsys_dagster.parallel import Arrays, cores, in_parallel, read_only
from recsys_dagster.progress import Progress

POPULAR = 64
"""Items that are bits of a word in place of lists: as many as a word has."""


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
    max_reads: int | None = Field(
        default=None,
        ge=1,
        description="entries of the inverted index that are read for one user at most, rarest items first (None: as "
        "many as it takes to be certain); for millions of users. The metadata tell the recall, measured on a sample",
    )
    block_users: int = Field(default=2_048, ge=1, description="users that are synthesized at a time")
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
    inputs = CliqueInputs.of(histories, config)
    table, certain = synthesize(inputs, config, 0, histories.n_users, progress=True)
    table.attrs["certain_share"] = certain / max(len(table), 1)
    return table


class CliqueInputs(NamedTuple):
    """What every block of users is synthesized from.

    Attributes:
        matrix: binary users x items (CSR, int32).
        inverted: its inverted index.
    """

    matrix: Any
    inverted: InvertedIndex

    @classmethod
    def of(cls, histories: Histories, config: CliqueConfig) -> CliqueInputs:
        """From train histories."""
        matrix = _matrix(histories)
        return cls.shared(read_only(cls(matrix, InvertedIndex.of(matrix, config.max_item_users)).arrays()))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays by name, for workers to share."""
        matrix = {"data": self.matrix.data, "items": self.matrix.indices, "indptr": self.matrix.indptr}
        index = {f"index_{name}": np.asarray(value) for name, value in self.inverted._asdict().items()}
        return {**matrix, "shape": np.array(self.matrix.shape), **index}

    @classmethod
    def shared(cls, arrays: Arrays) -> CliqueInputs:
        """From `arrays`, without a copy."""
        from scipy.sparse import csr_array

        matrix = csr_array((arrays["data"], arrays["items"], arrays["indptr"]), shape=tuple(arrays["shape"].tolist()))
        matrix.has_canonical_format = True
        fields: dict[str, Any] = {name: arrays[f"index_{name}"] for name in InvertedIndex._fields}
        return cls(matrix, InvertedIndex(**{**fields, "longest": int(fields["longest"])}))


def synthesize(
    inputs: CliqueInputs, config: CliqueConfig, first: int, last: int, *, progress: bool = False
) -> tuple[pd.DataFrame, int]:
    """The cliques of users first to last - 1 (`first` a multiple of `block_users`), and how many are certain."""
    active = np.flatnonzero(np.diff(inputs.matrix.indptr) > 0)
    members: list[NDArray[np.int32]] = []
    items: list[NDArray[np.int32]] = []
    own, certain = active[np.searchsorted(active, first) : np.searchsorted(active, last)], 0
    bounds = np.searchsorted(own, np.arange(first, last + config.block_users, config.block_users)).tolist()
    with Progress("cliques", len(own), "users") if progress else nullcontext() as told:
        for number, (start, stop) in enumerate(pairwise(bounds), first // config.block_users):
            users = own[start:stop]
            if not len(users):
                continue
            if config.synthesis == "neighbours":
                others, sure = nearest_users(inputs.inverted, users, config.n_neighbours, config.max_reads)
            else:
                # A generator for each block, so that blocks can be drawn anywhere.
                rng = np.random.default_rng([config.seed, number])
                others, sure = _random_groups(users, active, config.n_neighbours, rng).astype(np.int32), len(users)
            certain += sure
            joined = np.concatenate([users[:, None], others], axis=1).astype(np.int32)
            counts = (joined >= 0).sum(axis=1)
            joined = joined[joined >= 0]
            unions = _unions(joined, counts, inputs.matrix)
            members += np.split(joined, np.cumsum(counts)[:-1])
            items += np.split(unions.indices.astype(np.int32), unions.indptr[1:-1])
            if told is not None:
                told.update(len(users))
    table = pd.DataFrame(
        {
            "clique_id": own.astype(np.int32),
            "members": pd.Series(members, dtype=object),
            "items": pd.Series(items, dtype=object),
        }
    )
    return table, certain


def neighbour_recall(
    inputs: CliqueInputs, config: CliqueConfig, sample: int = 1_000, seed: int = 0
) -> dict[str, float]:
    """How much of the exact neighbourhoods `max_reads` leaves, on a sample of users.

    Returns:
        recall: share of the exact neighbours that are found, by id, ties broken as ever; overlap_recall: share of the
        places taken by a user with no smaller overlap than the exact one in that place.
    """
    matrix, index = inputs
    active = np.flatnonzero(np.diff(matrix.indptr) > 0)
    users = np.sort(np.random.default_rng(seed).choice(active, min(sample, len(active)), replace=False))
    exact, _ = nearest_users(index, users, config.n_neighbours, None)
    found, _ = nearest_users(index, users, config.n_neighbours, config.max_reads)
    wanted = exact >= 0
    hits = ((exact[:, :, None] == found[:, None, :]) & wanted[:, :, None]).any(axis=2).sum()
    as_close = (_overlaps(matrix, users, found) >= _overlaps(matrix, users, exact))[wanted].sum()
    total = max(int(wanted.sum()), 1)
    return {"recall": float(hits / total), "overlap_recall": float(as_close / total)}


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


class InvertedIndex(NamedTuple):
    """Who has each item, and each user's items from the rarest to the most popular.

    The most popular items stand in no list: they are bits of a word for each user.

    Attributes:
        indptr: int64 [U + 1].
        items: int32; ranks of the less popular items by number of users, ascending within a user.
        item_indptr: int64 [ranks + 1].
        users: int32, ascending within an item.
        sizes: int32 [U], number of items.
        words: uint64 [U], which of the popular items a user has.
        distinct_words: uint64 [D], words that occur, those of most bits first.
        distinct_bits: int64 [D], how many bits.
        word_indptr: int64 [D + 1].
        word_users: int32, users of each word, those of fewer items first, then the smaller id.
        word_first: int64 [D], number of items * 2**32 + id of the first user of each word.
        longest: largest number of items of a user.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    item_indptr: NDArray[np.int64]
    users: NDArray[np.int32]
    sizes: NDArray[np.int32]
    words: NDArray[np.uint64]
    distinct_words: NDArray[np.uint64]
    distinct_bits: NDArray[np.int64]
    word_indptr: NDArray[np.int64]
    word_users: NDArray[np.int32]
    word_first: NDArray[np.int64]
    longest: int

    @classmethod
    def of(cls, matrix: Any, max_item_users: int | None = None, popular: int | None = None) -> InvertedIndex:
        """From the binary matrix of users and items; items with more users than `max_item_users` are left out."""
        degrees = np.bincount(matrix.indices, minlength=matrix.shape[1])
        order = np.argsort(degrees, kind="stable")
        if max_item_users is not None:
            order = order[degrees[order] <= max_item_users]
        split = max(len(order) - (POPULAR if popular is None else popular), 0)
        listed, as_bits = matrix[:, order[:split]].tocsr(), matrix[:, order[split:]].tocsr()
        listed.sort_indices()
        by_item = listed.tocsc()
        row = np.repeat(np.arange(matrix.shape[0]), np.diff(as_bits.indptr))
        words = np.zeros(matrix.shape[0], dtype=np.uint64)
        np.bitwise_or.at(words, row, np.uint64(1) << as_bits.indices.astype(np.uint64))
        sizes = (np.diff(listed.indptr) + np.diff(as_bits.indptr)).astype(np.int32)
        bits = np.diff(as_bits.indptr)
        by_word = np.lexsort((np.arange(len(words)), sizes, words, -bits))
        starts = np.flatnonzero(np.diff(words[by_word], prepend=~words[by_word[:1]]) != 0)
        return cls(
            listed.indptr.astype(np.int64),
            listed.indices.astype(np.int32),
            by_item.indptr.astype(np.int64),
            by_item.indices.astype(np.int32),
            sizes,
            words,
            words[by_word[starts]],
            bits[by_word[starts]].astype(np.int64),
            np.append(starts, len(words)).astype(np.int64),
            by_word.astype(np.int32),
            (sizes[by_word[starts]].astype(np.int64) << 32) | by_word[starts],
            int(sizes.max(initial=0)),
        )


def nearest_users(
    index: InvertedIndex, queries: NDArray[np.int64], n: int, max_reads: int | None = None
) -> tuple[NDArray[np.int32], int]:
    """The n users with the largest overlap with each query.

    Returns:
        int32 [queries, n], -1 for none; and for how many queries this is certain (all, unless `max_reads` cut it).
    """
    from recsys_dagster.larmi import clique_kernels

    found = np.full((len(queries), n), -1, dtype=np.int32)
    most = np.iinfo(np.int64).max if max_reads is None else max_reads
    bounds = np.linspace(0, len(queries), cores() + 1).astype(int).tolist()

    def work(piece: tuple[int, int]) -> int:
        first, last = piece
        return clique_kernels.nearest_users(index, queries[first:last], most, found[first:last])

    return found, len(queries) - sum(in_parallel(work, pairwise(bounds)))


def _overlaps(matrix: Any, queries: NDArray[np.int64], others: NDArray[np.int32]) -> NDArray[np.int64]:
    """Items in common of each query with each of its others; int64 [queries, n], -1 where there is no other."""
    left = matrix[np.repeat(queries, others.shape[1])]
    right = matrix[np.maximum(others, 0).ravel()]
    shared = np.asarray(left.multiply(right).sum(axis=1)).reshape(others.shape)
    return np.where(others >= 0, shared, -1)


def _random_groups(
    users: NDArray[np.int64], active: NDArray[np.int64], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
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
    return active[(own[:, None] + 1 + shifts) % len(active)]


def _unions(members: NDArray[np.int32], counts: NDArray[np.int64], matrix: Any) -> Any:
    """Union of the members' items for each group: CSR [groups, N] with sorted columns."""
    from scipy.sparse import csr_array

    indptr = np.concatenate([[0], np.cumsum(counts)])
    groups = csr_array((np.ones(len(members), dtype=np.int32), members, indptr), shape=(len(counts), matrix.shape[0]))
    unions = (groups @ matrix).tocsr()
    unions.sort_indices()
    return unions
