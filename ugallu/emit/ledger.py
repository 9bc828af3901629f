"""The books: every observation and every finding is somewhere, and the sums say so. Pure.

    received = parsed + rejected + duplicate
    matched  = emitted + folded + dropped, by reason, + pending
    sealed   = emitted + summaries        (sealing is counted where it happens)

`summaries` are events about events: those that close a window, and reports such as `SourceRateLimited`.
"""

import msgspec

from ugallu.api.observation import Checkpoint

_SOURCE_BOOKS = ("received", "parsed", "rejected", "duplicate")


class Totals(msgspec.Struct, frozen=True):
    """The books at one moment, added up over sources and subscribers."""

    received: int = 0
    parsed: int = 0
    rejected: int = 0
    duplicate: int = 0
    matched: int = 0
    folded: int = 0
    emitted: int = 0
    pending: int = 0
    dropped: dict[str, int] = {}
    summaries: int = 0
    lost: dict[str, int] = {}
    """Observations that never reached a detector, by reason."""

    @property
    def gaps(self) -> list[str]:
        """Return the equations that do not hold, as sentences; empty when the books close."""
        found = []
        accounted = self.parsed + self.rejected + self.duplicate
        if self.received != accounted:
            found.append(f"received {self.received}, but parsed, rejected and duplicate are {accounted}")
        accounted = self.emitted + self.folded + sum(self.dropped.values()) + self.pending
        if self.matched != accounted:
            found.append(f"matched {self.matched}, but emitted, folded, dropped and pending are {accounted}")
        return found


class Accounts(msgspec.Struct, frozen=True):
    """The books, and those of each source: `received`, `parsed`, `rejected`, `duplicate`; cumulative, restarts too."""

    totals: Totals = Totals()
    sources: dict[str, dict[str, int]] = {}


class Account(msgspec.Struct):
    """One subscriber's place in one source, and the findings that came with its checkpoints."""

    checkpoint: Checkpoint
    findings: int = 0


class Ledger(msgspec.Struct):
    """What the outbox counts; part of its snapshot, so a count and what it counts are one."""

    accounts: dict[str, dict[str, Account]] = {}
    """By source, then by subscriber."""
    findings: int = 0
    emitted: int = 0
    folded: int = 0
    dropped: dict[str, int] = {}
    lost: dict[str, int] = {}
    summaries: int = 0
    summaries_dropped: dict[str, int] = {}
    conflict_idempotent: int = 0
    conflict_real: int = 0
    unreadable: int = 0

    def mark(self, checkpoint: Checkpoint, findings: int) -> None:
        """Take over a checkpoint: its counts are cumulative, so the latest stands for all."""
        account = self.accounts.setdefault(checkpoint.source, {}).get(checkpoint.subscriber)
        if account is None:
            self.accounts[checkpoint.source][checkpoint.subscriber] = Account(checkpoint, findings)
        else:
            account.checkpoint = checkpoint
            account.findings += findings

    def drop(self, reason: str, count: int = 1) -> None:
        """Count findings that become no event."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count

    def lose(self, reason: str, count: int) -> None:
        """Count observations that no detector saw."""
        self.lost[reason] = self.lost.get(reason, 0) + count

    def drop_summary(self, reason: str) -> None:
        """Count a summary that becomes no event."""
        self.summaries_dropped[reason] = self.summaries_dropped.get(reason, 0) + 1

    def by_source(self) -> dict[str, dict[str, int]]:
        """Return the books of each source; of its subscribers the one that is furthest has the latest."""
        return {
            source: {
                name: max(account.checkpoint.counts.get(name, 0) for account in subscribers.values())
                for name in _SOURCE_BOOKS
            }
            for source, subscribers in self.accounts.items()
        }

    def totals(self, pending: int) -> Totals:
        """Return the books, given how many findings are decided but not yet created."""
        sums = dict.fromkeys(_SOURCE_BOOKS, 0)
        dropped = dict(self.dropped)
        matched = self.findings
        for books in self.by_source().values():
            for name, count in books.items():
                sums[name] += count
        for subscribers in self.accounts.values():
            for account in subscribers.values():
                own = account.checkpoint.counts
                kept = {n.removeprefix("dropped."): c for n, c in own.items() if n.startswith("dropped.")}
                for reason, count in kept.items():
                    dropped[reason] = dropped.get(reason, 0) + count
                # A subscriber that counts its matches is believed over our own count: a finding lost between the two
                # then shows as a gap.
                matched += own.get("matched", account.findings + sum(kept.values())) - account.findings
        return Totals(
            received=sums["received"],
            parsed=sums["parsed"],
            rejected=sums["rejected"],
            duplicate=sums["duplicate"],
            matched=matched,
            folded=self.folded,
            emitted=self.emitted,
            pending=pending,
            dropped={reason: dropped[reason] for reason in sorted(dropped) if dropped[reason]},
            summaries=self.summaries,
            lost={reason: self.lost[reason] for reason in sorted(self.lost)},
        )
