"""Windows of equal findings."""

import datetime as dt

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.event import ClusterIdentity, SecurityEventSpec, SourceRef
from ugallu.api.subject import Subject
from ugallu.emit.fold import LATENESS, Fold, Verdict, closing
from ugallu.emit.records import Submitted
from ugallu.errors import PermanentError
from ugallu.testing.emission import EPOCH


def found(key: str, second: int, severity: Severity = Severity.LOW, stream: str = "log") -> Submitted:
    spec = SecurityEventSpec(
        class_=EventClass.DETECTION,
        type="ExecIntoPod",
        severity=severity,
        cluster_identity=ClusterIdentity(),
        source=SourceRef(kind="Operator", name="x"),
        subject=Subject(kind="Pod", name="p", labels={"a": "b" * 3000}),
        detected_at=EPOCH + dt.timedelta(seconds=second),
        signals={"user": "eve"},
        correlation_id=f"{second}",
    )
    return Submitted(f"se-{key}-{second}", key.encode(), "x", spec, 0.0, stream)


def test_first_is_an_event_later_ones_are_counted() -> None:
    """The first finding of a window is an event at once, later ones are counted, the closing event says how many."""
    fold = Fold(600)
    verdicts = [fold.take(n, found("a", n * 100)).verdict for n in range(6)]
    assert verdicts == [Verdict.FIRST] + [Verdict.FOLDED] * 5
    (window,) = fold.close()
    event = closing(window)
    assert event is not None
    assert event.spec.signals == {
        "user": "eve",
        "occurrences": "6",
        "firstSeen": "2026-01-01T00:00:00Z",
        "lastSeen": "2026-01-01T00:08:20Z",
    }
    assert [parent.name for parent in event.spec.parents] == ["se-a-0"]
    assert event.spec.correlation_id == "0"
    assert (event.spec.subject.labels, event.spec.subject.partial) == ({}, True)


def test_a_single_finding_needs_no_closing() -> None:
    """A window of one finding closes without an event."""
    fold = Fold(600)
    fold.take(1, found("a", 0))
    (window,) = fold.close()
    assert closing(window) is None


def test_window_ends_by_event_time() -> None:
    """A finding behind the window's end opens the next one; others of the stream close it once time has passed."""
    fold = Fold(600)
    fold.take(1, found("a", 0))
    assert fold.take(2, found("a", 600)).verdict is Verdict.FIRST
    assert fold.take(3, found("b", 1199 + LATENESS)).closed == []
    (window,) = fold.take(4, found("b", 1200 + LATENESS)).closed
    assert window.name == "se-a-600"


def test_out_of_order() -> None:
    """A finding that comes late but belongs to the window is counted there, and moves `firstSeen` back."""
    fold = Fold(600)
    fold.take(1, found("a", 100))
    fold.take(2, found("b", 650))
    assert fold.take(3, found("a", 40)).verdict is Verdict.FOLDED
    event = closing(fold.close()[0])
    assert event is not None
    assert event.spec.signals["firstSeen"] == "2026-01-01T00:00:40Z"


def test_rise_of_severity() -> None:
    """A rise is an event of its own, once for each grade; the closing event bears the highest."""
    fold = Fold(600)
    grades = [Severity.LOW, Severity.HIGH, Severity.MEDIUM, Severity.HIGH, Severity.CRITICAL]
    verdicts = [fold.take(n, found("a", n, grade)).verdict for n, grade in enumerate(grades)]
    assert verdicts == [Verdict.FIRST, Verdict.RISEN, Verdict.FOLDED, Verdict.FOLDED, Verdict.RISEN]
    event = closing(fold.close()[0])
    assert event is not None
    assert event.spec.severity is Severity.CRITICAL


def test_streams_keep_their_own_time() -> None:
    """A source that reads an older log does not have its windows closed by another source's time."""
    fold = Fold(600)
    fold.take(1, found("a", 0, stream="old"))
    assert fold.take(2, found("b", 90_000, stream="new")).closed == []
    assert fold.take(3, found("a", 5, stream="old")).verdict is Verdict.FOLDED


@pytest.mark.parametrize("astray", [10_000_000, -10_000_000, 253_000_000_000 - int(EPOCH.timestamp())])
def test_one_wrong_clock_closes_nothing(astray: int) -> None:
    """A finding from the far future or past leaves the windows of the others open, however often it comes alone."""
    fold = Fold(600)
    fold.take(1, found("a", 0))
    for n in range(3):
        assert fold.take(10 * n + 2, found(f"x{n}", astray)).closed == []
        assert fold.take(10 * n + 3, found("a", 10 + n)).verdict is Verdict.FOLDED
    (window,) = fold.take(40, found("b", 700)).closed
    assert (window.name, window.count) == ("se-a-0", 4)


@pytest.mark.parametrize("jump", [10_000_000, -10_000_000])
def test_two_in_a_row_move_the_time(jump: int) -> None:
    """A quiet night or another day's log: the second finding there closes what the stream has left behind."""
    fold = Fold(600)
    fold.take(1, found("a", 0))
    fold.take(2, found("b", jump))
    later = [fold.take(3, found("c", jump + 5)), fold.take(4, found("d", jump + 700))]
    assert {window.name for taken in later for window in taken.closed} >= {f"se-b-{jump}"}
    assert (jump < 0) is ("a" in {key.decode() for key in fold._windows})


def test_bounded_table() -> None:
    """A full table closes its oldest window early and counts that; nothing grows."""
    fold = Fold(600, capacity=10)
    for n in range(1000):
        fold.take(n, found(f"k{n}", 0))
    assert (len(fold), fold.early) == (10, 990)
    assert sum(map(len, fold._ends.values())) <= 21


def test_closing_what_nothing_touched() -> None:
    """Only windows that were last touched up to a record close."""
    fold = Fold(600)
    fold.take(1, found("a", 0))
    fold.take(2, found("b", 0))
    fold.take(5, found("a", 1))
    assert [window.name for window in fold.close(4)] == ["se-b-0"]
    assert fold.stale(5)
    assert not fold.stale(4)


def test_foreign_bytes_are_refused() -> None:
    """A table that cannot be read is an error, not an empty table."""
    with pytest.raises(PermanentError):
        Fold(600).restore(b"\xc1")


FINDINGS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(-50, 4000), st.sampled_from(list(Severity)), st.sampled_from("xy")),
    max_size=40,
)


@settings(max_examples=100)
@given(FINDINGS, st.integers(0, 40))
def test_snapshot_changes_nothing(rows: list[tuple[str, int, Severity, str]], cut: int) -> None:
    """A table that is saved and restored anywhere goes on as if it had not been; every finding is in one window."""

    def play(restart: bool) -> list[object]:
        fold = Fold(300, capacity=3)
        seen: list[object] = []
        for n, row in enumerate(rows):
            if restart and n == cut:
                state = fold.snapshot()
                fold = Fold(300, capacity=3)
                fold.restore(state)
            verdict, _, closed = fold.take(n, found(*row))
            seen += [verdict, *closed]
        return seen + list(fold.close()) + [fold.early]

    plain = play(restart=False)
    assert plain == play(restart=True)
    assert sum(getattr(window, "count", 0) for window in plain) == len(rows)


def test_a_closing_event_says_what_the_first_one_said() -> None:
    """It names rule and request of its first finding; long values are cut, and marked."""
    fold = Fold(600)
    long = found("a", 0)
    spec = msgspec.structs.replace(long.spec, signals={"rule": "exec", "audit.id": "1", "body": "x" * 6000})
    fold.take(1, msgspec.structs.replace(long, spec=spec))
    fold.take(2, found("a", 5))
    event = closing(fold.close()[0])
    assert event is not None
    signals = event.spec.signals
    assert (signals["rule"], signals["audit.id"], signals["occurrences"]) == ("exec", "1", "2")
    assert signals["signals.truncated"] == "true"
    assert sum(len(k) + len(v) for k, v in signals.items()) < 2048 + 128
