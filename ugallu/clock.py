"""Time as an argument: whoever needs `now` or `sleep` takes a `Clock`, so tests move time by hand."""

import datetime as dt
import time
from typing import Final, Protocol

import anyio


class Clock(Protocol):
    """Wall time, monotonic time and sleep, in one place."""

    def now(self) -> dt.datetime:
        """Return the wall time, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; a cancellation point. A moment that has passed while somebody worked it out is no wait and no error."""
        ...


async def comes(event: anyio.Event, clock: Clock, seconds: float) -> bool:
    """Wait for an event, at most so long by this clock; tell whether it came."""
    with anyio.CancelScope() as wait:
        async with anyio.create_task_group() as race:

            async def later() -> None:
                await clock.sleep(seconds)
                wait.cancel()

            race.start_soon(later)
            await event.wait()
            wait.cancel()
    return event.is_set()


# Where there is one that counts a machine's sleep: whoever led before it must see that time has passed.
_SINCE_BOOT: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class SystemClock:
    """The machine's own clock."""

    def now(self) -> dt.datetime:
        """Return the wall time, aware, UTC."""
        return dt.datetime.now(dt.UTC)  # noqa: TID251 - the one place that asks the machine

    def monotonic(self) -> float:
        """Return seconds since boot, those included in which the machine slept."""
        return time.clock_gettime(_SINCE_BOOT)

    async def sleep(self, seconds: float) -> None:
        """Wait with anyio, so cancel scopes reach it."""
        await anyio.sleep(max(0.0, seconds))
