"""AuditDetectionConfig: the runtime settings of audit-detection that are live."""

import datetime as dt
import enum
from typing import ClassVar, Final

import msgspec

from ugallu.api.k8s import SecretKeySelector
from ugallu.api.meta import AGE, Column, Config, ConfigStatus, Kind, Resource, Wire
from ugallu.api.scalars import INT32_MAX, Int32, Off, clamped

BUS_TLS: Final = "ugallu-audit-bus-tls"
MAX_BODY_BYTES: Final = 1 << 20


class AuditDetectionBusTLS(Wire, frozen=True, kw_only=True):
    """Certificates of the bus, from Secrets of the operator's own namespace."""

    secret_name: str = BUS_TLS
    """Secret with tls.crt and tls.key; read again when it changes."""
    client_ca_secret_name: str = msgspec.field(default="", name="clientCASecretName")
    """Secret with ca.crt: consumers must show a certificate of this CA."""


class AuditDetectionEventBus(Wire, frozen=True, kw_only=True):
    """The gRPC fan-out of audit events: over TLS, and to nobody who proves nothing, unless it says `insecure`."""

    enabled: Off = False
    """Open the bus server."""
    listen_addr: str = ":8444"
    """gRPC bind address."""
    token_secret: SecretKeySelector | None = None
    """Secret key with the bearer token that consumers must show."""
    tls: AuditDetectionBusTLS | None = None
    """Certificates; absent: the Secret ugallu-audit-bus-tls, and no client certificates."""
    insecure: bool = False
    """Serve without TLS where there is no certificate, and without proof where none is asked for: for a lab."""


class BusBodies(enum.StrEnum):
    """Which bodies a consumer gets, always without secrets."""

    NONE = "none"
    REQUEST = "request"
    ALL = "all"


class AuditDetectionConsumerFilter(Wire, frozen=True, kw_only=True):
    """Which events a consumer gets, and how much of each; an event must pass every part that is set."""

    object_ref_has_namespace: bool = False
    """true drops cluster-scoped events."""
    verb_allowlist: tuple[str, ...] = ()
    """Verbs forwarded; empty = all."""
    resource_allowlist: tuple[str, ...] = ()
    """Resources forwarded, as group/resource with `*` and `?`, the core group empty: `/secrets`; empty = all."""
    stages: tuple[str, ...] = ()
    """Stages forwarded; empty = ResponseStarted, ResponseComplete, Panic."""
    namespace_denylist: tuple[str, ...] = ()
    """Namespaces not forwarded."""
    bodies: BusBodies = BusBodies.REQUEST
    """Bodies forwarded."""
    max_body_bytes: Int32 = MAX_BODY_BYTES
    """A larger body is left out, and the event says so."""

    @property
    def body_cap(self) -> int:
        """`max_body_bytes` as far as one message can carry it."""
        return clamped(self.max_body_bytes, 15 << 20)


class AuditDetectionPriority(Wire, frozen=True, kw_only=True):
    """Events about these objects; an empty list means any."""

    resources: tuple[str, ...] = ()
    """group/resource with `*` and `?`."""
    namespaces: tuple[str, ...] = ()
    """Namespaces, with `*` and `?`."""
    names: tuple[str, ...] = ()
    """Names, with `*` and `?`."""


class AuditDetectionConsumer(Wire, frozen=True, kw_only=True):
    """A subscriber that the bus admits. `max_events_per_sec` 0 sets no cap."""

    name: str
    """Subscriber id, unique; metric label value."""
    filter: AuditDetectionConsumerFilter | None = None
    """Server-side event filter; empty = all."""
    max_events_per_sec: Int32 = 0
    """Per-consumer rate cap; 0 = none."""
    priority: tuple[AuditDetectionPriority, ...] = ()
    """What neither the cap nor a full buffer may push out for the sake of other events."""

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
    last_event_at: dt.datetime | None = None
    """When a replica behind the audit webhook last had an event, to the minute."""


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
