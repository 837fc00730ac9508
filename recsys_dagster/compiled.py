"""How inner loops are compiled. numba is slow to import: import this inside functions only."""

from __future__ import annotations

import logging
from typing import Any

import numba
import numpy as np
from numba.core.caching import FunctionCache

logger = logging.getLogger("recsys_dagster")


class MendingCache(FunctionCache):
    """numba's cache on disk, where damage or a full disk costs a compilation in place of the run."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled loop, or None where there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged pickle raises anything
            logger.warning("%s: compiled code cannot be read (%s): compiled anew", self.cache_path, error)
            self._kept(self.flush)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled loop, if there is room."""
        self._kept(super().save_overload, sig, data)

    def _kept(self, write: Any, *what: Any) -> None:
        try:
            write(*what)
        except Exception as error:  # the old index, which is read here too, may be damaged
            logger.warning("%s: compiled code cannot be kept (%s)", self.cache_path, error)


def compiled(function: Any) -> Any:
    """Compile a loop on first use, without the interpreter's lock; kept on disk from then on."""
    dispatcher: Any = numba.njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = MendingCache(function)  # what cache=True would set, with the class that numba has
    return dispatcher


GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""Step of SplitMix64's state."""


@compiled
def scramble(x: Any) -> Any:
    """SplitMix64: the number that follows from the state x, uint64."""
    x = x + GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def unit(x: Any) -> float:
    """A uint64 as a number in [0, 1)."""
    return (x >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled
def uniform(seed: Any, user: Any, draw: Any) -> float:
    """A number in [0, 1) that depends on its arguments alone (SplitMix64, once for each of them)."""
    x = np.uint64(0)
    for part in (np.uint64(seed), np.uint64(user), np.uint64(draw)):
        x = scramble(x ^ part)
    return unit(x)
