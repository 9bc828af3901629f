"""What was wrong with rules once, one test a row; rows about sources, the bus and the pack are tested beside those."""

from typing import Any

import pytest

from ugallu.errors import PermanentError
from ugallu.testing.audit import audit_record
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import Armed, arm
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.sigma.match import Matcher


def armed(name: str = "rule", labels: dict[str, str] | None = None, **changes: Any) -> Armed:
    return arm(name, rule_spec(**changes), labels or {})


def hits(match: dict[str, Any], **event: Any) -> bool:
    return armed(match=match).compiled.matches(audit_record(**event))


@pytest.mark.parametrize(
    ("match", "event"),
    [
        ({"stage": ["Panic"]}, {"stage": "Panic"}),
        ({"responseCode": ["4xx"]}, {"responseStatus": {"code": 403}}),
        ({"responseMessageGlob": ["*no matching signatures*"]},
         {"responseStatus": {"code": 400, "message": "admission webhook: no matching signatures"}}),
        ({"impersonatedUser": {"groups": ["system:masters"]}},
         {"impersonatedUser": {"username": "x", "groups": ["system:masters"]}}),
        ({"requestURIGlob": ["*command=/bin/sh*"]}, {"requestURI": "/api/v1/x/exec?command=%2Fbin%2Fsh"}),
        ({"userAgentGlob": ["curl/*"]}, {"userAgent": "curl/8.0"}),
        ({"sourceIPs": ["203.0.113.0/24"]}, {"sourceIPs": ["10.0.0.1", "203.0.113.9"]}),
        ({"annotations": {"imagepolicywebhook.image-policy.k8s.io/failed-open": ["true"]}},
         {"annotations": {"imagepolicywebhook.image-policy.k8s.io/failed-open": "true"}}),
        ({"responseObjectGlob": [{"jsonPath": "$.spec.volumes[*].name", "patterns": ["kube-api-access-*"]}]},
         {"responseObject": {"spec": {"volumes": [{"name": "kube-api-access-x"}]}}}),
        ({"fieldAbsent": ["$.metadata.labels['pod-security.kubernetes.io/enforce']"]},
         {"verb": "patch", "requestObject": {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": None}}}}),
    ],
)  # fmt: skip
def test_w13_rules_see_all_of_an_event(match: dict[str, Any], event: dict[str, Any]) -> None:
    """Stage, answer, whom a caller acts as, URI, agent, address, annotations, the response, and what was taken away."""
    assert hits(match, **event)
    assert not hits(match)


def test_w13_what_no_single_event_shows_can_be_asked_too() -> None:
    """What stood there before, which Pod it is, which rights are behind it."""
    for asked in (
        {"objectRef": {"resource": ["pods"]}, "previous": [{"jsonPath": "$.a", "patterns": ["*"]}]},
        {"targetPod": [{"jsonPath": "$pod.hostPID", "patterns": ["true"]}]},
        {"roleGrants": [{"verbs": ["*"]}]},
        {"serviceAccountGrants": [{"verbs": ["*"]}]},
    ):
        assert armed(match=asked).compiled.asks


def test_w14_exclusions_are_as_many_as_life_needs() -> None:
    """Several `noneOf` in a rule, and exceptions that each say who answers for them."""
    exception = {"name": "backup", "owner": "team", "reason": "nightly", "match": {"userGlob": ["backup"]}}
    rule = armed(
        match={"verb": ["get"], "noneOf": [{"namespaceGlob": ["kube-*"]}, {"userGlob": ["system:*"]}]},
        suppress={"exceptions": [exception, {**exception, "name": "audit", "match": {"userGlob": ["auditor"]}}]},
    )
    events = [audit_record(user={"username": name}) for name in ("alice", "backup", "auditor", "system:node:a")] + [
        audit_record(objectRef={"resource": "pods", "namespace": "kube-system", "name": "a"})
    ]
    assert [rule.says(event) for event in events] == [True, False, False, False, False]


def test_w15_a_rule_that_is_looked_at_again_gets_no_fresh_bucket() -> None:
    """Nor does a new version with the same budget: a burst a half minute was no limit."""
    engine = Engine()
    limit = {"burst": 2, "sustainedPerSec": 1}
    found = 0
    for number in range(6):
        engine.arm(armed(rateLimit=limit, description=f"version {number}"))
        findings = engine.inspect(audit_record(auditID=str(number), user={"username": f"u{number}"}))
        found += sum(finding.signals.get("rule") == "rule" for finding in findings)
    assert found == 2


def test_w16_and_w17_counts_survive_a_restart_and_a_new_version_in_flight() -> None:
    """The tally is the rule's, whichever version and process counts on it."""
    first = Engine()
    first.arm(armed())
    batch = first.inspect_batch([audit_record(), audit_record(user={"username": "bob"})])
    next(iter(batch))
    first.arm(armed(description="a new version, while a batch is under way"))
    list(batch)
    second = Engine()
    second.restore(first.snapshot())
    second.arm(armed())
    second.inspect(audit_record(user={"username": "carol"}))
    assert second.tallies.of("rule").share()[0] == 3


def test_w18_a_bad_edit_is_an_error_and_no_removal() -> None:
    """What does not compile never gets as far as the engine; what served goes on."""
    engine = Engine()
    engine.arm(armed())
    with pytest.raises(PermanentError):
        armed(match={"objectGlob": [{"jsonPath": "$..a", "patterns": ["*"]}]})
    assert engine.inspect(audit_record())


def test_w24_an_event_meets_the_rules_about_it_and_no_others() -> None:
    """Verb, group and resource select; a thousand rules about other things cost one look."""
    others = [
        armed(f"r{n}", match={"verb": ["create"], "objectRef": {"resource": [f"kind{n}"]}}).compiled for n in range(999)
    ]
    mine = armed("mine", match={"verb": ["get"], "objectRef": {"resource": ["pods"]}, "nameGlob": ["web-*"]}).compiled
    matcher = Matcher([*others, mine])
    assert [rule.name for rule in matcher.candidates(audit_record())] == ["mine"]
    assert matcher.candidates(audit_record(verb="list")) == []


def test_w25_a_type_of_ones_own_needs_its_label_and_no_more() -> None:
    """An experiment is labelled as one, and its events say so."""
    emit = {"securityEventType": "MyOwnThing", "severity": "low"}
    with pytest.raises(PermanentError, match="no event type of the catalogue"):
        armed(emit=emit)
    engine = Engine()
    engine.arm(armed(labels={"ugallu.io/type-experimental": "true"}, emit=emit))
    (finding,) = engine.inspect(audit_record())
    assert finding.experimental
