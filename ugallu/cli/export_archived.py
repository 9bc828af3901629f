"""What ttl copied into the evidence store before it deleted it: found by the chain of manifests that lists copies."""

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import SecurityEvent
from ugallu.api.marks import EventMark, ResponseMark
from ugallu.api.meta import Metadata
from ugallu.api.response import EventResponse
from ugallu.cli.export_what import Link, When, lost
from ugallu.cluster.port import Cluster, list_all
from ugallu.errors import PermanentError
from ugallu.evidence import copies
from ugallu.evidence.canonical import digest
from ugallu.evidence.copies import Entry, Manifest
from ugallu.evidence.export import Found
from ugallu.evidence.ports import EvidenceStore, IntegrityError
from ugallu.runtime.attestor.enqueue import names_of
from ugallu.runtime.ttl.chain import HEAD, Head
from ugallu.runtime.ttl.marks import whole

F = TypeVar("F", SecurityEvent, EventResponse, AttestationBundle, Link)

MAX_COPIES: Final = 1_000_000
MAX_LINKS: Final = 1_000_000
_ASK: Final = "keep the store as it is and find out who changed it"
_KINDS: Final = (SecurityEvent.kind_info.name, EventResponse.kind_info.name, AttestationBundle.kind_info.name)


class _Copy(msgspec.Struct, frozen=True):
    """An object as it was copied."""

    kind: str
    metadata: Metadata
    spec: Any = None
    status: Any = None


class Copies:
    """The copies of events, responses and bundles, newest first."""

    def __init__(self, store: EvidenceStore, cluster: Cluster) -> None:
        self._store = store
        self._cluster = cluster
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in _KINDS}
        self._lists: dict[str, str] = {}
        """Keys of manifests, by the keys of the copies that they list."""

    async def load(self, when: When) -> None:
        """Follow the chain back to its beginning, or to where nothing can be newer than was asked for.

        Raises `IntegrityError` where the chain is broken: a manifest is gone, or is not the one that the next names.
        """
        if await self._store.stat(HEAD) is None:
            return
        head = _head(await self._store.get(HEAD))
        link, count = (head.key, head.sha256), 0
        while count < MAX_LINKS:
            count += 1
            manifest = await self._manifest(*link)
            for entry in manifest.entries:
                if entry.kind in self._entries and entry.uid not in self._entries[entry.kind]:
                    self._entries[entry.kind][entry.uid] = entry
                    self._lists[entry.key] = link[0]
            if sum(map(len, self._entries.values())) > MAX_COPIES:
                raise PermanentError(f"more than {MAX_COPIES} copies", where=HEAD, fix="pass --since")
            # An event is copied after it was seen.
            if (
                when.since is not None and when.since > _time(manifest.created_at, link[0])
            ) or manifest.previous is None:
                return
            link = manifest.previous.key, manifest.previous.sha256
        raise PermanentError(f"more than {MAX_LINKS} manifests", where=HEAD, fix="pass --since")

    def __contains__(self, uid: str) -> bool:
        return uid in self._entries[_KINDS[0]]

    async def links(self, names: Sequence[str]) -> list[Link]:
        """Return what ties the copied events to others: of all, or of these names."""
        found = []
        for entry in self._entries[_KINDS[0]].values():
            if not names or entry.name in names:
                copy, _ = await self._copy(entry)
                found.append(_read(copy, Link, entry.key))
        return found

    async def event(self, uid: str) -> Found:
        """Return a copied event, and the bundle that attests it, wherever that is."""
        entry = self._entries[_KINDS[0]][uid]
        copy, content = await self._copy(entry)
        event = _read(copy, SecurityEvent, entry.key)
        ref = event.status.attestation_bundle_ref
        named = names_of(msgspec.convert(msgspec.to_builtins(event), EventMark))
        bundle, written = await self._bundle(uid, {*named, *([ref.name] if ref is not None else [])})
        if bundle is None:
            item = whole(SecurityEvent.kind_info)(metadata=copy.metadata, spec=copy.spec, status=copy.status)
            bundle = await lost(self._store, item)
        return Found(event, content, bundle, written, archived=entry.key, listing=await self._listing(entry))

    async def responses_to(self, events: Sequence[Found]) -> list[Found]:
        """Return the copied responses to these events."""
        uids = {found.fact.metadata.uid for found in events}
        found = []
        for entry in self._entries[_KINDS[1]].values():
            copy, content = await self._copy(entry)
            response = _read(copy, EventResponse, entry.key)
            if response.spec.security_event_ref.uid in uids:
                named = names_of(msgspec.convert(msgspec.to_builtins(response), ResponseMark))
                bundle, written = await self._bundle(entry.uid, set(named))
                listing = await self._listing(entry)
                found.append(Found(response, content, bundle, written, archived=entry.key, listing=listing))
        return found

    async def _bundle(self, uid: str, names: set[str]) -> tuple[AttestationBundle | None, bytes]:
        """Return the bundle of an object: it outlives it in the cluster for a while, and is then a copy as well."""
        live, _ = await list_all(self._cluster, AttestationBundle, fields=f"spec.attestedFor.uid={uid}")
        for bundle in live:
            return bundle, b""
        for entry in self._entries[_KINDS[2]].values():
            if entry.name in names:
                copy, content = await self._copy(entry)
                bundle = _read(copy, AttestationBundle, entry.key)
                if bundle.spec.attested_for.uid == uid:
                    return bundle, content
        return None, b""

    async def _copy(self, entry: Entry) -> tuple[_Copy, bytes]:
        stored, content = await self._store.read(entry.key)
        if stored.sha256 != entry.sha256:
            raise IntegrityError("the copy is another one than its manifest names", where=entry.key, fix=_ASK)
        try:
            copy = msgspec.json.decode(content, type=_Copy)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"the copy cannot be read: {error}", where=entry.key) from error
        if (copy.kind, copy.metadata.uid) != (entry.kind, entry.uid):
            raise IntegrityError("the copy is of another object than its manifest says", where=entry.key, fix=_ASK)
        return copy, content

    async def _listing(self, entry: Entry) -> tuple[str, bytes]:
        """Return the name and the content of the manifest that lists a copy."""
        key = self._lists[entry.key]
        return key.rpartition("/")[2], await self._store.get(key)

    async def _manifest(self, key: str, sha256: str) -> Manifest:
        content = await self._store.get(key)
        if digest(content) != sha256:
            raise IntegrityError("the manifest is another one than the next one names", where=key, fix=_ASK)
        try:
            return copies.read(content, key)
        except PermanentError as error:
            raise IntegrityError(error.what, where=key, fix=_ASK) from error


def _time(text: str, where: str) -> dt.datetime:
    try:
        at = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise IntegrityError("the manifest bears no time", where=where) from error
    return at if at.tzinfo is not None else at.replace(tzinfo=dt.UTC)


def _head(content: bytes) -> Head:
    try:
        return msgspec.json.decode(content, type=Head)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=HEAD) from error


def _read(copy: _Copy, kind: type[F], where: str) -> F:
    document = {"metadata": msgspec.to_builtins(copy.metadata), "spec": copy.spec, "status": copy.status or {}}
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise IntegrityError(f"the copy cannot be read: {error}", where=where) from error


def others(events: Sequence[Found], live: Sequence[Found]) -> Iterator[Found]:
    """Yield those that the cluster does not have any more."""
    known = {found.fact.metadata.uid for found in live}
    yield from (found for found in events if found.fact.metadata.uid not in known)
