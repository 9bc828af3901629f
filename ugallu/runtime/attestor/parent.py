"""The event behind a bundle: found by name and uid, and told once its evidence is sealed."""

import msgspec

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.cluster.port import Cluster, NotFoundError, OutdatedError, Preconditions, View
from ugallu.errors import PermanentError


class ParentGoneError(PermanentError):
    """The event that a bundle is for does not exist any more, or another one bears its name."""


async def find(cluster: Cluster, bundle: AttestationBundle) -> SecurityEvent:
    """Return the event of a bundle, the whole of it; raises `ParentGoneError`."""
    wanted = bundle.spec.attested_for
    try:
        event = await cluster.get(SecurityEvent, wanted.name)
    except NotFoundError as error:
        raise ParentGoneError("the event is gone", where=f"SecurityEvent/{wanted.name}") from error
    if event.metadata.uid != wanted.uid:
        raise ParentGoneError("another event bears this name now", where=f"SecurityEvent/{wanted.name}")
    return event


def says_attested(seen: View[EventMark], bundle: AttestationBundle | BundleMark) -> bool:
    """Tell whether the event of a bundle is seen to say that it is attested; the view may lag behind."""
    event = seen.get(bundle.spec.attested_for.name)
    return event is not None and event.metadata.uid == bundle.spec.attested_for.uid and is_attested(event)


def is_attested(event: SecurityEvent | EventMark) -> bool:
    """Tell whether the event already says that it is attested."""
    return event.status.phase in (EventPhase.ATTESTED, EventPhase.ARCHIVED)


async def attest(cluster: Cluster, bundle: AttestationBundle, event: SecurityEvent | EventMark) -> None:
    """Say in the event's status that it is attested, unless it says so already or is gone."""
    if is_attested(event):
        return
    changes = {
        "phase": EventPhase.ATTESTED,
        "attestationDigest": bundle.status.statement_digest,
        "attestationBundleRef": msgspec.to_builtins(bundle.ref),
    }
    try:
        await cluster.patch_status(
            SecurityEvent, event.metadata.name, changes, when=Preconditions(uid=event.metadata.uid)
        )
    except (NotFoundError, OutdatedError):
        # Gone, or another event under its name: nobody is left to be told.
        return
