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


def numbered(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


COUNT = {"type": "value_count", "rules": ["reads"], "group-by": ["user.username"], "timespan": "5m",
         "condition": {"gte": 10, "field": "objectRef.name"}}  # fmt: skip


def stream(*documents: dict[str, Any]) -> str:
    return "---\n" + "\n---\n".join(map(json.dumps, documents)) + "\n---\n"


def test_a_stream_becomes_one_rule_per_document() -> None:
    """Rules, a filter and a correlation, each as it is written, linked by the names they call each other by."""
    other = document(id=numbered(2), name="reads", custom={"ugallu": {"type": "SecretMountedAsEnv"}})
    own = {"title": "f", "id": numbered(3), "logsource": SOURCE, "level": "high",
           "filter": {"rules": [other["id"]], "k": {"user.username": "ci"}, "condition": "not k"}}  # fmt: skip
    count = {"title": "Many reads", "level": "high", "correlation": COUNT}
    read = read_sigma(stream(document(), other, own, count), where="file")
    assert [rule.name for rule in read.rules] == [f"sigma-{numbered(n)}" for n in (1, 2, 3)] + ["sigma-many-reads"]
    assert [rule.place for rule in read.rules] == [0, 1, 2, 3]
    assert [json.loads(rule.spec.sigma).get("title") for rule in read.rules] == [
        "A title",
        "A title",
        "f",
        "Many reads",
    ]
    plain, _, filtered, many = (rule.spec for rule in read.rules)
    assert not any("user.username" in line for line in compile_rule("r", plain).explain())
    assert filtered.emit.severity is Severity.INFO
    assert (many.emit.severity, many.emit.security_event_type) == (Severity.HIGH, "SecretMountedAsEnv")


def test_what_cannot_be_served_is_named_and_the_rest_is_imported() -> None:
    """A sum, a rule for another log, a second rule of one id: refused by place and reason; neighbours serve."""
    total = {"title": "c", "correlation": {**COUNT, "type": "value_sum"}}
    linux = document(logsource={"product": "linux"}, id=numbered(3))
    text = stream(total, document(), document(), linux)
    read = read_sigma(text, where="file")
    assert [rule.name for rule in read.rules] == [f"sigma-{numbered(1)}"]
    assert [error.reason for error in read.refused] == [
        Reason.UNSUPPORTED,
        Reason.COMPILE_ERROR,
        Reason.LOG_SOURCE,
    ]
    assert "value_sum" in read.refused[0].what
    with pytest.raises(RuleError, match="document 1"):
        import_sigma(text, where="file")


def test_actions_of_a_stream_are_done() -> None:
    """`global` is part of the rules after it until `reset`, `repeat` is the last rule changed; others are refused."""
    text = stream(
        {"action": "global", "author": "A", "level": "high", "logsource": SOURCE},
        {"title": "one", "id": numbered(1), "detection": {"s": {"verb": "create"}, "condition": "s"}},
        {"action": "repeat", "title": "two", "id": numbered(2), "detection": {"s": {"verb": "delete"}}},
        {"action": "reset"},
        document(id=numbered(3), level="low"),
    )
    one, two, three = read_sigma(text, where="file").rules
    assert [rule.annotations.get("ugallu.io/sigma-author") for rule in (one, two, three)] == ["A", "A", None]
    assert [rule.spec.emit.severity for rule in (one, two, three)] == [Severity.HIGH, Severity.HIGH, Severity.LOW]
    explained = [compile_rule("r", rule.spec).explain()[0] for rule in (one, two)]
    assert ["create" in explained[0], "delete" in explained[1]] == [True, True]
    with pytest.raises(RuleError, match="action 'again'"):
        read_sigma(stream({"action": "again"}), where="file")
