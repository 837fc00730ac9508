"""How inner loops are compiled. numba is slow to import: import this inside functions only."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


def compiled(function: Any) -> Any:
    """Compile a loop on first use, without the interpreter's lock; kept on disk from then on."""
    return numba.njit(nogil=True, cache=True, error_model="numpy")(function)


@compiled
def uniform(seed: Any, user: Any, draw: Any) -> float:
    """A number in [0, 1) that depends on its arguments alone (SplitMix64's finaliser, once for each of them)."""
    x = np.uint64(0)
    for part in (np.uint64(seed), np.uint64(user), np.uint64(draw)):
        x = (x ^ part) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)) * (1.0 / 9007199254740992.0)
