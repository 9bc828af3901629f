"""One reconciler at work: a view's changes become keys, keys become calls, errors become patience.

Level-based: a key stands in line once however often it changed, an object is never reconciled twice at a time, and
what counts is the object as it is when its turn comes.
"""

from collections.abc import Callable
from typing import Any

import anyio
import structlog

from ugallu.api.meta import Resource
from ugallu.clock import Clock
from ugallu.cluster.port import Change, Key, View, key_of
from ugallu.cluster.queue import WorkQueue
from ugallu.errors import ConflictError, PermanentError, RefusedError, TransientError
from ugallu.metrics import Metrics
from ugallu.operator.contract import After, Reconciler
from ugallu.pace import Backoff
from ugallu.supervisor.guard import attempt

AT_ONCE = 8
"""Objects of one reconciler under way at the same time, unless it says otherwise in `at_once`."""
PATIENT = 300.0
"""Longest pause in seconds for what is refused. An API server that has just started refuses for a moment what it
allows; rights that are missing come when a person grants them."""


class Reconciling:
    """Runs one reconciler over one view until it is closed; then what is under way is finished, the rest is left."""

    def __init__(
        self,
        reconciler: Reconciler[Any],
        view: View[Any],
        *,
        operator: str,
        clock: Clock,
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
        changed: Callable[[], None],
    ) -> None:
        self.kind: str = reconciler.watches.kind_info.name
        self.armed = anyio.Event()
        """Set once every object of the first complete list was reconciled, whatever came of it."""
        self._reconciler = reconciler
        self._view = view
        self._operator = operator
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(kind=self.kind)
        self._changed = changed
        self._queue: WorkQueue[Key] = WorkQueue(clock)
        self._under_way: set[Key] = set()
        self._meanwhile: set[Key] = set()
        self._settled: dict[Key, tuple[str, int]] = {}
        """Versions that a retry is set for, or that are given up: seeing them again is no reason to look again."""
        self._refused: dict[Key, Backoff] = {}
        self._first: set[Key] | None = None
        self._closed = anyio.Event()

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is under way, nothing is to be tried again."""
        return self._queue.idle

    @property
    def under_way(self) -> list[Key]:
        """The objects being reconciled right now."""
        return sorted(self._under_way)

    async def run(self) -> None:
        """Reconcile until closed."""
        stop_listening = self._view.listen(self._told)
        try:
            await self._until_synced()
            self._first = {key_of(resource) for resource in self._view.items()}
            self._advance()
            async with anyio.create_task_group() as workers:
                for _ in range(getattr(self._reconciler, "at_once", AT_ONCE)):
                    workers.start_soon(self._work)
        finally:
            stop_listening()

    def close(self) -> None:
        """Begin nothing new."""
        self._closed.set()
        self._queue.close()

    async def _until_synced(self) -> None:
        async with anyio.create_task_group() as tg:

            async def closed() -> None:
                await self._closed.wait()
                tg.cancel_scope.cancel()

            tg.start_soon(closed)
            await self._view.synced()
            tg.cancel_scope.cancel()

    def _told(self, change: Change, resource: Resource) -> None:
        key = key_of(resource)
        if key in self._under_way:
            self._meanwhile.add(key)
            return
        if change is not Change.DELETED and self._settled.get(key) == _version(resource):
            # Only its status changed, often by the very try that failed: looking again at once would never end.
            return
        self._queue.add(key)

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except anyio.EndOfStream:
                return
            if self._closed.is_set():
                return
            self._under_way.add(key)
            try:
                await self._turn(key)
            finally:
                self._under_way.discard(key)
                self._queue.done(key)
            if key in self._meanwhile:
                self._meanwhile.discard(key)
                now = self._view.get(key.name, key.namespace)
                if now is None:
                    self._queue.add(key)
                else:
                    self._told(Change.MODIFIED, now)
            self._advance(key)
            self._changed()

    async def _turn(self, key: Key) -> None:
        resource = self._view.get(key.name, key.namespace)
        after: After | None = None

        async def call() -> None:
            nonlocal after
            if resource is None:
                await self._reconciler.gone(key)
            else:
                after = await self._reconciler.reconcile(resource)

        error = await attempt(call)
        outcome = "done" if error is None else getattr(error, "category", "error").lower()
        self._metrics.count("ugallu_reconcile_total", operator=self._operator, kind=self.kind, outcome=outcome)
        self._settled.pop(key, None)
        if not isinstance(error, RefusedError):
            self._refused.pop(key, None)
        if error is None:
            self._queue.forget(key)
            if after is not None:
                self._queue.add_after(key, after.seconds)
            return
        log = self._log.bind(namespace=key.namespace, name=key.name)
        if resource is not None and not isinstance(error, ConflictError):
            self._settled[key] = _version(resource)
        if isinstance(error, RefusedError):
            self._queue.forget(key)
            wait = self._refused.setdefault(key, Backoff(ceiling=PATIENT)).next()
            # A visit, not a debt: a replay ends although something was refused.
            self._queue.add_after(key, wait)
            log.error("refused; looking again", error=str(error), seconds=round(wait, 2))
            return
        if isinstance(error, PermanentError):
            self._queue.forget(key)
            log.error("cannot be reconciled; waiting for a new generation", error=str(error))
            return
        asked = error.retry_after if isinstance(error, TransientError) else None
        wait = round(self._queue.retry(key, at_least=asked or 0.0), 2)
        if isinstance(error, TransientError):
            log.warning("reconcile failed; trying again", error=str(error), seconds=wait)
        elif isinstance(error, ConflictError):
            log.debug("object changed meanwhile; trying again", error=str(error), seconds=wait)
        else:
            log.error("reconciler broke; trying again", seconds=wait, exc_info=error)

    def _advance(self, done: Key | None = None) -> None:
        if self._first is None or self.armed.is_set():
            return
        if done is not None:
            self._first.discard(done)
        if not self._first:
            self.armed.set()


def _version(resource: Resource) -> tuple[str, int]:
    """What must change before an object that failed is looked at out of turn: uid, generation, or deletion."""
    meta = resource.metadata
    return (meta.uid, -1 if meta.deletion_timestamp else meta.generation)
