"""What belongs to an incident: events that were asked for, what is related to them, what was done about them."""

import datetime as dt
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, Final, TypeVar

import msgspec

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Kind, ObjectReference, Resource, Wire
from ugallu.api.response import EventResponse
from ugallu.clock import SystemClock
from ugallu.cluster.embedded.selectors import parse_labels
from ugallu.cluster.port import Cluster, NotFoundError, list_all
from ugallu.errors import PermanentError
from ugallu.evidence.export import Found
from ugallu.evidence.folder import Asked
from ugallu.evidence.ports import EvidenceStore, IntegrityError
from ugallu.runtime.ttl.evidence import Unsealed, lost_bundle
from ugallu.runtime.ttl.marks import Whole, whole

F = TypeVar("F", SecurityEvent, EventResponse, AttestationBundle)

INCIDENT_SIGNAL: Final = "incident.uid"
"""The signal by which events of one capture belong together."""


class LinkSubject(Wire, frozen=True, kw_only=True):
    """What an event is about."""

    kind: str = ""
    name: str = ""
    namespace: str = ""
    uid: str = ""


class LinkSpec(Wire, frozen=True, kw_only=True):
    """What ties an event to others."""

    subject: LinkSubject = LinkSubject()
    detected_at: dt.datetime | None = None
    parents: tuple[ObjectReference, ...] = ()
    correlation_id: str = ""
    signals: dict[str, str] = {}


class Link(Resource, frozen=True, kw_only=True):
    """A SecurityEvent, as much of it as ties it to others."""

    kind_info: ClassVar[Kind] = SecurityEvent.kind_info
    spec: LinkSpec = LinkSpec()

    @property
    def ties(self) -> Iterator[tuple[str, str]]:
        """Yield what it has in common with others: two events with one of these belong together."""
        yield "uid", self.metadata.uid
        if self.spec.correlation_id:
            yield "correlation", self.spec.correlation_id
        if self.spec.signals.get(INCIDENT_SIGNAL):
            yield "incident", self.spec.signals[INCIDENT_SIGNAL]
        for parent in self.spec.parents:
            if parent.uid and parent.kind == self.kind_info.name:
                yield "uid", parent.uid


class When(msgspec.Struct, frozen=True):
    """A span of time, both ends included; None: open."""

    since: dt.datetime | None
    until: dt.datetime | None

    def has(self, at: dt.datetime | None) -> bool:
        """Tell whether a moment lies in it; an event without a time lies in every one."""
        return at is None or ((self.since is None or at >= self.since) and (self.until is None or at <= self.until))


def when_of(asked: Asked) -> When:
    """Return the span that was asked for; raises `PermanentError` for a time that is none."""
    return When(_time(asked.since, "--since"), _time(asked.until, "--until"))


async def links_of(cluster: Cluster, asked: Asked) -> list[Link]:
    """Return the events that can be chosen from: those that are named, or all where something else is asked as well."""
    if narrows(asked) or asked.related:
        return (await list_all(cluster, Link))[0]
    found = []
    for name in dict.fromkeys(asked.names):
        try:
            found.append(await cluster.get(Link, name))
        except NotFoundError:
            continue  # said by whoever chooses: it may be in the archive
    return found


def choose(events: Sequence[Link], asked: Asked) -> list[Link]:
    """Return the events that were asked for, in order of time; raises `NotFoundError` for a name that nobody has."""
    chosen = list(_chosen(events, asked, when_of(asked)))
    missing = set(asked.names) - {event.metadata.name for event in chosen}
    if missing:
        fix = "" if asked.archived else "pass --archived for one that was collected"
        raise NotFoundError("not found", where=f"securityevents/{min(missing)}", fix=fix)
    if asked.related:
        chosen = _related(events, chosen)
    return sorted(chosen, key=lambda event: (str(event.spec.detected_at), event.metadata.name))


def narrows(asked: Asked) -> bool:
    """Tell whether something else than names was asked for."""
    return bool(asked.labels or asked.correlation_id or asked.subject or asked.since or asked.until)


def _chosen(events: Iterable[Link], asked: Asked, when: When) -> Iterator[Link]:
    """Yield the events that meet all of what was asked; those that were named, whatever else was."""
    labels = parse_labels(asked.labels)
    for event in events:
        spec = event.spec
        if event.metadata.name in asked.names or (
            narrows(asked)
            and when.has(spec.detected_at)
            and labels.matches(event.metadata.labels)
            and (not asked.correlation_id or spec.correlation_id == asked.correlation_id)
            and (not asked.subject or asked.subject in _names_of(spec.subject))
        ):
            yield event


def _related(events: Sequence[Link], chosen: Sequence[Link]) -> list[Link]:
    """Return the events that are tied to these, and those that are tied to them, and so on."""
    by_tie: dict[tuple[str, str], list[Link]] = {}
    for event in events:
        for tie in event.ties:
            by_tie.setdefault(tie, []).append(event)
    found = {event.metadata.uid: event for event in chosen}
    waiting = deque(chosen)
    while waiting:
        for tie in waiting.popleft().ties:
            for event in by_tie.pop(tie, ()):
                if event.metadata.uid not in found:
                    found[event.metadata.uid] = event
                    waiting.append(event)
    return list(found.values())


def _names_of(subject: LinkSubject) -> tuple[str, ...]:
    """Return how a subject may be asked for: `Kind/name`, `Kind/namespace/name`, or its uid."""
    place = f"{subject.namespace}/" if subject.namespace else ""
    return f"{subject.kind}/{place}{subject.name}", subject.uid


async def found_event(cluster: Cluster, name: str, store: EvidenceStore) -> Found:
    """Return an event of the cluster with the bundle that it names; raises `NotFoundError`."""
    item = await cluster.get(whole(SecurityEvent.kind_info), name)
    event = _read(item, SecurityEvent)
    ref = event.status.attestation_bundle_ref
    bundle = None if ref is None else await _get(cluster, ref.name)
    found = _found(event, item, bundle)
    return found if bundle is not None else msgspec.structs.replace(found, bundle=await lost(store, item))


async def responses_to(cluster: Cluster, events: Sequence[Found]) -> list[Found]:
    """Return what was done about these events, with the bundles that attest it."""
    uids = {found.fact.metadata.uid for found in events}
    names = {found.fact.metadata.name for found in events}
    fields = f"spec.securityEventRef.name={next(iter(names))}" if len(names) == 1 else ""
    items, _ = await list_all(cluster, whole(EventResponse.kind_info), fields=fields)
    found = []
    for item in items:
        response = _read(item, EventResponse)
        ref = response.spec.security_event_ref
        if ref.uid in uids if ref.uid else ref.name in names:
            fields = f"spec.attestedFor.uid={response.metadata.uid}"
            bundles, _ = await list_all(cluster, whole(AttestationBundle.kind_info), fields=fields)
            found.append(_found(response, item, bundles[0] if bundles else None))
    return found


async def lost(store: EvidenceStore, item: Whole) -> AttestationBundle | None:
    """Return what the bundle of an event would say that is gone; None for one that was never attested."""
    try:
        return await lost_bundle(store, item, SystemClock().now())
    except Unsealed:
        return None


async def _get(cluster: Cluster, name: str) -> Whole | None:
    try:
        return await cluster.get(whole(AttestationBundle.kind_info), name)
    except NotFoundError:
        return None


def _found(fact: SecurityEvent | EventResponse, item: Whole, bundle: Whole | None) -> Found:
    if bundle is None:
        return Found(fact, encoded(item))
    return Found(fact, encoded(item), _read(bundle, AttestationBundle), encoded(bundle))


def encoded(item: Whole) -> bytes:
    """Return an object as JSON, all of it."""
    kind = type(item).kind_info
    document = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": msgspec.to_builtins(item.metadata)}
    parts = {"spec": item.spec, "status": item.status}
    document |= {name: part for name, part in parts.items() if part is not None}
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def _read(item: Whole, kind: type[F]) -> F:
    """Return an object as its own Struct; raises `IntegrityError` for one that breaks its schema."""
    document = {"metadata": msgspec.to_builtins(item.metadata), "spec": item.spec, "status": item.status or {}}
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise IntegrityError(f"it cannot be read: {error}", where=item.metadata.name) from error


def _time(text: str, where: str) -> dt.datetime | None:
    if not text:
        return None
    try:
        at = msgspec.convert(text, dt.datetime)
    except msgspec.ValidationError as error:
        raise PermanentError(f"{text[:80]!r} is no time", where=where, fix="write 2026-11-25T01:03:00Z") from error
    if at.tzinfo is None:
        raise PermanentError("a time without its zone", where=where, fix="write 2026-11-25T01:03:00Z")
    return at
