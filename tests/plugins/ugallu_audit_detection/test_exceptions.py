"""Exceptions are evidence: what they hide is counted and named, and what is odd about them is told, by event time."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ugallu.api.audit import AuditRecord
from ugallu.api.meta import Condition, Metadata, decode_strict
from ugallu.api.observation import Finding
from ugallu.api.sigma import RuleException, SigmaRule, Suppress
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.testing.audit import audit_record
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.correlations import correlation_spec, filter_spec
from ugallu.testing.rules import rule_spec, sigma_rule
from ugallu_audit_detection.arming import arm
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.exceptions import (
    DAY,
    LEARNING,
    MAX_KEPT,
    MAX_KNOWN,
    UNUSED,
    WIDER,
    WITHIN,
    Event,
    Exceptions,
)
from ugallu_audit_detection.lastgood import LastGood
from ugallu_audit_detection.rules import REFRESH, Rules

RUNNER = "system:serviceaccount:backup:runner"
BACKUP: dict[str, Any] = {
    "name": "backup",
    "owner": "team-storage",
    "reason": "nightly",
    "expires": "2027-01-01T00:00:00Z",
    "match": {"userGlob": ["system:serviceaccount:backup:*"]},
}


def engine(*exceptions: dict[str, Any], **changes: Any) -> Engine:
    made = Engine()
    made.arm(arm("pod-read", rule_spec(suppress={"exceptions": exceptions}, **changes), {}))
    return made


def at(second: float, user: str = RUNNER, **changes: Any) -> AuditRecord:
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=second)
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return audit_record(
        **{"requestReceivedTimestamp": stamp, "stageTimestamp": stamp, "user": {"username": user}, **changes}
    )


def pod(name: str, namespace: str = "shop") -> dict[str, Any]:
    return {"objectRef": {"resource": "pods", "apiVersion": "v1", "namespace": namespace, "name": name}}


def told(made: Engine, records: Sequence[AuditRecord]) -> list[Finding]:
    found = [finding for _, finding in made.inspect_batch(records)]
    return [finding for finding in found if finding.type.name == "BehaviorBaselineDeviation"]


def said(made: Engine, records: Sequence[AuditRecord]) -> list[tuple[str, str]]:
    return [(finding.signals["reason"], finding.signals["exception.name"]) for finding in told(made, records)]


def test_what_an_exception_hides_is_counted_and_the_last_of_it_named() -> None:
    """Count, audit id, time and subject: enough to find the line again, and to ask the owner."""
    made = engine(BACKUP)
    made.inspect(at(0, **pod("a")))
    made.inspect(at(9, auditID="7b1f", **pod("web-0")))
    made.inspect(at(10, "alice", **pod("other")))
    hidden = made.exceptions.of("pod-read")["backup"]
    assert (hidden.hidden, hidden.audit_id, hidden.subject) == (2, "7b1f", f"Pod shop/web-0 by {RUNNER}")
    assert hidden.last_at == at(9).seen_at


def test_what_is_shown_of_it_is_redacted() -> None:
    """A client chooses its audit id, and a name may look like a token."""
    made = engine(BACKUP)
    made.inspect(at(0, auditID="Bearer abcdefghijklmnop\n" + "x" * 900, **pod("eyJhbGciOiJIUzI1NiIsInR5.eyJ1.x")))
    hidden = made.exceptions.of("pod-read")["backup"]
    assert "abcdefgh" not in hidden.audit_id
    assert len(hidden.audit_id) <= 64
    assert hidden.audit_id.isprintable()
    assert "eyJ" not in hidden.subject


def test_an_exception_that_is_suddenly_wider_is_told() -> None:
    """After its first day, three subjects within the hour that it never hid before; once a day."""
    made = engine(BACKUP)
    assert said(made, [at(n, **pod(f"first{n}")) for n in range(20)]) == []
    later = LEARNING + 100
    assert said(made, [at(later, **pod("new1")), at(later + 1, **pod("new2")), at(later + 2, **pod("first3"))]) == []
    (finding,) = told(made, [at(later + 3, **pod("new3")), at(later + 4, **pod("new4"))])
    assert finding.severity == "medium"
    assert finding.signals["reason"] == "exception_wider"
    assert finding.signals["exception.owner"] == "team-storage"
    assert finding.signals["subjects"].count("new") == WIDER
    assert said(made, [at(later + 9, **pod(f"n{n}")) for n in range(9)]) == []
    assert len(said(made, [at(later + DAY + 9, **pod(f"m{n}")) for n in range(9)])) == 1


def test_a_workload_is_one_subject_whatever_its_pods_are_called() -> None:
    """The random ends of names that controllers make are not news; another caller is."""
    made = engine(BACKUP)
    made.inspect(at(0, **pod("web-6c8f4b7d9c-abcde")))
    names = ["web-5d9bbf6c7f-xzq2w", "web-6c8f4b7d9c-kkkkk", "web-1", "web-27"]
    assert said(made, [at(LEARNING + 60 * n, **pod(name)) for n, name in enumerate(names)]) == []
    callers = [f"system:serviceaccount:backup:{name}" for name in "xyz"]
    assert len(said(made, [at(LEARNING + 600, who, **pod("web-1")) for who in callers])) == 1


def test_news_over_a_longer_time_is_growth_and_no_jump() -> None:
    """Three new subjects in three hours are how a cluster grows."""
    made = engine(BACKUP)
    made.inspect(at(0))
    events = [at(LEARNING + n * (WITHIN + 60), **pod(f"p{'abc'[n]}")) for n in range(3)]
    assert said(made, events) == []


def test_an_exception_that_hides_everything_cannot_become_wider() -> None:
    """More subjects than are remembered say nothing any more."""
    made = engine(BACKUP)
    assert said(made, [at(n, **pod(f"p{n}x")) for n in range(MAX_KNOWN)]) == []
    assert said(made, [at(LEARNING + n, **pod(f"q{n}x")) for n in range(20)]) == []


def test_an_expired_exception_is_told_where_it_would_have_hidden() -> None:
    """The finding stands, and once a day it is said that an owner had expected it until then."""
    made = engine({**BACKUP, "expires": "2026-01-01T00:00:00Z"})
    found = [finding for _, finding in made.inspect_batch([at(60), at(120)])]
    assert [finding.type.name for finding in found] == [
        "KubernetesAPICall", "BehaviorBaselineDeviation", "KubernetesAPICall",
    ]  # fmt: skip
    assert found[1].signals["expired.at"] == "2026-01-01T00:00:00+00:00"
    assert found[1].severity == "low"
    assert said(made, [at(DAY + 120)]) == [("exception_expired", "backup")]


def test_an_exception_that_nothing_needs_is_told() -> None:
    """Thirty days of event time without a match, counted from the first look at it."""
    made = engine(BACKUP, {**BACKUP, "name": "other", "match": {"userGlob": ["nobody"]}})
    assert said(made, [at(0, "alice"), at(60)]) == []
    assert said(made, [at(UNUSED - 120, "alice")]) == []
    assert said(made, [at(UNUSED + 7200, "alice")]) == [("exception_unused", "backup"), ("exception_unused", "other")]
    assert said(made, [at(UNUSED + 9000, "alice"), at(UNUSED + 9001)]) == []


def test_a_critical_finding_is_hidden_only_by_an_exception_that_says_so() -> None:
    """What matters most is not silenced in passing."""
    critical = {"securityEventType": "ClusterAdminGranted", "severity": "critical"}
    assert len(engine(BACKUP, emit=critical).inspect(at(0))) == 1  # type: ignore[arg-type]
    assert engine({**BACKUP, "includeCritical": True}, emit=critical).inspect(at(0)) == []


def test_two_exceptions_of_one_rule_have_two_names() -> None:
    """Else nobody could tell which one hid what."""
    with pytest.raises(PermanentError, match="two exceptions are called"):
        engine(BACKUP, BACKUP)


def test_what_is_known_survives_a_restart() -> None:
    """The same events tell the same, wherever the process dies in between."""
    events = [at(n, **pod(f"first{n}")) for n in range(5)]
    events += [at(LEARNING + n, **pod(f"new{n}x")) for n in range(3)] + [at(UNUSED * 2 + n, "alice") for n in range(2)]
    whole = said(engine(BACKUP), events)
    assert whole == [("exception_wider", "backup"), ("exception_unused", "backup")]
    for cut in range(len(events)):
        first = engine(BACKUP)
        second = engine(BACKUP)
        before = said(first, events[:cut])
        second.restore(first.snapshot())
        assert before + said(second, events[cut:]) == whole
        assert second.exceptions.of("pod-read")["backup"].hidden == 8


def test_the_memory_is_bounded() -> None:
    """The exception that hid something longest ago is forgotten first."""
    kept = Exceptions()
    for number in range(MAX_KEPT + 5):
        kept.hide("rule", f"e{number}", "", Event(float(number), "", "a", "Pod", "b", "c"))
    assert len(kept.of("rule")) == MAX_KEPT
    assert "e0" not in kept.of("rule")
    assert f"e{MAX_KEPT + 4}" in kept.of("rule")


# ------------------------------------------------------------------------------------------------------------- status


class House:
    """A reconciler over a cluster in memory, driven by hand."""

    def __init__(self, directory: Path, beside: "House | None" = None, instance: str = "one") -> None:
        self.clock: ManualClock = beside.clock if beside else ManualClock()
        self.cluster: Any = beside.cluster if beside else memory_cluster(self.clock, judging=False)
        self.engine = Engine()
        self.rules = Rules(
            self.engine,
            cluster=self.cluster,
            clock=self.clock,
            metrics=Metrics(),
            last_good=LastGood(directory / instance),
            instance=instance,
        )

    async def put(self, **changes: Any) -> SigmaRule:
        await self.cluster.apply(sigma_rule(**changes), manager="test")
        return await self.turn()

    async def turn(self) -> SigmaRule:
        await self.rules.reconcile(await self.cluster.get(SigmaRule, "pod-read"))
        found: SigmaRule = await self.cluster.get(SigmaRule, "pod-read")
        return found

    async def later(self) -> SigmaRule:
        await self.clock.advance(REFRESH)
        return await self.turn()


def condition(rule: SigmaRule, kind: str) -> Condition | None:
    return next((one for one in rule.status.conditions if one.type == kind), None)


async def test_the_status_says_what_exceptions_hid_over_all_replicas(tmp_path: Path) -> None:
    """Counts of every replica, and the last event that any of them saw."""
    one = House(tmp_path)
    two = House(tmp_path, beside=one, instance="two")
    await one.put(suppress={"exceptions": [BACKUP]})
    await two.turn()
    one.engine.inspect(at(5, auditID="early", **pod("a")))
    two.engine.inspect(at(7, auditID="late", **pod("b")))
    two.engine.inspect(at(6, auditID="between", **pod("b")))
    await two.later()
    (hidden,) = (await one.later()).status.exceptions
    assert (hidden.name, hidden.hidden, hidden.last_audit_id) == ("backup", 3, "late")
    assert hidden.last_subject == f"Pod shop/b by {RUNNER}"
    assert hidden.last_hidden_at == at(7).seen_at


async def test_conditions_name_what_is_odd_and_who_answers(tmp_path: Path) -> None:
    """Unused, suddenly wider, without effect: each with the owner's name."""
    house = House(tmp_path)
    await house.put(suppress={"exceptions": [BACKUP]})
    house.engine.inspect(at(0))
    for number in range(WIDER):
        house.engine.inspect(at(LEARNING + number, **pod(f"new{number}x")))
    wider = condition(await house.later(), "ExceptionWider")
    assert wider is not None
    assert "backup (owner team-storage)" in wider.message
    house.engine.inspect(at(UNUSED * 2, "alice"))
    rule = await house.later()
    assert condition(rule, "ExceptionWider") is None
    unused = condition(rule, "ExceptionUnused")
    assert unused is not None
    assert "backup (owner team-storage)" in unused.message
    critical = {"securityEventType": "ClusterAdminGranted", "severity": "critical"}
    ignored = condition(await house.put(suppress={"exceptions": [BACKUP]}, emit=critical), "ExceptionIgnored")
    assert ignored is not None
    assert "includeCritical" in ignored.message


def test_what_a_filter_hides_is_evidence_too() -> None:
    """Under the filter's own name: counted, named, and told when nothing needs it any more."""
    made = Engine()
    made.arm(arm("pod-read", rule_spec(), {}))
    made.arm(arm("known", filter_spec({"user.username": RUNNER}, ["pod-read"]), {}))
    assert said(made, [at(0), at(60, "alice")]) == []
    hidden = made.exceptions.of("known")["known"]
    assert (hidden.hidden, hidden.subject) == (1, f"Pod shop/web-0 by {RUNNER}")
    assert said(made, [at(UNUSED + 7200, "alice")]) == [("exception_unused", "known")]


async def test_the_status_of_a_filter_says_what_it_hid(tmp_path: Path) -> None:
    """Beside its matches, which are those that it hid."""
    house = House(tmp_path)
    await house.put()
    spec = filter_spec({"user.username": RUNNER}, ["pod-read"])
    await house.cluster.apply(SigmaRule(metadata=Metadata(name="known"), spec=spec), manager="test")
    await house.rules.reconcile(await house.cluster.get(SigmaRule, "known"))
    house.engine.inspect(at(0))
    await house.clock.advance(REFRESH)
    await house.rules.reconcile(await house.cluster.get(SigmaRule, "known"))
    status = (await house.cluster.get(SigmaRule, "known")).status
    assert [(one.name, one.hidden) for one in status.exceptions] == [("known", 1)]
    assert status.match_count == 1


def test_a_correlations_exception_is_evidence_as_well() -> None:
    """What it does not count is counted here."""
    made = Engine()
    made.arm(arm("pod-read", rule_spec(), {}))
    spec = correlation_spec(rules=["pod-read"])
    made.arm(
        arm(
            "often",
            msgspec.structs.replace(
                spec, suppress=Suppress(exceptions=(decode_strict(RuleException, BACKUP, where="e"),))
            ),
            {},
        )
    )
    made.inspect(at(0))
    assert made.exceptions.of("often")["backup"].hidden == 1
