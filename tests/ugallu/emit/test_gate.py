"""Budget, level and reports."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.catalog import Severity
from ugallu.api.event import ClusterIdentity, SourceRef
from ugallu.emit.gate import BACKPRESSURE, OBJECT_BUDGET, Gate, Level
from ugallu.errors import PermanentError
from ugallu.testing.emission import EPOCH

SOURCE = SourceRef(kind="Operator", name="x")


def at(minute: float) -> dt.datetime:
    return EPOCH + dt.timedelta(minutes=minute)


def refuse(gate: Gate, minute: float, type_: str = "ExecIntoPod", reason: str = OBJECT_BUDGET) -> None:
    gate.refuse("x", reason, {type_: 1}, at=at(minute), source=SOURCE, cluster=ClusterIdentity())


def test_budget_and_breaker() -> None:
    """Past the budget only high and critical pass, until a tenth of it is free again."""
    gate = Gate(10)
    assert [gate.admit(Severity.LOW, at(n)) for n in range(12)] == [""] * 10 + [OBJECT_BUDGET] * 2
    assert gate.breaker_open
    assert [gate.admit(grade, at(12)) for grade in Severity] == ["", ""] + [OBJECT_BUDGET] * 3
    assert gate.admit(Severity.LOW, at(61)) == OBJECT_BUDGET
    assert gate.admit(Severity.LOW, at(64)) == ""


def test_any_hour_holds_the_budget() -> None:
    """However the flood is spread, no hour of event time has more than the budget below high."""
    gate = Gate(30)
    passed = [n for n in range(2000) if not gate.admit(Severity.MEDIUM, at(n / 7))]
    assert all(sum(0 <= other - n < 59 * 7 for other in passed) <= 30 for n in passed)
    assert len(passed) >= 30 * 4


def test_clock_that_ran_ahead() -> None:
    """A flood from a wrong future neither uses up the present's budget nor is forgotten by it."""
    gate = Gate(10)
    for n in range(1000):
        gate.admit(Severity.CRITICAL, at(1_000_000 + n))
    assert [gate.admit(Severity.LOW, at(0)) for _ in range(11)] == [""] * 10 + [OBJECT_BUDGET]


def test_level_red() -> None:
    """At red only high and critical pass; unknown acts as green."""
    gate = Gate(100)
    assert gate.level is Level.UNKNOWN
    assert gate.admit(Severity.INFO, at(0)) == ""
    gate.level = Level.RED
    assert [gate.admit(grade, at(0)) for grade in Severity] == ["", ""] + [BACKPRESSURE] * 3


def test_one_report_a_minute_and_reason() -> None:
    """Reports come once a minute of event time for each component and reason, with the counts by type."""
    gate = Gate(100)
    refuse(gate, 0.0)
    refuse(gate, 0.5, "HostPIDPod")
    refuse(gate, 0.6, reason="invalid")
    assert gate.due(at(0.9)) == []
    (report,) = gate.due(at(1.0))
    assert report.spec.signals == {
        "reason": OBJECT_BUDGET,
        "dropped": "2",
        "dropped.ExecIntoPod": "1",
        "dropped.HostPIDPod": "1",
        "firstSeen": "2026-01-01T00:00:00Z",
        "lastSeen": "2026-01-01T00:00:30Z",
    }
    assert report.spec.subject.resolved
    assert [other.spec.signals["reason"] for other in gate.flush()] == ["invalid"]
    assert not gate.reporting


def test_reports_stay_small() -> None:
    """A thousand types make a report with 96 of them and the rest together."""
    gate = Gate(100)
    for n in range(1000):
        refuse(gate, 0, f"Type{n}")
    (report,) = gate.flush()
    assert len(report.spec.signals) < 110
    assert report.spec.signals["dropped.other"] == "904"
    assert report.spec.signals["dropped"] == "1000"


def test_foreign_bytes_are_refused() -> None:
    """A gate that cannot be read is an error, not a new one."""
    with pytest.raises(PermanentError):
        Gate(1).restore(b"\xc1")


@given(st.lists(st.tuples(st.sampled_from(list(Severity)), st.integers(-30, 200)), max_size=60), st.integers(0, 60))
def test_snapshot_changes_nothing(rows: list[tuple[Severity, int]], cut: int) -> None:
    """A gate that is saved and restored anywhere decides on as if it had not been."""

    def play(restart: bool) -> list[object]:
        gate = Gate(8)
        seen: list[object] = []
        for n, (grade, minute) in enumerate(rows):
            if restart and n == cut:
                state = gate.snapshot()
                gate = Gate(8)
                gate.restore(state)
            seen += gate.due(at(minute))
            reason = gate.admit(grade, at(minute))
            seen.append(reason)
            if reason:
                refuse(gate, minute)
        return seen + list(gate.flush())

    assert play(restart=False) == play(restart=True)
