"""The books hour by hour and source by source: rows that outlive a restart, and the sums of a day. Pure but for `read`.

Rows are differences of cumulative books, so nothing that happens between two looks is missed. An hour in which nobody
looked is no row: its counts stand in the next one.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ugallu.emit.ledger import Accounts, Totals
from ugallu.errors import PermanentError

FILE: Final = "ledger.json"
"""Where the state directory has it."""
KEPT: Final = 72
"""Hours of rows on disk."""
MAX_SOURCES: Final = 64
MAX_FILE: Final = 4 << 20

Counts = dict[str, int]


class Row(msgspec.Struct, frozen=True):
    """What one hour added; `hour` is its beginning, UTC. Of findings also `dropped.<reason>` and `lost.<reason>`."""

    hour: dt.datetime
    sources: dict[str, Counts] = {}
    findings: Counts = {}


class Kept(msgspec.Struct, frozen=True):
    """What lies on disk: rows, oldest first, and the cumulative books that the last row goes up to."""

    rows: tuple[Row, ...] = ()
    sources: dict[str, Counts] = {}
    findings: Counts = {}
    told: str = ""
    """The last day, `YYYY-MM-DD`, that an event was made of."""


def flat(totals: Totals) -> Counts:
    """Return the books of findings as one table; what is pending is no cumulative count."""
    counts = {"matched": totals.matched, "folded": totals.folded, "emitted": totals.emitted}
    counts |= {"summaries": totals.summaries}
    counts |= {f"dropped.{reason}": count for reason, count in totals.dropped.items()}
    return counts | {f"lost.{reason}": count for reason, count in totals.lost.items()}


def entered(kept: Kept, accounts: Accounts, now: dt.datetime) -> Kept:
    """Return the ledger after a look at the books: what is new since the last look belongs to this hour."""
    names = sorted(accounts.sources)[:MAX_SOURCES]
    sources = {name: dict(accounts.sources[name]) for name in names}
    findings = flat(accounts.totals)
    new_sources = {name: _grown(kept.sources.get(name, {}), counts) for name, counts in sources.items()}
    new_findings = _grown(kept.findings, findings)
    hour = now.replace(minute=0, second=0, microsecond=0)
    rows = list(kept.rows)
    # A clock that was put back goes on in the newest row: rows stay in order, and no day is told twice.
    row = rows.pop() if rows and rows[-1].hour >= hour else Row(hour)
    added = {name: _sum(row.sources.get(name, {}), new_sources.get(name, {})) for name in {*row.sources, *new_sources}}
    rows.append(Row(row.hour, added, _sum(row.findings, new_findings)))
    return Kept(tuple(rows[-KEPT:]), sources, findings, kept.told)


def _grown(before: Mapping[str, int], now: Mapping[str, int]) -> Counts:
    """Return what was added; books that begin anew are smaller than before, and all of theirs is new."""
    anew = any(now.get(name, 0) < count for name, count in before.items() if name in now)
    found = {name: count - (0 if anew else before.get(name, 0)) for name, count in now.items()}
    return {name: count for name, count in found.items() if count}


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> Counts:
    return {name: one.get(name, 0) + other.get(name, 0) for name in sorted({*one, *other})}


class Day(msgspec.Struct, frozen=True):
    """The sums of a day, and of how many of its hours there are rows."""

    day: str
    hours: int
    sources: dict[str, Counts]
    findings: Counts

    @property
    def total(self) -> Counts:
        """The books of all sources together."""
        total: Counts = {}
        for counts in self.sources.values():
            total = _sum(total, counts)
        return total


def day_of(rows: Sequence[Row], day: str) -> Day | None:
    """Return the sums of a day, None when there is no row of it."""
    own = [row for row in rows if row.hour.strftime("%Y-%m-%d") == day]
    return summed(day, own) if own else None


def summed(name: str, rows: Sequence[Row]) -> Day:
    """Return the sums of these rows under a name."""
    sources: dict[str, Counts] = {}
    findings: Counts = {}
    for row in rows:
        for source, counts in row.sources.items():
            sources[source] = _sum(sources.get(source, {}), counts)
        findings = _sum(findings, row.findings)
    return Day(name, len(rows), sources, findings)


def due(kept: Kept, now: dt.datetime) -> Day | None:
    """Return the day to tell of now: the oldest one that is over and was not told."""
    today = now.strftime("%Y-%m-%d")
    over = sorted({day for row in kept.rows if kept.told < (day := row.hour.strftime("%Y-%m-%d")) < today})
    return day_of(kept.rows, over[0]) if over else None


def read(path: Path) -> Kept:
    """Return the ledger on disk, an empty one where there is none; raises `PermanentError` for what is none."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE + 1)
    except FileNotFoundError:
        return Kept()
    if len(content) > MAX_FILE:
        raise PermanentError(f"a ledger of more than {MAX_FILE} bytes", where=str(path), fix="move it away")
    try:
        return msgspec.json.decode(content, type=Kept)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"no ledger: {error}", where=str(path), fix="move it away: the books go on, the rows of three days are lost"
        ) from error
