"""What stays in memory of events, responses and bundles: who they are and how far they have come.

There are tens of thousands of them, nearly all sealed, and who has to do with one reads the whole of it then.
"""

import datetime as dt
from typing import ClassVar

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import ClusterIdentity, EventPhase, SecurityEvent
from ugallu.api.meta import Kind, ObjectReference, Resource, Wire
from ugallu.api.response import EventResponse, ResponsePhase


class EventMarkSpec(Wire, frozen=True, kw_only=True):
    """Where the fact was observed."""

    cluster_identity: ClusterIdentity = ClusterIdentity()


class EventMarkStatus(Wire, frozen=True, kw_only=True):
    """How far the event has come."""

    phase: EventPhase | None = None


class EventMark(Resource, frozen=True, kw_only=True):
    """A SecurityEvent without its fact."""

    kind_info: ClassVar[Kind] = SecurityEvent.kind_info
    spec: EventMarkSpec = EventMarkSpec()
    status: EventMarkStatus = EventMarkStatus()


class ResponseParent(Wire, frozen=True, kw_only=True):
    """The event that is answered."""

    uid: str = ""


class ResponseMarkSpec(Wire, frozen=True, kw_only=True):
    """What is answered."""

    security_event_ref: ResponseParent = ResponseParent()


class ResponseMarkStatus(Wire, frozen=True, kw_only=True):
    """How far the action has come."""

    phase: ResponsePhase | None = None


class ResponseMark(Resource, frozen=True, kw_only=True):
    """An EventResponse without its action."""

    kind_info: ClassVar[Kind] = EventResponse.kind_info
    spec: ResponseMarkSpec = ResponseMarkSpec()
    status: ResponseMarkStatus = ResponseMarkStatus()


class ProofMark(Wire, frozen=True, kw_only=True):
    """How large the log was when it proved the entry."""

    tree_size: int


class EntryMark(Wire, frozen=True, kw_only=True):
    """That the log has signed for it."""

    inclusion_proof: ProofMark | None = None


class BundleMarkSpec(Wire, frozen=True, kw_only=True):
    """What is signed."""

    attested_for: ObjectReference = ObjectReference()


class BundleMarkStatus(Wire, frozen=True, kw_only=True):
    """How far the bundle has come, and when it is to go on."""

    phase: BundlePhase | None = None
    rekor_entry: EntryMark | None = None
    next_attempt_at: dt.datetime | None = None


class BundleMark(Resource, frozen=True, kw_only=True):
    """An AttestationBundle without its proof."""

    kind_info: ClassVar[Kind] = AttestationBundle.kind_info
    spec: BundleMarkSpec = BundleMarkSpec()
    status: BundleMarkStatus = BundleMarkStatus()
