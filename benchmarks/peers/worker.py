"""The peer's side: what the workers of all libraries share. Imported with the peer's Python; needs numpy alone."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.exchange import BLOCK, Task, write_result, write_scores

Batch = TypeVar("Batch")


class EnoughError(Exception):
    """The parent wants no more windows; ends a library's training loop from within."""


@dataclass(frozen=True)
class Size:
    """What a batch holds.

    Attributes:
        targets: next items to be learned.
        items: items of the histories that are read, without padding.
        cells: the same with padding: rows times positions.
    """

    targets: int
    items: int
    cells: int


class Pace:
    """Stands between a library's batches and its training loop: counts them, times them, and stops where asked.

    Without a channel it counts and times whole epochs. With one, it lets through as many batches as a line from the
    parent says, answers with the figures of that window, and waits for the next line.

    Args:
        channel: lines from the parent, and where to answer.

    Attributes:
        targets: learned so far.
        seconds: of training so far, without validation between epochs.
    """

    def __init__(self, channel: tuple[IO[str], IO[str]] | None = None) -> None:
        self.channel = channel
        self.targets, self.seconds, self.epochs = 0, 0.0, 0
        self._asked, self._left, self._started = 0, 0, 0.0
        self._size = Size(0, 0, 0)

    def over(self, batches: Iterable[Batch], size_of: Callable[[Batch], Size]) -> Iterator[Batch]:
        """The same batches, one epoch of them.

        Raises:
            EnoughError: the parent wants no more.
        """
        began, iterator = time.perf_counter(), iter(batches)
        while True:
            if self.channel is not None and self._left == 0:
                self._next_window(*self.channel)
            try:
                batch = next(iterator)  # inside the window: making batches is part of training
            except StopIteration:
                break
            size = size_of(batch)
            self.targets += size.targets
            mine = self._size
            self._size = Size(mine.targets + size.targets, mine.items + size.items, mine.cells + size.cells)
            self._left -= 1
            yield batch
        self.add(0, time.perf_counter() - began)

    def add(self, targets: int, seconds: float, epochs: int = 1) -> None:
        """Count what was learned out of sight (a loop that cannot be watched)."""
        self.targets += targets
        self.seconds += seconds
        self.epochs += epochs

    def _next_window(self, questions: IO[str], answers: IO[str]) -> None:
        figures = {"seconds": time.perf_counter() - self._started, "steps": self._asked, **vars(self._size)}
        print(json.dumps(figures), file=answers, flush=True)
        line = questions.readline().strip()
        if not line:
            raise EnoughError
        self._asked = self._left = int(line)
        self._size, self._started = Size(0, 0, 0), time.perf_counter()


Score = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Users int64 [b] -> scores float32 [b, n_items], after train and validation items, in our ids."""


def serve(fit: Callable[[Task, Pace], Score], versions: Callable[[], dict[str, str]]) -> None:
    """Do what the folder named on the command line asks for.

    Args:
        fit: trains the model, all batches through the pace, and returns what scores with it.
        versions: of what the figures depend on.
    """
    folder = Path(sys.argv[1]).absolute()
    task = Task.read(folder)
    del sys.argv[1:]  # libraries read it too
    os.chdir(folder)  # some write logs into the working directory
    # answers go out alone: whatever a library prints goes to stderr
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        if task.request.mode == "rate":
            try:
                fit(task, Pace((sys.stdin, answers)))
            except EnoughError:
                return
            raise RuntimeError("the epochs were over before the parent had enough")
        pace, started = Pace(), time.perf_counter()
        score = fit(task, pace)
        figures = {
            "epochs": pace.epochs,
            "targets": pace.targets,
            "training_seconds": round(pace.seconds, 3),
            "targets_per_second": round(pace.targets / max(pace.seconds, 1e-9), 1),
            "fit_seconds": round(time.perf_counter() - started, 3),
        }
        started = time.perf_counter()
        write_scores(folder, task.request, blocks(score, task.request.n_users))
        figures["scoring_seconds"] = round(time.perf_counter() - started, 3)
        write_result(folder, figures | {"versions": versions()})


def blocks(score: Score, n_users: int) -> Iterator[NDArray[np.float32]]:
    """Scores of all users, block by block."""
    for start in range(0, n_users, BLOCK):
        yield score(np.arange(start, min(start + BLOCK, n_users)))


def installed(*names: str) -> dict[str, str]:
    """Versions of packages, and of Python."""
    from importlib.metadata import version

    return {"python": sys.version.split()[0], **{name: version(name) for name in names}}


def use_torch(task: Task) -> Any:
    """Torch, with the number of threads that was asked for."""
    import torch

    torch.set_num_threads(task.request.threads)
    return torch
