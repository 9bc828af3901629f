"""List, watch, resume: the objects of one kind and scope, kept current.

Every change is reported once, whatever happens to the connection: a version that is already known is not news, and what
a new list no longer holds is reported as deleted.
"""

from collections.abc import Callable
from contextlib import aclosing
from typing import Generic, TypeVar

import anyio

from ugallu.api.meta import Resource
from ugallu.clock import Clock
from ugallu.cluster.port import Change, Cluster, GoneError, Key, Notice, key_of
from ugallu.errors import TransientError, UgalluError
from ugallu.pace import Backoff

R = TypeVar("R", bound=Resource)


class Informer(Generic[R]):
    """Holds the objects as last seen, and tells of each change after it has taken it in."""

    def __init__(
        self,
        cluster: Cluster,
        kind: type[R],
        *,
        told: Callable[[Change, R], None],
        clock: Clock,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        relisted: Callable[[str], None] = lambda _: None,
        failed: Callable[[UgalluError], None] = lambda _: None,
    ) -> None:
        """`relisted` hears the cause of every list after the first, `failed` every error that is retried."""
        self.objects: dict[Key, R] = {}
        self.synced = anyio.Event()
        self.skipped = 0
        """Objects of the last list that did not decode."""
        self._cluster = cluster
        self._kind = kind
        self._namespace, self._labels, self._fields = namespace, labels, fields
        self._told = told
        self._relisted = relisted
        self._failed = failed
        self._clock = clock
        self._backoff = Backoff()
        self._since = ""
        """Where the watch resumes; empty: list first."""
        self._cause = ""

    async def run(self) -> None:
        """Keep current until cancelled; every error of the cluster is retried with backoff.

        Missing rights and kinds that are not installed are retried as well: both are granted while we run.
        """
        while True:
            wait = 0.0
            try:
                if not self._since:
                    await self._list()
                if not await self._follow():
                    wait = self._backoff.next()
            except GoneError as error:
                self._since, self._cause = "", "history too short"
                self._failed(error)
                wait = self._backoff.next()
            except UgalluError as error:
                self._failed(error)
                asked = error.retry_after if isinstance(error, TransientError) else None
                wait = self._backoff.next() if asked is None else asked
            if wait > 0:
                await self._clock.sleep(wait)

    async def _list(self) -> None:
        """Take in a complete list and say what differs from before."""
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
            found.update((key_of(item), item) for item in page.items)
            skipped += page.skipped
            token = page.continue_token
            if not token:
                break
        if self.synced.is_set():
            self._relisted(self._cause or "first list failed")
        self._cause = ""
        for key in [key for key in self.objects if key not in found]:
            self._drop(key, self.objects[key])
        for item in found.values():
            self._keep(item)
        self.skipped = skipped
        self._since = page.resource_version
        self.synced.set()

    async def _follow(self) -> bool:
        """Watch until the stream ends; tell whether it brought anything."""
        brought = False
        watch = self._cluster.watch(
            self._kind, since=self._since, namespace=self._namespace, labels=self._labels, fields=self._fields
        )
        async with aclosing(watch) as notices:  # type: ignore[type-var]
            async for notice in notices:
                self._take(notice)
                self._since = notice.resource_version
                if not brought:
                    brought = True
                    self._backoff.reset()
        return brought

    def _take(self, notice: Notice[R]) -> None:
        if notice.object is None:
            return
        if notice.change is Change.DELETED:
            self._drop(key_of(notice.object), notice.object)
        else:
            self._keep(notice.object)

    def _keep(self, new: R) -> None:
        key = key_of(new)
        old = self.objects.get(key)
        if old is not None and old.metadata.uid != new.metadata.uid:
            # The name was given anew while nobody looked: that was a deletion, too.
            self._drop(key, old)
            old = None
        if old is None:
            self.objects[key] = new
            self._told(Change.ADDED, new)
        elif old.metadata.resource_version != new.metadata.resource_version:
            self.objects[key] = new
            self._told(Change.MODIFIED, new)

    def _drop(self, key: Key, last: R) -> None:
        if self.objects.pop(key, None) is not None:
            self._told(Change.DELETED, last)
