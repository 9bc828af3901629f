"""`Through`: the port over another cluster, with a place to look at every call before it goes on."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from ugallu.api.meta import Resource
from ugallu.cluster.port import ANY, Cluster, Notice, Page, Preconditions

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

WRITES: Final = frozenset({"create", "apply", "patch", "patch_status", "delete"})


class Asked(NamedTuple):
    """A call; `verb` is the method of the port, an empty name means every object, or the one a selector names."""

    verb: str
    kind: type[Resource]
    name: str = ""
    namespace: str = ""


class Through:
    """Passes everything on. Who inherits it says in `_look` what may not pass, or in `_pass` what becomes of a call."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def embedded(self) -> bool:
        """As the cluster behind."""
        return self._cluster.embedded

    def _look(self, asked: Asked) -> None:
        """Raise to refuse a call."""

    async def _pass(self, asked: Asked, effect: Callable[[], Awaitable[T]]) -> T:
        self._look(asked)
        return await effect()

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """Return one object."""
        return await self._pass(Asked("get", kind, name, namespace), lambda: self._cluster.get(kind, name, namespace))

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
        return await self._pass(
            Asked("list", kind, _named(fields), namespace),
            lambda: self._cluster.list(
                kind, namespace=namespace, labels=labels, fields=fields, limit=limit, continue_token=continue_token
            ),
        )

    def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Notice[R]]:
        """Yield what changed after `since`."""
        self._look(Asked("watch", kind, _named(fields), namespace))
        return self._cluster.watch(kind, since=since, namespace=namespace, labels=labels, fields=fields)

    async def create(self, resource: R) -> R:
        """Store a new object."""
        return await self._pass(_of("create", resource), lambda: self._cluster.create(resource))

    async def apply(self, resource: R, *, manager: str) -> R:
        """Server-side apply."""
        return await self._pass(_of("apply", resource), lambda: self._cluster.apply(resource, manager=manager))

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch metadata and spec."""
        return await self._pass(
            Asked("patch", kind, name, namespace),
            lambda: self._cluster.patch(kind, name, patch, namespace, when=when),
        )

    async def patch_status(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch status."""
        return await self._pass(
            Asked("patch_status", kind, name, namespace),
            lambda: self._cluster.patch_status(kind, name, patch, namespace, when=when),
        )

    async def delete(self, kind: type[R], name: str, namespace: str = "", *, when: Preconditions = ANY) -> None:
        """Delete one object."""
        await self._pass(
            Asked("delete", kind, name, namespace), lambda: self._cluster.delete(kind, name, namespace, when=when)
        )

    async def close(self) -> None:
        """Close the cluster behind."""
        await self._cluster.close()


def _of(verb: str, resource: Resource) -> Asked:
    return Asked(verb, type(resource), resource.metadata.name, resource.metadata.namespace)


def _named(fields: str) -> str:
    """Return the one name that a field selector asks for, as the authorizer of an API server reads it."""
    _, _, name = fields.partition("metadata.name=")
    return name
