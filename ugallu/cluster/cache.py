"""The shared cache: one watch for each kind and scope, whatever the number of users and of Structs they read through.

Structs of one kind share an informer, which decodes once into all the fields that any of them declares (`union.py`).
A Struct that comes later and wants more costs one list more; earlier readers hear nothing of it. Structs that read one
field as different types cannot share, and have an informer each.
"""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import anyio
import anyio.abc
import structlog

from ugallu.api.meta import Resource
from ugallu.clock import Clock, SystemClock
from ugallu.cluster.informer import Informer
from ugallu.cluster.port import Change, Cluster, InformerState, Key, key_of
from ugallu.cluster.union import covers, projection, unite
from ugallu.cluster.weight import Scales
from ugallu.errors import TransientError, UgalluError
from ugallu.metrics import Metrics

R = TypeVar("R", bound=Resource)


class _Scope(NamedTuple):
    """What one watch asks for."""

    group: str
    version: str
    plural: str
    namespace: str
    labels: str
    fields: str


class _Index(Generic[R]):
    """Where the objects are that have a value in common."""

    def __init__(self, values: Callable[[R], Iterable[Hashable]]) -> None:
        self._values = values
        self._keys: dict[Hashable, dict[Key, None]] = {}

    def find(self, value: Hashable) -> Iterable[Key]:
        return tuple(self._keys.get(value, ()))

    def add(self, item: R) -> None:
        for value in self._values(item):
            self._keys.setdefault(value, {})[key_of(item)] = None

    def remove(self, item: R) -> None:
        for value in self._values(item):
            keys = self._keys.get(value, {})
            keys.pop(key_of(item), None)
            if not keys:
                self._keys.pop(value, None)


class SharedView(Generic[R]):
    """The objects of one kind and scope as one Struct shows them, for any number of users in one loop.

    What it hands out are instances of that very Struct, equal to what a decoder of its own would have made. When
    several Structs share the watch they are made when asked for: two calls may return equal objects, not the same one.
    """

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._feeds: dict[str, _Feed] = {}
        """By namespace; the empty one when one informer brings everything."""
        self._shown: set[_Feed] = set()
        self._fits: dict[type[Any], Callable[[Any], R | None]] = {kind: lambda value: value}
        self._listeners: dict[int, Callable[[Change, R], None]] = {}
        self._numbers = itertools.count()
        self._indexes: dict[str, _Index[R]] = {}
        self._synced = anyio.Event()
        self._changed: anyio.Event | None = None

    def get(self, name: str, namespace: str = "") -> R | None:
        """Return the object as last seen."""
        feed = self._feeds.get("") or self._feeds.get(namespace)
        if feed is None or feed not in self._shown:
            return None
        held = feed.objects.get(Key(namespace, name))
        return None if held is None else self._fit(held)

    def items(self) -> Iterable[R]:
        """Return all objects as last seen, as a copy that later changes do not reach."""
        shown = (feed for feed in self._feeds.values() if feed in self._shown)
        return tuple(itertools.chain.from_iterable(map(self._of, shown)))

    def listen(self, told: Callable[[Change, R], None]) -> Callable[[], None]:
        """Call `told` for every object there is (as ADDED) and for each later change; returns unlisten."""
        number = next(self._numbers)
        for item in self.items():
            told(Change.ADDED, item)
        self._listeners[number] = told

        def unlisten() -> None:
            self._listeners.pop(number, None)

        return unlisten

    def index(self, name: str, values: Callable[[R], Iterable[Hashable]]) -> None:
        """Keep an index by what `values` returns for an object, always the same for the same object.

        A name stands for one index of this view, whoever asks: named again, it is built anew with the new `values`.
        """
        index = self._indexes[name] = _Index(values)
        for item in self.items():
            index.add(item)

    def by(self, name: str, value: Hashable) -> Iterable[R]:
        """Return the objects that have this value in an index; raises `KeyError` for one that nobody keeps."""
        found = (self.get(key.name, key.namespace) for key in self._indexes[name].find(value))
        return tuple(item for item in found if item is not None)

    async def synced(self) -> None:
        """Wait until the first complete list has been taken in."""
        await self._synced.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()` is true; it is asked again after every change of this view."""
        while not holds():
            self._changed = self._changed or anyio.Event()
            await self._changed.wait()

    # For the feeds

    def join(self, feed: "_Feed", namespace: str) -> None:
        """Show what this feed brings: at once while it has nothing, else when it has all that this Struct reads."""
        self._feeds[namespace] = feed
        if not feed.informer.synced.is_set():
            self._shown.add(feed)

    def whole(self, feed: "_Feed") -> None:
        """The feed has every object, with all that this Struct reads."""
        if feed not in self._shown:
            self._shown.add(feed)
            for item in tuple(self._of(feed)):
                self._say(Change.ADDED, item, None)
        if all(each in self._shown and each.informer.synced.is_set() for each in self._feeds.values()):
            self._synced.set()
        self._wake()

    def tell(self, feed: "_Feed", change: Change, new: Resource, old: Resource | None) -> None:
        """Pass a change on to indexes, listeners and waiters."""
        if feed not in self._shown:
            return
        item = self._fit(new)
        before = None if old is None else self._fit(old)
        if item is not None:
            # To this reader, an object that it could not hold before has just come.
            told = Change.ADDED if change is Change.MODIFIED and before is None else change
            if told is not Change.DELETED or before is not None:
                self._say(told, item, before)
        elif before is not None:
            self._say(Change.DELETED, before, before)
        self._wake()

    def _of(self, feed: "_Feed") -> Iterator[R]:
        for held in feed.objects.values():
            item = self._fit(held)
            if item is not None:
                yield item

    def _fit(self, held: Any) -> R | None:  # noqa: ANN401 - an instance of some union
        cls = type(held)
        fit = self._fits.get(cls)
        if fit is None:
            fit = self._fits[cls] = projection(cls, self._kind)
        return fit(held)

    def _say(self, change: Change, item: R, before: R | None) -> None:
        for index in self._indexes.values():
            if before is not None:
                index.remove(before)
            if change is not Change.DELETED:
                index.add(item)
        for number, told in tuple(self._listeners.items()):
            if number in self._listeners:
                told(change, item)

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()


class _Feed:
    """One informer, and the views that show what it brings."""

    def __init__(self, cache: "SharedCache", scope: _Scope, kind: type[Resource]) -> None:
        self.scope = scope
        self.name = kind.kind_info.name
        self.kinds: tuple[type[Resource], ...] = (kind,)
        self.views: list[SharedView[Any]] = []
        self.relists = 0
        self.scales = Scales()
        self._cache = cache
        self._united = kind
        self._complete = True
        """Every object has all the fields of the union."""
        self.informer: Informer[Any] = Informer(
            cache.cluster,
            kind,
            told=self._told,
            clock=cache.clock,
            namespace=scope.namespace,
            labels=scope.labels,
            fields=scope.fields,
            whole=self._whole,
            relisted=self._relisted,
            unread=self._unread,
            failed=self._failed,
        )
        self.objects: dict[Key, Any] = self.informer.objects

    @property
    def size(self) -> int:
        """Bytes that the objects take, by a sample of them."""
        return int(self.scales.mean * len(self.objects))

    def take(self, kind: type[Resource]) -> bool:
        """Bring what this Struct reads as well; False when it reads a field otherwise than those before it."""
        if kind in self.kinds:
            return True
        united = self._united if covers(self._united, kind) else unite((*self.kinds, kind))
        if united is None:
            return False
        self.kinds = (*self.kinds, kind)
        if united is not self._united:
            self._united, self._complete = united, not self.informer.synced.is_set()
            self.informer.widen(united)
        return True

    def show(self, view: SharedView[Any]) -> None:
        """Let a view show what is held and what comes."""
        self.views.append(view)
        view.join(self, self.scope.namespace)
        if self._complete and self.informer.synced.is_set():
            view.whole(self)

    def _told(self, change: Change, new: Resource, old: Resource | None) -> None:
        weighed = change is not Change.DELETED and self.scales.put(new)
        if (weighed or change is not Change.MODIFIED) and self.informer.synced.is_set():
            self._cache.publish(self.name)
        for view in self.views:
            view.tell(self, change, new, old)

    def _whole(self) -> None:
        self._complete = True
        self._cache.publish(self.name)
        for view in self.views:
            view.whole(self)

    def _relisted(self, cause: str) -> None:
        self.relists += 1
        self._cache.metrics.count("ugallu_cache_relists_total", kind=self.name, cause=cause)

    def _unread(self, count: int) -> None:
        self._cache.metrics.count("ugallu_cache_unread_total", count, kind=self.name)

    def _failed(self, error: UgalluError) -> None:
        self._cache.failed(self.name, error)


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
        self.cluster = cluster
        self.clock = clock or SystemClock()
        self.metrics = metrics or Metrics()
        self._log = log
        self._views: dict[tuple[Any, ...], SharedView[Any]] = {}
        self._feeds: dict[_Scope, list[_Feed]] = {}
        self._tasks: anyio.abc.TaskGroup | None = None

    def view(
        self,
        kind: type[R],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        namespaces: Iterable[str] = (),
    ) -> SharedView[R]:
        """Return the view, starting its informer if it is the first of its kind and scope.

        `namespaces` asks for several, each with a watch of its own, presented as one view.
        """
        places = tuple(dict.fromkeys(namespaces)) or (namespace,)
        known: SharedView[R] | None = self._views.get((kind, places, labels, fields))
        if known is not None:
            return known
        view = self._views[kind, places, labels, fields] = SharedView(kind)
        info = kind.kind_info
        for place in places:
            scope = _Scope(info.group, info.version, info.plural, place, labels, fields)
            self._feed(scope, kind).show(view)
        return view

    def state(self) -> tuple[InformerState, ...]:
        """Return how each informer is; a large `age` means that what it shows may be stale."""
        now = self.clock.monotonic()
        return tuple(
            InformerState(
                kind=feed.name,
                namespace=feed.scope.namespace,
                labels=feed.scope.labels,
                fields=feed.scope.fields,
                structs=len(feed.kinds),
                objects=len(feed.objects),
                size=feed.size,
                unread=feed.informer.skipped,
                relists=feed.relists,
                synced=feed.informer.synced.is_set(),
                age=now - feed.informer.contact,
                error="" if feed.informer.error is None else str(feed.informer.error),
            )
            for feed in self._all()
        )

    async def run(self) -> None:
        """Run the informers until cancelled; views asked for later start at once."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                for feed in self._all():
                    tasks.start_soon(feed.informer.run)
                await anyio.sleep_forever()
        finally:
            self._tasks = None

    # For the feeds

    def publish(self, kind: str) -> None:
        """Say how much of a kind is held."""
        feeds = [feed for feed in self._all() if feed.name == kind]
        self.metrics.gauge("ugallu_cache_objects", sum(len(feed.objects) for feed in feeds), kind=kind)
        self.metrics.gauge("ugallu_cache_bytes", sum(feed.size for feed in feeds), kind=kind)

    def failed(self, kind: str, error: UgalluError) -> None:
        """Say what went wrong with a watch."""
        if self._log is not None:
            say = self._log.info if isinstance(error, TransientError) else self._log.warning
            say("watch interrupted", kind=kind, error=str(error))

    def _feed(self, scope: _Scope, kind: type[Resource]) -> _Feed:
        feeds = self._feeds.setdefault(scope, [])
        for feed in feeds:
            if feed.take(kind):
                return feed
        feed = _Feed(self, scope, kind)
        feeds.append(feed)
        if self._tasks is not None:
            self._tasks.start_soon(feed.informer.run)
        return feed

    def _all(self) -> Iterator[_Feed]:
        return itertools.chain.from_iterable(self._feeds.values())
