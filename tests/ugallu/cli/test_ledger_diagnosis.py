"""What the doctor says of the books: fine, lossy, or not adding up; and what the API server itself gave up."""

import datetime as dt
from pathlib import Path

import msgspec

from ugallu.cli import ledger_diagnosis as ledger
from ugallu.emit import hours
from ugallu.metrics import read

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)
GOOD = {"received": 5, "parsed": 4, "duplicate": 1, "rejected": 0}


def kept(tmp_path: Path, *rows: hours.Row) -> Path:
    (tmp_path / hours.FILE).write_bytes(msgspec.json.encode(hours.Kept(rows)))
    return tmp_path


def test_the_last_day_of_a_state_directory(tmp_path: Path) -> None:
    """Sums of 24 hours, each source with its own line; older rows do not count."""
    old = hours.Row(NOW - dt.timedelta(hours=30), {"log": {"received": 99, "parsed": 99}})
    new = hours.Row(NOW - dt.timedelta(hours=1), {"log": GOOD}, {"matched": 2, "emitted": 1, "dropped.rate": 1})
    found = list(ledger.last_day(kept(tmp_path, old, new), NOW))
    assert [(one.check, one.verdict) for one in found] == [("ledger of log", "ok"), ("ledger of findings", "ok")]
    assert "5 received" in found[0].detail
    assert "1 dropped: rate" in found[1].detail


def test_events_that_are_nowhere_fail(tmp_path: Path) -> None:
    """Received and in no account: the number is named."""
    row = hours.Row(NOW, {"log": {**GOOD, "received": 8}})
    (source, _) = ledger.last_day(kept(tmp_path, row), NOW)
    assert source.verdict == "fail"
    assert "3 are nowhere" in source.detail


def test_what_was_lost_or_rejected_is_a_warning(tmp_path: Path) -> None:
    """Counted losses are honest, and still losses."""
    row = hours.Row(NOW, {"log": {**GOOD, "received": 6, "rejected": 1}}, {"matched": 0, "lost.bus_ring": 7})
    assert [one.verdict for one in ledger.last_day(kept(tmp_path, row), NOW)] == ["warn", "warn"]


def test_no_ledger_no_word_and_a_bad_one_is_said(tmp_path: Path) -> None:
    """Nothing is invented of a state without one."""
    assert list(ledger.last_day(tmp_path, NOW)) == []
    (tmp_path / hours.FILE).write_text("no")
    (bad,) = ledger.last_day(tmp_path, NOW)
    assert bad.verdict == "fail"


EXPOSITION = """\
ugallu_books_events{source="audit-webhook",account="received"} 10
ugallu_books_events{source="audit-webhook",account="parsed"} 10
ugallu_books_findings{account="matched"} 4
ugallu_books_findings{account="emitted"} 2
ugallu_books_findings{account="folded"} 1
ugallu_books_findings{account="pending"} %d
"""


def test_a_process_tells_its_books_by_its_metrics() -> None:
    """They add up, or the doctor says by how much they do not."""
    fine = list(ledger.of_process("books", list(read(EXPOSITION % 1))))
    assert [(one.check, one.verdict) for one in fine] == [("books: audit-webhook", "ok"), ("books: findings", "ok")]
    (_, findings) = ledger.of_process("books", list(read(EXPOSITION % 0)))
    assert findings.verdict == "fail"
    assert "matched 4" in findings.detail


def test_what_an_api_server_gave_up_is_named() -> None:
    """By backend, with what to do; without a word of it there is no line."""
    text = 'apiserver_audit_event_total 1000\napiserver_audit_error_total{plugin="webhook"} %d\n'
    lossy = ledger.of_server(list(read(text % 12)))
    assert lossy is not None
    assert (lossy.verdict, "12 by its webhook backend" in lossy.detail) == ("warn", True)
    fine = ledger.of_server(list(read(text % 0)))
    assert fine is not None
    assert fine.verdict == "ok"
    assert ledger.of_server(list(read("up 1\n"))) is None
