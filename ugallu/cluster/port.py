"""`Cluster`: everything ugallu asks of a cluster's state, with one meaning for every implementation.

The semantics are those of a Kubernetes API server; the battery in `ugallu.testing.contracts` holds every
implementation to them:

* A created object gets `uid`, `resourceVersion`, `generation` 1 and `creationTimestamp`; `generateName` gets a suffix.
  `status` in a create is dropped where the kind has a status subresource (every kind here does).
* `generation` grows when anything but metadata and status changes; a write that changes nothing keeps
  `resourceVersion`. `resourceVersion` is opaque: compare it for equality, hand it back, nothing else.
* `apply` is server-side apply: creates or merges the fields given, as one field manager; fields that this manager
  applied before and leaves out now are removed. `patch` is a JSON merge patch (RFC 7396) on everything but status,
  `patch_status` on status alone. Both may carry preconditions.
* `delete` of an object with finalizers sets `deletionTimestamp` and waits for them; without, the object goes and its
  dependents (`ownerReferences` by uid) are collected.
* `list` is consistent at one resourceVersion and pages; a `continue` token that is too old is `GoneError`.
* `watch` starts behind a resourceVersion and yields every later change in order, each object once a change; it
  sends a `Bookmark` every minute or two while nothing happens, and raises `GoneError` when history no longer
  reaches back: list again.
* Selectors: labels as in `kubectl -l` (`a=b,c!=d,e in (f,g),h,!i`), fields as in `--field-selector`
  (`metadata.name`, `metadata.namespace`, and `=`, `==`, `!=` on those that the kind declares).
"""

import datetime as dt
import enum
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from ugallu.api.meta import Resource
from ugallu.errors import ConflictError, PermanentError, RefusedError, TransientError

R = TypeVar("R", bound=Resource)
R_co = TypeVar("R_co", bound=Resource, covariant=True)


class NotFoundError(PermanentError):
    """404: no such object, or no such kind."""


class InvalidError(PermanentError):
    """400 or 422: the object breaks its schema or the request makes no sense."""


class AlreadyExistsError(ConflictError):
    """409 on create: the name is taken."""


class OutdatedError(ConflictError):
    """409 on write or delete: a precondition (resourceVersion, uid) does not hold any more."""


class ForbiddenError(RefusedError):
    """401 or 403: no rights, or an admission policy said no."""


class GoneError(TransientError):
    """410: the resourceVersion or continue token is too old; list again."""


class UnavailableError(TransientError):
    """429, 5xx, a time-out or no connection."""


LISTS: Final = 3


class Change(enum.StrEnum):
    """What happened to an object in a watch."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


class Key(NamedTuple):
    """An object's place within its kind."""

    namespace: str
    name: str


class Notice(msgspec.Struct, Generic[R], frozen=True):
    """One line of a watch. A bookmark carries no object, only how far history has come.

    A change of an object that did not decode carries none either, but its key in `unread`: whoever holds an older
    version of that object holds what is no longer there, as a new list, which leaves it out, would show.
    """

    change: Change
    resource_version: str
    object: R | None = None
    unread: Key | None = None


class Page(msgspec.Struct, Generic[R], frozen=True):
    """Part of a list. `continue_token` is empty on the last page; `skipped` counts objects that did not decode."""

    items: tuple[R, ...]
    resource_version: str
    continue_token: str = ""
    skipped: int = 0


class Preconditions(msgspec.Struct, frozen=True):
    """What must still be true of the stored object; empty fields ask nothing."""

    uid: str = ""
    resource_version: str = ""


ANY = Preconditions()


class Cluster(Protocol):
    """The port. `kind` is a Resource class; the same kind may be read through different slim Structs."""

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded cluster: no Pods run here."""
        ...

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """Return one object, or raise `NotFoundError`."""
        ...

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
        """Return one page; an empty namespace means all. Objects that do not decode are counted, not raised."""
        ...

    def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Notice[R]]:
        """Yield what changed after `since`; close the iterator (`aclosing`) to stop."""
        ...

    async def create(self, resource: R) -> R:
        """Store a new object and return it as stored."""
        ...

    async def apply(self, resource: R, *, manager: str) -> R:
        """Server-side apply as `manager`, forcing conflicts; status is not applied."""
        ...

    async def patch(
        self,
        kind: type[R],
        name: str,
        patch: Mapping[str, Any],
        namespace: str = "",
        *,
        when: Preconditions = ANY,
    ) -> R:
        """Merge-patch metadata and spec."""
        ...

    async def patch_status(
        self,
        kind: type[R],
        name: str,
        patch: Mapping[str, Any],
        namespace: str = "",
        *,
        when: Preconditions = ANY,
    ) -> R:
        """Merge-patch status: `patch` is the new `status` fields, without the `status` key."""
        ...

    async def delete(self, kind: type[R], name: str, namespace: str = "", *, when: Preconditions = ANY) -> None:
        """Delete one object, or raise `NotFoundError`."""
        ...

    async def close(self) -> None:
        """Release what the connection holds; open watches end."""
        ...


@runtime_checkable
class Streams(Protocol):
    """What a cluster may offer besides the port: a list that comes as the beginning of its own watch (WatchList)."""

    def stream(
        self, kind: type[R], *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[Notice[R]]:
        """Yield each object there is as ADDED, then a bookmark, then every later change, as `watch` does.

        Up to that first bookmark, what has not been told is not known to be gone; from it on, it is. A stream that
        breaks before it begins anew; one that breaks later is resumed by `watch` from its last notice. Raises
        `InvalidError` where the server does not serve it: list and watch instead.
        """
        ...


@runtime_checkable
class Server(Protocol):
    """What a cluster may offer besides the port where a server is behind it: its clock, and what is no object."""

    async def server_time(self) -> dt.datetime | None:
        """Return what the server's clock says, to the second; None where something on the way left it out."""
        ...

    async def fetch(self, path: str) -> bytes:
        """Return the body at a path: `/metrics`."""
        ...


async def list_all(cluster: Cluster, kind: type[R], **selectors: str) -> tuple[list[R], str]:
    """Return every object over all pages, and the resourceVersion to watch from.

    A list that grew too old on the way is begun anew, and after `LISTS` of them `GoneError` is raised.
    """
    for left in reversed(range(LISTS)):
        items: list[R] = []
        token = ""
        try:
            while True:
                page = await cluster.list(kind, continue_token=token, **selectors)  # type: ignore[arg-type]
                items += page.items
                token = page.continue_token
                if not token:
                    return items, page.resource_version
        except GoneError:
            if not left:
                raise
    raise AssertionError  # pragma: no cover - the last list returns or raises


def key_of(resource: Resource) -> Key:
    """Return the key of an object."""
    return Key(resource.metadata.namespace, resource.metadata.name)


class View(Protocol[R_co]):
    """The cached objects of one kind and scope, kept current by one shared watch.

    Every object is an instance of the very Struct that the view was asked for, as a decoder of its own would have made
    it: methods, `ref`, `encode` and `msgspec.structs.replace` work. Two calls may return equal objects that are not the
    same one. An object that does not fit the Struct is not shown; nor is one that breaks another Struct's idea of a
    field, when both share a watch.
    """

    def get(self, name: str, namespace: str = "") -> R_co | None:
        """Return the object as last seen."""
        ...

    def items(self) -> Iterable[R_co]:
        """Return all objects as last seen, in no order."""
        ...

    def listen(self, told: Callable[[Change, R_co], None]) -> Callable[[], None]:
        """Call `told` for every object there is (as ADDED) and for each later change, in the loop; returns unlisten."""
        ...

    def index(self, name: str, values: Callable[[R_co], Iterable[Hashable]]) -> None:
        """Keep an index by what `values` returns for an object, always the same for the same object.

        A name stands for one index of this view, whoever asks: named again, it is built anew with the new `values`.
        """
        ...

    def by(self, name: str, value: Hashable) -> Iterable[R_co]:
        """Return the objects that have this value in an index; raises `KeyError` for one that nobody keeps."""
        ...

    async def synced(self) -> None:
        """Wait until the first complete list has been taken in."""
        ...

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()` is true; it is asked again after every change of this view."""
        ...


class InformerState(msgspec.Struct, frozen=True, kw_only=True):
    """How one informer of the cache is."""

    kind: str
    namespace: str
    labels: str
    fields: str
    structs: int
    """How many Structs read it."""
    objects: int
    size: int
    """Bytes they take in memory, estimated from a sample."""
    unread: int
    """Objects that did not decode: those of the last list, and those of the watch since."""
    relists: int
    synced: bool
    age: float
    """Seconds since the cluster last said anything, a bookmark at least each minute: more means stale."""
    error: str
    """What went wrong since then; empty when nothing did."""


class Cache(Protocol):
    """One informer per kind and scope, whatever the number of users and of Structs that read it."""

    def view(
        self,
        kind: type[R],
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        namespaces: Iterable[str] = (),
    ) -> View[R]:
        """Return the view, starting its informer if it is the first of its kind and scope.

        `namespaces` asks for several, each with a watch of its own, presented as one view.
        """
        ...

    def state(self) -> tuple[InformerState, ...]:
        """Return how each informer is."""
        ...

    async def run(self) -> None:
        """Run the informers until cancelled; views asked for later start at once."""
        ...
