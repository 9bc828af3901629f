"""`EmbeddedCluster`: the port over the store. Writes are grouped, reads are inline, watches read what was committed."""

import copy
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack

import anyio.lowlevel
import msgspec

from ugallu.api.kinds import KINDS
from ugallu.api.meta import Resource
from ugallu.api.policies import Policy
from ugallu.clock import Clock, SystemClock
from ugallu.cluster.embedded import tokens
from ugallu.cluster.embedded.admission import Admission, check_namespace
from ugallu.cluster.embedded.commit import Commits
from ugallu.cluster.embedded.document import document_of, place, plain, type_key
from ugallu.cluster.embedded.hub import Hub, Poll
from ugallu.cluster.embedded.lock import Hold, hold
from ugallu.cluster.embedded.policies import Policies, User
from ugallu.cluster.embedded.scope import Scope
from ugallu.cluster.embedded.store import Place, Store, Version, Writing
from ugallu.cluster.embedded.verbs import Verbs
from ugallu.cluster.port import (
    ANY,
    Change,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    Notice,
    Page,
    Preconditions,
    UnavailableError,
)
from ugallu.errors import PermanentError

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

HISTORY: Final = 20_000
"""Revisions that watches and continue tokens reach back."""

_CHUNK: Final = 500


class Options(TypedDict, total=False):
    """What may be said of a cluster when it is opened."""

    clock: Clock
    """Tells creation and deletion times."""
    schemas: Iterable[type[Resource]]
    """The kinds whose unknown fields are pruned; another kind keeps them, and must fit its writer's Struct."""
    policies: Iterable[Policy]
    """What judges every write; by default ours, under which this process may do what its components may."""
    bookmark_seconds: float
    """A watch that has been quiet so long says how far history has come."""
    poll_seconds: float
    """How often a reader looks whether the writer has written."""


class EmbeddedCluster:
    """A cluster in this process; one writer a directory, any number of readers beside it."""

    def __init__(self, store: Store, *, lock: Hold | None = None, **options: Unpack[Options]) -> None:
        self._store = store
        self._reading = store.reading
        self._lock = lock
        admission = Admission(options.get("schemas", KINDS), Policies(options.get("policies")))
        self._verbs = Verbs(admission, options.get("clock") or SystemClock())
        self._bookmark_seconds = options.get("bookmark_seconds", 30.0)
        self._decoders: dict[type[Resource], Callable[[bytes], Any]] = {}
        self._commits: Commits | None = None
        self._news: Hub | Poll
        if store.writing is None:
            self._news = Poll(options.get("poll_seconds", 0.5))
        else:
            self._news = self._hub = Hub(store.reading.head())
            self._commits = Commits(store.writing, self._told, inline=store.in_memory)

    @classmethod
    def open(cls, path: Path, *, read_only: bool = False, history: int = HISTORY, **options: Unpack[Options]) -> Self:
        """Open the state in a directory, made if it is not there.

        `read_only` lists and watches while another process writes. Raises `PermanentError` when another process has the
        directory, or when there is nothing to read in it.
        """
        if read_only:
            return cls(Store(path, read_only=True, history=history), **options)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = hold(path)
            try:
                return cls(Store(path, history=history), lock=lock, **options)
            except BaseException:
                lock.release()
                raise
        except OSError as error:
            raise PermanentError(f"cannot be opened: {error.strerror}", where=str(path), fix="check --state") from error

    @classmethod
    def in_memory(cls, *, history: int = HISTORY, **options: Unpack[Options]) -> Self:
        """Return a cluster that is gone when it is closed."""
        return cls(Store(None, history=history), **options)

    def acting(self, user: str, groups: Iterable[str] = ()) -> Self:
        """Return the same cluster as another user writes to it; closing one closes both."""
        view = copy.copy(self)
        view._verbs = self._verbs.acting(User(user, tuple(groups)))  # noqa: SLF001 - a copy of this very object
        return view

    @property
    def embedded(self) -> bool:
        """True: no Pods run here."""
        return True

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """Return one object, or raise `NotFoundError`."""
        await anyio.lowlevel.checkpoint()
        self._check_open()
        where = place(kind.kind_info, namespace, name)
        check_namespace(kind.kind_info, namespace, where)
        found = self._reading.newest(Place(type_key(kind.kind_info), namespace, name))
        if found is None:
            raise NotFoundError("not found", where=where)
        return self._decode(kind, found.body)

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
        """Return one page, ordered by namespace and name; `limit` 0 means all in one."""
        scope = Scope(kind.kind_info, namespace, labels, fields)
        self._check_open()
        if continue_token:
            token = tokens.read(continue_token)
            at, after = token.revision, (token.namespace, token.name)
        else:
            at, after = self._reading.head(), ("", "")
        items: list[R] = []
        skipped = 0
        more = ""
        while True:
            await anyio.lowlevel.checkpoint()
            self._check_open()
            # One more than asked for tells whether another page follows.
            size = _CHUNK if limit <= 0 or scope.filters else min(_CHUNK, limit + 1)
            chunk = self._reading.page(
                scope.kind, at, after=after, namespace=scope.namespace, name=scope.name, limit=size
            )
            for version in chunk:
                if not scope.holds(version):
                    after = (version.namespace, version.name)
                    continue
                if limit > 0 and len(items) + skipped == limit:
                    more = tokens.write(tokens.Token(at, *after))
                    break
                after = (version.namespace, version.name)
                try:
                    items.append(self._decode(kind, version.body))
                except InvalidError:
                    skipped += 1
            if more or len(chunk) < size:
                return Page(tuple(items), str(at), more, skipped)

    async def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Notice[R], None]:
        """Yield what changed after `since`; ends when the cluster is closed."""
        scope = Scope(kind.kind_info, namespace, labels, fields)
        position = tokens.read_revision(since)
        quiet_since = anyio.current_time()
        while True:
            await anyio.lowlevel.checkpoint()
            if self._closed():
                return
            head = self._reading.head()
            if position > head:
                raise GoneError(f"revision {position} is not of this state, which ends at {head}", fix="list again")
            changes = self._reading.changes(scope.kind, position, head, _CHUNK)
            for version in changes:
                notice = self._notice(kind, scope, version)
                if notice is not None:
                    yield notice
                    quiet_since = anyio.current_time()
                    if self._closed():
                        return
            position = changes[-1].revision if len(changes) == _CHUNK else head
            quiet = anyio.current_time() - quiet_since
            if quiet >= self._bookmark_seconds:
                yield Notice(Change.BOOKMARK, str(position))
                quiet_since = anyio.current_time()
            elif not changes:
                # Only now: while a consumer had a notice, commits may have come that no waiter was there to hear of.
                position = await self._news.wait(scope.kind, position, self._bookmark_seconds - quiet)

    async def create(self, resource: R) -> R:
        """Store a new object and return it as stored."""
        kind, document = type(resource), document_of(resource)
        return self._decode(kind, await self._write(lambda tx: self._verbs.create(tx, kind, document)))

    async def apply(self, resource: R, *, manager: str) -> R:
        """Server-side apply as `manager`, forcing conflicts."""
        kind, document = type(resource), document_of(resource)
        return self._decode(kind, await self._write(lambda tx: self._verbs.apply(tx, kind, document, manager)))

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch metadata and spec."""
        spot = Place(type_key(kind.kind_info), namespace, name)
        changes = plain(patch)
        return self._decode(kind, await self._write(lambda tx: self._verbs.patch(tx, kind, spot, changes, when)))

    async def patch_status(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        """Merge-patch status."""
        spot = Place(type_key(kind.kind_info), namespace, name)
        changes = plain(patch)
        return self._decode(kind, await self._write(lambda tx: self._verbs.patch_status(tx, kind, spot, changes, when)))

    async def delete(self, kind: type[R], name: str, namespace: str = "", *, when: Preconditions = ANY) -> None:
        """Delete one object, or raise `NotFoundError`."""
        spot = Place(type_key(kind.kind_info), namespace, name)
        await self._write(lambda tx: self._verbs.delete(tx, kind, spot, when))

    async def close(self) -> None:
        """End the watches, finish the commit under way, close the files; a second call does nothing."""
        if self._news.closed:
            return
        self._news.close()
        with anyio.CancelScope(shield=True):
            if self._commits is not None:
                await self._commits.settled()
        self._store.close()
        if self._lock is not None:
            self._lock.release()

    async def _write(self, work: Callable[[Writing], T]) -> T:
        if self._commits is None:
            raise ForbiddenError(
                "opened to read only", where="cluster", fix="ask the process that runs on this --state"
            )
        self._check_open()
        return await self._commits.run(work)

    def _told(self, touched: dict[str, int]) -> None:
        assert self._store.writing is not None
        self._hub.told(touched, self._store.writing.upcoming - 1)

    def _closed(self) -> bool:
        return self._news.closed

    def _check_open(self) -> None:
        if self._closed():
            raise UnavailableError("the cluster is closed")

    def _decode(self, kind: type[R], body: bytes) -> R:
        decode = self._decoders.get(kind)
        if decode is None:
            decode = self._decoders[kind] = msgspec.json.Decoder(kind).decode
        try:
            decoded: R = decode(body)
        except msgspec.DecodeError as error:
            raise InvalidError(f"stored object does not fit {kind.__name__}: {error}") from error
        return decoded

    def _notice(self, kind: type[R], scope: Scope, version: Version) -> Notice[R] | None:
        """Return what a watch in this scope says of a version, None when it concerns it not."""
        change, body = Change(version.change), version.body
        inside = scope.holds(version)
        if scope.by_content and change is Change.MODIFIED:
            before = self._reading.before(version.revision)
            was = before is not None and scope.holds(before)
            if inside and not was:
                change = Change.ADDED
            elif was and not inside:
                change, inside = Change.DELETED, True
        elif scope.by_content and change is Change.DELETED:
            before = self._reading.before(version.revision)
            inside = before is not None and scope.holds(before)
        if not inside:
            return None
        try:
            return Notice(change, str(version.revision), self._decode(kind, body))
        except InvalidError:
            return None
