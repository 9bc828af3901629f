"""The shared cache: one informer per kind and scope, whatever the number of users."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

import anyio
import anyio.abc
import structlog

from ugallu.api.meta import Resource
from ugallu.clock import Clock, SystemClock
from ugallu.cluster.informer import Informer
from ugallu.cluster.port import Change, Cluster, Key
from ugallu.errors import TransientError, UgalluError
from ugallu.metrics import Metrics

R = TypeVar("R", bound=Resource)

Listener = Callable[[Change, Any], None]


class _Scope(NamedTuple):
    kind: type[Resource]
    namespace: str
    labels: str
    fields: str


class SharedView(Generic[R]):
    """The objects of one informer, for any number of readers, listeners and waiters in one loop."""

    def __init__(self) -> None:
        self._objects: dict[Key, R] = {}
        self._listeners: dict[int, Callable[[Change, R], None]] = {}
        self._numbers = itertools.count()
        self._synced = anyio.Event()
        self._changed = anyio.Event()

    def show(self, informer: Informer[R]) -> None:
        """Show the objects of this informer."""
        self._objects, self._synced = informer.objects, informer.synced

    def get(self, name: str, namespace: str = "") -> R | None:
        """Return the object as last seen."""
        return self._objects.get(Key(namespace, name))

    def items(self) -> Iterable[R]:
        """Return all objects as last seen, as a copy that later changes do not reach."""
        return tuple(self._objects.values())

    def listen(self, told: Callable[[Change, R], None]) -> Callable[[], None]:
        """Call `told` for every object there is (as ADDED) and for each later change; returns unlisten."""
        number = next(self._numbers)
        for item in self.items():
            told(Change.ADDED, item)
        self._listeners[number] = told

        def unlisten() -> None:
            self._listeners.pop(number, None)

        return unlisten

    async def synced(self) -> None:
        """Wait until the first complete list has been taken in."""
        await self._synced.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()` is true; it is asked again after every change of this view."""
        while not holds():
            await self._changed.wait()

    def tell(self, change: Change, item: R) -> None:
        """Pass a change on to listeners and waiters."""
        for number, told in tuple(self._listeners.items()):
            if number in self._listeners:
                told(change, item)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()


class SharedCache:
    """The cache of one process."""

    def __init__(
        self,
        cluster: Cluster,
        *,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        log: structlog.typing.FilteringBoundLogger | None = None,
    ) -> None:
        self._cluster = cluster
        self._clock = clock or SystemClock()
        self._metrics = metrics or Metrics()
        self._log = log
        self._views: dict[_Scope, SharedView[Any]] = {}
        self._informers: dict[_Scope, Informer[Any]] = {}
        self._counts: dict[str, int] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    def view(self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = "") -> SharedView[R]:
        """Return the view, starting its informer if it is the first of its kind and scope."""
        scope = _Scope(kind, namespace, labels, fields)
        known: SharedView[R] | None = self._views.get(scope)
        if known is not None:
            return known
        view: SharedView[R] = SharedView()
        informer = self._informer(view, kind, namespace=namespace, labels=labels, fields=fields)
        view.show(informer)
        self._views[scope], self._informers[scope] = view, informer
        if self._tasks is not None:
            self._tasks.start_soon(informer.run)
        return view

    async def run(self) -> None:
        """Run the informers until cancelled; views asked for later start at once."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for informer in self._informers.values():
                    tasks.start_soon(informer.run)
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    def _informer(self, view: SharedView[R], kind: type[R], *, namespace: str, labels: str, fields: str) -> Informer[R]:
        name = kind.kind_info.name

        def told(change: Change, item: R) -> None:
            if change is not Change.MODIFIED:
                self._counts[name] = self._counts.get(name, 0) + (1 if change is Change.ADDED else -1)
                self._metrics.gauge("ugallu_cache_objects", self._counts[name], kind=name)
            view.tell(change, item)

        def relisted(cause: str) -> None:
            self._metrics.count("ugallu_cache_relists_total", kind=name, cause=cause)

        def failed(error: UgalluError) -> None:
            if self._log is not None:
                say = self._log.info if isinstance(error, TransientError) else self._log.warning
                say("watch interrupted", kind=name, error=str(error))

        return Informer(
            self._cluster,
            kind,
            told=told,
            clock=self._clock,
            namespace=namespace,
            labels=labels,
            fields=fields,
            relisted=relisted,
            failed=failed,
        )
