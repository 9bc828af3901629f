"""What `ugallu doctor` says of the loss ledger: what came in, what became of it, what the API server gave up itself."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from ugallu.cli.diagnosis import Finding, said
from ugallu.emit import hours
from ugallu.emit.ledger import Totals
from ugallu.errors import UgalluError

DAY: Final = dt.timedelta(hours=24)
MONITORING: Final = "docs/monitoring.md says what each reason means"
Sample = tuple[str, Mapping[str, str], float]
"""One line of metrics: name, labels, value."""


def last_day(state: Path, now: dt.datetime) -> Iterator[Finding]:
    """Say what the ledger in a state directory has of the last 24 hours; nothing where there is none."""
    try:
        kept = hours.read(state / hours.FILE)
    except UgalluError as error:
        yield Finding("ledger", "fail", said(error), error.fix)
        return
    except OSError as error:
        yield Finding("ledger", "fail", str(error))
        return
    rows = [row for row in kept.rows if row.hour > now - DAY]
    if not rows:
        return
    day = hours.summed("the last 24 hours", rows)
    for source, counts in sorted(day.sources.items()):
        yield _source(f"ledger of {source}", counts)
    yield _findings("ledger of findings", day.findings)


def of_process(check: str, samples: Iterable[Sample]) -> Iterator[Finding]:
    """Say what the metrics of a process tell of its books since the beginning."""
    sources: dict[str, dict[str, int]] = {}
    findings: dict[str, int] = {}
    for name, labels, value in samples:
        if name == "ugallu_books_events":
            sources.setdefault(labels.get("source", ""), {})[labels.get("account", "")] = int(value)
        elif name == "ugallu_books_findings":
            findings[labels.get("account", "")] = int(value)
    for source, counts in sorted(sources.items()):
        yield _source(f"{check}: {source}", counts)
    if findings:
        yield _findings(f"{check}: findings", findings)


def of_server(samples: Iterable[Sample]) -> Finding | None:
    """Say what an API server tells of the audit events that it gave up; None where it tells nothing."""
    written, lost = 0, dict[str, int]()
    told = False
    for name, labels, value in samples:
        if name == "apiserver_audit_event_total":
            told, written = True, written + int(value)
        elif name == "apiserver_audit_error_total" and value:
            lost[labels.get("plugin", "")] = int(value)
    if not told:
        return None
    if lost:
        given_up = ", ".join(f"{count:,} by its {plugin} backend" for plugin, count in sorted(lost.items()))
        mend = "raise --audit-webhook-batch-buffer-size, lower --audit-webhook-batch-max-wait; is the receiver up?"
        return Finding("API server's audit", "warn", f"{written:,} events since its start; gave up {given_up}", mend)
    return Finding("API server's audit", "ok", f"{written:,} events since its start, none given up")


def _source(check: str, counts: Mapping[str, int]) -> Finding:
    told = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("received", "parsed", "duplicate", "rejected"))
    accounted = sum(counts.get(name, 0) for name in ("parsed", "duplicate", "rejected"))
    if counts.get("received", 0) != accounted:
        return Finding(check, "fail", f"{told}: {counts.get('received', 0) - accounted:,} are nowhere", MONITORING)
    if counts.get("rejected"):
        return Finding(check, "warn", told, MONITORING)
    return Finding(check, "ok", told)


def _findings(check: str, counts: Mapping[str, int]) -> Finding:
    told = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("matched", "emitted", "folded"))
    shed = {name: count for name, count in counts.items() if name.startswith(("dropped.", "lost.")) and count}
    told += "".join(f", {count:,} {name.replace('.', ': ')}" for name, count in sorted(shed.items()))
    books = Totals(
        matched=counts.get("matched", 0),
        emitted=counts.get("emitted", 0),
        folded=counts.get("folded", 0),
        pending=counts.get("pending", 0),
        dropped={name: count for name, count in shed.items() if name.startswith("dropped.")},
    )
    # Of an hour's rows what is pending is not known: an event may be created in the next one.
    if "pending" in counts and books.gaps:
        return Finding(check, "fail", "; ".join(books.gaps), MONITORING)
    if any(name.startswith("lost.") for name in shed):
        return Finding(check, "warn", told, MONITORING)
    return Finding(check, "ok", told)
