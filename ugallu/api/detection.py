"""AuditDetectionConfig: the runtime settings of audit-detection that are live."""

from typing import ClassVar

from ugallu.api.k8s import SecretKeySelector
from ugallu.api.meta import AGE, Column, Config, ConfigStatus, Kind, Resource, Wire
from ugallu.api.scalars import INT32_MAX, Int32, Off, clamped


class AuditDetectionEventBus(Wire, frozen=True, kw_only=True):
    """The gRPC fan-out of audit events; without a token nobody is authenticated."""

    enabled: Off = False
    """Open the bus server."""
    listen_addr: str = ":8444"
    """gRPC bind address."""
    token_secret: SecretKeySelector | None = None
    """Secret key with the bearer token; absent: nobody is authenticated."""


class AuditDetectionConsumerFilter(Wire, frozen=True, kw_only=True):
    """Which events a consumer gets; empty means all."""

    object_ref_has_namespace: bool = False
    """true drops cluster-scoped events."""
    verb_allowlist: tuple[str, ...] = ()
    """Verbs forwarded; empty = all."""


class AuditDetectionConsumer(Wire, frozen=True, kw_only=True):
    """A subscriber that the bus admits. `max_events_per_sec` 0 sets no cap."""

    name: str
    """Subscriber id, unique; metric label value."""
    filter: AuditDetectionConsumerFilter | None = None
    """Server-side event filter; empty = all."""
    max_events_per_sec: Int32 = 0
    """Per-consumer rate cap; 0 = none."""

    @property
    def cap(self) -> int:
        """`max_events_per_sec` as far as it makes sense: a negative one caps nothing."""
        return clamped(self.max_events_per_sec, INT32_MAX)


class AuditDetectionConfigSpec(Config, frozen=True, kw_only=True):
    """What audit-detection does besides its rules."""

    event_bus: AuditDetectionEventBus | None = None
    """gRPC fan-out of audit events."""
    consumers: tuple[AuditDetectionConsumer, ...] = ()
    """Subscribers allowed on the bus."""


class AuditDetectionConfigStatus(ConfigStatus, frozen=True, kw_only=True):
    """Whether the settings are in force, and who listens."""

    consumers_connected: Int32 = 0
    """Live subscriber count."""


class AuditDetectionConfig(Resource, frozen=True, kw_only=True):
    """Settings of audit-detection; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "AuditDetectionConfig",
        "auditdetectionconfigs",
        short_names=("auditdetectioncfg",),
        columns=(
            Column("BusEnabled", ".spec.eventBus.enabled", "boolean"),
            Column("Consumers", ".status.consumersConnected", "integer"),
            AGE,
        ),
    )
    spec: AuditDetectionConfigSpec = AuditDetectionConfigSpec()
    """What is wanted."""
    status: AuditDetectionConfigStatus = AuditDetectionConfigStatus()
    """What has become of it."""
