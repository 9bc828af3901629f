"""A queue of keys to look at: each key once, one worker a key at a time, retries with backoff, visits set for later."""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import anyio

from ugallu.clock import Clock
from ugallu.pace import Backoff

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """`get` a key, work on it, call `done`; a key that is added meanwhile comes again after that.

    A key is *queued*, *in work*, or *set for later*; later is either a visit (`add_after`, which may be hours away and
    is not missed by anybody) or a retry (`retry`, work that is still owed: `idle` is false until it succeeded).
    """

    def __init__(self, clock: Clock, backoff: Callable[[], Backoff] = Backoff) -> None:
        self._clock = clock
        self._new_backoff = backoff
        self._queue: deque[K] = deque()
        self._queued: set[K] = set()
        self._in_work: set[K] = set()
        self._again: set[K] = set()
        self._later: dict[K, float] = {}
        """When a key is due, monotonic."""
        self._owed: set[K] = set()
        """Keys of `_later` that are retries."""
        self._heap: list[tuple[float, int, K]] = []
        self._numbers = itertools.count()
        self._backoffs: dict[K, Backoff] = {}
        self._closed = False
        self._waiting: deque[anyio.Event] = deque()
        """Who waits for a key, longest first; one for each is woken, not all for one."""

    def __len__(self) -> int:
        """How many keys wait to be handed out now."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether nothing is queued, in work or owed a retry."""
        return not (self._queue or self._in_work or self._owed)

    def add(self, key: K) -> None:
        """Queue the key unless it is queued; ignored once closed."""
        if not self._closed:
            self._push(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Queue the key in so many seconds; the earliest of several wins."""
        self._set(key, seconds, retry=False)

    def retry(self, key: K, *, at_least: float = 0.0) -> float:
        """Queue the key after its backoff, which grows until `forget`; return the delay in seconds."""
        backoff = self._backoffs.setdefault(key, self._new_backoff())
        delay = max(backoff.next(), at_least)
        self._set(key, delay, retry=True)
        return delay

    def forget(self, key: K) -> None:
        """The key's work succeeded or is pointless: its backoff starts anew, no retry is owed."""
        self._backoffs.pop(key, None)
        if key in self._owed:
            self._owed.discard(key)
            del self._later[key]

    async def get(self) -> K:
        """Return the next key, which then is in work; raise `anyio.EndOfStream` once closed and drained."""
        while True:
            self._ripen()
            if self._queue:
                key = self._queue.popleft()
                self._queued.discard(key)
                self._in_work.add(key)
                if self._heap:
                    # Whoever goes to work no longer sees to it that what is due comes.
                    self._wake()
                return key
            if self._closed:
                raise anyio.EndOfStream
            await self._wait()

    def done(self, key: K) -> None:
        """The key is in work no more; if it was added meanwhile, it is queued now."""
        self._in_work.discard(key)
        if key in self._again:
            self._again.discard(key)
            self._push(key)

    def close(self) -> None:
        """Take nothing new and forget what was set for later; what is queued is still handed out, then streams end."""
        self._closed = True
        self._later.clear()
        self._owed.clear()
        self._heap.clear()
        while self._waiting:
            self._wake()

    def _push(self, key: K) -> None:
        if key in self._in_work:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._queue.append(key)
            self._wake()

    def _set(self, key: K, seconds: float, *, retry: bool) -> None:
        if self._closed:
            return
        due = self._clock.monotonic() + max(0.0, seconds)
        due = min(due, self._later.get(key, due))
        self._later[key] = due
        if retry:
            self._owed.add(key)
        heapq.heappush(self._heap, (due, next(self._numbers), key))
        self._wake()

    def _ripen(self) -> None:
        """Queue what is due."""
        now = self._clock.monotonic()
        while self._heap:
            due, _, key = self._heap[0]
            # An entry that was forgotten or moved is not the key's present one.
            present = self._later.get(key) == due
            if present and due > now:
                return
            heapq.heappop(self._heap)
            if present:
                del self._later[key]
                self._owed.discard(key)
                self._push(key)

    async def _wait(self) -> None:
        """Wait for news, or until the next key is due."""
        mine = anyio.Event()
        self._waiting.append(mine)
        try:
            if self._heap:
                await self._wait_until(mine, self._heap[0][0] - self._clock.monotonic())
            else:
                await mine.wait()
        except BaseException:
            if mine.is_set():
                # Cancelled with a key in sight: it is the next one's.
                self._wake()
            raise
        finally:
            if not mine.is_set():
                self._waiting.remove(mine)

    async def _wait_until(self, news: anyio.Event, delay: float) -> None:
        async with anyio.create_task_group() as tasks:

            async def nap() -> None:
                await self._clock.sleep(delay)
                tasks.cancel_scope.cancel()

            tasks.start_soon(nap)
            await news.wait()
            tasks.cancel_scope.cancel()

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
