"""What a bundle is for, an event or a finished response: found by name and uid, told once its evidence is sealed."""

import datetime as dt
from typing import ClassVar, Final

import msgspec

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.response import EventResponse, ResponsePhase
from ugallu.cluster.port import Cluster, NotFoundError, OutdatedError, Preconditions, View
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import statement

EVENT: Final = SecurityEvent.kind_info.name
RESPONSE: Final = EventResponse.kind_info.name
FINISHED: Final = frozenset({ResponsePhase.SUCCEEDED, ResponsePhase.FAILED, ResponsePhase.CANCELLED})


class ParentGoneError(PermanentError):
    """The object that a bundle is for does not exist any more, or another one bears its name."""

    reason: ClassVar[str] = "ParentGone"


async def find(cluster: Cluster, bundle: AttestationBundle | BundleMark) -> SecurityEvent | EventResponse:
    """Return what a bundle is for, the whole of it.

    Raises `ParentGoneError`; `PermanentError` for a kind that is not attested; `TransientError` for a response that
    is not over.
    """
    wanted = bundle.spec.attested_for
    if wanted.kind not in (EVENT, RESPONSE):
        raise PermanentError(
            f"cannot attest a {wanted.kind[:63]!r}",
            where=f"AttestationBundle/{bundle.metadata.name} spec.attestedFor.kind",
            fix="only SecurityEvents and EventResponses are attested",
        )
    where = f"{wanted.kind}/{wanted.name}"
    kind: type[SecurityEvent | EventResponse] = SecurityEvent if wanted.kind == EVENT else EventResponse
    try:
        found = await cluster.get(kind, wanted.name)
    except NotFoundError as error:
        raise ParentGoneError(f"the {wanted.kind} is gone", where=where) from error
    if found.metadata.uid != wanted.uid:
        raise ParentGoneError(f"another {wanted.kind} bears this name now", where=where)
    if isinstance(found, EventResponse) and found.status.phase not in FINISHED:
        raise TransientError("the response is not over", where=where)
    return found


def statement_of(
    parent: SecurityEvent | EventResponse, attestor: statement.Attestor, at: dt.datetime, content: bytes
) -> bytes:
    """Return the Statement about one parent, whose canonical bytes are `content`."""
    if isinstance(parent, SecurityEvent):
        return statement.event_statement(parent, attestor, at, content=content)
    return statement.response_statement(parent, attestor, at, content=content)


def is_told(seen: View[EventMark], bundle: AttestationBundle | BundleMark) -> bool:
    """Tell whether nobody waits for the word that a bundle is sealed; the view may lag behind.

    A response has no place to write it: its label finds the bundle.
    """
    wanted = bundle.spec.attested_for
    if wanted.kind == RESPONSE:
        return True
    event = seen.get(wanted.name)
    return event is not None and event.metadata.uid == wanted.uid and is_attested(event)


def is_attested(event: SecurityEvent | EventMark) -> bool:
    """Tell whether the event already says that it is attested."""
    return event.status.phase in (EventPhase.ATTESTED, EventPhase.ARCHIVED)


async def attest(
    cluster: Cluster, bundle: AttestationBundle | BundleMark, digest: str, event: SecurityEvent | EventMark
) -> None:
    """Say in the event's status that it is attested, unless it says so already or is gone.

    `digest` is that of the statement which the bundle is sealed with.
    """
    if is_attested(event):
        return
    changes = {
        "phase": EventPhase.ATTESTED,
        "attestationDigest": digest,
        "attestationBundleRef": msgspec.to_builtins(bundle.ref),
    }
    try:
        await cluster.patch_status(EventMark, event.metadata.name, changes, when=Preconditions(uid=event.metadata.uid))
    except (NotFoundError, OutdatedError):
        # Gone, or another event under its name: nobody is left to be told.
        return
