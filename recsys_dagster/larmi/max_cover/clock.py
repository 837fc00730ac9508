"""Hard limits on time, and the best selection at any moment."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from recsys_dagster.larmi.max_cover.instance import CoverInstance


class OutOfTime(Exception):
    """Raised between two pieces of work of which the second may not begin any more."""


class Clock:
    """Wall time since the solver began, and the moment when it must end.

    A limit decides by the clock and not by the seed where it stops, so whoever it stops says so through `cut`.

    Attributes:
        cut: whether some work was left undone for want of time.
    """

    def __init__(self, limit_s: float | None = None) -> None:
        self._started = time.monotonic()
        self.limit_s = limit_s
        self.cut = False

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return time.monotonic() - self._started

    def expired(self, share: float = 1.0) -> bool:
        """Whether that share of the time is over; if so, work is about to be left out, which is noted."""
        if self.limit_s is None or self.seconds < share * self.limit_s:
            return False
        self.cut = True
        return True

    def check(self, share: float = 1.0) -> None:
        """Raise OutOfTime if that share of the time is over."""
        if self.expired(share):
            raise OutOfTime


class Incumbent:
    """The best selection so far. Another thread may read `best` at any moment.

    Attributes:
        best: (covered value, int64 ids as `CoverInstance.names` gives them); replaced as a whole, never changed.
        trace: (seconds, covered value, who found it), one entry an improvement.
    """

    def __init__(self) -> None:
        self.best: tuple[float, NDArray[np.int64]] = (-1.0, np.zeros(0, dtype=np.int64))
        self.trace: list[tuple[float, float, str]] = []

    def offer(self, instance: CoverInstance, chosen: NDArray[np.int64], source: str, clock: Clock) -> float:
        """Take a selection if it is better than all before it; its covered value."""
        value = instance.covered_value(chosen)
        if value > self.best[0]:
            self.best = (value, instance.names(chosen))
            self.trace.append((round(clock.seconds, 3), value, source))
        return value
