"""Threads for loops that release the interpreter's lock. No result depends on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(work, items)`` on as many threads as there are cores, results in order."""
    with ThreadPoolExecutor(cores()) as pool:
        yield from pool.map(work, items)


def parallel_rows(work: Callable[[int, int], Any], cost: NDArray[np.int64]) -> None:
    """Call ``work(first, last)`` on blocks of rows of about equal cost.

    Args:
        work: a compiled loop over rows first..last-1 that writes its own part of the result.
        cost: int64 [rows + 1], running sum of the rows' costs.
    """
    n_rows, workers = len(cost) - 1, cores()
    if workers == 1 or cost[-1] < 50_000:
        work(0, n_rows)
        return
    inner = np.searchsorted(cost, np.linspace(0, cost[-1], 4 * workers + 1)[1:-1])
    bounds = np.unique(np.concatenate([[0], inner, [n_rows]])).tolist()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, bounds[:-1], bounds[1:]))


def pieces(cost: NDArray[np.int64], room: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose costs (running sum [rows + 1]) come to about `room` each (one row may cost more)."""
    bounds = np.searchsorted(cost[1:], np.arange(room, cost[-1], room), side="left") + 1
    yield from pairwise(np.unique(np.concatenate([[0], bounds, [len(cost) - 1]])).tolist())
