"""One run of a partition at a time on this machine, whoever started it: the daemon, the UI or a command line."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_HELD: dict[Path, int] = {}
"""Locks of this process, and how many times each was taken: the resources of one run are set up more than once."""


@contextmanager
def locked(path: Path, run: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock for the block; where another process holds it, wait until that one is done or dead.

    It is a lock of the process (POSIX), which ends with it however it ends, and which no child inherits.

    Args:
        path: the lock's file.
        run: id of the run, for those who wait.
        on_wait: is told who holds it, once, before waiting.
    """
    if path in _HELD:
        _HELD[path] += 1
        try:
            yield
        finally:
            _HELD[path] -= 1
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            on_wait(_words(file.read()))
            fcntl.lockf(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(json.dumps({"run": run, "process": os.getpid()}))
        file.flush()
        _HELD[path] = 1
        try:
            yield
        finally:
            del _HELD[path]


def _words(text: str) -> str:
    try:
        about = json.loads(text)
        return f"run {about['run']} (process {about['process']})"
    except (ValueError, KeyError):  # it is just being written
        return "another run"
