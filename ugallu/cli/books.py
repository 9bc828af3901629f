"""The books of a run, for people and for scripts: every line and every match is somewhere, and the sums say so."""

from collections.abc import Mapping
from typing import Any

from ugallu.cli.report.story import Check
from ugallu.settings import Settings
from ugallu.supervisor.assembly import SEALERS
from ugallu.supervisor.supervisor import Outcome

NAMES = (
    "received",
    "parsed",
    "rejected",
    "duplicate",
    "matched",
    "folded",
    "emitted",
    "summaries",
    "pending",
    "sealed",
)


def seals(settings: Settings) -> bool:
    """Tell whether a run with these settings seals what it finds."""
    return any(name in SEALERS for name in settings.enable) if settings.enable else settings.seal


def as_json(books: Outcome) -> dict[str, Any]:
    """Return the ledger as scripts read it; a key never changes its meaning."""
    return {name: getattr(books, name) for name in NAMES} | {"dropped": dict(books.dropped), "lost": dict(books.lost)}


def flat(books: Outcome) -> Mapping[str, int]:
    """Return every count under one name, `dropped by <reason>` and `lost by <reason>` included."""
    counts = {name: getattr(books, name) for name in NAMES}
    counts |= {f"dropped: {reason}": count for reason, count in books.dropped.items()}
    return counts | {f"lost: {reason}": count for reason, count in books.lost.items()}


def equations(books: Outcome, *, sealing: bool) -> list[Check]:
    """Return the sums that must hold, and whether they do."""
    dropped = sum(books.dropped.values())
    found = [
        _sum("received", books.received, parsed=books.parsed, rejected=books.rejected, duplicate=books.duplicate),
        _sum(
            "matched", books.matched, emitted=books.emitted, folded=books.folded, dropped=dropped, pending=books.pending
        ),
    ]
    if sealing:
        found.append(_sum("sealed", books.sealed, emitted=books.emitted, summaries=books.summaries))
    return found


def _sum(name: str, total: int, **parts: int) -> Check:
    told = f"{total:,} = {' + '.join(f'{count:,}' for count in parts.values())}"
    return Check(f"{name} = {' + '.join(parts)}", total == sum(parts.values()), told)


def text(books: Outcome, *, sealing: bool) -> list[str]:
    """Return the ledger as lines for a person."""
    counts = {name: count for name, count in flat(books).items() if count or name in NAMES}
    width = max(len(name) for name in counts)
    sums = equations(books, sealing=sealing)
    return [
        *(f"  {name:<{width}}  {count:>10,}" for name, count in counts.items()),
        *(f"  {one.name}: {'closes' if one.ok else 'DOES NOT CLOSE'} ({one.detail})" for one in sums),
    ]
