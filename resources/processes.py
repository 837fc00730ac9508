"""Work spread over processes of this machine."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

_loaded: dict[str, Mapping[str, Any]] = {}
"""What this worker has opened, by folder."""


class Processes:
    """An engine (`recsys_dagster.parallel.Engine`) of spawned processes.

    Shared arrays lie in files that every worker maps into its memory, so the machine holds them once.

    Args:
        workers: how many processes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        threads = max((os.cpu_count() or 1) // workers, 1)
        self._folder = tempfile.TemporaryDirectory(prefix="recsys-shared-")
        self._pool = ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def share(self, make: Callable[..., Mapping[str, Any]], *arguments: Any) -> str:
        """Let one worker make the arrays, and leave them in files."""
        folder = Path(self._folder.name) / uuid.uuid4().hex
        self._result(self._pool.submit(_save, str(folder), make, arguments))
        return str(folder)

    def map(
        self, work: Callable[..., Any], parts: Iterable[Any], *shared: str, beside: bool = False, gpu: bool = False
    ) -> Iterator[Any]:
        """``work(part, *shared)`` for every part, results in order.

        Raises:
            RuntimeError: a worker was killed.
        """
        begun: deque[Future[Any]] = deque()
        for part in parts:
            if len(begun) == 4 * self.workers:
                yield self._result(begun.popleft())
            begun.append(self._pool.submit(_call, work, part, shared))
        while begun:
            yield self._result(begun.popleft())

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                f"one of {self.workers} worker processes was killed, most often because memory ran out. To mend: run "
                "the step again with fewer compute.processes; nothing of it has been stored."
            ) from None


def _begin(threads: int) -> None:
    os.environ["RECSYS_THREADS"] = str(threads)


def _save(folder: str, make: Callable[..., Mapping[str, Any]], arguments: tuple[Any, ...]) -> None:
    Path(folder).mkdir()
    for name, array in make(*arguments).items():
        np.save(Path(folder) / f"{name}.npy", array, allow_pickle=False)


def _call(work: Callable[..., Any], part: Any, shared: tuple[str, ...]) -> Any:
    return work(part, *(_load(folder) for folder in shared))


def _load(folder: str) -> Mapping[str, Any]:
    if folder not in _loaded:
        _loaded[folder] = {file.stem: _mapped(file) for file in Path(folder).glob("*.npy")}
    return _loaded[folder]


def _mapped(file: Path) -> Any:
    """An array in the memory that workers share; an empty file cannot be mapped, and a small one need not be."""
    array = np.load(file, mmap_mode="r" if file.stat().st_size > 4_096 else None)
    array.flags.writeable = False
    return array
