"""How fast to ask: calls in flight, calls and tokens a minute, and what a refusal (429) does to all three."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

EPOCH_S = 1.0
"""Seconds over which answers and refusals are counted before the share is changed."""

HEADROOM = 1.4
"""Calls sent for each that the server accepts, about, in the long run."""

STEP = 0.05
"""What a good epoch adds to the share: from nothing back to everything in about twenty."""


class Throttle:
    """Bounds calls in flight and paces calls and tokens, all scaled by one `share` of what the settings allow.

    The share follows what the server accepts (AIMD over epochs of a second). Of the calls that ended in an epoch, let a
    be the part that was not refused. If HEADROOM * a >= 1, the share grows by STEP (by half of itself at most, and by a
    tenth if any call was refused); else it is multiplied by HEADROOM * a, but at least by a half. Against a server with
    a hard limit the calls thus settle near HEADROOM times that limit, however far the settings are off; a server that
    refuses now and then, whatever the rate, is not slowed down for, since that would not help. An epoch also ends when
    calls worth half the window were refused and few accepted, so the share falls to what fits within one burst.
    Refusals also cost time by themselves: a call that waits for its Retry-After keeps its place in flight.

    Calls and tokens are spaced evenly (a virtual clock for each), so no minute holds more than the limit.

    Args:
        concurrency: most calls in flight.
        requests_per_minute: most calls started a minute; None for no limit.
        tokens_per_minute: most tokens a minute; None for no limit.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.concurrency = concurrency
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self.share = 1.0
        self.in_flight = 0
        self._clock = clock
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._accepted = self._refused = 0
        self._epoch = clock()
        self._next_call = self._next_tokens = 0.0

    @property
    def window(self) -> int:
        """Calls that may be in flight now."""
        return max(1, round(self.share * self.concurrency))

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place in flight, held until the call is done, its retries included."""
        while self.in_flight >= self.window:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            finally:
                if turn in self._waiting:
                    self._waiting.remove(turn)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._wake()

    def delay(self, tokens: int) -> float:
        """Book a call of about so many tokens; seconds to wait before it may be sent."""
        now = self._clock()
        at = now
        if self.requests_per_minute is not None:
            at = max(at, self._next_call)
        if self.tokens_per_minute is not None:
            at = max(at, self._next_tokens)
        if self.requests_per_minute is not None:
            self._next_call = at + 60 / (self.requests_per_minute * self.share)
        if self.tokens_per_minute is not None:
            self._next_tokens = at + tokens * 60 / (self.tokens_per_minute * self.share)
        return at - now

    def correct(self, tokens: int) -> None:
        """Tokens that a call took beyond what was booked for it (negative: fewer)."""
        if self.tokens_per_minute is not None:
            self._next_tokens += tokens * 60 / (self.tokens_per_minute * self.share)

    def accepted(self) -> None:
        """A call was let in."""
        self._accepted += 1
        self._adapt()

    def refused(self) -> None:
        """A call was refused for its rate (429)."""
        self._refused += 1
        self._adapt()

    def _adapt(self) -> None:
        # A burst that was mostly refused is an epoch of its own: waiting for the second would repeat it several times.
        burst = self._refused >= max(4, self.window // 2) and HEADROOM * self._accepted < self._refused
        if self._clock() - self._epoch < EPOCH_S and not burst:
            return
        factor = HEADROOM * self._accepted / (self._accepted + self._refused)
        if factor < 1:
            self.share *= max(0.5, factor)
        else:
            step = self.share / (10 if self._refused else 2)
            self.share = min(1.0, self.share + min(STEP, step))
        self.share = max(self.share, 1 / self.concurrency)
        self._accepted = self._refused = 0
        self._epoch = self._clock()
        self._wake()

    def _wake(self) -> None:
        for _ in range(min(self.window - self.in_flight, len(self._waiting))):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
