"""What a status says of links: whom a correlation counts, what it waits for, what it had to forget."""

from typing import Any

from ugallu.api.sigma import SigmaRuleSpec
from ugallu.sdk import Condition
from ugallu.testing.correlations import correlation_spec, event_at, filter_spec, record_at
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection import conditions
from ugallu_audit_detection.arming import arm
from ugallu_audit_detection.correlation.status import with_links
from ugallu_audit_detection.engine import Engine


def engine(**specs: SigmaRuleSpec) -> Engine:
    made = Engine()
    for name, spec in specs.items():
        made.arm(arm(name.replace("_", "-"), spec, {}))
    return made


def said(made: Engine, spec: SigmaRuleSpec, name: str = "it") -> dict[str, tuple[str, str, str]]:
    """The conditions of a rule that compiles, by type: status, reason and message."""
    armed = arm(name, spec, {})
    before = [
        conditions.compiled(None, ""),
        conditions.tested(armed, ""),
        conditions.serving(spec, good=True, last_good=False),
        Condition(type="NeverMatches", status="True", reason="Contradiction", message="", last_transition_time=None),  # type: ignore[arg-type]
    ]
    return {one.type: (one.status, one.reason, one.message) for one in with_links(before, armed, made.correlator)}


def test_a_correlation_that_serves_names_its_rules() -> None:
    """That no event matches it by itself is no remark."""
    found = said(engine(pod_read=rule_spec(), it=correlation_spec()), correlation_spec())
    assert found["Linked"] == ("True", "Linked", "pod-read")
    assert found["Serving"][:2] == ("True", "Armed")
    assert "NeverMatches" not in found


def test_a_correlation_whose_rule_is_missing_does_not_serve_and_says_which() -> None:
    """Its tests wait, as it does."""
    tests: list[dict[str, Any]] = [{"name": "one", "expect": "miss", "event": event_at(0)}]
    spec = correlation_spec({"tests": tests})
    made = engine(it=spec)
    assert {kind: found[:2] for kind, found in said(made, spec).items()} == {
        "Compiled": ("True", "Compiled"),
        "Tested": ("Unknown", "NotLinked"),
        "Serving": ("False", "RuleMissing"),
        "Linked": ("False", "RuleMissing"),
    }
    made.arm(arm("pod-read", rule_spec(), {}))
    assert said(made, spec)["Tested"] == ("True", "Passed", "1 of 1 tests pass")


def test_a_failing_test_is_told() -> None:
    """And keeps the correlation from serving."""
    tests = [{"name": "one", "expect": "hit", "event": event_at(0)}]
    spec = correlation_spec({"tests": tests})
    found = said(engine(pod_read=rule_spec(), it=spec), spec)
    assert (found["Tested"][:2], found["Serving"][:2]) == (("False", "TestFailed"), ("False", "TestFailed"))
    assert "test 'one' expects a hit" in found["Tested"][2]


def test_a_rule_that_only_counts_says_so() -> None:
    """Whoever wonders why a rule is silent finds the correlation that asked for it."""
    quiet = correlation_spec(generate=None)
    made = engine(pod_read=rule_spec(), it=quiet)
    assert said(made, rule_spec(), "pod-read")["OnlyCounted"][1] == "GenerateFalse"
    assert "OnlyCounted" not in said(engine(pod_read=rule_spec(), it=correlation_spec()), rule_spec(), "pod-read")


def test_windows_that_are_cut_or_forgotten_are_remarked() -> None:
    """A timespan longer than a day, and groups for which there was no room."""
    spec = correlation_spec(timespan="1w")
    made = engine(pod_read=rule_spec(), it=spec)
    list(made.inspect_batch([record_at(0)]))
    assert said(made, spec)["WindowCut"][1] == "TooLong"
    assert "GroupsForgotten" not in said(made, spec)
    groups = made.correlator.groups("it")
    assert groups is not None
    groups.evict()
    assert said(made, spec)["GroupsForgotten"][2].startswith("1 groups forgotten")


def test_a_filter_names_what_it_is_about() -> None:
    """What it cannot find is a trouble, and the rest is filtered all the same."""
    spec = filter_spec({"user.username": "alice"}, ["pod-read", "gone"])
    made = engine(pod_read=rule_spec(), it=spec)
    found = said(made, spec)
    assert found["Linked"] == ("False", "RuleMissing", "no rule that serves is called gone")
    assert found["Serving"][:2] == ("True", "Armed")
    assert list(made.inspect_batch([record_at(0)])) == []
    assert "names no owner" in found["ExceptionWithoutExpiry"][2]
    words = {"owner": "storage", "reason": "nightly", "expires": "1969-01-01"}
    spec = filter_spec({"user.username": "alice"}, ["pod-read"], promise=words)
    found = said(engine(pod_read=rule_spec(), it=spec), spec)
    assert found["ExceptionExpired"][2] == "suppresses no more: this filter (owner storage)"
