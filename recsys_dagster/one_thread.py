"""Torch on one thread for a while. Importing it imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Sums in one order wherever it runs, and no threads that wait for each other on busy cores.

    Args:
        wanted: False leaves the threads as they are.
    """
    threads = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
