"""The clock that tests move, beside the one of the machine."""

import datetime as dt

import anyio

from ugallu.clock import Clock, SystemClock, comes
from ugallu.testing.clock import ManualClock, settled


async def test_the_system_clock_is_aware_and_in_utc() -> None:
    """Times compare with those of sources without a thought about zones."""
    clock: Clock = SystemClock()
    assert clock.now().utcoffset() == dt.timedelta(0)
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before


async def test_a_manual_clock_wakes_sleepers_in_their_time() -> None:
    """Nothing moves unless the test says so; whoever is due runs before `advance` returns."""
    clock = ManualClock()
    woken: list[int] = []

    async def sleeper(seconds: int) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tg:
        for seconds in (1, 2, 3):
            tg.start_soon(sleeper, seconds)
        await settled()
        assert (woken, clock.sleeping) == ([], 3)
        await clock.advance(2)
        assert (woken, clock.sleeping) == ([1, 2], 1)
        await clock.advance(1)
        assert woken == [1, 2, 3]
    assert clock.now() == dt.datetime(2026, 1, 1, 0, 0, 3, tzinfo=dt.UTC)


async def test_an_event_is_waited_for_by_the_clock() -> None:
    """It comes, or the time does; whichever is first ends the wait."""
    clock, early, late = ManualClock(), anyio.Event(), anyio.Event()
    told: list[bool] = []

    async def wait(event: anyio.Event) -> None:
        told.append(await comes(event, clock, 10.0))

    async with anyio.create_task_group() as tg:
        tg.start_soon(wait, early)
        tg.start_soon(wait, late)
        await settled()
        early.set()
        await settled()
        assert told == [True]
        await clock.advance(10.0)
    assert told == [True, False]
