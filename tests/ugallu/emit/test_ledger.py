"""The books."""

from ugallu.api.observation import Checkpoint
from ugallu.emit.ledger import Ledger, Totals


def point(source: str, subscriber: str, **counts: int) -> Checkpoint:
    return Checkpoint(source, subscriber, next=0, counts={k.replace("__", "."): v for k, v in counts.items()})


def test_source_counts_once_subscribers_add_up() -> None:
    """Two subscribers of one source carry its books once, the furthest, and their own matches each."""
    ledger = Ledger(findings=7, emitted=4, folded=2, dropped={"object_budget": 1})
    ledger.mark(point("log", "a", received=100, parsed=98, rejected=2, matched=6, dropped__rate_limit=2), 4)
    ledger.mark(point("log", "b", received=50, parsed=49, rejected=1, matched=3), 3)
    ledger.mark(point("hook", "a", received=10, parsed=9, duplicate=1), 0)
    books = ledger.totals(pending=0)
    assert (books.received, books.parsed, books.rejected, books.duplicate) == (110, 107, 2, 1)
    assert books.matched == 9
    assert books.dropped == {"object_budget": 1, "rate_limit": 2}
    assert books.gaps == []


def test_latest_checkpoint_stands() -> None:
    """Counts are cumulative: a later checkpoint replaces the earlier one, findings add up."""
    ledger = Ledger(findings=3, emitted=3)
    ledger.mark(point("log", "a", received=10, parsed=10, matched=1), 1)
    ledger.mark(point("log", "a", received=20, parsed=20, matched=3), 2)
    books = ledger.totals(pending=0)
    assert (books.received, books.matched, books.gaps) == (20, 3, [])


def test_findings_without_checkpoint_or_books() -> None:
    """Findings of reconcilers, and of detectors without books, are matches all the same."""
    ledger = Ledger(findings=5, emitted=4)
    ledger.mark(point("log", "a", received=3, parsed=3), 2)
    books = ledger.totals(pending=1)
    assert (books.matched, books.gaps) == (5, [])


def test_gaps_are_said() -> None:
    """A finding lost between detector and journal, or a line lost in a source, shows as a sentence."""
    ledger = Ledger(findings=1, emitted=1)
    ledger.mark(point("log", "a", received=3, parsed=2, matched=2), 1)
    assert ledger.totals(pending=0).gaps == [
        "received 3, but parsed, rejected and duplicate are 2",
        "matched 2, but emitted, folded, dropped and pending are 1",
    ]
    assert Totals().gaps == []
