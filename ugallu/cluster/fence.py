"""A cluster that is written to only while one leads: what a leader's work gets instead of the cluster itself.

The question is asked right before each write: a process that was stopped beyond its Lease and goes on writes nothing.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from ugallu.api.meta import Resource
from ugallu.cluster.port import ANY, Cluster, Notice, Page, Preconditions
from ugallu.errors import ConflictError

R = TypeVar("R", bound=Resource)


class NotLeadingError(ConflictError):
    """Somebody else may lead by now; what was to be written is for him to decide."""


class Fenced:
    """The port over another cluster; writes raise `NotLeadingError` once `leads()` is false."""

    def __init__(self, cluster: Cluster, leads: Callable[[], bool]) -> None:
        self._cluster = cluster
        self._leads = leads

    @property
    def embedded(self) -> bool:
        """As the cluster behind."""
        return self._cluster.embedded

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """Return one object."""
        return await self._cluster.get(kind, name, namespace)

    async def list(
        self,
        kind: type[R],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        limit: int = 500,
        continue_token: str = "",
    ) -> Page[R]:
        """Return one page."""
        return await self._cluster.list(
            kind, namespace=namespace, labels=labels, fields=fields, limit=limit, continue_token=continue_token
        )

    def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Notice[R]]:
        """Yield what changed after `since`."""
        return self._cluster.watch(kind, since=since, namespace=namespace, labels=labels, fields=fields)

    async def create(self, resource: R) -> R:
        """Store a new object, if we lead."""
        self._check("create", type(resource), resource.metadata.name)
        return await self._cluster.create(resource)

    async def apply(self, resource: R, *, manager: str) -> R:
        """Server-side apply, if we lead."""
        self._check("apply", type(resource), resource.metadata.name)
        return await self._cluster.apply(resource, manager=manager)

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch metadata and spec, if we lead."""
        self._check("patch", kind, name)
        return await self._cluster.patch(kind, name, patch, namespace, when=when)

    async def patch_status(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch status, if we lead."""
        self._check("patch the status of", kind, name)
        return await self._cluster.patch_status(kind, name, patch, namespace, when=when)

    async def delete(self, kind: type[R], name: str, namespace: str = "", *, when: Preconditions = ANY) -> None:
        """Delete one object, if we lead."""
        self._check("delete", kind, name)
        await self._cluster.delete(kind, name, namespace, when=when)

    async def close(self) -> None:
        """Release what the connection holds."""
        await self._cluster.close()

    def _check(self, verb: str, kind: type[Resource], name: str) -> None:
        if not self._leads():
            raise NotLeadingError(f"cannot {verb} it: leadership has ended", where=f"{kind.kind_info.name}/{name}")
