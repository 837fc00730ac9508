"""Swap local search: exchange one chosen set for another until no exchange helps, then look beyond that.

Descent alone stops at the first local optimum. The search goes on by simulated annealing (the homotopy's falling
temperature, on whole selections), then by tabu search from the best selection met, then descends once more. How far it
goes is a number of moves, so that the same seed gives the same selection on every machine; a clock may only cut it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover import kernels
from recsys_dagster.larmi.max_cover.clock import Clock, Incumbent
from recsys_dagster.larmi.max_cover.instance import CoverInstance
from recsys_dagster.progress import Progress

HOT, COLD = 0.1, 0.006
"""First and last temperature of the annealing, in shares of the mean value that a chosen set covers."""

TENURE = 0.1
"""Moves that an exchanged set rests, in shares of the budget."""

MOVES_A_SET, FEWEST_MOVES = 400, 100_000
"""Default work: this many moves for each set of the budget, and at least so many in all."""

CHUNK_S = 0.05
"""Seconds of moves between two looks at the clock, about."""


class CoverState:
    """A selection with the score of every set, kept up to date incrementally.

    Attributes:
        cover: the arrays (`kernels.Cover`); ``cover.score[i]`` is the gain of a set outside, the loss of one inside.
    """

    def __init__(self, instance: CoverInstance, chosen: NDArray[np.int64], seed: int = 0) -> None:
        self.instance = instance
        self.problem = kernels.Problem(instance.indptr, instance.items, *instance.by_item, instance.values)
        n_sets, n_items = instance.n_sets, len(instance.values)
        blocks, groups = (-(-n_sets // (1 << bits)) for bits in (kernels.BLOCK, 2 * kernels.BLOCK))
        place = np.full(n_sets, kernels.OUTSIDE, dtype=np.int64)
        place[instance.forbidden] = kernels.FORBIDDEN
        place[instance.forced] = kernels.FORCED
        room = instance.budget - len(instance.forced)
        slots = np.full(min(room, int((place == kernels.OUTSIDE).sum())), -1, dtype=np.int64)
        free = chosen[place[chosen] == kernels.OUTSIDE][: len(slots)]
        slots[: len(free)] = free
        place[free] = np.arange(len(free))
        self.filled = len(free)
        self.cover = kernels.Cover(
            slots=slots,
            place=place,
            holders=np.zeros(n_items, dtype=np.int32),
            holder=np.zeros(n_items, dtype=np.int64),
            score=np.zeros(n_sets),
            free_at=np.zeros(n_sets, dtype=np.int64),
            block_best=np.zeros(blocks),
            block_changed=np.ones(blocks, dtype=np.bool_),
            group_best=np.zeros(groups),
            group_changed=np.ones(groups, dtype=np.bool_),
            random=np.array([seed], dtype=np.uint64),
            value=np.zeros(2),
            best=slots.copy(),
            changed=np.zeros(len(slots) + 1, dtype=np.int64),
        )
        kernels.total_scores(self.problem, self.cover.score)
        kernels.add_all(self.problem, self.cover, np.concatenate([instance.forced, free]))
        self.keep()

    def keep(self) -> None:
        """Take the selection as it is for the best."""
        self.cover.value[1] = self.cover.value[0]
        self.cover.best[:] = self.cover.slots
        self.cover.changed[0] = 0

    def afresh(self) -> CoverState:
        """The state of the best selection, from clean sums: rounding adds up over many moves. The draws go on."""
        fresh = CoverState(self.instance, self.selection())
        fresh.cover.random[:] = self.cover.random
        return fresh

    def selection(self) -> NDArray[np.int64]:
        """The best selection so far: forced sets, then the slots."""
        return np.concatenate([self.instance.forced, self.cover.best[self.cover.best >= 0]])


def default_moves(instance: CoverInstance) -> int:
    """Moves of the search where the settings name none."""
    return max(FEWEST_MOVES, MOVES_A_SET * instance.budget)


def swap_local_search(
    instance: CoverInstance,
    chosen: NDArray[np.int64],
    moves: int | None = None,
    *,
    seed: int = 0,
    clock: Clock | None = None,
    incumbent: Incumbent | None = None,
) -> NDArray[np.int64]:
    """Improve a selection. The value never falls, forced sets stay, and in the end no single exchange helps.

    First the selection is filled up to the budget, the best set each time, and descends to a local optimum. Then half
    of the moves anneal, half are tabu moves, and the best selection met descends again.

    Args:
        instance: sets, values, budget, forced and forbidden sets.
        chosen: int64, distinct indices, at most the budget; forbidden ones are dropped.
        moves: exchanges tried by annealing and tabu search together; 0 leaves the descent alone. By default
            `default_moves`.
        seed: of the annealing's and the tabu search's draws.
        clock: when it is over, the best so far is returned; ``clock.cut`` then says so.
        incumbent: is offered every phase's best as it is found.

    Returns:
        int64 [at most budget]: indices in no particular order.
    """
    clock = clock or Clock()
    total = default_moves(instance) if moves is None else moves
    scale = 1e-9 * max(float(instance.values.max(initial=0.0)), 1e-300)
    state = CoverState(instance, np.asarray(chosen, dtype=np.int64), seed)
    n_slots = len(state.cover.slots)
    run = _Run(clock, incumbent, total)
    with run.progress:
        run.phase(n_slots - state.filled, lambda a, b: _fill(state, a, b), state, "filling")
        state.keep()
        if not np.all(state.cover.slots >= 0):
            return state.selection()
        state = _descend(run, state, scale)
        unit = max(float(state.cover.value[0]) / max(instance.budget, 1), 1e-300)
        if total == 0 or n_slots == 0 or not np.any(state.cover.place == kernels.OUTSIDE):
            return state.selection()
        half = total // 2
        for source, moves_here in (("annealing", half), ("tabu search", total - half)):
            problem, cover = state.problem, state.cover
            if source == "annealing":
                step = partial(kernels.anneal, problem, cover, scale, half, HOT * unit, COLD * unit)
            else:
                step = partial(kernels.tabu, problem, cover, scale, TENURE * instance.budget)
            run.phase(moves_here, step, state, source)
            state = state.afresh()
        return _descend(run, state, scale).selection()


class _Run:
    """Phases of moves in chunks, between which the clock is looked at and the best is offered."""

    def __init__(self, clock: Clock, incumbent: Incumbent | None, total: int) -> None:
        self.clock, self.incumbent = clock, incumbent
        self.progress = Progress("max cover", total, "moves")
        self.chunk = 16

    def phase(self, moves: int, step: Callable[[int, int], object], state: CoverState, source: str) -> None:
        """Moves 0..moves-1 by ``step(first, last)``."""
        done = 0
        while done < moves and not self.clock.expired():
            began, last = time.perf_counter(), min(moves, done + self.chunk)
            step(done, last)
            if source != "filling":
                self.progress.update(last - done, f"{source}, {state.cover.value[1]:.6g} covered")
            done = last
            self.after(began, state, source)

    def after(self, began: float, state: CoverState, source: str) -> None:
        """Choose the next chunk (of about CHUNK_S; its size changes no result) and show the best to whoever watches."""
        seconds = time.perf_counter() - began
        if seconds < CHUNK_S / 2:
            self.chunk *= 2
        elif seconds > 2 * CHUNK_S:
            self.chunk = max(self.chunk // 2, 1)
        if self.incumbent is not None and state.cover.value[1] > self.incumbent.best[0]:
            self.incumbent.offer(state.instance, state.selection(), source, self.clock)


def _fill(state: CoverState, first: int, last: int) -> None:
    kernels.fill(state.problem, state.cover, state.filled + first, state.filled + last)
    state.keep()


def _descend(run: _Run, state: CoverState, tolerance: float) -> CoverState:
    """To a selection that no exchange of one set improves."""
    slot = idle = 0
    while idle < len(state.cover.slots) and not run.clock.expired():
        began = time.perf_counter()
        slot, idle = kernels.descend(state.problem, state.cover, tolerance, slot, idle, run.chunk)
        run.after(began, state, "descent")
    return state.afresh()
