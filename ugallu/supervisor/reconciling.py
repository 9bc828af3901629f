"""One reconciler at work: a view's changes become keys, keys become calls, errors become patience.

Level-based: a key stands in line once however often it changed, an object is never reconciled twice at a time, and
what counts is the object as it is when its turn comes.
"""

from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import structlog

from ugallu.api.meta import Resource
from ugallu.clock import Clock
from ugallu.cluster.port import Change, Key, View, key_of
from ugallu.errors import ConflictError, PermanentError, RefusedError, TransientError
from ugallu.metrics import Metrics
from ugallu.operator.contract import After, Reconciler
from ugallu.pace import Backoff
from ugallu.supervisor.guard import attempt

AT_ONCE = 8
"""Objects of one reconciler under way at the same time, unless it says otherwise in `at_once`."""


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
        self._reconciler = reconciler
        self._view = view
        self._operator = operator
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(kind=self.kind)
        self._changed = changed
        self._line: dict[Key, None] = {}
        self._under_way: set[Key] = set()
        self._again: set[Key] = set()
        self._patience: dict[Key, Backoff] = {}
        self._waiting: dict[Key, tuple[str, int]] = {}
        self._given_up: dict[Key, tuple[str, int]] = {}
        self._first: set[Key] | None = None
        self._closed = False
        self._wake = anyio.Event()
        self.armed = anyio.Event()
        """Set once every object of the first complete list was reconciled, whatever came of it."""

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is under way, nothing is to be tried again."""
        return not (self._line or self._under_way or self._patience)

    @property
    def under_way(self) -> list[Key]:
        """The objects being reconciled right now."""
        return sorted(self._under_way)

    async def run(self) -> None:
        """Reconcile until closed."""
        async with anyio.create_task_group() as tg:
            stop_listening = self._view.listen(self._told)
            try:
                await self._until_synced()
                self._first = {key_of(resource) for resource in self._view.items()}
                self._advance(None)
                async with anyio.create_task_group() as workers:
                    for _ in range(getattr(self._reconciler, "at_once", AT_ONCE)):
                        workers.start_soon(self._work, tg)
            finally:
                stop_listening()
            # Delays that are still running have nothing to wake any more.
            tg.cancel_scope.cancel()

    def close(self) -> None:
        """Begin nothing new."""
        self._closed = True
        self._ring()

    async def _until_synced(self) -> None:
        async with anyio.create_task_group() as tg:

            async def synced() -> None:
                await self._view.synced()
                tg.cancel_scope.cancel()

            async def closed() -> None:
                while not self._closed:
                    await self._wake.wait()
                tg.cancel_scope.cancel()

            tg.start_soon(synced)
            tg.start_soon(closed)

    def _told(self, change: Change, resource: Resource) -> None:
        key = key_of(resource)
        if change is not Change.DELETED and _version(resource) in (self._given_up.get(key), self._waiting.get(key)):
            # Only its status changed, often by the very try that failed: looking again at once would never end.
            return
        self._waiting.pop(key, None)
        self._add(key)

    def _add(self, key: Key) -> None:
        if key in self._under_way:
            self._again.add(key)
        elif key not in self._line:
            self._line[key] = None
            self._ring()

    def _ring(self) -> None:
        self._wake.set()
        self._wake = anyio.Event()

    async def _work(self, tg: anyio.abc.TaskGroup) -> None:
        while not self._closed:
            if not self._line:
                await self._wake.wait()
                continue
            key = next(iter(self._line))
            del self._line[key]
            self._under_way.add(key)
            try:
                await self._turn(key, tg)
            finally:
                self._under_way.discard(key)
            if key in self._again:
                self._again.discard(key)
                self._add(key)
            self._advance(key)
            self._changed()

    async def _turn(self, key: Key, tg: anyio.abc.TaskGroup) -> None:
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
        if error is None:
            self._forget(key)
            if after is not None:
                tg.start_soon(self._later, key, after.seconds)
            return
        log = self._log.bind(namespace=key.namespace, name=key.name)
        if isinstance(error, PermanentError | RefusedError):
            self._forget(key)
            if resource is not None:
                self._given_up[key] = _version(resource)
            log.error("cannot be reconciled; waiting for a new generation", error=str(error))
            return
        wait = self._patience.setdefault(key, Backoff()).next()
        if isinstance(error, TransientError):
            wait = max(wait, error.retry_after or 0.0)
            if resource is not None:
                self._waiting[key] = _version(resource)
            log.warning("reconcile failed; trying again", error=str(error), seconds=round(wait, 2))
        elif isinstance(error, ConflictError):
            log.debug("object changed meanwhile; trying again", error=str(error), seconds=round(wait, 2))
        else:
            if resource is not None:
                self._waiting[key] = _version(resource)
            log.error("reconciler broke; trying again", seconds=round(wait, 2), exc_info=error)
        tg.start_soon(self._later, key, wait)

    async def _later(self, key: Key, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self._add(key)

    def _forget(self, key: Key) -> None:
        for book in (self._patience, self._waiting, self._given_up):
            book.pop(key, None)

    def _advance(self, done: Key | None) -> None:
        if self._first is None or self.armed.is_set():
            return
        if done is not None:
            self._first.discard(done)
        if not self._first:
            self.armed.set()


def _version(resource: Resource) -> tuple[str, int]:
    """What must change before an object that cannot be reconciled is looked at again: uid, generation, or deletion."""
    meta = resource.metadata
    return (meta.uid, -1 if meta.deletion_timestamp else meta.generation)
