"""Waking watches: who waits for which kind, and how far history has come for those that nobody woke."""

import anyio


class Waiter:
    """One watch that has seen everything there was."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.event = anyio.Event()
        self.first: int | None = None
        """Revision of the first change of the kind since the wait began."""


class Hub:
    """Told of every commit in the loop, it wakes the watches of the kinds that changed."""

    def __init__(self, head: int) -> None:
        self.head = head
        """Newest revision that watches were told of."""
        self.closed = False
        self._waiters: dict[str, set[Waiter]] = {}

    def told(self, touched: dict[str, int], head: int) -> None:
        """Take note of a commit: the kinds it changed, each with its first revision, and the newest revision."""
        self.head = head
        for kind, first in touched.items():
            for waiter in self._waiters.pop(kind, ()):
                waiter.first = first
                waiter.event.set()

    def close(self) -> None:
        """End every wait, now and later."""
        self.closed = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.event.set()
        self._waiters.clear()

    async def wait(self, kind: str, position: int, seconds: float) -> int:
        """Wait for a change of the kind, at most so long; return the new position: all before it was of other kinds.

        The caller has seen every change of the kind up to `position`, and no await stood between that and this call.
        Without this a watch on a quiet kind would fall behind a history that busy kinds fill.
        """
        waiter = Waiter(kind)
        self._waiters.setdefault(kind, set()).add(waiter)
        try:
            with anyio.move_on_after(seconds):
                await waiter.event.wait()
        finally:
            self._waiters.get(kind, set()).discard(waiter)
        if waiter.first is not None:
            return max(position, waiter.first - 1)
        return max(position, self.head)


class Poll:
    """The same for a reader of another process's store: it looks again after a while."""

    def __init__(self, seconds: float) -> None:
        self.closed = False
        self._seconds = seconds
        self._closing = anyio.Event()

    def close(self) -> None:
        """End every wait, now and later."""
        self.closed = True
        self._closing.set()

    async def wait(self, kind: str, position: int, seconds: float) -> int:  # noqa: ARG002 - one shape with Hub
        """Wait one interval, or `seconds` if that is less; the position stays."""
        with anyio.move_on_after(min(self._seconds, seconds)):
            await self._closing.wait()
        return position
