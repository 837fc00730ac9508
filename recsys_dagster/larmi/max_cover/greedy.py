"""Greedy max-cover with lazy evaluation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from recsys_dagster.larmi.max_cover.clock import Clock
from recsys_dagster.larmi.max_cover.instance import CoverInstance, gather

CHUNK = 4_096
"""Evaluations between two looks at the clock."""


def solve_greedy(
    instance: CoverInstance,
    among: Iterable[int] | None = None,
    *,
    budget: int | None = None,
    clock: Clock | None = None,
) -> NDArray[np.int64]:
    """Choose the set with the largest marginal value again and again (ties: the smaller index).

    Gains only shrink as more is covered, so a gain computed earlier is an upper bound: only the set on top of the heap
    is evaluated afresh. The value is at least 1 - 1/e of the optimum (over what forced sets leave).

    Args:
        instance: sets, values, budget, forced and forbidden sets. Forced ones come first.
        among: indices to choose from; all sets if not given.
        budget: Z, if not that of the instance.
        clock: when it is over, what has been chosen so far is returned.

    Returns:
        int64 [at most budget]: indices in the order chosen. Fewer than the budget if everything is covered before.
    """
    from recsys_dagster.larmi.max_cover import greedy_kernels, kernels

    budget = instance.budget if budget is None else budget
    allowed = np.zeros(instance.n_sets, dtype=bool)
    allowed[np.arange(instance.n_sets) if among is None else np.asarray(list(among), dtype=np.int64)] = True
    allowed[instance.forbidden] = False
    left = instance.values.copy()
    chosen = np.full(budget, -1, dtype=np.int64)
    forced = instance.forced[:budget]
    chosen[: len(forced)] = forced
    allowed[forced] = False
    left[gather(instance.indptr, instance.items, forced)] = 0
    bounds = np.zeros(instance.n_sets)
    problem = kernels.Problem(instance.indptr, instance.items, *instance.by_item, left)
    kernels.total_scores(problem, bounds)
    # Sorted by falling bound, then by index: already a heap.
    heap = np.lexsort((np.arange(len(bounds)), -bounds))
    heap = heap[allowed[heap]]
    state = np.array([len(forced), len(heap)], dtype=np.int64)
    while state[0] < budget and state[1] > 0 and not (clock and clock.expired()):
        greedy_kernels.lazy_greedy(problem, bounds, heap, chosen, state, CHUNK)
    return chosen[: state[0]]
