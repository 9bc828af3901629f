"""The config object of audit-detection, and what opens its event bus: TLS, a token, and who may subscribe."""

from typing import Any, Final

import msgspec

from ugallu.api.detection import (
    AuditDetectionConfig,
    AuditDetectionConfigSpec,
    AuditDetectionConsumer,
    AuditDetectionConsumerFilter,
    AuditDetectionEventBus,
    BusBodies,
)
from ugallu.api.k8s import SecretKeySelector
from ugallu.manifests.document import Document, body
from ugallu.manifests.names import BUS_TOKEN, metadata

CONFIG: Final = "audit-config"
COMPONENT: Final = "event-bus"
_VERBS: Final = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
CONSUMERS: Final = (
    AuditDetectionConsumer(
        name="tenant-escape", filter=AuditDetectionConsumerFilter(verb_allowlist=_VERBS), max_events_per_sec=1000
    ),
    AuditDetectionConsumer(
        name="honeypot", filter=AuditDetectionConsumerFilter(verb_allowlist=_VERBS), max_events_per_sec=500
    ),
    # It passes on all of it, to whoever detects elsewhere.
    AuditDetectionConsumer(name="ingest", filter=AuditDetectionConsumerFilter(bodies=BusBodies.ALL)),
)


def config() -> Document:
    """Return the object as replicas need it: they agree in its status whether the audit stream is silent."""
    return _object({})


def opened() -> dict[str, Any]:
    """Return the patch that serves the bus, with TLS from the Secret that is mounted for it."""
    bus = AuditDetectionEventBus(enabled=True, token_secret=SecretKeySelector(name=BUS_TOKEN, key="token"))
    spec = AuditDetectionConfigSpec(event_bus=bus, consumers=CONSUMERS)
    return {"patch": body([_object(msgspec.to_builtins(spec))])}


def _object(spec: dict[str, Any]) -> Document:
    kind = AuditDetectionConfig.kind_info
    return {
        "apiVersion": kind.api_version,
        "kind": kind.name,
        "metadata": metadata("default", CONFIG),
        "spec": spec,
    }
