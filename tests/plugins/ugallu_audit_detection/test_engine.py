"""The engine: from events to findings, every match accounted for, the same however the stream is cut."""

import datetime as dt
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.audit import AuditRecord
from ugallu.api.catalog import EventClass, Severity
from ugallu.api.observation import Finding
from ugallu.api.sigma import ReplicaShare
from ugallu.api.subject import Subject
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.operator.contract import BatchDetector, Keeps
from ugallu.testing.audit import audit_record
from ugallu.testing.rules import rule_spec
from ugallu_audit_detection.arming import Armed, arm
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.sigma.budget import SLOW, Budget


def armed(name: str = "pod-read", labels: dict[str, str] | None = None, **changes: Any) -> Armed:
    return arm(name, rule_spec(**changes), labels or {})


def engine(*rules: Armed, metrics: Metrics | None = None) -> Engine:
    made = Engine(metrics)
    for rule in rules:
        made.arm(rule)
    return made


def at(second: float, **changes: Any) -> AuditRecord:
    stamp = f"2026-01-01T00:{int(second) // 60:02}:{second % 60:09.6f}Z"
    return audit_record(**{"requestReceivedTimestamp": stamp, "stageTimestamp": stamp, **changes})


def everything(made: Engine, records: Sequence[AuditRecord]) -> list[Finding]:
    return [finding for _, finding in made.inspect_batch(records)]


def is_report(finding: Finding) -> bool:
    return finding.type.name in ("SourceRateLimited", "BehaviorBaselineDeviation")


def run(made: Engine, records: Sequence[AuditRecord]) -> list[Finding]:
    """What rules say, without what the engine says of their limiters and exceptions."""
    return [finding for finding in everything(made, records) if not is_report(finding)]


def test_the_engine_is_a_batch_detector_that_keeps() -> None:
    """The shapes of the contract."""
    assert isinstance(Engine(), BatchDetector)
    assert isinstance(Engine(), Keeps)


def test_a_match_becomes_a_finding() -> None:
    """Type, class and severity of the rule; subject, time and signals of the event."""
    (finding,) = run(engine(armed()), [audit_record()])
    assert finding.type.name == "KubernetesAPICall"
    assert finding.event_class is EventClass.AUDIT
    assert finding.severity is Severity.LOW
    assert isinstance(finding.about, Subject)
    assert finding.about.name == "web-0"
    assert finding.signals["rule"] == "pod-read"
    assert finding.detected_at == audit_record().seen_at
    assert not finding.experimental


def test_cluster_admin_in_a_binding_is_one_event() -> None:
    """One matching item, one finding, about the binding; another role, none. Trimmed bodies will do."""
    rule = armed(
        match={
            "verb": ["create"],
            "objectRef": {"resource": ["clusterrolebindings"]},
            "requestObjectGlob": [{"jsonPath": "$.roleRef.name", "patterns": ["cluster-admin"]}],
        },
        emit={"securityEventType": "ClusterAdminGranted", "severity": "critical"},
    )
    ref = {"resource": "clusterrolebindings", "apiGroup": "rbac.authorization.k8s.io", "name": "evil"}
    bare: dict[str, Any] = {"verb": "create", "objectRef": ref, "level": None, "stage": None, "kind": None}
    hit = audit_record(requestObject={"roleRef": {"name": "cluster-admin"}}, **bare)
    miss = audit_record(requestObject={"roleRef": {"name": "view"}}, **bare)
    made = engine(rule)
    (finding,) = run(made, [hit, miss])
    assert isinstance(finding.about, Subject)
    assert (finding.type.name, finding.severity, finding.about.kind) == (
        "ClusterAdminGranted",
        Severity.CRITICAL,
        "ClusterRoleBinding",
    )
    assert made.books()["matched"] == 1


def test_two_rules_on_one_request_are_two_facts() -> None:
    """They differ in their key, so neither folds into the other nor takes its name."""
    findings = run(engine(armed("b"), armed("a")), [audit_record()])
    assert [finding.signals["rule"] for finding in findings] == ["a", "b"]
    assert len({finding.key for finding in findings}) == 2


@pytest.mark.parametrize(
    ("other", "apart"),
    [
        ({"auditID": "another"}, False),
        ({"user": {"username": "bob"}}, True),
        ({"impersonatedUser": {"username": "root"}}, True),
        ({"responseStatus": {"code": 403}}, True),
    ],
)
def test_what_keeps_facts_apart(other: dict[str, Any], apart: bool) -> None:
    """Actor, whom it acts as and refusal do; a client's Audit-ID does not."""
    first, second = run(engine(armed()), [audit_record(), audit_record(**other)])
    assert (first.key != second.key) is apart


def test_outside_the_cluster_the_sort_of_thing_counts() -> None:
    """Two custom resources of one name are two things, though both are External."""
    rule = armed(match={"verb": ["get"]})
    refs = [{"resource": r, "apiGroup": "a.io", "name": "x", "namespace": "shop"} for r in ("foos", "bars")]
    first, second = run(engine(rule), [audit_record(objectRef=ref) for ref in refs])
    assert isinstance(first.about, Subject)
    assert isinstance(second.about, Subject)
    assert first.about.key == second.about.key
    assert first.key != second.key


def test_an_actor_cannot_pretend_to_be_two() -> None:
    """No name with separators in it equals another pair of names."""
    pair = audit_record(user={"username": "a"}, impersonatedUser={"username": "b"})
    one = audit_record(user={"username": 'a","b'})
    first, second = run(engine(armed()), [pair, one])
    assert first.key != second.key


def test_a_long_running_request_is_one_fact() -> None:
    """ResponseStarted speaks, the ResponseComplete of the same request hours later does not."""
    rule = armed(match={"verb": ["watch"]})
    started = at(0, verb="watch", stage="ResponseStarted", responseStatus={"code": 200})
    other = at(1, verb="watch", stage="ResponseStarted", auditID="other")
    done = msgspec.structs.replace(started, stage="ResponseComplete", stage_timestamp="2026-01-01T00:50:00Z")
    made = engine(rule)
    findings = run(made, [started, other, done])
    assert [f.signals["audit.stage"] for f in findings] == ["ResponseStarted", "ResponseStarted"]
    assert made.books()["matched"] == 2


EXCEPTION = {
    "name": "backup",
    "owner": "team-storage",
    "reason": "the nightly backup reads every pod",
    "match": {"user": {"usernameGlob": ["system:serviceaccount:backup:*"]}},
    "expires": "2026-01-01T00:10:00Z",
}


@pytest.mark.parametrize("suppress", [{"window": "1m"}, {"exceptions": [EXCEPTION]}])
def test_a_start_that_was_suppressed_stays_so(suppress: dict[str, Any]) -> None:
    """When window or exception are long over, the end of the same request is still no new fact, and is counted once."""
    user = {"username": "system:serviceaccount:backup:runner"}
    rule = armed(match={"verb": ["watch"]}, suppress=suppress)
    starts = [at(second, verb="watch", stage="ResponseStarted", user=user) for second in (0, 1)]
    ends = [
        msgspec.structs.replace(one, stage="ResponseComplete", stage_timestamp="2026-01-01T05:00:00Z") for one in starts
    ]
    made = engine(rule)
    before = len(run(made, starts))
    assert run(made, ends) == []
    books = made.books()
    assert (books["matched"], books["dropped.dedupe"] + books["dropped.exception"]) == (2, 2 - before)


def test_without_a_start_the_end_speaks() -> None:
    """A log that holds only the end of a long request loses nothing."""
    (finding,) = run(engine(armed(match={"verb": ["watch"]})), [audit_record(verb="watch")])
    assert finding.signals["audit.stage"] == "ResponseComplete"


def test_one_audit_id_on_many_requests_hides_none() -> None:
    """A client that reuses its Audit-ID, or makes it up, is seen every time."""
    rule = armed(match={"verb": ["watch"]})
    ids = ["same", "same", "", "x" * 5000, "\x00\n", "a/b c"]
    records = [at(i, verb="watch", stage="ResponseStarted", auditID=name) for i, name in enumerate(ids)]
    findings = run(engine(rule), records)
    assert len(findings) == len(ids)
    assert len({r.correlation("c") for r in records}) == len(ids)
    assert all(len(r.correlation("c")) == 32 for r in records)


def test_a_request_just_received_counts_only_for_who_asks() -> None:
    """Its outcome is unknown; a rule that names the stage gets it, and the same request's end is no second fact."""
    received = audit_record(stage="RequestReceived", responseStatus=None)
    assert run(engine(armed()), [received]) == []
    eager = armed(match={"verb": ["get"], "stage": ["RequestReceived", "ResponseComplete"]})
    findings = run(engine(eager), [received, audit_record()])
    assert [f.signals["audit.stage"] for f in findings] == ["RequestReceived"]


def test_a_disabled_rule_is_silent() -> None:
    """Compiled or not, it is not asked."""
    assert run(engine(armed(enabled=False)), [audit_record()]) == []


def test_a_rule_that_is_gone_is_silent_from_the_next_batch() -> None:
    """Deleting a rule needs no restart."""
    made = engine(armed())
    assert len(run(made, [audit_record()])) == 1
    made.forget("pod-read")
    assert run(made, [audit_record()]) == []
    assert made.rules == []


def test_an_exception_holds_until_it_expires() -> None:
    """By the event's own time: a replay of the past suppresses what was suppressed then."""
    rule = armed(suppress={"exceptions": [EXCEPTION]})
    user = {"username": "system:serviceaccount:backup:runner"}
    made = engine(rule)
    findings = run(made, [at(0, user=user), at(1), at(600, user=user)])
    assert [f.signals["user"] for f in findings] == ["alice", "system:serviceaccount:backup:runner"]
    # Three matches, and that the exception is expired.
    assert {name: count for name, count in made.books().items() if count} == {"matched": 4, "dropped.exception": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"owner": ""}, "without owner"),
        ({"reason": " "}, "without reason"),
        ({"match": {}}, "covers everything"),
        ({"match": {"objectRef": {"nameGlob": ["*" * 2 + "a*" * 9]}}}, "stars"),
    ],
)
def test_an_exception_says_who_and_why(change: dict[str, Any], said: str) -> None:
    """Nobody can trust an exception without owner and reason, nor one that covers everything."""
    with pytest.raises(PermanentError, match=said) as caught:
        armed(suppress={"exceptions": [{**EXCEPTION, **change}]})
    assert "suppress.exceptions[0]" in caught.value.where


def test_a_body_that_is_no_text_becomes_a_finding() -> None:
    """One byte that is no UTF-8 does not cost the event that it stands in."""
    line = (
        b'{"verb":"patch","stage":"ResponseComplete","objectRef":{"resource":"pods","name":"p","namespace":"a"},'
        b'"user":{"username":"eve\xff"},"requestObject":{"metadata":{"labels":{"a":"\xff"}},"spec":{"hostPID":true}},'
        b'"stageTimestamp":"2026-01-01T00:00:00Z"}'
    )
    rule = armed(
        match={"objectGlob": [{"jsonPath": "$pod.hostPID", "patterns": ["true"]}]},
        emit={
            "securityEventType": "HostPIDPod",
            "severity": "high",
            "signals": {"label": "${requestObject:$.metadata.labels.a}"},
        },
    )
    (finding,) = run(engine(rule), [msgspec.json.decode(line, type=AuditRecord)])
    assert finding.signals["user"] == "eve\ufffd"
    assert finding.signals["label"] == "\ufffd"


def test_repeats_are_silent_within_the_window() -> None:
    """By actor and object unless the rule says otherwise; the window begins with what was reported."""
    made = engine(armed(suppress={"window": "10m"}))
    records = [at(0), at(300), at(599), at(600), at(601, user={"username": "bob"})]
    assert [f.detected_at for f in run(made, records)] == [records[i].seen_at for i in (0, 3, 4)]
    assert made.books()["dropped.dedupe"] == 2


def test_a_late_event_is_a_repeat_only_if_it_is_near() -> None:
    """The window lies around what was reported: other recordings and late lines are measured alike."""
    made = engine(armed(suppress={"window": "10m"}))
    assert [f.detected_at for f in run(made, [at(700), at(101), at(0)])] == [at(700).seen_at, at(0).seen_at]


def test_a_rule_names_what_makes_a_repeat() -> None:
    """`dedupeBy` speaks the language of placeholders."""
    made = engine(armed(suppress={"window": "10m", "dedupeBy": ["sourceIPs[-1]"]}))
    records = [at(0), at(1, user={"username": "bob"}), at(2, sourceIPs=["10.9.9.9"])]
    assert [f.signals["source.ip"] for f in run(made, records)] == ["10.0.0.7", "10.9.9.9"]


@pytest.mark.parametrize(
    ("suppress", "said"),
    [
        ({"window": "soon"}, "no duration"),
        ({"window": "25h"}, "longer than a day"),
        ({"dedupeBy": ["user.username"]}, "without a window"),
        ({"window": "1m", "dedupeBy": ["user.name"]}, "no field of an event"),
    ],
)
def test_a_suppression_that_cannot_work_does_not_compile(suppress: dict[str, Any], said: str) -> None:
    """With the field at fault."""
    with pytest.raises(PermanentError, match=said):
        armed(suppress=suppress)


def test_a_time_without_a_zone_is_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read as UTC, wherever the process runs."""
    for zone in ("Asia/Tokyo", "America/Lima"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        (finding,) = run(engine(armed()), [audit_record(stageTimestamp="2026-01-01T00:00:00")])
        assert finding.detected_at == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("wild", ["0001-01-01T00:00:00Z", "2026-01-01T00:30:00Z", "9999-12-31T23:59:59Z", "", "soon"])
def test_a_wild_time_wedges_nothing(wild: str) -> None:
    """Neither the limiter, nor the window, nor the fact that goes on: the events around it are judged as ever."""
    limited = armed("limited", rateLimit={"burst": 2, "sustainedPerSec": 1})
    windowed = armed("windowed", suppress={"window": "10m"})
    stray = audit_record(stageTimestamp=wild, requestReceivedTimestamp=wild, user={"username": "stray"})
    stream = [at(float(second), user={"username": f"u{second}"}) for second in range(0, 60, 5)]
    for place in range(0, len(stream), 3):
        made = engine(limited, windowed)
        found = run(made, [*stream[:place], stray, *stream[place:]])
        said = [(finding.signals["rule"], finding.signals["user"]) for finding in found]
        for rule in ("limited", "windowed"):
            assert {user for name, user in said if name == rule} >= {f"u{second}" for second in range(0, 60, 5)}
        assert made.books()["matched"] == 2 * (len(stream) + 1)
        assert len(made.snapshot()) > 0


def test_a_burst_is_limited_by_the_events_own_time() -> None:
    """Eight at once against a burst of two lose six, counted; a second later there is one more."""
    rule = armed(rateLimit={"burst": 2, "sustainedPerSec": 1})
    made = engine(rule)
    assert len(run(made, [at(0)] * 8)) == 2
    assert len(run(made, [at(1), at(1)])) == 1
    assert made.books()["dropped.rule_rate_limit"] == 7
    assert made.tallies.of("pod-read").share()[:2] == (3, 7)


def test_a_limiter_says_that_it_drops() -> None:
    """At once, then at most once a minute with what has come since; never in silence, and in the books."""
    made = engine(armed(rateLimit={"burst": 1, "sustainedPerSec": 1}))
    made.inspect(at(0))
    reports = [f for f in everything(made, [at(0)] * 30 + [at(59)] * 30 + [at(61)] * 30) if is_report(f)]
    assert [f.signals["dropped"] for f in reports] == ["1", "59"]
    assert {f.signals["limited.rule"] for f in reports} == {"pod-read"}
    books = made.books()
    assert books["matched"] == 91 + len(reports)
    assert books["dropped.rule_rate_limit"] == 91 - made.tallies.of("pod-read").matched


@pytest.mark.parametrize("severity", ["critical", "high", "low"])
def test_a_flood_by_one_actor_drops_nobody_elses_finding(severity: str) -> None:
    """Whoever empties a rule's bucket empties its own; the report names who was dropped. A restart changes neither."""
    emit = {"securityEventType": "KubernetesAPICall", "severity": severity, "class": "Audit"}
    rule = armed(rateLimit={"burst": 50, "sustainedPerSec": 5}, emit=emit)
    flood = [at(n * 0.016, user={"username": "mallory"}, auditID=f"f{n}") for n in range(120)]
    stolen = at(1.946, user={"username": "stolen-ci"})
    made = engine(rule)
    found = everything(made, flood)
    made, state = engine(rule), made.snapshot()
    made.restore(state)
    found += everything(made, [stolen])
    said = [finding.signals["user"] for finding in found if not is_report(finding)]
    assert said == ["mallory"] * (50 + int(119 * 0.016 * 5)) + ["stolen-ci"], "mallory gets no more than the budget"
    assert [finding.signals["limited.actors"] for finding in found if is_report(finding)] == ["mallory (1)"]


def test_whom_a_flood_of_many_drops_is_named() -> None:
    """A report says how many of whose findings were dropped since the last one."""
    made = engine(armed(rateLimit={"burst": 1, "sustainedPerSec": 1}))
    run(made, [at(0, auditID=f"{n}", user={"username": name}) for n, name in enumerate("aabbb")])
    *_, report = everything(made, [at(61, user={"username": "b"}), at(61, user={"username": "c"})])
    assert report.signals["limited.actors"] == "b (3), c (1)"


def test_a_limiter_speaks_no_oftener_after_a_restart() -> None:
    """When it last said so, and what came since, is part of the checkpoint."""
    rule = armed(rateLimit={"burst": 1, "sustainedPerSec": 1})
    first = engine(rule)
    everything(first, [at(0)] * 10)
    second = engine(rule)
    second.tallies.of("pod-read").adopt("uid-1", None)
    second.restore(first.snapshot())
    reports = [f for f in everything(second, [at(0.5)] * 10 + [at(62)] * 2) if is_report(f)]
    assert [f.signals["dropped"] for f in reports] == ["19"]


def test_a_batch_can_be_taken_back() -> None:
    """The worker does so when a batch fails half way: what the first try spent is there again."""
    rule = armed(rateLimit={"burst": 2, "sustainedPerSec": 1}, suppress={"window": "10m", "dedupeBy": ["auditID"]})
    batch = [at(0, auditID=name, stage="ResponseStarted") for name in "abcd"]
    made = engine(rule)
    before = made.snapshot()
    first = everything(made, batch)
    made.restore(before)
    assert made.snapshot() == before
    assert everything(made, batch) == first


def test_a_flood_that_is_limited_makes_no_repeat() -> None:
    """A match that the limiter drops was not reported, so the next one is no repeat of it."""
    made = engine(armed(rateLimit={"burst": 1, "sustainedPerSec": 1}, suppress={"window": "10m"}))
    alice, bob = at(0), at(0, user={"username": "bob"})
    again = at(2, user={"username": "bob"})
    assert [f.signals["user"] for f in run(made, [alice, bob, again])] == ["alice", "bob"]


def test_the_bucket_outlives_a_recompilation() -> None:
    """Touching a rule does not fill its bucket; another budget does."""
    budget = {"burst": 2, "sustainedPerSec": 1}
    made = engine(armed(rateLimit=budget))
    assert len(run(made, [at(0)] * 5)) == 2
    made.arm(armed(rateLimit=budget, description="edited"))
    assert run(made, [at(0)] * 5) == []
    made.arm(armed(rateLimit={"burst": 3, "sustainedPerSec": 1}))
    assert len(run(made, [at(0)] * 5)) == 3


def test_counts_outlive_a_recompilation() -> None:
    """One tally per rule, whichever version counted."""
    made = engine(armed())
    run(made, [at(0)])
    made.arm(armed(description="edited"))
    run(made, [at(1)])
    assert made.tallies.of("pod-read").share()[0] == 2


def test_another_recording_gets_its_tokens() -> None:
    """Time that goes back by a day is another file; its events must not starve behind the later ones."""
    made = engine(armed(rateLimit={"burst": 1, "sustainedPerSec": 1}))
    old = {"requestReceivedTimestamp": "2025-12-01T00:00:00Z"}
    records = [at(0), *(audit_record(stageTimestamp=f"2025-12-01T00:00:{s:02}Z", **old) for s in range(10))]
    assert len(run(made, records)) >= 10


def test_an_unknown_type_needs_its_label() -> None:
    """The catalogue is closed, except to a rule that says it experiments."""
    emit = {"securityEventType": "MyOwnThing", "severity": "high", "class": "Anomaly"}
    with pytest.raises(PermanentError, match="no event type of the catalogue"):
        armed(emit=emit)
    (finding,) = run(engine(armed(labels={"ugallu.io/type-experimental": "true"}, emit=emit)), [audit_record()])
    assert finding.experimental
    assert (finding.type.name, finding.event_class) == ("MyOwnThing", EventClass.ANOMALY)


def test_a_misspelt_type_is_recognised() -> None:
    """The error names the type that was meant."""
    with pytest.raises(PermanentError) as caught:
        armed(emit={"securityEventType": "ExecIntoPods", "severity": "high"})
    assert "ExecIntoPod?" in caught.value.fix


def test_a_rule_that_takes_too_long_is_told() -> None:
    """The engine times what rules take for each event, and begins anew with another version."""
    seconds = iter(range(1000))
    made = Engine(budget=Budget(lambda: float(next(seconds))))
    made.arm(armed())
    run(made, [audit_record()] * 3)
    assert made.budget.overruns["pod-read"].events == 3
    assert made.budget.slow("pod-read") is None
    run(made, [audit_record()] * 20)
    assert made.budget.overruns["pod-read"].events == SLOW, "enough is known"
    assert made.budget.slow("pod-read")
    made.arm(armed())
    assert not made.budget.overruns


def test_a_rule_that_is_held_back_is_told() -> None:
    """At once, and then with the number of events that it was not shown; a replay holds nothing back."""
    seconds = iter(range(10_000))
    metrics = Metrics()
    made = Engine(metrics, budget=Budget(lambda: float(next(seconds)), holding=True))
    made.arm(armed())
    events = [at(index, user={"username": f"u{index}"}) for index in range(SLOW + 5)]
    found = everything(made, [*events, at(100, user={"username": "eve"})])
    reports = [finding for finding in found if is_report(finding)]
    assert [(one.signals["reason"], one.signals["limited.rule"], one.signals["dropped"]) for one in reports] == [
        ("rule_held_back", "pod-read", "0"), ("rule_held_back", "pod-read", "6"),
    ]  # fmt: skip
    assert reports[1].signals["user"] == "eve"
    assert len(found) - len(reports) == SLOW
    assert metrics.value("ugallu_audit_rule_passed_over_total", rule="pod-read") == 6
    assert made.books()["matched"] == SLOW + 2
    assert Engine().budget.overruns == {}


def test_metrics_count_each_match_once() -> None:
    """Matches and drops by rule, once a batch."""
    metrics = Metrics()
    made = engine(armed(rateLimit={"burst": 2, "sustainedPerSec": 1}), metrics=metrics)
    run(made, [at(0)] * 3)
    run(made, [at(0)])
    assert metrics.value("ugallu_audit_rule_matches_total", rule="pod-read") == 2
    assert metrics.value("ugallu_audit_rule_dropped_total", rule="pod-read") == 2


def test_a_state_of_another_format_is_refused() -> None:
    """A downgrade says so instead of counting wrong."""
    good = Engine().snapshot()
    for bad in (b"", b"\xc1", good.replace(b"\x02", b"\x03", 1), msgspec.msgpack.encode([1, 2])):
        with pytest.raises(PermanentError):
            Engine().restore(bad)


def test_a_restart_goes_on_counting_from_the_status() -> None:
    """Our share in the status is the base; what a checkpoint knows is added once."""
    first = engine(armed())
    first.tallies.of("pod-read").adopt("uid-1", ReplicaShare(match_count=40, dropped_rate_limit=2))
    run(first, [at(0)])
    second = engine(armed())
    second.tallies.of("pod-read").adopt("uid-1", ReplicaShare(match_count=41, dropped_rate_limit=2))
    second.restore(first.snapshot())
    assert second.tallies.of("pod-read").share()[:2] == (41, 2)
    run(second, [at(1)])
    assert second.tallies.of("pod-read").share()[0] == 42


def test_a_rule_made_anew_counts_anew() -> None:
    """Another object of the same name does not inherit a count."""
    first = engine(armed())
    first.tallies.of("pod-read").adopt("uid-1", None)
    run(first, [at(0)])
    second = engine(armed())
    second.tallies.of("pod-read").adopt("uid-2", None)
    second.restore(first.snapshot())
    assert second.tallies.of("pod-read").share()[0] == 0


def test_checkpoints_stay_small() -> None:
    """A million different repeats leave a bounded state."""
    made = engine(armed(rateLimit={"burst": 10_000, "sustainedPerSec": 10_000}, suppress={"window": "24h"}))
    run(made, [at(index / 10, user={"username": f"u{index}"}) for index in range(9000)])
    assert len(made.snapshot()) < 80_000


RULES = (
    armed("every", match={"verb": ["get", "watch"]}, rateLimit={"burst": 3, "sustainedPerSec": 1}),
    armed("quiet", match={"verb": ["get"]}, suppress={"window": "20s", "exceptions": [EXCEPTION]}),
    armed("by-address", match={}, suppress={"window": "7s", "dedupeBy": ["sourceIPs[-1]"]}),
    armed(
        "started",
        match={"stage": ["ResponseStarted", "ResponseComplete"]},
        rateLimit={"burst": 2, "sustainedPerSec": 1},
    ),
    armed(
        "was-otherwise",
        match={
            "objectRef": {"resource": ["pods"]},
            "previous": [{"jsonPath": "$.spec.hostPID", "patterns": ["true"]}],
            "whenUnknown": "holds",
        },
        suppress={
            "exceptions": [
                {**EXCEPTION, "match": {"objectRef": {"resource": ["pods"]}, "changed": ["$.spec"], "verb": ["update"]}}
            ]
        },
    ),
)

events = st.builds(
    at,
    st.integers(0, 90).map(lambda tenth: tenth / 2),
    verb=st.sampled_from(["get", "watch", "create", "update", "delete"]),
    responseObject=st.sampled_from([None, *({"kind": "Pod", "spec": {"hostPID": pid}} for pid in (True, False))]),
    stage=st.sampled_from(["ResponseStarted", "ResponseComplete", "RequestReceived"]),
    auditID=st.sampled_from(["a", "b"]),
    user=st.sampled_from([{"username": "alice"}, {"username": "system:serviceaccount:backup:runner"}]),
    sourceIPs=st.sampled_from([["10.0.0.1"], ["10.0.0.2"]]),
    requestReceivedTimestamp=st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=40), st.lists(st.tuples(st.integers(1, 9), st.booleans()), max_size=40))
def test_the_same_events_give_the_same_findings(stream: list[AuditRecord], cuts: list[tuple[int, bool]]) -> None:
    """Cut into whatever batches, restarted at whatever edge from a checkpoint, late events included."""
    whole = engine(*RULES)
    expected = everything(whole, stream)
    made = engine(*RULES)
    got: list[Finding] = []
    rest = stream
    for size, restart in [*cuts, (len(stream) or 1, False)]:
        batch, rest = rest[:size], rest[size:]
        got += everything(made, batch)
        if restart:
            state = made.snapshot()
            made = engine(*reversed(RULES))
            made.restore(state)
    assert got == expected
    assert made.books() == whole.books()
    books = whole.books()
    assert books["matched"] == len(expected) + sum(
        count for name, count in books.items() if name.startswith("dropped.")
    )
    assert sum(whole.tallies.of(rule.name).share()[0] for rule in RULES) == sum(
        not is_report(finding) for finding in expected
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=25))
def test_one_by_one_is_the_same_as_together(stream: list[AuditRecord]) -> None:
    """The slow road, which the worker takes after an error, leads to the same place."""
    whole, single = engine(*RULES), engine(*RULES)
    assert [f for record in stream for f in single.inspect(record)] == everything(whole, stream)
    assert single.snapshot() == whole.snapshot()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "username",
                    "groups",
                    "extra",
                    "code",
                    "metadata",
                    "spec",
                    "kind",
                    "data",
                    "name",
                    "value",
                    "path",
                    "op",
                    "items",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
CURIOUS = armed(
    "curious",
    match={},
    suppress={"window": "1s", "dedupeBy": ["requestObject:$.metadata.name", "user.extra.code"]},
    emit={
        "securityEventType": "KubernetesAPICall",
        "severity": "info",
        "signals": {"all": "${requestObject:$} ${responseObject:$.items[*]} ${annotations.a} ${sourceIPs[-1]}"},
    },
    rateLimit={"burst": 10_000, "sustainedPerSec": 10_000},
)
PARTS = ["user", "impersonatedUser", "sourceIPs", "responseStatus", "requestObject", "responseObject", "annotations"]


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(PARTS, anything)), st.sampled_from(["create", "patch", "delete"])
)
def test_no_event_breaks_the_engine(parts: dict[str, Any], verb: str) -> None:
    """Whatever stands in the raw parts of a line, the match is a finding whose canonical JSON is one and the same."""
    (finding,) = run(engine(CURIOUS), [audit_record(verb=verb, **parts)])
    plain = msgspec.to_builtins((finding.about, finding.signals))
    assert msgspec.json.encode(plain, order="sorted") == rfc8785.dumps(plain)
