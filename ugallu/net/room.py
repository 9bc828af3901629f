"""`Room`: memory that many share, taken whole before it is used, first come first served."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class Room:
    """`size` units; whoever holds some waits for no more, so nobody waits for ever."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._queue: deque[tuple[int, anyio.Event]] = deque()

    @property
    def free(self) -> int:
        """What nobody holds."""
        return self._free

    @asynccontextmanager
    async def hold(self, wanted: int) -> AsyncIterator[None]:
        """Hold so much, at most all there is, from when it is free to the end of the block."""
        wanted = min(wanted, self.size)
        await self._take(wanted)
        try:
            yield
        finally:
            self._give(wanted)

    async def _take(self, wanted: int) -> None:
        if not self._queue and wanted <= self._free:
            self._free -= wanted
            return
        entry = (wanted, anyio.Event())
        self._queue.append(entry)
        try:
            await entry[1].wait()
        except BaseException:
            if entry[1].is_set():
                self._give(wanted)
            else:
                self._queue.remove(entry)
                self._give(0)
            raise

    def _give(self, size: int) -> None:
        self._free += size
        while self._queue and self._queue[0][0] <= self._free:
            wanted, turn = self._queue.popleft()
            self._free -= wanted
            turn.set()
