"""Importing upstream Sigma: names, severities, types, and the licence that stays with each rule."""

import json
from pathlib import Path
from typing import Any

import pytest

from ugallu.sdk import EventClass, Severity
from ugallu_audit_detection.sigma.compile import compile_rule
from ugallu_audit_detection.sigma.errors import Reason, RuleError
from ugallu_audit_detection.sigma.imported import import_sigma, read_sigma

RULES = Path(__file__).parents[3] / "data" / "sigma"
SOURCE = {"product": "kubernetes", "service": "audit"}


def document(**more: Any) -> dict[str, Any]:
    base = {
        "title": "A title",
        "id": "00000000-0000-4000-8000-000000000001",
        "logsource": SOURCE,
        "detection": {"s": {"verb": "create"}, "condition": "s"},
    }
    return {**base, **more}


def imported(**more: Any) -> Any:
    return read_sigma(json.dumps(document(**more)), where="file").rules[0]


def test_every_given_rule_keeps_its_text_its_author_and_its_licence() -> None:
    """An imported rule carries the upstream text unchanged, and names author and licence."""
    for path in sorted(RULES.glob("*.yml")):
        (rule,) = read_sigma(path.read_text(), where=path.name).rules
        assert rule.spec.sigma.strip() == path.read_text().strip()
        assert rule.annotations["ugallu.io/sigma-author"] in path.read_text()
        assert rule.annotations["ugallu.io/sigma-license"] == "DRL-1.1"
        assert rule.name == f"sigma-{rule.annotations['ugallu.io/sigma-id']}"
        assert rule.spec.enabled
        assert rule.spec.emit.severity in (Severity.LOW, Severity.MEDIUM)
        assert rule.spec.references


def test_types_follow_what_a_rule_looks_at() -> None:
    """Host paths, denials and exec have event types of their own; the rest are API calls, of class Audit."""
    types = {
        path.stem.removeprefix("kubernetes_audit_"): import_sigma(path.read_text(), where="f")[0][1].emit
        for path in RULES.glob("*.yml")
    }
    assert types["hostpath_mount"].security_event_type == "HostPathMount"
    assert types["hostpath_mount"].class_ is EventClass.DETECTION
    assert types["unauthorized_unauthenticated_actions"].security_event_type == "PrivilegeEscalationAttempt"
    assert types["secrets_enumeration"].security_event_type == "KubernetesAPICall"
    assert types["secrets_enumeration"].class_ is EventClass.AUDIT
    executed = {"s": {"resource": "pods", "subresource": "exec"}, "condition": "s"}
    assert imported(detection=executed).spec.emit.security_event_type == "ExecIntoPod"


@pytest.mark.parametrize(
    ("level", "status", "severity", "enabled"),
    [("informational", "stable", "info", True), ("critical", "experimental", "medium", True),
     ("low", "experimental", "low", True), ("high", "deprecated", "high", False), ("high", "unsupported", "high", False)],
)  # fmt: skip
def test_level_and_status(level: str, status: str, severity: str, enabled: bool) -> None:
    """An experimental rule is medium at most; a deprecated one is imported and rests."""
    rule = imported(level=level, status=status)
    assert rule.spec.emit.severity == severity
    assert rule.spec.enabled is enabled


def test_techniques_and_our_own_keys() -> None:
    """ATT&CK tags become a signal; `custom.ugallu` has the last word."""
    rule = imported(
        tags=["attack.t1611", "attack.t1552.007", "attack.execution"],
        status="experimental",
        custom={"ugallu": {"type": "PrivilegedPodChange", "severity": "critical", "class": "Anomaly",
                           "rateLimit": {"burst": 3}, "signals": {"x": "${verb}"}}},
    )  # fmt: skip
    assert rule.spec.emit.signals["attack.technique"] == "T1611,T1552.007"
    assert rule.spec.emit.signals["x"] == "${verb}"
    assert rule.spec.emit.security_event_type == "PrivilegedPodChange"
    assert rule.spec.emit.severity is Severity.CRITICAL
    assert rule.spec.rate_limit.burst == 3
    with pytest.raises(RuleError, match=r"custom\.ugallu"):
        import_sigma(json.dumps(document(custom={"ugallu": {"typo": 1}})), where="file")


def test_a_stream_becomes_one_rule_per_document_with_its_filters() -> None:
    """Filters go along with the rules they name, in text that compiles by itself."""
    other = document(id="00000000-0000-4000-8000-000000000002")
    own = {"title": "f", "logsource": SOURCE,
           "filter": {"rules": [other["id"]], "k": {"user.username": "ci"}, "condition": "not k"}}  # fmt: skip
    stream = "---\n" + "\n---\n".join(json.dumps(each) for each in (document(), other, own)) + "\n---\n"
    (first, plain), (second, filtered) = import_sigma(stream, where="file")
    assert "filter" not in plain.sigma
    assert "filter" in filtered.sigma
    assert not any("user.username" in line for line in compile_rule(first, plain).explain())
    assert any("user.username" in line for line in compile_rule(second, filtered).explain())


def test_what_cannot_be_served_is_named_and_the_rest_is_imported() -> None:
    """A correlation or a rule for another log is refused by place and reason; its neighbours serve."""
    correlation = {"title": "c", "correlation": {"type": "value_count", "rules": ["a"], "group-by": ["user.username"],
                   "timespan": "5m", "condition": {"gte": 10, "field": "verb"}}}  # fmt: skip
    linux = document(logsource={"product": "linux"}, id="00000000-0000-4000-8000-000000000003")
    stream = "\n---\n".join(json.dumps(each) for each in (correlation, document(), document()))
    read = read_sigma(stream, where="file")
    assert [rule.name for rule in read.rules] == ["sigma-00000000-0000-4000-8000-000000000001"]
    assert [error.reason for error in read.refused] == [Reason.UNSUPPORTED, Reason.COMPILE_ERROR]
    assert read.correlations[0].type == "value_count"
    assert read.correlations[0].group_by == ("user.username",)
    with pytest.raises(RuleError, match="document 1"):
        import_sigma(stream, where="file")
    (refused,) = read_sigma(json.dumps(linux), where="file").refused
    assert refused.reason is Reason.LOG_SOURCE
