"""AuditDetectionConfig: the runtime settings of audit-detection that are live."""

import datetime as dt
from typing import ClassVar

from ugallu.api.meta import Condition, Config, Kind, Resource, Wire


class SecretKeySelector(Wire, frozen=True, kw_only=True):
    """One key of a Secret in the component's own namespace."""

    name: str = ""
    key: str
    optional: bool = False


class AuditDetectionEventBus(Wire, frozen=True, kw_only=True):
    """The gRPC fan-out of audit events; without a token nobody is authenticated."""

    enabled: bool = False
    listen_addr: str = ":8444"
    token_secret: SecretKeySelector | None = None


class AuditDetectionConsumerFilter(Wire, frozen=True, kw_only=True):
    """Which events a consumer gets; empty means all."""

    object_ref_has_namespace: bool = False
    verb_allowlist: tuple[str, ...] = ()


class AuditDetectionConsumer(Wire, frozen=True, kw_only=True):
    """A subscriber that the bus admits. `max_events_per_sec` 0 sets no cap."""

    name: str
    filter: AuditDetectionConsumerFilter | None = None
    max_events_per_sec: int = 0


class AuditDetectionConfigSpec(Config, frozen=True, kw_only=True):
    """What audit-detection does besides its rules."""

    event_bus: AuditDetectionEventBus | None = None
    consumers: tuple[AuditDetectionConsumer, ...] = ()


class AuditDetectionConfigStatus(Wire, frozen=True, kw_only=True):
    """Whether the config is in force, and who listens."""

    conditions: tuple[Condition, ...] = ()
    last_config_load_at: dt.datetime | None = None
    consumers_connected: int = 0


class AuditDetectionConfig(Resource, frozen=True, kw_only=True):
    """Settings of audit-detection; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "AuditDetectionConfig", "auditdetectionconfigs", short_names=("auditdetectioncfg",)
    )
    spec: AuditDetectionConfigSpec = AuditDetectionConfigSpec()
    status: AuditDetectionConfigStatus = AuditDetectionConfigStatus()
