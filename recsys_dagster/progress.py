"""Progress of long work: a bar on a terminal, throttled log lines everywhere else."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger("recsys_dagster")


class Progress:
    """Counts steps of a long job and reports rate and remaining time.

    On a terminal it draws a bar on stderr. Elsewhere (inside a Dagster run, in CI) it writes at most one line every
    `interval_s` seconds to the logger `recsys_dagster`, which `dagster.yaml` hands to the run's event log.

    Args:
        label: what is being done, for example ``"sasrec: training"``.
        total: how many steps there are; None where nobody knows.
        unit: the name of one step.
        interval_s: seconds between two log lines.
    """

    def __init__(self, label: str, total: int | None, unit: str = "steps", *, interval_s: float = 15.0) -> None:
        self.label, self.total, self.unit, self.interval_s = label, total, unit, interval_s
        self.done = 0
        self._started = self._last = time.monotonic()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", leave=False) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, steps: int = 1, note: str = "") -> None:
        """Count `steps` more, with a short `note` (a loss, a cost) shown beside the rate."""
        self.done += steps
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(steps)
            return
        now = time.monotonic()
        if now - self._last < self.interval_s:
            return
        self._last = now
        rate = self.done / max(now - self._started, 1e-9)
        note = f", {note}" if note else ""
        if self.total is None:
            logger.info("%s: %s %s, %.1f a second%s", self.label, f"{self.done:,}", self.unit, rate, note)
            return
        remaining = max(self.total - self.done, 0) / max(rate, 1e-9)
        logger.info(
            "%s: %s of %s %s (%.0f %%), %.1f a second, about %.0f s left%s",
            self.label, f"{self.done:,}", f"{self.total:,}", self.unit, 100 * self.done / max(self.total, 1), rate,
            remaining, note,
        )  # fmt: skip
