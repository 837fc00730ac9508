"""How inner loops are compiled. numba is slow to import: import this inside functions only."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


def compiled(function: Any) -> Any:
    """Compile a loop on first use, without the interpreter's lock; kept on disk from then on."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


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
