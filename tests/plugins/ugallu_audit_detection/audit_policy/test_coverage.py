"""Which rules are blind under a policy, and the policy under which none is."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.sdk import SigmaRule, decode_strict
from ugallu_audit_detection import pack
from ugallu_audit_detection.arming import Armed, arm
from ugallu_audit_detection.audit_policy.coverage import coverage
from ugallu_audit_detection.audit_policy.document import AuditPolicy, load, read
from ugallu_audit_detection.audit_policy.forecast import forecast
from ugallu_audit_detection.audit_policy.seen import coverage_by, seen
from ugallu_audit_detection.audit_policy.sight import hits, seen_under
from ugallu_audit_detection.audit_policy.smallest import CAPS, smallest
from ugallu_audit_detection.files import objects

ROOT = Path(__file__).parents[4]
RECORDING = gzip.decompress((ROOT / "examples" / "audit.jsonl.gz").read_bytes()).splitlines()


def armed(match: dict[str, Any], *events: dict[str, Any]) -> Armed:
    tests = [{"name": f"hit {number}", "expect": "hit", "event": event} for number, event in enumerate(events)]
    document = {
        "apiVersion": "security.ugallu.io/v1alpha1",
        "kind": "SigmaRule",
        "metadata": {"name": "rule"},
        "spec": {
            "match": match,
            "emit": {"securityEventType": "ExecIntoPod", "severity": "high"},
            "tests": tests,
        },
    }
    rule = decode_strict(SigmaRule, document, where="rule")
    return arm("rule", rule.spec, {})


def policy(*rules: dict[str, Any], **more: Any) -> AuditPolicy:
    return read({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **more}, where="policy")


def event(verb: str, resource: str, *, group: str = "", sub: str = "", **more: Any) -> dict[str, Any]:
    return {
        "level": "RequestResponse",
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": "alice", "groups": ["system:authenticated"]},
        "objectRef": {"apiGroup": group, "resource": resource, "subresource": sub, "name": "x", "namespace": "shop"},
        "responseStatus": {"code": 200},
        **more,
    }


PRIVILEGED = {
    "verb": ["create"],
    "subresource": [""],
    "objectRef": {"resource": ["pods"]},
    "requestObjectGlob": [{"jsonPath": "$.spec.hostPID", "patterns": ["true"]}],
}
HIT = event("create", "pods", requestObject={"spec": {"hostPID": True}})


def test_a_rule_that_looks_at_bodies_needs_them() -> None:
    """At Metadata it cannot fire and says what of; at Request it can."""
    rule = armed(PRIVILEGED, HIT)
    blind = coverage(rule, policy({"level": "Metadata"}))
    assert (blind.verdict, blind.needs, blind.tests) == ("cannot", "Request", ("hit 0",))
    assert [(gap.sort, gap.has, gap.needs) for gap in blind.gaps] == [("create pods", "Metadata", "Request")]
    assert coverage(rule, policy({"level": "Request"})).verdict == "can"


def test_a_stage_that_is_omitted_is_missed() -> None:
    """A shell is told of when it opens; a policy that leaves this stage out hides it for as long as it stays open."""
    rule = armed(
        {"objectRef": {"resource": ["pods"]}, "subresource": ["exec"], "stage": ["ResponseStarted"]},
        event("get", "pods", sub="exec", stage="ResponseStarted", responseStatus={"code": 101}),
    )
    assert coverage(rule, policy({"level": "Metadata"})).verdict == "can"
    blind = coverage(rule, policy({"level": "Metadata"}, omitStages=["ResponseStarted"]))
    assert blind.verdict == "cannot"
    assert any("without ResponseStarted" in gap.has for gap in blind.gaps)


def test_blind_for_some_is_partly() -> None:
    """A policy that passes over one namespace hides what happens there, and the gap names it."""
    rule = armed(PRIVILEGED, HIT)
    some = coverage(rule, policy({"level": "None", "namespaces": ["kube-system"]}, {"level": "Request"}))
    assert (some.verdict, [gap.who for gap in some.gaps]) == ("partly", ["namespace kube-system"])


def named(name: str) -> Armed:
    return next(rule for rule in EVERY if rule.name == name)


def test_a_rule_that_learns_from_other_requests_is_partly_blind_without_them() -> None:
    """Entering a privileged Pod is seen at Metadata; which Pod is privileged its own writes tell, at Request."""
    rule = named("ugallu-exec-into-pod-privileged")
    pods = {"group": "", "resources": ["pods"]}
    found = coverage(rule, policy({"level": "Metadata"}))
    assert found.verdict == "partly"
    assert {(gap.sort, gap.has, gap.needs, gap.learns) for gap in found.gaps} >= {
        ("create pods", "Metadata", "Request", True)
    }
    taught = policy(
        {"level": "Request", "verbs": ["create", "update", "patch"], "resources": [pods]}, {"level": "Metadata"}
    )
    assert coverage(rule, taught).verdict == "can"
    some = policy({"level": "None", "users": ["system:kube-scheduler"], "resources": [pods]}, *({"level": "Request"},))
    assert {gap.who for gap in coverage(rule, some).gaps} == {"user system:kube-scheduler"}


def test_what_stood_before_is_learned_from_the_same_kind() -> None:
    """A rule on what a write changes misses its own test where the write before it left no body."""
    rule = named("ugallu-namespace-psa-weakened-lowered")
    namespaces = {"group": "", "resources": ["namespaces"]}
    created = {"verbs": ["create"], "resources": [namespaces]}
    found = coverage(rule, policy({"level": "Metadata", **created}, {"level": "RequestResponse"}))
    assert found.verdict != "can"
    assert ("create namespaces", "Metadata", "Request", True) in {
        (gap.sort, gap.has, gap.needs, gap.learns) for gap in found.gaps
    }
    assert found.tests


def test_the_smallest_policy_teaches_a_rule_what_it_asks() -> None:
    """Alone in the policy, a rule on exec still brings the writes of Pods."""
    rule = named("ugallu-exec-into-pod-privileged")
    assert coverage(rule, smallest([rule]).policy).verdict == "can"


def test_a_recording_shows_what_could_not_be_learned() -> None:
    """Pods written at Metadata: the rule fires for those that it knows from elsewhere, and only for those."""
    rule = named("ugallu-exec-into-pod-privileged")
    entered = event("get", "pods", sub="exec", stage="ResponseStarted", responseStatus={"code": 101})
    lines = [json.dumps(each).encode() for each in (entered, {**event("create", "pods"), "level": "Metadata"})]
    found = coverage_by(rule, seen(lines))
    assert (found.verdict, [gap.sort for gap in found.gaps]) == ("partly", ["create pods"])


def test_what_a_rule_would_never_look_at_is_no_gap() -> None:
    """Leaving out callers whom the rule itself leaves out blinds nobody."""
    rule = armed(
        {
            "verb": ["get"],
            "objectRef": {"resource": ["secrets"]},
            "user": {"usernameGlob": ["system:serviceaccount:*"]},
        },
        event("get", "secrets", user={"username": "system:serviceaccount:shop:web"}),
    )
    assert (
        coverage(rule, policy({"level": "None", "userGroups": ["system:nodes"]}, {"level": "Metadata"})).verdict
        == "can"
    )
    others = policy({"level": "None", "users": ["system:serviceaccount:shop:web"]}, {"level": "Metadata"})
    assert coverage(rule, others).verdict == "cannot"


def test_the_recommended_policy_hides_nothing_that_the_examples_expect() -> None:
    """Every event in the tests of the example rules is seen under it, whatever finer gaps are told."""
    recommended = load(ROOT / "examples" / "audit-policy.yaml")
    for rule in objects([ROOT / "examples" / "rules"]):
        found = coverage(arm(rule.metadata.name, rule.spec, rule.metadata.labels), recommended)
        assert (found.rule, found.tests) == (rule.metadata.name, ())


def every() -> list[Armed]:
    rules = [*pack.rules(), *objects([ROOT / "examples" / "rules"])]
    return [arm(rule.metadata.name, rule.spec, rule.metadata.labels) for rule in rules]


EVERY = every()


def test_under_the_smallest_policy_every_rule_can_fire() -> None:
    """All but what would write secrets to the log, which is told."""
    rules = EVERY
    wanted = smallest(rules)
    blind = {one.rule: one for one in (coverage(rule, wanted.policy) for rule in rules) if one.verdict != "can"}
    assert all(any(line.startswith(f"{name}:") for line in wanted.beyond) or one.tests for name, one in blind.items())
    capped = {f"{resource}/{sub}" if sub else resource for _, resource, sub in CAPS}
    assert all(gap.sort.split(" ")[1].partition(".")[0] in capped for one in blind.values() for gap in one.gaps)


def test_the_smallest_policy_writes_no_secret() -> None:
    """Bodies of Secrets, ConfigMaps and reviews of tokens are below Request, whatever rules ask for."""
    greedy = armed({"verb": ["create"], "requestObjectGlob": [{"jsonPath": "$.data.x", "patterns": ["*"]}]})
    made = smallest([greedy]).policy
    for verb in ("create", "update"):
        for group, resource in (("", "secrets"), ("", "configmaps"), ("authentication.k8s.io", "tokenreviews")):
            left = seen_under(made, event(verb, resource, group=group, requestObject={"data": {"x": "c2VjcmV0"}}))
            assert left is None or "requestObject" not in left
    assert "requestObject" in (seen_under(made, event("create", "pods", requestObject={})) or {})


@given(st.lists(st.integers(min_value=0, max_value=200), min_size=1, max_size=4, unique=True))
def test_the_smallest_policy_is_enough_for_any_choice_of_rules(numbers: list[int]) -> None:
    """Whatever a rule's own test expects is still seen, unless the policy says that it may not."""
    rules = EVERY
    some = [rules[number % len(rules)] for number in numbers]
    wanted = smallest(some)
    for rule in some:
        capped = any(line.startswith(f"{rule.name}:") for line in wanted.beyond)
        for test in rule.spec.tests:
            if test.expect == "hit" and test.event.get("verb") and hits(rule, test.event, test.before) and not capped:
                assert hits(rule, seen_under(wanted.policy, test.event), test.before), (rule.name, test.name)


def test_a_forecast_counts_what_would_be_written() -> None:
    """Everything at Metadata: as many events, without their bodies; nothing at None."""
    whole = forecast(policy({"level": "RequestResponse"}), RECORDING)
    assert (whole.events, whole.bytes, whole.seen) == (10_277, whole.seen_bytes, 10_277)
    thin = forecast(policy({"level": "Metadata"}), RECORDING)
    assert thin.events == whole.events
    assert thin.bytes < whole.bytes / 2
    assert forecast(policy({"level": "None"}), RECORDING).events == 0
    damaged = forecast(policy({"level": "Metadata"}), [b"{", b'{"verb":1}', b"[" * 5000, *RECORDING[:3]])
    assert (damaged.unread, damaged.events) == (3, 3)


def test_a_recording_tells_what_a_policy_file_would() -> None:
    """Seen at Metadata a rule on bodies cannot fire; of what is not there, nothing is said."""
    rule = armed(PRIVILEGED, HIT)
    bare = json.dumps({**HIT, "level": "Metadata", "requestObject": None}).encode()
    assert coverage_by(rule, seen([bare])).verdict == "cannot"
    assert coverage_by(rule, seen([json.dumps({**HIT}).encode()])).verdict == "can"
    assert coverage_by(rule, seen([json.dumps(event("get", "nodes")).encode(), b"no event"])).verdict == "unseen"


@pytest.mark.parametrize("level", ["Metadata", "Request", "RequestResponse"])
def test_no_level_shows_more_than_was_recorded(level: str) -> None:
    """A forecast from a thin recording stays thin, and counts what it could not know."""
    thin = json.dumps({**HIT, "level": "Metadata", "requestObject": None}).encode()
    found = forecast(policy({"level": level}), [thin])
    assert found.shallow == (level != "Metadata")
