"""Rules for tests: a plain SigmaRule, changed where a test cares."""

from typing import Any

from ugallu.api.meta import Metadata, decode_strict
from ugallu.api.sigma import SigmaRule, SigmaRuleSpec

POD_READ: dict[str, Any] = {
    "match": {"verb": ["get"], "objectRef": {"resource": ["pods"]}},
    "emit": {"securityEventType": "KubernetesAPICall", "severity": "low", "class": "Audit"},
}


def rule_spec(**changes: Any) -> SigmaRuleSpec:  # noqa: ANN401 - any JSON
    """Return a rule about somebody who gets a pod; fields by their JSON names."""
    return decode_strict(SigmaRuleSpec, {**POD_READ, **changes})


def sigma_rule(name: str = "pod-read", /, **changes: Any) -> SigmaRule:  # noqa: ANN401 - any JSON
    """Return the same as an object."""
    return SigmaRule(metadata=Metadata(name=name), spec=rule_spec(**changes))
