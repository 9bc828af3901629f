"""A clock that tests move by hand."""

import datetime as dt

import anyio
import anyio.lowlevel
import anyio.to_thread

TURNS = 100
LOOKS = 100
"""A thread that is busy for longer is one that serves for good."""


class ManualClock:
    """Starts at a fixed moment; `advance` moves both wall and monotonic time and wakes the sleepers that are due."""

    def __init__(self, start: dt.datetime = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)) -> None:
        self._now = start
        self._monotonic = 0.0
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def now(self) -> dt.datetime:
        """Return the wall time."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """Wait until `advance` has moved time that far."""
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        wake = anyio.Event()
        self._sleepers.append((self._monotonic + seconds, wake))
        await wake.wait()

    @property
    def sleeping(self) -> int:
        """How many are asleep."""
        return len(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Move time, wake whoever is due, and let them run."""
        self._monotonic += seconds
        self._now += dt.timedelta(seconds=seconds)
        due = [wake for at, wake in self._sleepers if at <= self._monotonic]
        self._sleepers = [(at, wake) for at, wake in self._sleepers if at > self._monotonic]
        for wake in due:
            wake.set()
        await settled()


async def settled() -> None:
    """Let all other tasks run until each of them waits for something other than a thread of this process.

    `anyio.wait_all_tasks_blocked` looks ten times a second; mostly some turns of the loop are all that is needed.
    """
    threads = anyio.to_thread.current_default_thread_limiter()
    for _ in range(LOOKS):
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()
        if not threads.borrowed_tokens:
            break
        await anyio.sleep(0.001)
    await anyio.wait_all_tasks_blocked()
