"""Backoff and token bucket: bounds that hold for any history."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.pace import Backoff, TokenBucket


def test_backoff_grows_to_its_ceiling_and_starts_again() -> None:
    """Doubling from half a second to thirty, within the jitter; a success forgets it all."""
    backoff = Backoff()
    delays = [backoff.next() for _ in range(1000)]
    for plain, delay in zip((0.5, 1, 2, 4, 8, 16, 30, 30), delays, strict=False):
        assert 0.8 * plain <= delay <= 1.2 * plain
    assert all(24 <= delay <= 36 for delay in delays[6:])
    backoff.reset()
    assert backoff.next() <= 0.6


def test_a_delay_that_somebody_asked_for_is_spread_upwards() -> None:
    """Whoever is told to come back in ten seconds is not early, and does not come with all the others."""
    delays = [Backoff(ceiling=4.0).next(at_least=10.0) for _ in range(100)]
    assert all(10.0 <= delay <= 12.0 for delay in delays)
    assert len(set(delays)) > 50


@settings(max_examples=200)
@given(
    rate=st.floats(0.1, 1000),
    burst=st.floats(1, 100),
    steps=st.lists(st.tuples(st.floats(-5, 60), st.floats(0.1, 5)), max_size=50),
)
def test_a_bucket_never_grants_more_than_burst_and_rate(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    """Whatever a clock does, tokens granted stay within burst + rate x (newest time - first time)."""
    bucket = TokenBucket(rate, burst)
    now, first, newest, granted = 100.0, None, -math.inf, 0.0
    for step, cost in steps:
        now += step
        first = now if first is None else first
        newest = max(newest, now)
        if bucket.take(now, cost):
            granted += cost
    if first is not None:
        assert granted <= burst + rate * (newest - first) + 1e-6


def test_a_reserve_is_left_for_those_who_matter() -> None:
    """Low severities stop at the reserve, high ones go on to the ground."""
    bucket = TokenBucket(rate=0, burst=10)
    assert sum(bucket.take(0, reserve=5) for _ in range(20)) == 5
    assert sum(bucket.take(0) for _ in range(20)) == 5


def test_wait_tells_when_take_will_succeed() -> None:
    """The promised moment is the moment; what can never succeed is infinite."""
    bucket = TokenBucket(rate=2, burst=4)
    assert bucket.take(0, 4)
    wait = bucket.wait(0, 3)
    assert wait == 1.5
    assert not bucket.take(wait - 0.01, 3)
    assert bucket.take(wait, 3)
    assert bucket.wait(2, 5) == math.inf
    assert TokenBucket(rate=0, burst=1, tokens=0).wait(0) == math.inf
