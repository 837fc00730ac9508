"""The item-item co-engagement graph, exact or sampled (G2Rec Eq. 1 and 2, Theorem 2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy import sparse

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.progress import Progress

logger = logging.getLogger("recsys_dagster")


class CoengagementConfig(BaseModel):
    """How co-engaged pairs are counted."""

    epsilon: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Relative error of the sampled Laplacian (Theorem 2).",
    )
    delta: float = Field(default=0.1, gt=0, lt=1, description="Probability of a larger error (Theorem 2).")
    samples_per_user: int | None = Field(
        default=None,
        ge=1,
        description="Pairs drawn per user (m of Eq. 2); overrides epsilon and delta.",
    )
    max_history: int | None = Field(
        default=None, ge=2, description="Use only this many most recent distinct items of a user; None uses all."
    )
    weighting: Literal["count", "user_normalised", "binary"] = Field(
        default="count",
        description="Weight of an edge: users who share the pair (count); the same, but a user with N items gives "
        "1/(N-1) a pair, so that every interaction counts alike (user_normalised); 1 (binary, the A of Eq. 3).",
    )
    chunk_pairs: int = Field(default=4_000_000, ge=1, description="Pairs held in memory at once.")


def sample_sizes(
    lengths: NDArray[np.int64], n_items: int, config: CoengagementConfig
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pairs to take from each user, and whether they are all pairs (Theorem 2).

    Args:
        lengths: [U] number N of distinct items of each user.
        n_items: size |I| of the catalogue.
        config: epsilon and delta, or m itself.

    Returns:
        m, int64 [U]: ``min(m, N (N - 1) / 2)``; exact, bool [U]: true where m reaches the N (N - 1) / 2 pairs there
        are, so that the whole clique costs no more than the sample.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    pairs = lengths * (lengths - 1) // 2
    if config.samples_per_user is not None:
        m = np.full(len(lengths), config.samples_per_user, dtype=np.int64)
    else:
        factor = 2.0 * (1.0 / (3.0 * config.epsilon) + 1.0 / config.epsilon**2)
        m = np.ceil(lengths * (factor * np.log(2.0 * max(n_items, 1) / config.delta))).astype(np.int64)
    return np.minimum(m, pairs), m >= pairs


def build_graph(histories: Histories, config: CoengagementConfig | None = None, *, seed: int = 0) -> pd.DataFrame:
    """Count which items the same users engaged with.

    A user with N distinct items adds weight 1 to each of his N (N - 1) / 2 pairs, or, where Theorem 2 asks for fewer
    draws m than that, weight ``N (N - 1) / (2 m)`` to each of m pairs drawn uniformly with replacement. Users are taken
    in chunks and the chunks are summed as they come, so memory is linear in the edges kept. The result does not depend
    on the chunk size.

    Args:
        histories: the train split. Repeats of an item in one history count once.
        config: accuracy, history cap and weighting.
        seed: of the draws.

    Returns:
        source int32 < target int32, weight float32, sorted by both; each pair once.

    Raises:
        RecsysError: no user has two distinct items, so there is no edge.
    """
    config = config or CoengagementConfig()
    n_items = histories.n_items
    rng = np.random.default_rng(seed)
    sums: list[sparse.csr_array] = []
    with Progress("coengagement: users", histories.n_users, "users") as progress:
        for first, last in _user_chunks(histories, config):
            source, target, weight = _chunk_pairs(histories, first, last, config, rng)
            if len(source):
                chunk = sparse.coo_array((weight, (source, target)), shape=(n_items, n_items)).tocsr()
                _push(sums, chunk)
            progress.update(last - first)
    if not sums:
        raise RecsysError(
            f"The co-engagement graph is empty: none of {histories.n_users:,} users has two distinct items in the "
            "train split.",
            mend="use a log with longer histories, or lower the k-core of the dataset.",
        )
    while len(sums) > 1:
        sums.append(sums.pop() + sums.pop())
    edges = sums[0]
    edges.sort_indices()
    source = np.repeat(np.arange(n_items, dtype=np.int32), np.diff(edges.indptr))
    weight = np.ones(edges.nnz) if config.weighting == "binary" else edges.data
    return pd.DataFrame(
        {"source": source, "target": edges.indices.astype(np.int32), "weight": weight.astype(np.float32)}
    )


def adjacency(graph: pd.DataFrame, n_items: int) -> sparse.csr_array:
    """The symmetric weighted adjacency matrix A of a graph table, checked.

    Args:
        graph: source, target, weight, each undirected edge once.
        n_items: number N of items.

    Returns:
        float64 CSR [N, N]; its row sums are the degrees k, its total is |E| in the duplicate convention of Eq. 3.

    Raises:
        RecsysError: no edges, an end outside 0..N-1, a self-loop, a duplicate, or a weight that is not finite and > 0.
    """
    mend = "rebuild coengagement_graph from the train split."
    source = graph["source"].to_numpy(dtype=np.int64)
    target = graph["target"].to_numpy(dtype=np.int64)
    weight = graph["weight"].to_numpy(dtype=np.float64)
    if len(source) == 0:
        raise RecsysError("The co-engagement graph has no edges.", mend=mend)
    faults = (
        (
            "an item id outside the catalogue",
            (np.minimum(source, target) < 0) | (np.maximum(source, target) >= n_items),
        ),
        ("a self-loop", source == target),
        ("a weight that is not a finite number above 0", ~(np.isfinite(weight) & (weight > 0))),
    )
    for fault, rows in faults:
        if rows.any():
            row = int(np.argmax(rows))
            raise RecsysError(
                f"Row {row} of the co-engagement graph ({source[row]}, {target[row]}, {weight[row]}) has {fault}; "
                f"the catalogue has {n_items} items.",
                mend=mend,
            )
    rows, columns = np.concatenate([source, target]), np.concatenate([target, source])
    matrix = sparse.coo_array((np.concatenate([weight, weight]), (rows, columns)), shape=(n_items, n_items)).tocsr()
    if matrix.nnz != len(rows):
        raise RecsysError(
            f"The co-engagement graph repeats {(len(rows) - matrix.nnz) // 2} of its {len(source)} edges.", mend=mend
        )
    matrix.sort_indices()
    return matrix


def graph_statistics(graph: pd.DataFrame, n_items: int) -> dict[str, float]:
    """Numbers that say whether a graph is sound: edges, weight, degrees, isolated items."""
    degree = np.zeros(n_items)
    neighbours = np.zeros(n_items, dtype=np.int64)
    for end in ("source", "target"):
        ids = graph[end].to_numpy()
        degree += np.bincount(ids, weights=graph["weight"].to_numpy(), minlength=n_items)
        neighbours += np.bincount(ids, minlength=n_items)
    return {
        "edges": float(len(graph)),
        "total_weight": float(graph["weight"].astype(np.float64).sum()),
        "mean_degree": float(degree.mean()),
        "max_degree": float(degree.max()),
        "mean_neighbours": float(neighbours.mean()),
        "isolated_items": float((neighbours == 0).sum()),
    }


def _user_chunks(histories: Histories, config: CoengagementConfig) -> Iterator[tuple[int, int]]:
    lengths = histories.lengths
    if config.max_history is not None:
        lengths = np.minimum(lengths, config.max_history)
    kept, _ = sample_sizes(lengths, histories.n_items, config)
    group = np.cumsum(kept) // config.chunk_pairs
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1, [histories.n_users]])
    yield from zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)


def _distinct(
    histories: Histories, first: int, last: int, max_history: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct items of users first..last-1, sorted within a user, and how many each has."""
    start, stop = histories.indptr[first], histories.indptr[last]
    items = histories.items[start:stop].astype(np.int64)
    users = np.repeat(np.arange(last - first, dtype=np.int64), histories.lengths[first:last])
    keys = users * histories.n_items + items
    if max_history is None:
        keys = np.unique(keys)
    else:
        # Read backwards, so that the first occurrence that np.unique keeps is the most recent one.
        _, backwards = np.unique(keys[::-1], return_index=True)
        newest = np.sort(len(keys) - 1 - backwards)
        counts = np.bincount(users[newest], minlength=last - first)
        from_end = np.repeat(np.cumsum(counts), counts) - 1 - np.arange(len(newest))
        keys = np.sort(keys[newest[from_end < max_history]])
    return keys % histories.n_items, np.bincount(keys // histories.n_items, minlength=last - first)


def _chunk_pairs(
    histories: Histories, first: int, last: int, config: CoengagementConfig, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Pairs (source < target) of users first..last-1 with their weights; repeats are not yet summed."""
    items, lengths = _distinct(histories, first, last, config.max_history)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    draws, exact = sample_sizes(lengths, histories.n_items, config)
    share = np.ones(len(lengths))
    if config.weighting == "user_normalised":
        share = 1.0 / np.maximum(lengths - 1, 1)

    # Cliques: the item at rank r of a user pairs with the N - 1 - r items after it.
    rows = np.flatnonzero(np.repeat(exact, lengths))
    user = np.repeat(np.arange(len(lengths)), lengths)[rows]
    followers = offsets[user + 1] - 1 - rows
    left = np.repeat(rows, followers)
    right = np.arange(len(left)) - np.repeat(np.cumsum(followers) - followers, followers) + left + 1
    weight = np.repeat(share[user], followers)

    sampled = np.flatnonzero(~exact)
    if len(sampled):
        user = np.repeat(sampled, draws[sampled])
        n = lengths[user]
        uniform = rng.random((len(user), 2))  # one row a draw: the stream does not depend on where chunks end
        i = (uniform[:, 0] * n).astype(np.int64)
        j = (uniform[:, 1] * (n - 1)).astype(np.int64)
        j += j >= i
        left = np.concatenate([left, offsets[user] + np.minimum(i, j)])
        right = np.concatenate([right, offsets[user] + np.maximum(i, j)])
        weight = np.concatenate([weight, share[user] * (n * (n - 1) / 2) / draws[user]])
    return items[left].astype(np.int32), items[right].astype(np.int32), weight


def _push(sums: list[sparse.csr_array], chunk: sparse.csr_array) -> None:
    """Add a chunk to a stack of partial sums of falling size, so that an edge is copied O(log chunks) times."""
    sums.append(chunk)
    while len(sums) > 1 and sums[-1].nnz * 2 > sums[-2].nnz:
        sums.append(sums.pop() + sums.pop())
