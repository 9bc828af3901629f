"""Correlations in the engine: what they count, when they speak and how often, and what they say."""

import json
from typing import Any

import pytest

from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Finding
from ugallu.api.sigma import SigmaRuleSpec
from ugallu.metrics import Metrics
from ugallu.testing.correlations import correlation_spec, event_at, filter_spec, record_at
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import arm
from ugallu_audit_detection.correlation.correlator import Correlator
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.sigma.errors import RuleError
from ugallu_audit_detection.sigma.imported import import_sigma

NODE_READ = {"match": {"verb": ["get"], "objectRef": {"resource": ["nodes"]}}}
NODE = {"objectRef": {"resource": "nodes", "name": "n1"}}


def engine(**specs: SigmaRuleSpec) -> Engine:
    """An engine with a rule on Pods, one on nodes, and these; `_` in names stands for `-`."""
    made = Engine()
    rules = {"pod_read": rule_spec(), "node_read": rule_spec(**NODE_READ), **specs}
    for name, spec in rules.items():
        made.arm(arm(name.replace("_", "-"), spec, {}))
    return made


def said(made: Engine, *records: AuditRecord, rule: str = "it") -> list[Finding]:
    return [finding for _, finding in made.inspect_batch(records) if finding.signals.get("rule") == rule]


def seconds(findings: list[Finding]) -> list[float]:
    return [f.detected_at.timestamp() - 1767225600 for f in findings if f.detected_at]


def test_three_in_a_minute_is_one_event() -> None:
    """It names group, count, first and last request; its subject and other signals are those of the last one."""
    ids = [f"3f6c1e9a-0000-4000-8000-00000000000{n}" for n in range(3)]
    (found,) = said(engine(it=correlation_spec()), *(record_at(n, auditID=ids[n]) for n in range(3)))
    assert (found.type.name, found.severity, found.event_class) == ("LateralMovementSuspected", "high", "Anomaly")
    correlated = {name: value for name, value in found.signals.items() if name.startswith("correlation")}
    assert correlated == {
        "correlation.count": "3",
        "correlation.first": ids[0],
        "correlation.group": "user.username=alice",
        "correlation.last": ids[2],
        "correlation.since": "2026-01-01T00:00:00Z",
        "correlation.timespan": "1m",
    }
    assert (found.signals["user"], found.signals["audit.id"], found.about.key) == ("alice", ids[2], "Pod/shop/web-0")


def test_groups_do_not_mix() -> None:
    """Three readers with one read each are no reader with three; a match without the field belongs to no group."""
    made = engine(it=correlation_spec(group_by=["user.username", "objectRef.namespace"]))
    assert said(made, *(record_at(n, user={"username": f"u{n}"}) for n in range(9))) == []
    bare = {"objectRef": {"resource": "pods", "name": "x"}}
    assert said(made, *(record_at(10 + n, **bare) for n in range(9))) == []
    assert len(said(made, *(record_at(20 + n) for n in range(3)))) == 1


def test_values_of_several_fields_are_bounded() -> None:
    """An event with forty values in each of four fields counts with some of the millions of ways to join them."""
    lists = {
        "user": {"username": "alice", "groups": [f"g{n}" for n in range(40)], "extra": {"x": [str(n) for n in range(40)]}},
        "impersonatedUser": {"username": "bob", "groups": [f"g{n}" for n in range(40)]},
        "sourceIPs": [f"10.0.0.{n}" for n in range(40)],
    }  # fmt: skip
    fields = ["user.groups", "user.extra.x", "impersonatedUser.groups", "sourceIPs[]"]
    condition = {"gte": 60, "field": fields}
    (found,) = said(engine(it=correlation_spec(type="value_count", condition=condition)), record_at(0, **lists))
    assert found.signals["correlation.count"] == "64"


def test_a_window_holds_both_its_ends_and_nothing_else() -> None:
    """Sixty seconds from first to last is within a minute, a microsecond more is not."""
    assert len(said(engine(it=correlation_spec()), record_at(0), record_at(30), record_at(60))) == 1
    assert said(engine(it=correlation_spec()), record_at(0), record_at(30), record_at(60.000001)) == []


def test_it_speaks_once_a_timespan_and_counts_no_match_twice() -> None:
    """A flood of one a second makes one event a minute, and a half-minute of it after that none."""
    made = engine(it=correlation_spec())
    assert seconds(said(made, *(record_at(n) for n in range(150)))) == [2, 63, 124]
    assert said(made, *(record_at(300 + 40 * n) for n in range(9))) == []


@pytest.mark.parametrize(
    ("condition", "spoke"),
    [({"gt": 3}, [3]), ({"eq": 2}, [1]), ({"lt": 2}, [0]), ({"lte": 1}, [0]), ({"neq": 1}, [1]), ({"gte": 9}, [])],
)
def test_conditions(condition: dict[str, int], spoke: list[int]) -> None:
    """The condition is asked of the window that a match ends, so that also `lt` and `eq` speak at once."""
    made = engine(it=correlation_spec(condition=condition))
    assert seconds(said(made, *(record_at(n) for n in range(5)))) == spoke


def test_values_are_counted_once_each() -> None:
    """`value_count`: reading one Pod a hundred times is one value, whatever else is between."""
    made = engine(it=correlation_spec(type="value_count", condition={"gte": 3, "field": "objectRef.name"}))
    pods = ["a"] * 50 + ["b"] + ["a"] * 40 + ["c"]
    refs = [{"resource": "pods", "name": name, "namespace": "shop"} for name in pods]
    records = [record_at(n / 2, objectRef=ref) for n, ref in enumerate(refs)]
    (found,) = said(made, *records)
    assert (found.signals["correlation.count"], seconds([found])) == ("3", [45.5])


def test_rules_in_any_order_and_in_one_order() -> None:
    """`temporal` wants all rules within the timespan, `temporal_ordered` one after the other."""
    both: dict[str, Any] = {"rules": ["pod-read", "node-read"], "condition": None}
    made = engine(any=correlation_spec(type="temporal", **both), it=correlation_spec(type="temporal_ordered", **both))
    backwards = [record_at(0, **NODE), record_at(1)]
    assert len(said(made, *backwards, rule="any")) == 1
    made.restore(Engine().snapshot())
    assert said(made, *backwards) == []
    assert seconds(said(made, record_at(2, **NODE))) == [2]


@pytest.mark.parametrize(("type_", "spoke"), [("temporal", True), ("temporal_ordered", True)])
def test_what_comes_late_takes_its_place(type_: str, spoke: bool) -> None:
    """The first step that is written a minute after the second is still before it; later than that it is too late."""
    spec = correlation_spec(type=type_, rules=["pod-read", "node-read"], condition=None, timespan="5m")
    for late, hit in ((60, spoke), (61, False)):
        made = engine(it=spec)
        (said_,) = (said(made, record_at(100 + late, **NODE), record_at(100)),)
        assert bool(said_) is hit


def test_what_comes_late_counts_up_to_the_edge_of_a_window() -> None:
    """Thirty seconds before the last of three within thirty seconds is in, a millisecond more is not."""
    spec = correlation_spec(timespan="30s")
    assert len(said(engine(it=spec), record_at(130), record_at(110), record_at(100))) == 1
    assert said(engine(it=spec), record_at(130), record_at(110), record_at(99.999)) == []


def test_at_one_moment_the_order_of_the_log_counts() -> None:
    """Two steps of one moment are in order as they are written; one event is never two steps."""
    spec = correlation_spec(type="temporal_ordered", rules=["pod-read", "node-read"], condition=None)
    assert len(said(engine(it=spec), record_at(5), record_at(5, **NODE))) == 1
    assert said(engine(it=spec), record_at(5, **NODE), record_at(5)) == []
    both = correlation_spec(type="temporal_ordered", rules=["pod-read", "reads"], condition=None)
    reads = rule_spec(match={"verb": ["get"]})
    assert seconds(said(engine(it=both, reads=reads), record_at(5), record_at(6))) == [6]


def test_who_is_too_late_still_counts_for_rules_without_memory() -> None:
    """A correlation leaves it out and counts it; the rule itself reports it."""
    made = engine(it=correlation_spec())
    metrics = Metrics()
    made._metrics = metrics
    records = [record_at(100), record_at(101), record_at(39)]
    assert len(said(made, *records, rule="pod-read")) == 3
    assert said(made, record_at(102)) != []
    assert 'ugallu_audit_correlation_late_total{rule="it"} 1.0' in metrics.render().decode()


def test_another_recording_begins_anew() -> None:
    """Time that goes back by hours is no late event: what the windows hold is forgotten, what comes is counted."""
    made = engine(it=correlation_spec())
    assert said(made, record_at(9000), record_at(9001)) == []
    assert seconds(said(made, record_at(0), record_at(1), record_at(2))) == [2]
    assert said(made, record_at(9002)) == []


def test_generate_false_silences_the_rules_it_counts() -> None:
    """They make no events, only count, and the books say so; once the correlation is gone they speak again."""
    made = engine(it=correlation_spec(generate=None))
    records = [record_at(n) for n in range(3)]
    assert [f.signals["rule"] for _, f in made.inspect_batch(records)] == ["it"]
    assert {k: v for k, v in made.books().items() if v} == {"matched": 4, "dropped.correlated": 3}
    made.forget("it")
    assert len(said(made, record_at(4), rule="pod-read")) == 1


def test_what_an_exception_covers_does_not_count() -> None:
    """Neither one of the rule that is counted nor one of the correlation itself."""
    exception = {"name": "a", "owner": "b", "reason": "c", "match": {"user": {"usernameGlob": ["alice"]}}}
    suppress = {"suppress": {"exceptions": [exception]}}
    flood = [record_at(n) for n in range(9)]
    other = [record_at(n, user={"username": "bob"}) for n in range(10, 13)]
    for rules in ({"pod_read": rule_spec(**suppress), "it": correlation_spec()}, {"it": correlation_spec(suppress)}):
        assert [f.signals["user"] for f in said(engine(**rules), *flood, *other)] == ["bob"]


def test_limits_of_a_rule_do_not_hide_it_from_correlations() -> None:
    """A rule that says its say once a day is still counted every time."""
    quiet = rule_spec(suppress={"window": "24h"}, rateLimit={"burst": 1, "sustainedPerSec": 1})
    made = engine(pod_read=quiet, it=correlation_spec(condition={"gte": 20}))
    assert len(said(made, *(record_at(n) for n in range(30)))) == 1


def test_a_request_counts_once_whatever_its_stages() -> None:
    """The end of a long request is no second match, not even where a limiter dropped its start."""
    watch = rule_spec(match={"verb": ["watch"]}, rateLimit={"burst": 1, "sustainedPerSec": 1})
    made = engine(pod_read=watch, it=correlation_spec(condition={"gte": 5}))
    started = [event_at(0, verb="watch", stage="ResponseStarted", auditID=f"a{n}") for n in range(4)]
    ended = [{**event, "stage": "ResponseComplete", "stageTimestamp": "2026-01-01T00:00:20Z"} for event in started]
    records = [record_at(0, **event) for event in (*started, *ended)]
    assert said(made, *records) == []


def test_correlations_of_correlations() -> None:
    """A crossing counts in another correlation, at once."""
    twice = correlation_spec(rules=["many"], condition={"gte": 2}, timespan="10m")
    made = engine(it=twice, many=correlation_spec())
    assert seconds(said(made, *(record_at(n) for n in range(70)))) == [63]


def test_a_correlation_that_only_counts_reports_nothing() -> None:
    """What another correlation counts with `generate: false` is silent, whether it is a rule or a correlation."""
    made = engine(it=correlation_spec(rules=["many"], condition={"gte": 1}, generate=False), many=correlation_spec())
    assert said(made, *(record_at(n) for n in range(3)), rule="many") == []
    assert said(made, *(record_at(100 + n) for n in range(3)), rule="it") != []
    assert made.books()["dropped.correlated"] == 2


def test_rules_by_upstream_name_id_and_glob() -> None:
    """A correlation names a rule by its id, its name, its SigmaRule, with _ for -, or several with *."""
    number = "00000000-0000-4000-8000-000000000001"
    source = {"product": "kubernetes", "service": "audit"}
    upstream = {"title": "t", "id": number, "name": "reads_pods", "logsource": source,
                "detection": {"s": {"verb": "get", "resource": "pods"}, "condition": "s"}}  # fmt: skip
    emit = {"securityEventType": "ExecIntoPod", "severity": "low"}
    own = rule_spec(match={}, sigma=json.dumps(upstream), emit=emit)
    for reference in (number, "reads_pods", "upstream-rule", "upstream_rule", "upstream-*"):
        made = engine(upstream_rule=own, it=correlation_spec(rules=[reference]))
        assert len(said(made, *(record_at(n) for n in range(3)))) == 1, reference


def test_aliases_join_what_rules_call_differently() -> None:
    """A token is requested under one field and used under another; the alias makes them one group."""
    issued, used = "authentication.kubernetes.io/issued-credential-id", "authentication.kubernetes.io/credential-id"
    asked = rule_spec(match={"verb": ["create"], "objectRef": {"subresource": ["token"]}})
    spec = correlation_spec(
        type="temporal_ordered", rules=["asked", "pod-read"], condition=None, group_by=["token"],
        aliases={"token": {"asked": f"annotations.{issued}", "pod-read": f"user.extra.{used}"}},
    )  # fmt: skip
    ref = {"resource": "serviceaccounts", "subresource": "token", "name": "ci", "namespace": "shop"}
    request = record_at(0, verb="create", objectRef=ref, annotations={issued: "JTI=1"})
    made = engine(asked=asked, it=spec)
    wrong, right = ({"username": "ci", "extra": {used: [jti]}} for jti in ("JTI=2", "JTI=1"))
    assert said(made, request, record_at(1, user=wrong)) == []
    (found,) = said(made, record_at(2, user=right))
    assert found.signals["correlation.group"] == "token=JTI=1"


def test_an_extended_condition() -> None:
    """`and`, `or` and `not` over rules, in any order or in one."""
    late = rule_spec(match={"verb": ["delete"]})
    for type_ in ("temporal", "temporal_ordered"):
        spec = correlation_spec(type=type_, rules=None, condition="pod_read and node_read and not deletes")
        made = engine(deletes=late, it=spec)
        spoilt = [record_at(0), record_at(1, verb="delete"), record_at(2, **NODE)]
        assert said(made, *spoilt) == []
        assert seconds(said(made, record_at(100), record_at(101, **NODE))) == [101]


def test_the_order_of_arrival_does_not_matter() -> None:
    """A correlation before its rules serves once they are there, rests while one is gone, and says which."""
    made = Engine()
    made.arm(arm("it", correlation_spec(), {}))
    assert made.correlator.links.troubles["it"].message == "no rule that serves is called pod-read"
    assert said(made, *(record_at(n) for n in range(3))) == []
    made.arm(arm("pod-read", rule_spec(), {}))
    assert made.correlator.links.troubles == {}
    assert said(made, *(record_at(10 + n) for n in range(2))) == []
    made.disarm("pod-read")
    assert "it" in made.correlator.links.troubles
    made.arm(arm("pod-read", rule_spec(), {}))
    assert len(said(made, record_at(12))) == 1


def test_a_filter_takes_matches_away_and_counts_them() -> None:
    """From the rules it names or from all, for events and for correlations; its own count says how many."""
    flood = [record_at(n) for n in range(5)]
    for rules in ("any", ["pod-read"]):
        made = engine(it=correlation_spec(), known=filter_spec({"user.username": "alice"}, rules))
        assert [f.signals["rule"] for _, f in made.inspect_batch([*flood, record_at(6, **NODE)])] == (
            ["node-read"] if rules != "any" else []
        )
        assert made.tallies.of("known").matched == (5 if rules != "any" else 6)
        assert made.books()["dropped.exception"] == made.tallies.of("known").matched


def test_a_filter_for_all_leaves_critical_rules_alone() -> None:
    """Such a rule must be named, and the filter must say in so many words that it means that."""
    critical = rule_spec(emit={"securityEventType": "ClusterAdminGranted", "severity": "critical"})
    hidden = {"user.username": "alice"}
    assert len(said(engine(it=critical, known=filter_spec(hidden)), record_at(0))) == 1
    plain = engine(it=critical, other=rule_spec(), known=filter_spec(hidden, ["it", "other"]))
    assert [finding.signals["rule"] for _, finding in plain.inspect_batch([record_at(0)])] == ["it", "pod-read"], (
        "what it may hide it hides all the same"
    )
    assert "includeCritical" in plain.correlator.links.troubles["known"].message
    for named in (["it"], ["i*"]):
        words = {"owner": "storage", "reason": "nightly", "expires": "2026-03-01T00:00:00Z", "includeCritical": True}
        made = engine(it=critical, known=filter_spec(hidden, named, promise=words))
        assert said(made, record_at(0)) == []
    assert said(engine(it=critical, known=filter_spec(hidden, ["i*"])), record_at(0)) != []


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ({"owner": "storage"}, "no reason"),
        ({"reason": "nightly"}, "no owner"),
        ({"owner": "storage", "reason": "nightly", "includeCritical": True}, "no expires"),
        ({"owner": "storage", "reason": "nightly", "severity": "low"}, "severity"),
        ({"owner": "storage", "reason": "nightly", "expires": "soon"}, "soon"),
    ],
)
def test_a_filters_promise_is_whole(words: dict[str, Any], missing: str) -> None:
    """Who speaks of an owner says all of it; what reports nothing has no severity."""
    with pytest.raises(RuleError, match=missing):
        arm("known", filter_spec({"verb": "get"}, promise=words), {})
    with pytest.raises(RuleError, match=missing):
        import_sigma(filter_spec({"verb": "get"}, promise=words).sigma, where="x.yaml")


def test_a_filter_that_has_ended_hides_nothing() -> None:
    """By the event's own time; what it would have hidden is told with its owner, and its tests ask the same."""
    words = {"owner": "storage", "reason": "nightly", "expires": "2026-01-02"}
    tests = [
        {"name": "in time", "expect": "hit", "event": event_at(0)},
        {"name": "late", "expect": "miss", "event": event_at(86400)},
    ]
    spec = filter_spec({"user.username": "alice"}, ["pod-read"], promise=words, tests=tests)
    made = engine(known=spec)
    assert list(made.inspect_batch([record_at(86399)])) == []
    found = [finding for _, finding in made.inspect_batch([record_at(86400)])]
    assert [finding.signals.get("rule", finding.signals.get("exception.owner")) for finding in found] == [
        "pod-read",
        "storage",
    ]


def test_the_least_recently_used_group_is_forgotten_first() -> None:
    """Room is bounded in bytes over all correlations; what is forgotten is counted."""
    made = engine(it=correlation_spec())
    made.correlator = Correlator(max_bytes=4000)
    for name, spec in (("pod-read", rule_spec()), ("it", correlation_spec())):
        made.arm(arm(name, spec, {}))
    names = [f"u{n}" for n in range(50)]
    assert said(made, *(record_at(0, user={"username": name}) for name in names for _ in range(2))) == []
    assert made.correlator.bytes <= 4000
    groups = made.correlator.groups("it")
    assert groups is not None
    assert groups.evicted == 50 - len(groups)
    assert said(made, record_at(1, user={"username": "u0"})) == []
    assert len(said(made, record_at(1, user={"username": "u49"}))) == 1


def test_tests_of_a_correlation_run_over_the_rules_it_counts() -> None:
    """While one fails it does not serve, and says which; when a rule changes they run again."""
    flood = {"before": [event_at(n) for n in range(2)], "event": event_at(2)}
    tests = [{"name": "three", "expect": "hit", **flood}, {"name": "one", "expect": "miss", "event": event_at(0)}]
    made = engine(it=correlation_spec({"tests": tests}))
    assert made.correlator.links.troubles == {}
    made.arm(arm("pod-read", rule_spec(match={"verb": ["delete"]}), {}))
    trouble = made.correlator.links.troubles["it"]
    assert (trouble.reason, "'three' expects a hit" in trouble.message) == ("TestFailed", True)
    assert said(made, *(record_at(n, verb="delete") for n in range(3))) == []
    hidden = [{"name": "alice", "expect": "miss", "event": event_at(0)}]
    made = engine(known=filter_spec({"user.username": "alice"}, tests=hidden))
    assert made.correlator.links.troubles["known"].reason == "TestFailed"
    assert len(said(made, record_at(0), rule="pod-read")) == 1


@pytest.mark.parametrize(
    ("change", "reason", "says"),
    [
        ({"rules": ["nothing"]}, "RuleMissing", "called nothing"),
        ({"rules": ["it"]}, "RuleCycle", "names itself"),
        ({"rules": ["known"]}, "RuleUnfit", "is a filter"),
        ({"rules": ["twin"]}, "RuleAmbiguous", "one or two"),
        ({"rules": ["round"]}, "RuleCycle", "counts"),
        ({"rules": ["no-*"]}, "RuleMissing", "class Detection"),
    ],
)
def test_what_cannot_be_linked_says_why(change: dict[str, Any], reason: str, says: str) -> None:
    """Missing, ambiguous, in a circle, or not to be counted."""
    source = {"product": "kubernetes", "service": "audit"}
    twin = {"title": "t", "name": "twin", "logsource": source, "detection": {"s": {"verb": "x"}, "condition": "s"}}
    twins = rule_spec(match={}, sigma=json.dumps(twin))
    made = engine(
        one=twins, two=twins, known=filter_spec({"verb": "x"}), round=correlation_spec(rules=["it"]), it=correlation_spec(**change)
    )  # fmt: skip
    trouble = made.correlator.links.troubles["it"]
    assert trouble.reason == reason
    assert says in trouble.message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"type": "value_sum", "condition": {"gte": 1, "field": "verb"}}, "value_sum is not served"),
        ({"condition": {"lt": 1}}, "can never hold"),
        ({"condition": {"gte": 1.5}}, "1.5"),
        ({"condition": {"gte": 10_001}}, "10001"),
        ({"group_by": ["EventID"]}, "no field of an audit event"),
        ({"timespan": "5x"}, "5x"),
        ({"aliases": {"a": {"other": "verb"}}}, "none of the rules"),
        ({"type": "temporal", "rules": ["a"], "condition": "not a"}, "without any match"),
        ({"type": "temporal", "rules": ["a"], "condition": "a and not a"}, "contradicts itself"),
        ({"type": "temporal_ordered", "condition": {"lte": 1}}, "ordered rules"),
        ({"type": "temporal_ordered", "rules": [f"r{n}" for n in range(12)], "condition": {"gte": 6}}, "ways"),
    ],
)
def test_what_cannot_serve_does_not_compile(change: dict[str, Any], says: str) -> None:
    """With a message that a rule's author understands, and a way out."""
    with pytest.raises(RuleError, match=says) as refused:
        arm("it", correlation_spec(**change), {})
    assert refused.value.fix


@pytest.mark.parametrize("unit", ["s", "m", "h", "d", "w", "M", "y"])
def test_units_of_a_timespan(unit: str) -> None:
    """All that Sigma has; a window is never longer than a day, and the plan says so."""
    made = engine(it=correlation_spec(timespan=f"2{unit}"))
    plan = made.correlator.plan("it")
    assert plan is not None
    assert (plan.span <= 86400, plan.cut) == (True, unit in "dwMy")
