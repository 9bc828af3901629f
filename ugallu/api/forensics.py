"""ForensicsConfig: which events start a capture, what is captured, and when the pod is let go."""

import datetime as dt
from typing import Annotated, ClassVar

from msgspec import Meta, field

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.meta import AGE, Column, Conditions, Config, Kind, Resource, Wire, always
from ugallu.api.platform import ObjectLockMode
from ugallu.api.scalars import Duration, Int64, Off, Quantity


class ForensicsTrigger(Wire, frozen=True, kw_only=True):
    """What an event must be to start a capture: every part holds."""

    classes: tuple[EventClass, ...] = (EventClass.DETECTION, EventClass.ANOMALY)
    """Accepted classes."""
    min_severities: tuple[Severity, ...] = (Severity.HIGH, Severity.CRITICAL)
    """Accepted severities (a set, not a threshold)."""
    require_attested: bool = field(default_factory=always(True))
    """Wait for the sealed bundle before acting."""
    namespace_allowlist: tuple[str, ...] = ()
    """Namespaces of suspect pods; empty = all."""


class SnapshotConfig(Wire, frozen=True, kw_only=True):
    """What is captured, and how much of it at most."""

    image: str = ""
    """Snapshot container image; empty = operator default."""
    filesystem_snapshot: bool = field(default_factory=always(True))
    """Run the filesystem step."""
    memory_snapshot: Off = False
    """Run the memory step."""
    filesystem_paths: tuple[str, ...] = ()
    """Paths captured; empty = container root."""
    exclude_paths: tuple[str, ...] = ()
    """Globs left out."""
    max_bytes: Quantity = "2Gi"
    """Upload ceiling; exceeding fails the capture."""
    timeout_seconds: int = 300
    """Capture limit, end to end."""


class CleanupConfig(Wire, frozen=True, kw_only=True):
    """When a pod is let go, and who may say so."""

    auto_unfreeze_after: Duration = "0s"
    """Unfreeze after this long without ack; 0 = never."""
    acknowledge_authorized_sas: tuple[str, ...] = field(default=(), name="acknowledgeAuthorizedSAs")
    """Users allowed to set the incident-acknowledged annotation."""


class EvidenceConfig(Wire, frozen=True, kw_only=True):
    """Where captures are stored; absent fields are those of WORMConfig."""

    bucket: str = ""
    """Bucket of the captures."""
    object_lock: ObjectLockMode | None = None
    """Object-lock mode of the captures."""
    retain_days: Annotated[int, Meta(ge=1)] | None = None
    """Retention of the captures, in days."""


class ForensicsConfigSpec(Config, frozen=True, kw_only=True):
    """When and what to capture."""

    trigger: ForensicsTrigger = field(default_factory=always(ForensicsTrigger()))
    """Predicate an event must meet (all parts)."""
    whitelisted_types: tuple[str, ...] = ()
    """Event types eligible for capture; empty = none."""
    snapshot: SnapshotConfig = field(default_factory=always(SnapshotConfig()))
    """Capture settings."""
    cleanup: CleanupConfig | None = None
    """Unfreeze settings."""
    max_concurrent_incidents: int = 5
    """Captures in flight; excess queued."""
    evidence: EvidenceConfig | None = None
    """Where captures are stored, instead of what WORMConfig says."""


class ForensicsConfigStatus(Wire, frozen=True, kw_only=True):
    """Whether the settings are in force, and what runs."""

    conditions: Conditions = ()
    """Type Ready."""
    freeze_backend: str = ""
    """Detected isolation API: Cilium or CoreV1."""
    last_config_load_at: dt.datetime | None = None
    """Last successful read of the spec."""
    in_flight_incidents: Int64 = 0
    """Captures running now."""


class ForensicsConfig(Resource, frozen=True, kw_only=True):
    """Settings of forensics; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "ForensicsConfig",
        "forensicsconfigs",
        short_names=("forensicscfg",),
        columns=(
            Column("Backend", ".status.freezeBackend"),
            Column("Concurrency", ".spec.maxConcurrentIncidents", "integer"),
            Column("Attested", ".spec.trigger.requireAttested", "boolean"),
            AGE,
        ),
    )
    spec: ForensicsConfigSpec = ForensicsConfigSpec()
    """What is wanted."""
    status: ForensicsConfigStatus = ForensicsConfigStatus()
    """What has become of it."""
