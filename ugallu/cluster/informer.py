"""List, watch, resume: the objects of one kind and scope, kept current.

Every change is reported once, whatever happens to the connection: a version that is already known is not news, and
what a new list no longer holds is reported as deleted. So is an object that changes into something that does not
decode: a list would not show it either.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, NamedTuple, TypeVar

import anyio

from ugallu.api.meta import Resource
from ugallu.clock import Clock
from ugallu.cluster.port import Change, Cluster, GoneError, InvalidError, Key, Notice, Streams, key_of
from ugallu.errors import TransientError, UgalluError
from ugallu.pace import Backoff

R = TypeVar("R", bound=Resource)

WIDER = "wider Struct"
"""The cause of a list that only brings more fields."""
AWAY = 4.0
"""Longest pause in seconds while the cluster does not answer: whoever watches for intruders is back soon after it. What
it refuses for good (rights, kinds) is asked for more patiently."""


class _Listed(NamedTuple, Generic[R]):
    """A complete list, all pages of it."""

    objects: dict[Key, R]
    resource_version: str
    skipped: int


class Informer(Generic[R]):
    """Holds the objects as last seen, and tells of each change after it has taken it in."""

    def __init__(
        self,
        cluster: Cluster,
        kind: type[R],
        *,
        told: Callable[[Change, R, R | None], None],
        clock: Clock,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        whole: Callable[[], None] = lambda: None,
        relisted: Callable[[str], None] = lambda _: None,
        unread: Callable[[int], None] = lambda _: None,
        failed: Callable[[UgalluError], None] = lambda _: None,
    ) -> None:
        """`told` hears what an object is now and what it was before (None: unknown until now).

        `whole` hears when all objects are there and all are of the present kind, `relisted` the cause of every list
        after the first, `unread` how many objects did not decode, `failed` every error that is retried.
        """
        self.objects: dict[Key, R] = {}
        self.synced = anyio.Event()
        self.skipped = 0
        """Objects that did not decode: those of the last list, and those of the watch since."""
        self.contact = clock.monotonic()
        """When the cluster last said anything, monotonic."""
        self.error: UgalluError | None = None
        """What went wrong since then."""
        self._cluster = cluster
        self._streams = cluster if isinstance(cluster, Streams) else None
        self._kind = kind
        self._namespace, self._labels, self._fields = namespace, labels, fields
        self._told = told
        self._whole = whole
        self._relisted = relisted
        self._unread = unread
        self._failed = failed
        self._clock = clock
        self._backoff = Backoff()
        self._away = Backoff(ceiling=AWAY)
        self._since = ""
        """Where the watch resumes; empty: list first."""
        self._cause = ""
        self._turn = anyio.CancelScope()
        self._narrow = False
        """Some objects are of an earlier kind, with fewer fields."""
        self._awaited: set[Key] = set()
        """Those of them that the watch is about to bring anew."""

    def widen(self, kind: type[R]) -> None:
        """Read through a Struct with more fields from now on; `whole` hears when every object has them.

        What happens meanwhile is told once and in order, as ever.
        """
        self._kind = kind
        self._narrow = self.synced.is_set()
        self._turn.cancel()

    async def run(self) -> None:
        """Keep current until cancelled; every error of the cluster is retried with backoff.

        Missing rights and kinds that are not installed are retried as well: both are granted while we run.
        """
        while True:
            with anyio.CancelScope() as self._turn:
                await self._keep_current()

    async def _keep_current(self) -> None:
        while True:
            wait, began = 0.0, self._clock.monotonic()
            try:
                if not await self._step():
                    wait = self._pause(self._backoff, began)
            except InvalidError as error:
                if self._since or self._streams is None:
                    wait = self._backoff.next()
                # Not served here, whatever else it offers.
                self._streams = None
                self._fail(error)
            except GoneError as error:
                self._since, self._cause = "", "history too short"
                self._fail(error)
                wait = self._backoff.next()
            except TransientError as error:
                self._fail(error)
                wait = self._pause(self._away, began, at_least=error.retry_after or 0.0)
            except UgalluError as error:
                self._fail(error)
                wait = self._backoff.next()
            if wait > 0:
                await self._clock.sleep(wait)

    def _pause(self, backoff: Backoff, began: float, *, at_least: float = 0.0) -> float:
        if self._clock.monotonic() - began > AWAY:
            # The cluster was here for a while, without anything to tell.
            backoff.reset()
        return backoff.next(at_least=at_least)

    async def _step(self) -> bool:
        """List where that is due, then watch until the stream ends; tell whether it brought anything."""
        if not self._since and self._streams is not None:
            return await self._follow(
                self._streams.stream(self._kind, namespace=self._namespace, labels=self._labels, fields=self._fields)
            )
        if not self._since:
            await self._list()
        elif self._narrow and not self._awaited:
            await self._list_wider()
        return await self._follow(
            self._cluster.watch(
                self._kind, since=self._since, namespace=self._namespace, labels=self._labels, fields=self._fields
            )
        )

    async def _fetch(self) -> _Listed[R]:
        found: dict[Key, R] = {}
        token, skipped = "", 0
        while True:
            page = await self._cluster.list(
                self._kind,
                namespace=self._namespace,
                labels=self._labels,
                fields=self._fields,
                continue_token=token,
            )
            self._heard()
            found.update((key_of(item), item) for item in page.items)
            skipped += page.skipped
            token = page.continue_token
            if not token:
                return _Listed(found, page.resource_version, skipped)

    async def _list(self) -> None:
        """Take in a complete list and say what differs from before."""
        self._take_in(await self._fetch())

    async def _list_wider(self) -> None:
        """Take from a complete list what it has of the versions that we have; the watch brings the rest from here on.

        So no change is skipped that happened between where the watch stood and the list.
        """
        self._cause = WIDER
        listed = await self._fetch()
        if listed.skipped:
            # What is missing may be gone or unreadable, and the watch would be silent about the latter.
            self._take_in(listed)
            return
        self._relisted(WIDER)
        self._cause = ""
        self._awaited = {key for key in self.objects if key not in listed.objects}
        for key, new in listed.objects.items():
            old = self.objects.get(key)
            if old is not None and _version(old) == _version(new):
                self.objects[key] = new
            else:
                self._awaited.add(key)
        if not self._awaited:
            self._widened()

    def _take_in(self, listed: _Listed[R]) -> None:
        if self.synced.is_set():
            self._relisted(self._cause or "first list failed")
        self._cause = ""
        for key in [key for key in self.objects if key not in listed.objects]:
            self._drop(key)
        for key, item in listed.objects.items():
            self._keep(key, item)
        self.skipped = listed.skipped
        if listed.skipped:
            self._unread(listed.skipped)
        self._since = listed.resource_version
        self.synced.set()
        self._widened()

    def _widened(self) -> None:
        self._narrow = False
        self._awaited.clear()
        self._whole()

    async def _follow(self, watch: AsyncIterator[Notice[R]]) -> bool:
        """Take in a stream until it ends; tell whether it brought anything."""
        brought = False
        first = None if self._since else _Listed[R]({}, "", 0)
        async with aclosing(watch) as notices:  # type: ignore[type-var]
            async for notice in notices:
                self._heard()
                if first is not None:
                    first = self._collect(first, notice)
                    continue
                self._take(notice)
                self._since = notice.resource_version
                if not brought:
                    brought = True
                    self._backoff.reset()
                    self._away.reset()
                if self._narrow:
                    self._await(notice)
                    if not self._since:
                        break
        return brought

    def _collect(self, first: _Listed[R], notice: Notice[R]) -> _Listed[R] | None:
        """Take in what a stream begins with: a list, complete with its first bookmark; then return None."""
        if notice.object is not None:
            first.objects[key_of(notice.object)] = notice.object
        elif notice.unread is not None:
            first = first._replace(skipped=first.skipped + 1)
        else:
            self._take_in(first._replace(resource_version=notice.resource_version))
            return None
        return first

    def _await(self, notice: Notice[R]) -> None:
        """Strike off what the watch has brought anew."""
        if notice.object is not None:
            self._awaited.discard(key_of(notice.object))
        elif notice.unread is not None:
            self._awaited.discard(notice.unread)
        else:
            # History has gone past the list, and did not bring everything: only another list can.
            self._since, self._cause = "", WIDER
            self._awaited.clear()
            return
        if not self._awaited:
            self._widened()

    def _take(self, notice: Notice[R]) -> None:
        if notice.unread is not None:
            self.skipped += 1
            self._unread(1)
            self._drop(notice.unread)
        elif notice.object is None:
            return
        elif notice.change is Change.DELETED:
            self._drop(key_of(notice.object), notice.object)
        else:
            self._keep(key_of(notice.object), notice.object)

    def _keep(self, key: Key, new: R) -> None:
        old = self.objects.get(key)
        if old is not None and old.metadata.uid != new.metadata.uid:
            # The name was given anew while nobody looked: that was a deletion, too.
            self._drop(key)
            old = None
        self.objects[key] = new
        if old is None:
            self._told(Change.ADDED, new, None)
        elif old.metadata.resource_version != new.metadata.resource_version:
            self._told(Change.MODIFIED, new, old)

    def _drop(self, key: Key, last: R | None = None) -> None:
        old = self.objects.get(key)
        # A deletion that is told late is not that of the object which has the name now.
        if old is None or (last is not None and last.metadata.uid != old.metadata.uid):
            return
        del self.objects[key]
        self._told(Change.DELETED, last or old, old)

    def _heard(self) -> None:
        self.contact = self._clock.monotonic()
        self.error = None

    def _fail(self, error: UgalluError) -> None:
        self.error = error
        self._failed(error)


def _version(resource: Resource) -> tuple[str, str]:
    return resource.metadata.uid, resource.metadata.resource_version
