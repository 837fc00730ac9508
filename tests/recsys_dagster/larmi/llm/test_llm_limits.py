"""The throttle against a clock that the tests turn."""

from __future__ import annotations

import asyncio

import pytest

from recsys_dagster.larmi.llm.limits import HEADROOM, STEP, Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_calls_are_spaced_evenly(clock: Clock) -> None:
    throttle = Throttle(8, requests_per_minute=30, clock=clock)
    assert [throttle.delay(1) for _ in range(3)] == [0.0, 2.0, 4.0]
    clock.now += 60  # no credit is saved up for later
    assert [throttle.delay(1) for _ in range(2)] == [0.0, 2.0]


def test_tokens_are_spaced_and_corrected_by_what_was_reported(clock: Clock) -> None:
    throttle = Throttle(8, tokens_per_minute=6_000, clock=clock)
    assert throttle.delay(500) == 0.0
    assert throttle.delay(100) == pytest.approx(5.0)
    throttle.correct(-200)  # 500 + 100 - 200 tokens take 4 s
    assert throttle.delay(1) == pytest.approx(4.0)


def test_the_slower_of_both_limits_holds(clock: Clock) -> None:
    throttle = Throttle(8, requests_per_minute=60, tokens_per_minute=60, clock=clock)
    throttle.delay(10)
    assert throttle.delay(1) == 10.0


def epoch(throttle: Throttle, clock: Clock, accepted: int, refused: int) -> None:
    for k in range(accepted + refused):
        if k == accepted + refused - 1:
            clock.now += 1.0
        (throttle.accepted if k < accepted else throttle.refused)()


def test_share_follows_what_is_accepted_and_recovers(clock: Clock) -> None:
    throttle = Throttle(64, requests_per_minute=640, clock=clock)
    epoch(throttle, clock, 10, 10)
    assert throttle.share == pytest.approx(HEADROOM * 0.5)
    assert throttle.window == 45
    throttle.delay(1)
    assert throttle.delay(1) == pytest.approx(60 / (640 * 0.7))
    epoch(throttle, clock, 0, 10)
    assert throttle.share == pytest.approx(0.35), "never less than a half at a time"
    for _ in range(20):
        epoch(throttle, clock, 0, 10)
    assert throttle.window == 1
    expected = 1 / 64
    for _ in range(25):
        epoch(throttle, clock, 10, 0)
        expected = min(1.0, expected + min(STEP, expected / 2))
        assert throttle.share == pytest.approx(expected)
    assert throttle.window == 64


def test_a_burst_that_is_mostly_refused_is_an_epoch_of_its_own(clock: Clock) -> None:
    throttle = Throttle(64, clock=clock)
    for _ in range(8):
        throttle.accepted()
    for _ in range(56):  # 32 of 64, then 16 of 32, then 8 of 16: what fits is left
        throttle.refused()
    assert throttle.window == 8


def test_a_few_refusals_whatever_the_rate_slow_nothing_down(clock: Clock) -> None:
    throttle = Throttle(64, clock=clock)
    for _ in range(50):
        epoch(throttle, clock, 15, 5)
    assert throttle.share == 1.0


@pytest.mark.parametrize("limit", [3.0, 20.0, 60.0])
def test_a_hard_limit_is_found_with_bounded_waste(clock: Clock, limit: float) -> None:
    throttle = Throttle(200, clock=clock)  # answers take a second, so the window is the rate
    sent = accepted = 0
    for second in range(200):
        taken = min(throttle.window, int(limit))
        if second >= 20:
            sent, accepted = sent + throttle.window, accepted + taken
        epoch(throttle, clock, taken, throttle.window - taken)
    assert accepted >= 0.9 * limit * 180
    assert sent <= max(1.5 * accepted, accepted + 2 * 180)


def test_never_more_in_flight_than_the_window() -> None:
    async def run() -> list[int]:
        throttle, seen = Throttle(5), []

        async def call() -> None:
            async with throttle.slot():
                seen.append(throttle.in_flight)
                if len(seen) == 20:
                    throttle.share = 0.4
                await asyncio.sleep(0)
                assert throttle.in_flight <= 5

        await asyncio.gather(*(call() for _ in range(50)))
        assert throttle.in_flight == 0
        return seen

    seen = asyncio.run(run())
    assert len(seen) == 50
    assert max(seen[:20]) == 5
    assert max(seen[26:]) <= 2


def test_a_cancelled_call_gives_its_turn_back() -> None:
    async def run() -> None:
        throttle = Throttle(1)

        async def call() -> None:
            async with throttle.slot():
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(call()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert throttle.in_flight == 0

    asyncio.run(asyncio.wait_for(run(), 10))
