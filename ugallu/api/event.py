"""SecurityEvent: one immutable security fact, the root of every workflow."""

import datetime as dt
import enum
from typing import Annotated, ClassVar

from msgspec import Meta

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.meta import AGE, Column, Conditions, Kind, ObjectReference, Resource, Wire
from ugallu.api.scalars import Int64
from ugallu.api.snapshots import ClusterSubject
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
    """MIME type of the blob."""
    url: str
    """Blob location (s3://bucket/key, file://, https://)."""
    sha256: str = ""
    """Digest `sha256:<hex>` of the blob."""
    size: Int64 = 0
    """Blob size in bytes."""


class ClusterIdentity(Wire, frozen=True, kw_only=True):
    """The cluster where a fact was observed; the id partitions evidence and names."""

    cluster_name: str = ""
    """Human-readable cluster name."""
    cluster_id: str = ""
    """Stable cluster id; partitions WORM keys ("unknown" if empty)."""

    @property
    def subject(self) -> Subject:
        """The cluster as what an event is about."""
        cluster = ClusterSubject(cluster_id=self.cluster_id, cluster_name=self.cluster_name)
        return Subject(kind="Cluster", name=self.cluster_name or self.cluster_id or "cluster", cluster=cluster)


class SourceRef(Wire, frozen=True, kw_only=True):
    """The component that emitted an event."""

    api_version: str = ""
    """API version of the emitter."""
    kind: str
    """Emitter kind; the component name again."""
    name: str
    """Component name, e.g. ugallu-dns-detect."""
    version: str = ""
    """Component build version."""
    instance: str = ""
    """Pod or host instance id."""


class EventPhase(enum.StrEnum):
    """Lifecycle of an event; absent reads as Active."""

    ACTIVE = "Active"
    ATTESTED = "Attested"
    ARCHIVED = "Archived"


class SecurityEventSpec(Wire, frozen=True, kw_only=True):
    """The fact itself: never changed once created; `detected_at` is the time at the source."""

    class_: EventClass
    """Closed taxonomy class of the event."""
    type: str
    """Name in the catalogue of types."""
    severity: Severity
    """Five-grade severity; selects the retention window."""
    cluster_identity: ClusterIdentity
    """Cluster where the fact was observed."""
    source: SourceRef
    """Component that emitted the event."""
    subject: Subject
    """Snapshot of the object concerned, taken at emit time."""
    detected_at: dt.datetime
    """Observation time at the source, not emit time."""
    signals: Annotated[dict[str, str], Meta(max_length=MAX_SIGNALS)] = {}
    """Flat string facts, 8 KiB in all."""
    evidence: tuple[EvidenceRef, ...] = ()
    """Pointers to stored blobs supporting the fact."""
    parents: tuple[ObjectReference, ...] = ()
    """Earlier events in the correlation graph."""
    correlation_id: str = ""
    """Grouping key; also seeds the deterministic object name."""
    traceparent: str = ""
    """W3C trace context header value."""


class SecurityEventStatus(Wire, frozen=True, kw_only=True):
    """What became of the fact: attested, archived, acknowledged."""

    phase: EventPhase | None = None
    """Lifecycle phase; empty reads as Active."""
    acknowledged: bool = False
    """A human closed the event."""
    acknowledged_by: str = ""
    """User name that acknowledged."""
    acknowledged_at: dt.datetime | None = None
    """Time of acknowledgement."""
    attestation_digest: str = ""
    """`sha256:<hex>` of the signed Statement."""
    attestation_bundle_ref: ObjectReference | None = None
    """AttestationBundle that seals this event."""
    archived_at: dt.datetime | None = None
    """Time the WORM snapshot of the CR was stored."""
    conditions: Conditions = ()
    """Standard conditions."""


class SecurityEvent(Resource, frozen=True, kw_only=True):
    """One security fact."""

    kind_info: ClassVar[Kind] = Kind(
        "SecurityEvent",
        "securityevents",
        short_names=("se",),
        selectable=(
            "spec.class",
            "spec.type",
            "spec.severity",
            "spec.source.name",
            "spec.subject.kind",
            "spec.subject.namespace",
            "spec.correlationID",
            "status.phase",
        ),
        columns=(
            Column("Class", ".spec.class"),
            Column("Type", ".spec.type"),
            Column("Severity", ".spec.severity"),
            Column("Phase", ".status.phase"),
            Column("Subject", ".spec.subject.name"),
            AGE,
        ),
    )
    spec: SecurityEventSpec
    """The fact itself."""
    status: SecurityEventStatus = SecurityEventStatus()
    """What became of the fact."""
