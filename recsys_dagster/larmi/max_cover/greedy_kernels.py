"""The compiled loop of lazy greedy: a heap of upper bounds. numba is slow to import: import inside functions only."""

from __future__ import annotations

from typing import Any

from recsys_dagster.compiled import compiled


@compiled
def _sink(bounds: Any, heap: Any, size: int) -> None:
    """Let the top of a heap sink to its place: larger bounds above, of equals the smaller index."""
    at = 0
    while True:
        above = at
        for child in (2 * at + 1, 2 * at + 2):
            if child < size:
                a, b = heap[child], heap[above]
                if bounds[a] > bounds[b] or (bounds[a] == bounds[b] and a < b):
                    above = child
        if above == at:
            return
        heap[at], heap[above] = heap[above], heap[at]
        at = above


@compiled
def lazy_greedy(problem: Any, bounds: Any, heap: Any, chosen: Any, state: Any, evaluations: int) -> None:
    """Go on with the greedy choice for some evaluations of a gain.

    Args:
        problem: the graph, with the values of what is not covered yet (changed in place).
        bounds: float64 [P], gains computed at some time.
        heap: int64, sets by bound; state[1] of them are left.
        chosen: int64 [budget], of which state[0] are chosen.
        state: int64 [2], changed in place.
        evaluations: at most.
    """
    for _ in range(evaluations):
        if state[0] == len(chosen) or state[1] == 0:
            return
        i = heap[0]
        gain = 0.0
        for k in range(problem.indptr[i], problem.indptr[i + 1]):
            gain += problem.values[problem.items[k]]
        if gain > 0 and gain >= bounds[i]:
            for k in range(problem.indptr[i], problem.indptr[i + 1]):
                problem.values[problem.items[k]] = 0.0
            chosen[state[0]] = i
            state[0] += 1
        if gain <= 0 or gain >= bounds[i]:
            state[1] -= 1
            heap[0] = heap[state[1]]
        else:
            bounds[i] = gain
        _sink(bounds, heap, state[1])
