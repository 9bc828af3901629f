"""Correlations for tests: SigmaRules over a rule about Pods that are read, and events at a second of a day."""

import json
from typing import Any

from ugallu.api.audit import AuditRecord
from ugallu.api.sigma import SigmaRuleSpec
from ugallu.testing.audit import audit_event, audit_record
from ugallu.testing.rules import rule_spec

SOURCE = {"product": "kubernetes", "service": "audit"}


def document(**correlation: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """Return the Sigma document of a correlation: three Pods read within a minute by one user, changed as asked.

    A part that is None is left out; `group_by` stands for `group-by`.
    """
    parts = {
        "type": "event_count",
        "rules": ["pod-read"],
        "group-by": ["user.username"],
        "timespan": "1m",
        "condition": {"gte": 3},
        "generate": True,
        **{name.replace("_", "-") if name == "group_by" else name: value for name, value in correlation.items()},
    }
    return {
        "title": "A correlation",
        "correlation": {name: value for name, value in parts.items() if value is not None},
    }


def correlation_spec(spec: dict[str, Any] | None = None, /, **correlation: Any) -> SigmaRuleSpec:  # noqa: ANN401
    """Return the same as the spec of a SigmaRule; `spec` has other fields of it, by their JSON names."""
    emit = {"securityEventType": "LateralMovementSuspected", "severity": "high", "class": "Anomaly"}
    sigma = json.dumps(document(**correlation))
    return rule_spec(**{"match": {}, "emit": emit, "sigma": sigma, **(spec or {})})


def filter_spec(
    hidden: dict[str, Any],
    rules: Any = "any",  # noqa: ANN401 - any JSON
    promise: dict[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> SigmaRuleSpec:
    """Return the spec of a filter that takes away matches with these fields; `promise` is its `custom.ugallu`."""
    body = {"rules": rules, "known": hidden, "condition": "not known"}
    emit = {"securityEventType": "KubernetesAPICall", "severity": "info"}
    custom = {"custom": {"ugallu": promise}} if promise is not None else {}
    sigma = json.dumps({"title": "A filter", "logsource": SOURCE, "filter": body, **custom})
    return rule_spec(**{"match": {}, "emit": emit, "sigma": sigma, **more})


def event_at(second: float, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """Return the JSON of an audit event at this second of the year 2026."""
    hours, rest = divmod(second, 3600)
    days, hours = divmod(int(hours), 24)
    stamp = f"2026-01-{days + 1:02}T{hours:02}:{int(rest) // 60:02}:{rest % 60:09.6f}Z"
    return audit_event(**{"requestReceivedTimestamp": stamp, "stageTimestamp": stamp, **changes})


def record_at(second: float, **changes: Any) -> AuditRecord:  # noqa: ANN401 - any JSON
    """Return the same as a source decodes it."""
    return audit_record(**event_at(second, **changes))
