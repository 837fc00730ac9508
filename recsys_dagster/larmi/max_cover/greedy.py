"""Greedy max-cover with lazy evaluation."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover.instance import CoverInstance


def solve_greedy(instance: CoverInstance, among: Iterable[int] | None = None) -> NDArray[np.int64]:
    """Choose the set with the largest marginal value again and again (ties: the smaller index).

    Gains only shrink as more is covered, so a gain computed earlier is an upper bound: only the set on top of the heap
    is evaluated afresh. The value is at least 1 - 1/e of the optimum.

    Args:
        instance: sets, values and budget.
        among: indices to choose from; all sets if not given.

    Returns:
        int64 [at most budget]: indices in the order chosen. Fewer than the budget if everything is covered before.
    """
    gains = instance.matrix() @ instance.values
    candidates = range(instance.n_sets) if among is None else among
    heap = [(-float(gains[index]), int(index)) for index in candidates]
    heapq.heapify(heap)
    left = instance.values.copy()
    chosen: list[int] = []
    while heap and len(chosen) < instance.budget:
        bound, index = heap[0]
        gain = float(left[instance.of(index)].sum())
        if gain <= 0:
            # Nothing new here; with an exact bound of 0 on top there is nothing new anywhere.
            heapq.heappop(heap)
            continue
        # A tiny tolerance: the bound was summed in another order.
        if gain >= -bound - 1e-12 * abs(bound):
            heapq.heappop(heap)
            chosen.append(index)
            left[instance.of(index)] = 0
        else:
            heapq.heapreplace(heap, (-gain, index))
    return np.array(chosen, dtype=np.int64)
