"""Group commit: writers that come while a commit runs share the next one, and its fsync."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from ugallu.cluster.embedded.store import Writing
from ugallu.cluster.port import InvalidError, UnavailableError
from ugallu.errors import UgalluError

T = TypeVar("T")

BATCH: Final = 128
"""Writes in one commit: about 10 ms of work."""

Told = Callable[[dict[str, int]], None]


class _Job(Generic[T]):
    def __init__(self, work: Callable[[Writing], T]) -> None:
        self.work = work
        self.wanted = True
        self.committed = False
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self, writing: Writing) -> None:
        """Do the work; an error is this job's own and undoes only what this job did."""
        try:
            with writing.step():
                self.result = self.work(writing)
        except UgalluError as error:
            self.error = error
        except (RecursionError, UnicodeEncodeError) as error:
            self.error = InvalidError(f"cannot be written as JSON: {error}")


class Commits:
    """Runs write jobs against the store, many a transaction, in a worker thread unless the store is in memory.

    `told` is called in the loop after each commit with the kinds that changed and their first revisions.
    """

    def __init__(self, writing: Writing, told: Told, *, inline: bool) -> None:
        self._writing = writing
        self._told = told
        self._inline = inline
        self._queue: deque[_Job[Any]] = deque()
        self._turn = anyio.Lock(fast_acquire=True)
        # A thread of its own: writes must not stand behind other people's slow calls.
        self._thread = anyio.CapacityLimiter(1)
        # A cancellation by asyncio itself (an interrupt) frees the turn while the thread still works.
        self._working = threading.Lock()
        self._untold: dict[str, int] = {}

    async def run(self, work: Callable[[Writing], T]) -> T:
        """Return what `work` returned, once it is durable; raise what it raised, or what kept the commit from disk.

        A caller that is cancelled meanwhile cannot know whether its write was done.
        """
        job = _Job(work)
        self._queue.append(job)
        try:
            async with self._turn:
                if not job.committed and job.error is None:
                    await self._batch()
        finally:
            job.wanted = False
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    async def settled(self) -> None:
        """Wait until no commit is under way."""
        async with self._turn:
            await self._batch()

    async def _batch(self) -> None:
        # The batch is taken where it is run: a cancellation on the way to the thread must lose nobody's job.
        if self._inline:
            await anyio.lowlevel.checkpoint()
            self._commit()
        else:
            await anyio.to_thread.run_sync(self._commit, limiter=self._thread)
        touched, self._untold = self._untold, {}
        if touched:
            self._told(touched)

    def _commit(self) -> None:
        with self._working:
            self._commit_batch()

    def _commit_batch(self) -> None:
        batch: list[_Job[Any]] = []
        while self._queue and len(batch) < BATCH:
            job = self._queue.popleft()
            if job.wanted:
                batch.append(job)
        if not batch:
            return
        try:
            with self._writing.transaction():
                for job in batch:
                    job.run(self._writing)
        except BaseException as error:
            for job in batch:
                job.error = job.error or UnavailableError(f"the commit failed: {error}", where="cluster")
            if not isinstance(error, UgalluError):
                raise
            return
        for job in batch:
            job.committed = True
        for kind, first in self._writing.touched.items():
            self._untold.setdefault(kind, first)
