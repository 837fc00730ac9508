"""The compiled loops of max-cover: gains kept up to date, and the moves of the local search.

A set outside the selection has a gain, the value that it would newly cover; a set inside has a loss, the value that it
alone covers. Both are the value of its objects that no *other* chosen set holds, so one number `score` serves both, and
it stays what it is when the set itself goes in or out. Every exchange touches only sets that share an object whose
cover changes. numba is slow to import: import this inside functions only.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.compiled import GOLDEN, compiled, scramble, unit

BLOCK = 4
"""Sets are looked through in blocks of 2 ** BLOCK and groups of as many blocks, again only where a score changed."""

OUTSIDE, FORBIDDEN, FORCED = -1, -2, -3
"""`place` of sets that have no slot: may be chosen, may never be, is chosen for good."""

LOOKED_AT = 128
"""Slots among which a tabu move looks for the smallest loss: all, or that many at random."""


class Problem(NamedTuple):
    """The bipartite graph in both directions: set i holds items[indptr[i]:indptr[i + 1]], object j is in sets[...]."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    item_indptr: NDArray[np.int64]
    sets: NDArray[np.int32]
    values: NDArray[np.float64]


class Cover(NamedTuple):
    """A selection and what follows from it.

    Attributes:
        slots: int64 [free budget]; chosen sets that may be exchanged.
        place: int64 [P]; slot of each set, or OUTSIDE, FORBIDDEN, FORCED.
        holders: int32 [Q]; chosen sets that hold each object.
        holder: int64 [Q]; sum of their indices, so the index itself where there is one.
        score: float64 [P]; value of the set's objects that no other chosen set holds.
        free_at: int64 [P]; move from which the set may be exchanged again.
        block_best: float64 [blocks]; largest score outside in each block.
        block_changed: bool [blocks]; whether that must be looked up again.
        group_best: float64 [groups]; largest score outside in each group of blocks.
        group_changed: bool [groups]; whether that must be looked up again.
        random: uint64 [1]; state of the generator.
        value: float64 [2]; covered now, and by `best`.
        best: int64 [free budget]; the best slots so far.
        changed: int64 [free budget + 1]; how many slots have changed since, and which (any, if as many as fit).
    """

    slots: NDArray[np.int64]
    place: NDArray[np.int64]
    holders: NDArray[np.int32]
    holder: NDArray[np.int64]
    score: NDArray[np.float64]
    free_at: NDArray[np.int64]
    block_best: NDArray[np.float64]
    block_changed: NDArray[np.bool_]
    group_best: NDArray[np.float64]
    group_changed: NDArray[np.bool_]
    random: NDArray[np.uint64]
    value: NDArray[np.float64]
    best: NDArray[np.int64]
    changed: NDArray[np.int64]


@compiled
def draw(state: Any) -> float:
    """The next number in [0, 1) (SplitMix64)."""
    x = scramble(state[0])
    state[0] += GOLDEN
    return unit(x)


@compiled
def total_scores(problem: Any, score: Any) -> None:
    """The score of every set while nothing is chosen: its whole value."""
    for i in range(len(score)):
        total = 0.0
        for k in range(problem.indptr[i], problem.indptr[i + 1]):
            total += problem.values[problem.items[k]]
        score[i] = total


@compiled
def add(problem: Any, cover: Any, i: int) -> None:
    """Count a set in. `place` is the caller's."""
    for k in range(problem.indptr[i], problem.indptr[i + 1]):
        j = problem.items[k]
        w = problem.values[j]
        if cover.holders[j] == 0:
            for t in range(problem.item_indptr[j], problem.item_indptr[j + 1]):
                s = problem.sets[t]
                cover.score[s] -= w
                cover.block_changed[s >> BLOCK] = True
                cover.group_changed[s >> (2 * BLOCK)] = True
            cover.score[i] += w
        elif cover.holders[j] == 1:
            cover.score[cover.holder[j]] -= w
        cover.holders[j] += 1
        cover.holder[j] += i
    cover.block_changed[i >> BLOCK] = True
    cover.group_changed[i >> (2 * BLOCK)] = True


@compiled
def remove(problem: Any, cover: Any, i: int) -> None:
    """Count a set out: `add` backwards."""
    for k in range(problem.indptr[i], problem.indptr[i + 1]):
        j = problem.items[k]
        w = problem.values[j]
        cover.holders[j] -= 1
        cover.holder[j] -= i
        if cover.holders[j] == 0:
            for t in range(problem.item_indptr[j], problem.item_indptr[j + 1]):
                s = problem.sets[t]
                cover.score[s] += w
                cover.block_changed[s >> BLOCK] = True
                cover.group_changed[s >> (2 * BLOCK)] = True
            cover.score[i] -= w
        elif cover.holders[j] == 1:
            cover.score[cover.holder[j]] += w
    cover.block_changed[i >> BLOCK] = True
    cover.group_changed[i >> (2 * BLOCK)] = True


@compiled
def add_all(problem: Any, cover: Any, chosen: Any) -> None:
    """Count sets in, with their value."""
    for i in chosen:
        cover.value[0] += cover.score[i]
        add(problem, cover, i)


@compiled
def best_outside(cover: Any, move: int) -> int:
    """The set outside with the largest gain (ties: the smallest index) that may move; -1 if there is none."""
    n_sets, n_blocks = len(cover.place), len(cover.block_best)
    best, gain = -1, -1.0
    for group in range(len(cover.group_best)):
        first, last = group << BLOCK, min((group + 1) << BLOCK, n_blocks)
        if cover.group_changed[group]:
            largest = -1.0
            for block in range(first, last):
                if cover.block_changed[block]:
                    cover.block_best[block] = _best_of(cover, block << BLOCK, min((block + 1) << BLOCK, n_sets))
                    cover.block_changed[block] = False
                largest = max(largest, cover.block_best[block])
            cover.group_best[group] = largest
            cover.group_changed[group] = False
        if cover.group_best[group] > gain:
            for block in range(first, last):
                if cover.block_best[block] > gain:
                    for s in range(block << BLOCK, min((block + 1) << BLOCK, n_sets)):
                        if cover.place[s] == OUTSIDE and cover.score[s] > gain and cover.free_at[s] <= move:
                            gain, best = cover.score[s], s
    return best


@compiled
def _best_of(cover: Any, first: int, last: int) -> float:
    largest = -1.0
    for s in range(first, last):
        if cover.place[s] == OUTSIDE and cover.score[s] > largest:
            largest = cover.score[s]
    return largest


@compiled
def fill(problem: Any, cover: Any, first: int, last: int) -> None:
    """Give the slots first..last-1, which are empty, the best set each; -1 where none is left."""
    for slot in range(first, last):
        i = best_outside(cover, 0)
        cover.slots[slot] = i
        if i >= 0:
            cover.value[0] += cover.score[i]
            cover.place[i] = slot
            add(problem, cover, i)


@compiled
def _take_out(problem: Any, cover: Any, slot: int) -> int:
    i = cover.slots[slot]
    cover.value[0] -= cover.score[i]
    cover.place[i] = OUTSIDE
    remove(problem, cover, i)
    return i


@compiled
def _best_exchange(problem: Any, cover: Any, slot: int) -> tuple[int, float, int]:
    """Take a slot's set out: that set, its loss, and the best other set outside (-1 if there is none)."""
    old = cover.slots[slot]
    loss = cover.score[old]
    cover.free_at[old] = 1
    _take_out(problem, cover, slot)
    new = best_outside(cover, 0)
    cover.free_at[old] = 0
    return old, loss, new


@compiled
def _put_in(problem: Any, cover: Any, slot: int, i: int) -> None:
    cover.value[0] += cover.score[i]
    cover.place[i] = slot
    if cover.slots[slot] != i:
        cover.slots[slot] = i
        if cover.changed[0] < len(cover.slots):
            cover.changed[0] += 1
            cover.changed[cover.changed[0]] = slot
    add(problem, cover, i)


@compiled
def _keep_best(cover: Any, tolerance: float) -> None:
    """Remember a new best. Only slots that changed are copied, or large budgets would pay for all with every move."""
    if cover.value[0] > cover.value[1] + tolerance:
        cover.value[1] = cover.value[0]
        if cover.changed[0] == len(cover.slots):
            cover.best[:] = cover.slots
        else:
            for k in range(1, cover.changed[0] + 1):
                cover.best[cover.changed[k]] = cover.slots[cover.changed[k]]
        cover.changed[0] = 0


@compiled
def descend(problem: Any, cover: Any, tolerance: float, slot: int, idle: int, moves: int) -> tuple[int, int]:
    """Exchange while it pays: the slots in turn, each for the best set outside.

    Args:
        problem: the graph.
        cover: the selection, changed in place.
        tolerance: smallest gain that counts, above what rounding makes.
        slot: where to begin.
        idle: slots looked at in vain since the last exchange; as many as there are means that no exchange helps.
        moves: moves at most.

    Returns:
        slot and idle to go on from.
    """
    n_slots = len(cover.slots)
    made = 0
    while made < moves and idle < n_slots:
        old, loss, new = _best_exchange(problem, cover, slot)
        if new < 0 or cover.score[new] <= loss + tolerance:
            new = old
            idle += 1
        else:
            idle = 0
        _put_in(problem, cover, slot, new)
        slot = (slot + 1) % n_slots
        made += 1
    _keep_best(cover, tolerance)
    return slot, idle


@compiled
def anneal(
    problem: Any, cover: Any, tolerance: float, total: int, hot: float, cold: float, first: int, last: int
) -> None:
    """Moves first..last-1 of `total`: a random slot for the best set outside, kept by Metropolis' rule.

    The temperature, in units of value, falls from `hot` to `cold` geometrically.
    """
    n_slots = len(cover.slots)
    for move in range(first, last):
        temperature = hot * (cold / hot) ** (move / total)
        slot = int(draw(cover.random) * n_slots)
        old, loss, new = _best_exchange(problem, cover, slot)
        if new < 0 or cover.score[new] < loss + temperature * np.log(draw(cover.random) + 1e-300):
            new = old
        _put_in(problem, cover, slot, new)
        _keep_best(cover, tolerance)


@compiled
def tabu(problem: Any, cover: Any, tolerance: float, tenure: float, first: int, last: int) -> None:
    """Moves first..last-1: the slot of least loss for the best set outside, better or not; what moved rests a while.

    A set rests for `tenure` times 0.5 to 1.5 moves, so that the search cannot fall back where it came from.
    """
    n_slots = len(cover.slots)
    for move in range(first, last):
        slot, least = -1, np.inf
        for look in range(min(n_slots, LOOKED_AT)):
            seen = look if n_slots <= LOOKED_AT else int(draw(cover.random) * n_slots)
            i = cover.slots[seen]
            if cover.free_at[i] <= move and cover.score[i] < least:
                slot, least = seen, cover.score[i]
        if slot < 0:
            continue
        old = _take_out(problem, cover, slot)
        cover.free_at[old] = move + 2 + int(tenure * (0.5 + draw(cover.random)))
        new = best_outside(cover, move)
        if new < 0:
            new = old
        _put_in(problem, cover, slot, new)
        cover.free_at[new] = move + 2 + int(tenure * (0.5 + draw(cover.random)))
        _keep_best(cover, tolerance)
