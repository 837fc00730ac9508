"""The item-item co-engagement graph, exact or sampled (G2Rec Eq. 1 and 2, Theorem 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from recsys_dagster.data.histories import Histories
from recsys_dagster.errors import RecsysError
from recsys_dagster.g2rec.coengagement_chunk import Chunk, append_rows, running
from recsys_dagster.g2rec.partial_sums import PartialSums, edge_table
from recsys_dagster.g2rec.sampling import CoengagementConfig, DegreePlan, degree_plan, draws_per_unit, sample_sizes
from recsys_dagster.parallel import parallel_rows, pieces
from recsys_dagster.progress import Progress

SECONDS_A_DAY = 86_400.0
WORTH_PLANNING = 4.0
"""Pairs of the log for each draw that `DegreePlan` would at best leave, from which it is worth its time."""


def build_graph(
    histories: Histories | Iterable[Histories],
    config: CoengagementConfig | None = None,
    *,
    seed: int = 0,
    newest: int | None = None,
) -> pd.DataFrame:
    """Count which items the same users engaged with.

    A user with N distinct items adds weight 1 to each of his N (N - 1) / 2 pairs, or, where Theorem 2 asks for fewer
    draws m than that, weight ``N (N - 1) / (2 m)`` to each of m pairs drawn uniformly with replacement. Where the whole
    log is at hand and dense, fewer pairs are drawn, in proportion to their part in the graph (see `DegreePlan`). Users
    are taken in groups as they come, and every edge of a group is written once, so memory is linear in the edges kept.
    The result does not depend on how users are grouped.

    Args:
        histories: the train split, at once or as a stream of disjoint groups of users over one catalogue. Repeats of an
            item in one history count once, at their latest.
        config: accuracy, history cap, weighting and decay.
        seed: of the draws.
        newest: time (seconds) from which ages are reckoned with a half-life; the first group's latest if not given.

    Returns:
        source int32 < target int32, weight float32, sorted by both; each pair once.

    Raises:
        RecsysError: no user has two distinct items, so there is no edge; or a half-life is set and there are no times.
    """
    groups = [histories] if isinstance(histories, Histories) else histories
    builder: GraphBuilder | None = None
    total = histories.n_users if isinstance(histories, Histories) else None
    with Progress("coengagement: users", total, "users") as progress:
        for group in groups:
            if builder is None:
                builder = GraphBuilder(group.n_items, config, seed=seed, newest=newest)
                if isinstance(histories, Histories):
                    builder.look_ahead(histories)
            for n_users in builder.add(group):
                progress.update(n_users)
    if builder is None:
        raise RecsysError("The co-engagement graph is empty: there is no user.", mend="check the source of the log.")
    return builder.finish()


class GraphBuilder:
    """Sums users' pairs as they come; holds nothing but the edges found so far and one group of users.

    Args:
        n_items: size |I| of the catalogue.
        config: as for `build_graph`.
        seed: of the draws; a user's draws depend on it and on how many users came before.
        newest: as for `build_graph`.
    """

    def __init__(
        self, n_items: int, config: CoengagementConfig | None = None, *, seed: int = 0, newest: int | None = None
    ) -> None:
        self._config = config or CoengagementConfig()
        self._n_items, self._seed, self._newest = n_items, seed, newest
        self._users = 0
        self._plan: DegreePlan | None = None
        self._whole: Chunk | None = None
        self._sums = PartialSums()

    def add(self, histories: Histories) -> Iterator[int]:
        """Add the pairs of more users; yields numbers of users done.

        Raises:
            RecsysError: a half-life is set, and these histories have no times.
        """
        if self._config.half_life_days is not None and (histories.times is None or not histories.times.any()):
            raise RecsysError(
                f"half_life_days is {self._config.half_life_days:g}, but the interactions have no timestamps.",
                mend="leave half_life_days out, or bring a log with a time of each interaction.",
            )
        if self._newest is None and histories.times is not None and len(histories.times):
            self._newest = int(histories.times.max())
        chunk = self._read(histories) if self._whole is None else self._whole
        self._whole = None  # it was looked ahead at for this group alone
        drawn, whole = chunk.of(~chunk.exact), chunk.of(chunk.exact & (chunk.lengths > 1))
        told, own = 0, PartialSums()
        for part, share in self._parts(drawn, whole):
            if part is not None:
                own.push(part)
            done = int(share * histories.n_users)
            yield done - told
            told = done
        if own:
            self._sums.push(own.total())
        self._users += histories.n_users

    def look_ahead(self, histories: Histories) -> None:
        """Learn degrees and spectral gap of the whole log, where that can save draws (see `DegreePlan`)."""
        config = self._config
        pairs, _ = sample_sizes(self._capped(histories.lengths), self._n_items, config)
        worth = pairs.sum() > WORTH_PLANNING * self._n_items * draws_per_unit(self._n_items, config)
        if worth and config.by_degree and config.samples_per_user is None and config.half_life_days is None:
            chunk = self._read(histories)
            self._plan = degree_plan(chunk.items, chunk.lengths, chunk.share, self._n_items)
            self._whole = self._planned(chunk)

    def finish(self) -> pd.DataFrame:
        """The graph of all users added; the builder is empty afterwards.

        Raises:
            RecsysError: no user has two distinct items.
        """
        if not self._sums:
            raise RecsysError(
                f"The co-engagement graph is empty: none of {self._users:,} users has two distinct items in the "
                "train split.",
                mend="use a log with longer histories, or lower the k-core of the dataset.",
            )
        return edge_table(self._sums.total(), 0, self._config)

    def _capped(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        return lengths if self._config.max_history is None else np.minimum(lengths, self._config.max_history)

    def _parts(self, drawn: Chunk, whole: Chunk) -> Iterator[tuple[sparse.csr_array | None, float]]:
        """Sums of draws and of cliques in pieces of bounded memory, each with the share of all pairs done so far."""
        pairs = int((whole.lengths * (whole.lengths - 1) // 2).sum())
        total, done = max(pairs + int(drawn.draws.sum()), 1), 0
        for users in pieces(running(drawn.draws), self._config.chunk_pairs):
            piece = drawn.between(*users)
            done += int(piece.draws.sum())
            yield self._draws(piece), done / total
        if len(whole.items):
            yield self._cliques(whole), 1.0

    def _read(self, histories: Histories) -> Chunk:
        """The distinct items of all users, and what each of their pairs weighs."""
        from recsys_dagster.g2rec import pair_kernels as kernels

        config, indptr = self._config, histories.indptr - histories.indptr[0]
        n_rows, everyone = int(indptr[-1]), histories.n_users
        items, places = np.empty(n_rows, dtype=np.int32), np.empty(n_rows, dtype=np.int64)
        lengths = np.zeros(everyone, dtype=np.int64)
        cap = np.iinfo(np.int64).max if config.max_history is None else config.max_history

        def work(start: int, stop: int) -> None:
            offset = int(indptr[start])
            kernels.newest_distinct(
                histories.indptr, histories.items, start, stop, cap, self._n_items, items[offset:], places[offset:],
                lengths[start:stop],
            )  # fmt: skip

        parallel_rows(work, indptr)
        if lengths.sum() < n_rows:
            within = np.arange(n_rows) - np.repeat(indptr[:-1], histories.lengths)
            kept = within < np.repeat(lengths, histories.lengths)
            items, places = items[kept], places[kept]
        share = np.ones(len(lengths))
        if config.weighting == "user_normalised":
            share = 1.0 / np.maximum(lengths - 1, 1)
        decay = np.zeros(0)
        if config.half_life_days is not None:
            assert histories.times is not None  # `add` has checked
            age = ((self._newest or 0) - histories.times[places]) / SECONDS_A_DAY
            # The weight of a pair is the product of its ends': half a half-life for each, one for their mean age.
            decay = np.exp2(-age / (2 * config.half_life_days))
        draws, exact = sample_sizes(lengths, self._n_items, config)
        return Chunk(items, lengths, share, decay, decay, draws, exact, self._users + np.arange(everyone))

    def _planned(self, chunk: Chunk) -> Chunk:
        if self._plan is None:
            return chunk
        fewer = self._plan.sizes(chunk.items, chunk.lengths, chunk.share, self._n_items, self._config)
        return replace(
            chunk,
            first_end=self._plan.inverse_degree[chunk.items],
            draws=np.minimum(chunk.draws, fewer),
            exact=chunk.exact & (fewer >= chunk.draws),
        )

    def _cliques(self, whole: Chunk) -> sparse.csr_array:
        """All cliques at once, item by item, so that every edge is written once; in blocks of items."""
        from recsys_dagster.g2rec import pair_kernels as kernels

        ends = np.repeat(np.cumsum(whole.lengths), whole.lengths)
        share = np.repeat(whole.share, whole.lengths)
        if len(whole.decay):
            share = share * whole.decay
        starts, places = kernels.group_by_item(whole.items, self._n_items)
        cost = kernels.clique_costs(starts, places, ends)
        counts = np.zeros(self._n_items, dtype=np.int64)
        kept = np.empty(0, dtype=np.int32), np.empty(0)
        blocks = list(pieces(cost, self._config.chunk_pairs))
        room = max(int(cost[stop] - cost[begin]) for begin, stop in blocks)
        block = np.empty(room, dtype=np.int32), np.empty(room)
        for begin, stop in blocks:
            before = cost - cost[begin]

            def work(first: int, last: int, before: Any = before, begin: int = begin) -> None:
                kernels.clique_rows(
                    begin + first, begin + last, starts, places, ends, whole.items, share, whole.decay, before, *block,
                    counts,
                )  # fmt: skip

            parallel_rows(work, before[begin : stop + 1])
            append_rows(before[begin:stop], counts[begin:stop], block, kept)
        return self._matrix((running(counts), *kept))

    def _draws(self, drawn: Chunk) -> sparse.csr_array | None:
        from recsys_dagster.g2rec import pair_kernels as kernels

        offsets, draw_offsets = running(drawn.lengths), running(drawn.draws)
        if draw_offsets[-1] == 0:
            return None
        left, right = (np.empty(draw_offsets[-1], dtype=np.int32) for _ in range(2))
        weight = np.empty(draw_offsets[-1])

        def draw(first: int, last: int) -> None:
            kernels.draw_pairs(
                first, last, offsets, drawn.items, drawn.draws, draw_offsets, drawn.share, drawn.decay,
                drawn.first_end, drawn.users, self._seed, left, right, weight,
            )  # fmt: skip

        parallel_rows(draw, draw_offsets)
        starts, places = kernels.group_by_item(left, self._n_items)
        columns, values = np.empty(len(left), dtype=np.int32), np.empty(len(left))
        counts = np.zeros(self._n_items, dtype=np.int64)

        def work(first: int, last: int) -> None:
            kernels.sum_rows(first, last, starts, places, right, weight, columns, values, counts, self._n_items)

        parallel_rows(work, starts)
        kept = np.empty(0, dtype=np.int32), np.empty(0)
        append_rows(starts[:-1], counts, (columns, values), kept)
        return self._matrix((running(counts), *kept))

    def _matrix(self, parts: tuple[NDArray[Any], NDArray[Any], NDArray[Any]]) -> sparse.csr_array:
        indptr, columns, values = parts
        # scipy would widen 32-bit columns to the type of indptr; sums of graphs this side of 2^31 edges need no more.
        narrow = indptr.astype(np.int32) if indptr[-1] < np.iinfo(np.int32).max else indptr
        matrix = sparse.csr_array((values, columns, narrow), shape=(self._n_items, self._n_items))
        matrix.has_canonical_format = True
        return matrix


def group_sum(
    histories: Histories, first_user: int, config: CoengagementConfig, *, seed: int, newest: int | None
) -> sparse.csr_array | None:
    """The sum of the pairs of one group of users, as `GraphBuilder` has it before it adds up groups; None for no pair.

    Args:
        histories: the group.
        first_user: users before it.
        config: as for `build_graph`.
        seed: of the draws.
        newest: as for `build_graph`.
    """
    builder = GraphBuilder(histories.n_items, config, seed=seed, newest=newest)
    builder._users = first_user
    for _ in builder.add(histories):
        pass
    return builder._sums.total() if builder._sums else None
