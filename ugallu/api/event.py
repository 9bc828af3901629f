"""SecurityEvent: one immutable security fact, the root of every workflow."""

import datetime as dt
import enum
from typing import ClassVar

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.meta import Condition, Kind, ObjectReference, Resource, Wire
from ugallu.api.subject import Subject

LABEL_CORRELATION = "ugallu.io/correlation-id"
LABEL_CLASS = "ugallu.io/class"
LABEL_TYPE = "ugallu.io/type"
LABEL_SEVERITY = "ugallu.io/severity"
LABEL_SUBJECT_KIND = "ugallu.io/subject-kind"
LABEL_SUBJECT_NAMESPACE = "ugallu.io/subject-namespace"
LABEL_EXPERIMENTAL = "ugallu.io/type-experimental"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"

MAX_SIGNALS = 128
MAX_SIGNAL_BYTES = 8 * 1024
"""Total of keys and values of `signals`, in UTF-8 bytes."""


class EvidenceRef(Wire, frozen=True, kw_only=True):
    """A stored blob: where it is and what it must hash to. `sha256` is `sha256:<hex>`, `size` is in bytes."""

    media_type: str
    url: str
    sha256: str = ""
    size: int = 0


class ClusterIdentity(Wire, frozen=True, kw_only=True):
    """The cluster where a fact was observed; the id partitions evidence and names."""

    cluster_name: str = ""
    cluster_id: str = ""


class SourceRef(Wire, frozen=True, kw_only=True):
    """The component that emitted an event."""

    api_version: str = ""
    kind: str
    name: str
    version: str = ""
    instance: str = ""


class EventPhase(enum.StrEnum):
    """Lifecycle of an event; absent reads as Active."""

    ACTIVE = "Active"
    ATTESTED = "Attested"
    ARCHIVED = "Archived"


class SecurityEventSpec(Wire, frozen=True, kw_only=True):
    """The fact itself: never changed once created; `detected_at` is the time at the source."""

    class_: EventClass
    type: str
    severity: Severity
    cluster_identity: ClusterIdentity
    source: SourceRef
    subject: Subject
    detected_at: dt.datetime
    signals: dict[str, str] = {}
    evidence: tuple[EvidenceRef, ...] = ()
    parents: tuple[ObjectReference, ...] = ()
    correlation_id: str = ""
    traceparent: str = ""


class SecurityEventStatus(Wire, frozen=True, kw_only=True):
    """What became of the fact: attested, archived, acknowledged."""

    phase: EventPhase | None = None
    acknowledged: bool = False
    acknowledged_by: str = ""
    acknowledged_at: dt.datetime | None = None
    attestation_digest: str = ""
    attestation_bundle_ref: ObjectReference | None = None
    archived_at: dt.datetime | None = None
    conditions: tuple[Condition, ...] = ()


class SecurityEvent(Resource, frozen=True, kw_only=True):
    """One security fact."""

    kind_info: ClassVar[Kind] = Kind("SecurityEvent", "securityevents", short_names=("se",))
    spec: SecurityEventSpec
    status: SecurityEventStatus = SecurityEventStatus()
