"""The ledger's rows: nothing that was counted is in no row, whatever the clock does and however often one restarts."""

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.emit import hours
from ugallu.emit.hours import Kept, Row, day_of, due, entered
from ugallu.emit.ledger import Accounts, Totals
from ugallu.errors import PermanentError

NOON = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


def books(received: int, matched: int = 0, **dropped: int) -> Accounts:
    shed = sum(dropped.values())
    totals = Totals(received=received, parsed=received, matched=matched, emitted=matched - shed, dropped=dropped)
    return Accounts(totals, {"log": {"received": received, "parsed": received, "rejected": 0, "duplicate": 0}})


def test_an_hour_has_what_it_added() -> None:
    """Cumulative books become rows by the hour, by source, with reasons."""
    kept = entered(Kept(), books(10), NOON)
    kept = entered(kept, books(25, 3, rate=1), NOON + dt.timedelta(minutes=30))
    kept = entered(kept, books(40, 3, rate=1), NOON + dt.timedelta(minutes=61))
    assert [
        (row.hour.hour, row.sources["log"]["received"], row.findings.get("dropped.rate", 0)) for row in kept.rows
    ] == [
        (12, 25, 1),
        (13, 15, 0),
    ]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(-7200, 40_000), st.booleans()), max_size=30))
def test_rows_add_up_to_the_books(steps: list[tuple[int, int, bool]]) -> None:
    """Whatever the clock does, and through any number of restarts, the rows' sum is what the books say."""
    kept, now, total = Kept(), NOON, 0
    for more, seconds, restart in steps:
        total += more
        now += dt.timedelta(seconds=seconds)
        kept = entered(kept, books(total), now)
        if restart:
            kept = msgspec.json.decode(msgspec.json.encode(kept), type=Kept)
    if len(kept.rows) < hours.KEPT:
        assert sum(row.sources["log"].get("received", 0) for row in kept.rows) == total
    assert [row.hour for row in kept.rows] == sorted({row.hour for row in kept.rows})


def test_books_that_begin_anew_are_new() -> None:
    """A journal that was moved away starts from nothing: what it counts then is added, and nothing is taken off."""
    kept = entered(entered(Kept(), books(100), NOON), books(7), NOON)
    assert kept.rows[-1].sources["log"]["received"] == 107


def test_a_day_is_told_once_it_is_over_oldest_first() -> None:
    """Not today's; not one that was told; and of two that were missed the older one first."""
    rows = tuple(Row(NOON + dt.timedelta(days=day), {"log": {"received": day + 1}}) for day in range(3))
    kept = Kept(rows)
    now = NOON + dt.timedelta(days=2)
    assert (day := due(kept, now)) is not None
    assert (day.day, day.total) == ("2026-03-01", {"received": 1})
    assert (day := due(msgspec.structs.replace(kept, told="2026-03-01"), now)) is not None
    assert day.day == "2026-03-02"
    assert due(msgspec.structs.replace(kept, told="2026-03-02"), now) is None


def test_a_day_is_the_sum_of_its_rows() -> None:
    """All sources, all reasons, and how many hours there are rows of."""
    kept = entered(entered(Kept(), books(10, 2), NOON), books(30, 5, full=2), NOON + dt.timedelta(hours=3))
    day = day_of(kept.rows, "2026-03-01")
    assert day is not None
    assert (day.hours, day.total["received"], day.findings["matched"], day.findings["dropped.full"]) == (2, 30, 5, 2)
    assert day_of(kept.rows, "2026-03-02") is None


def test_what_is_no_ledger_is_said(tmp_path: Path) -> None:
    """With the file and what to do; a file that is not there is an empty ledger."""
    path = tmp_path / hours.FILE
    assert hours.read(path) == Kept()
    path.write_bytes(b"[1]")
    with pytest.raises(PermanentError, match=r"ledger.json: no ledger"):
        hours.read(path)
    path.write_bytes(b" " * (hours.MAX_FILE + 1))
    with pytest.raises(PermanentError, match="more than"):
        hours.read(path)
