"""Audit events for tests: a plain one, changed where a test cares."""

import copy
from typing import Any

import msgspec

from ugallu.api.audit import AuditRecord

_PLAIN: dict[str, Any] = {
    "kind": "Event",
    "apiVersion": "audit.k8s.io/v1",
    "level": "Metadata",
    "auditID": "3f6c1e9a-0000-4000-8000-000000000001",
    "stage": "ResponseComplete",
    "requestURI": "/api/v1/namespaces/shop/pods/web-0",
    "verb": "get",
    "user": {"username": "alice", "groups": ["system:authenticated"]},
    "sourceIPs": ["10.0.0.7"],
    "userAgent": "kubectl/v1.34.0",
    "objectRef": {"resource": "pods", "namespace": "shop", "name": "web-0", "apiVersion": "v1"},
    "responseStatus": {"metadata": {}, "code": 200},
    "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
    "stageTimestamp": "2026-01-01T00:00:00.001000Z",
}


def audit_event(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """Return the JSON of an audit event: alice gets the pod web-0 in shop. A field changed to None is left out."""
    event = {**copy.deepcopy(_PLAIN), **changes}
    return {key: value for key, value in event.items() if value is not None}


def audit_record(**changes: Any) -> AuditRecord:  # noqa: ANN401 - any JSON
    """Return the same as a source decodes it."""
    return msgspec.json.decode(msgspec.json.encode(audit_event(**changes)), type=AuditRecord)
