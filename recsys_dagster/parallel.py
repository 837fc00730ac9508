"""Threads for loops that release the interpreter's lock, and the seam behind which work is spread over processes.

No result depends on how many threads or workers there are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Item = TypeVar("Item")
Result = TypeVar("Result")
Arrays = Mapping[str, NDArray[Any]]
"""What workers share: arrays by name, read-only. Each machine holds them once, whatever the number of its workers."""

THREADS = "RECSYS_THREADS"
"""Environment variable with the threads of a worker process, set by the engine that starts it."""


def cores() -> int:
    """Cores that this process may use: all of the machine's, or a worker's share."""
    if THREADS in os.environ:
        return int(os.environ[THREADS])
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Engine(Protocol):
    """Where the parts of a stage are worked on; `resources.compute` has one of processes and one of Ray.

    Attributes:
        workers: parts that are worked on at the same time.
    """

    workers: int

    def share(self, make: Callable[..., Arrays], *arguments: Any) -> Any:
        """Call ``make(*arguments)`` once, where the work is done, and keep what it returns for `map`."""
        ...

    def map(
        self, work: Callable[..., Result], parts: Iterable[Any], *shared: Any, beside: bool = False, gpu: bool = False
    ) -> Iterator[Result]:
        """``work(part, *shared)`` for every part, results in order, a bounded number of parts begun at a time.

        Args:
            work: a module-level function, or a partial of one. It may be called again for a part whose worker died, so
                it writes nothing but outputs under names that the part decides.
            parts: small descriptions of the work; large inputs are read by the worker.
            shared: what `share` returned.
            beside: on this machine only, for work that shares a file with the step.
            gpu: a part needs a GPU.
        """
        ...


class Here:
    """The engine of one process: this one."""

    workers = 1

    def share(self, make: Callable[..., Arrays], *arguments: Any) -> Any:
        """See `Engine.share`."""
        return read_only(make(*arguments))

    def map(
        self, work: Callable[..., Result], parts: Iterable[Any], *shared: Any, beside: bool = False, gpu: bool = False
    ) -> Iterator[Result]:
        """See `Engine.map`."""
        return (work(part, *shared) for part in parts)


HERE = Here()


class Output(Protocol):
    """Where workers leave their parts of a table; `resources.stored_parts` has one in the store."""

    def put(self, number: int, frame: pd.DataFrame) -> Any:
        """Keep a part; what it returns stands for the part, and is small where the part is stored."""
        ...


class InMemory:
    """Parts that stay what they are: for `Here`."""

    def put(self, number: int, frame: pd.DataFrame) -> pd.DataFrame:
        """See `Output.put`."""
        return frame


IN_MEMORY = InMemory()

UserRange = tuple[int, int, int]
"""Number of the part, first user, last user + 1."""

MOST_BLOCKS = 64
"""Blocks of users in one part at most: what a worker holds, and what is lost with it, stays bounded."""


def user_ranges(n_users: int, block: int, workers: int) -> list[UserRange]:
    """Parts of about equal numbers of users, some four a worker, cut at multiples of `block`.

    What is computed block by block does not depend on how the blocks are dealt out.
    """
    blocks = -(-n_users // block)
    size = block * min(max(blocks // (4 * workers), 1), MOST_BLOCKS)
    return [(k, first, min(first + size, n_users)) for k, first in enumerate(range(0, n_users, size))]


def read_only(arrays: Arrays) -> Arrays:
    """Views that cannot be written to, as every worker gets them; compiled loops tell the two kinds apart."""
    views = {name: array.view() for name, array in arrays.items()}
    for view in views.values():
        view.flags.writeable = False
    return views


def pack_texts(name: str, texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Texts as two arrays, so that workers can share them; `unpack_texts` takes them back."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}_ends": ends}


def unpack_texts(name: str, arrays: Arrays) -> list[str]:
    """The texts of `pack_texts`."""
    whole, ends = arrays[name].tobytes(), arrays[f"{name}_ends"].tolist()
    return [whole[first:last].decode("utf-8", "surrogatepass") for first, last in pairwise(ends)]


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


def add_counts(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of two counts by whole number, `numpy.bincount` of two parts, of any lengths."""
    total = np.zeros(max(len(first), len(second)), dtype=np.int64)
    total[: len(first)] += first
    total[: len(second)] += second
    return total
