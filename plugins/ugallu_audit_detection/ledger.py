"""The loss ledger: what came in and what became of it, kept hour by hour, shown as metrics, told once a day.

A source that brings much that is no event is told at once.

received = parsed + rejected + duplicate        by source
matched  = emitted + folded + dropped + pending
"""

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import anyio
import msgspec

from ugallu.sdk import (
    CATALOGUE,
    Accounts,
    Clock,
    ClusterIdentity,
    Emitter,
    EventClass,
    EventType,
    Finding,
    Metrics,
    Severity,
    hours,
    write_durably,
)

CLOSED: Final = EventType(
    "LossLedgerClosed",
    EventClass.AUDIT,
    Severity.INFO,
    "ugallu-audit-detection",
    "The books of a day: what came in, what became of it, what was lost and why.",
)
"""Not one of the API's own types: the event bears the label `ugallu.io/type-experimental`."""
LOOK: Final = 30.0
"""Seconds between two looks at the books."""
SHOWN: Final = 8
"""Sources of which the event tells each one's books."""
UNREADABLE: Final = 0.01
"""The part of what a source brings that may be no event before somebody is told."""
ENOUGH: Final = 100
"""Events of one source that such a part can be told of before the window is over."""
WINDOW: Final = 600.0
"""Seconds over which it is told, and not told again."""


def signals_of(day: hours.Day, instance: str) -> dict[str, str]:
    """Return what the event says."""
    total = day.total
    told = {"ledger.day": day.day, "ledger.hours": str(day.hours), "ledger.instance": instance}
    told |= {name: str(total.get(name, 0)) for name in ("received", "parsed", "rejected", "duplicate")}
    told |= {name: str(day.findings.get(name, 0)) for name in ("matched", "emitted", "folded")}
    lost = {name: count for name, count in day.findings.items() if name.startswith(("dropped.", "lost."))}
    told |= {name: str(count) for name, count in sorted(lost.items())[:24]}
    for name in sorted(day.sources)[:SHOWN]:
        counts = day.sources[name]
        told[f"source.{name}"[:63]] = ", ".join(f"{what} {counts[what]}" for what in counts)
    return told


class Unreadable:
    """What is no event of what sources bring: of each that has too much of it, once a window."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._base: dict[str, tuple[int, int]] = {}
        self._told: set[str] = set()

    def look(self, sources: Mapping[str, Mapping[str, int]], now: float) -> list[tuple[str, int, int]]:
        """Return source, rejected and received, both since the window began, of those to tell now."""
        counts = {name: (books.get("rejected", 0), books.get("received", 0)) for name, books in sources.items()}
        if self._since is None:
            self._since, self._base = now, counts
        over = now - self._since >= WINDOW
        found = []
        for name, (rejected, received) in sorted(counts.items()):
            before = self._base.get(name, (0, 0))
            bad, all_ = rejected - before[0], received - before[1]
            if bad > UNREADABLE * all_ and (over or all_ >= ENOUGH) and name not in self._told:
                self._told.add(name)
                found.append((name, bad, all_))
        if over:
            self._since, self._base, self._told = now, counts, set()
        return found


class Ledger:
    """A service that looks at the books, keeps the rows on disk, and tells of each day once it is over."""

    name = "loss ledger"

    def __init__(
        self,
        path: Path,
        accounts: Callable[[], Accounts],
        *,
        emitter: Emitter,
        clock: Clock,
        metrics: Metrics,
        identity: ClusterIdentity,
        instance: str,
    ) -> None:
        self._path = path
        self._accounts = accounts
        self._emitter = emitter
        self._clock = clock
        self._metrics = metrics
        self._identity = identity
        self._instance = instance
        self._unreadable = Unreadable()

    async def run(self) -> None:
        """Look every half minute until cancelled; raises `PermanentError` for a file that is no ledger."""
        kept = await anyio.to_thread.run_sync(hours.read, self._path)
        while True:
            kept = await self.look(kept)
            await self._clock.sleep(LOOK)

    async def look(self, kept: hours.Kept) -> hours.Kept:
        """Enter what is new, tell of a day that is over, and keep both."""
        now, accounts, before = self._clock.now(), self._accounts(), kept
        kept = hours.entered(kept, accounts, now)
        day = hours.due(kept, now)
        if day is not None:
            # First the event, which is made once however often it is told; then the note that it was.
            await self._emitter.submit([self._finding(day)])
            kept = msgspec.structs.replace(kept, told=day.day)
        if kept != before:
            await anyio.to_thread.run_sync(write_durably, self._path, msgspec.json.encode(kept))
        if found := self._unreadable.look(accounts.sources, self._clock.monotonic()):
            await self._emitter.submit([self._no_events(*each) for each in found])
        self._publish(accounts)
        return kept

    def _no_events(self, source: str, rejected: int, received: int) -> Finding:
        return Finding(
            type=CATALOGUE["SourceRateLimited"],
            about=self._identity.subject,
            key=f"unreadable {self._instance} {source}",
            signals={
                "reason": "unreadable",
                "source": source,
                "dropped": str(rejected),
                "received": str(received),
                "instance": self._instance,
            },
            detected_at=self._clock.now(),
        )

    def _publish(self, accounts: Accounts) -> None:
        for source, counts in accounts.sources.items():
            for account, count in counts.items():
                self._metrics.gauge("ugallu_books_events", float(count), source=source, account=account)
        counts = hours.flat(accounts.totals) | {"pending": accounts.totals.pending}
        for account, count in counts.items():
            self._metrics.gauge("ugallu_books_findings", float(count), account=account)

    def _finding(self, day: hours.Day) -> Finding:
        parts = f"{self._identity.cluster_id}|{CLOSED.name}|{self._instance}|{day.day}"
        return Finding(
            type=CLOSED,
            about=self._identity.subject,
            key=f"ledger {self._instance} {day.day}",
            signals=signals_of(day, self._instance),
            # The end of the day, so that the event is the same one whenever it is told.
            detected_at=_end(day.day),
            correlation=hashlib.sha256(parts.encode()).hexdigest()[:32],
        )


def _end(day: str) -> dt.datetime:
    return dt.datetime.fromisoformat(day).replace(tzinfo=dt.UTC) + dt.timedelta(days=1)
