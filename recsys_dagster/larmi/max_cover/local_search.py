"""Swap local search: exchange one chosen set for another while the covered value grows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover.instance import CoverInstance, gather


class CoverState:
    """A selection with the gain of every set that could be added, kept up to date incrementally.

    Adding or removing a set touches only the sets that share an object whose covered state changes.

    Attributes:
        counts: int64 [Q]; how many chosen sets hold each object.
        gains: float64 [P]; value that a set would newly cover.
    """

    def __init__(self, instance: CoverInstance, chosen: NDArray[np.int64]) -> None:
        self.instance = instance
        self.indptr, self.sets = instance.by_item
        self.counts = np.bincount(gather(instance.indptr, instance.items, chosen), minlength=len(instance.values))
        self._matrix = instance.matrix()
        self.recompute()

    def recompute(self) -> None:
        """Compute the gains afresh, which also clears what rounding has added up."""
        self.gains = self._matrix @ np.where(self.counts == 0, self.instance.values, 0.0)

    def loss(self, index: int) -> float:
        """Value that only this chosen set covers."""
        items = self.instance.of(index)
        return float(self.instance.values[items[self.counts[items] == 1]].sum())

    def add(self, index: int) -> None:
        """Choose a set."""
        items = self.instance.of(index)
        self._shift(items[self.counts[items] == 0], -1.0)
        self.counts[items] += 1

    def remove(self, index: int) -> None:
        """Take a chosen set out."""
        items = self.instance.of(index)
        self.counts[items] -= 1
        self._shift(items[self.counts[items] == 0], 1.0)

    def _shift(self, items: NDArray[np.int32], sign: float) -> None:
        rows = items.astype(np.int64)
        degrees = self.indptr[rows + 1] - self.indptr[rows]
        weights = np.repeat(sign * self.instance.values[rows], degrees)
        self.gains += np.bincount(gather(self.indptr, self.sets, rows), weights, minlength=len(self.gains))


def swap_local_search(instance: CoverInstance, chosen: NDArray[np.int64], max_passes: int = 20) -> NDArray[np.int64]:
    """Improve a selection until no exchange of one set helps, or `max_passes` passes are over.

    First the selection is filled up to the budget. Then each chosen set, the least valuable first, is taken out and the
    best set put in its place (itself, unless another one is better). The value never falls.

    Args:
        instance: sets, values and budget.
        chosen: int64, distinct indices, at most the budget.
        max_passes: passes over the selection.

    Returns:
        int64 [at most budget]: indices in no particular order.
    """
    selection = [int(index) for index in chosen]
    state = CoverState(instance, np.asarray(chosen, dtype=np.int64))
    scale = max(float(instance.values.max(initial=0.0)), 1e-300)
    while len(selection) < instance.budget:
        best = int(np.argmax(state.gains))
        if state.gains[best] <= 1e-9 * scale:
            break
        state.add(best)
        selection.append(best)
    for _ in range(max_passes):
        improved = False
        for position in sorted(range(len(selection)), key=lambda place: (state.loss(selection[place]), place)):
            old = selection[position]
            loss = state.loss(old)
            state.remove(old)
            best = int(np.argmax(state.gains))
            if state.gains[best] > loss + 1e-9 * scale:
                selection[position] = best
                improved = True
            else:
                best = old
            state.add(best)
        state.recompute()
        if not improved:
            break
    return np.array(selection, dtype=np.int64)
