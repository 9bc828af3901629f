"""The custody chain of a fact: what was done with it, when and by whom, and which of that somebody signed. Pure.

What is proven follows from the attested bytes and the bundles alone, so whoever has those can make these steps anew and
compare. The rest is what status objects and the store say.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import SecurityEvent
from ugallu.api.response import EventResponse
from ugallu.errors import PermanentError
from ugallu.evidence.encoding import refuse_doubles
from ugallu.evidence.ports import LogEntry, PublicKey, Stored
from ugallu.evidence.statement import Statement
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.verify import Report

MAX_STEPS: Final = 1_000_000


class Step(msgspec.Struct, frozen=True, kw_only=True, order=True, omit_defaults=True, forbid_unknown_fields=True):
    """One step. `at` is RFC 3339 in UTC, empty where nobody says when."""

    at: str
    of: str
    """Uid of the fact, empty for the whole."""
    what: str
    by: str = ""
    where: str = ""
    proven: bool = False
    """Somebody signed this, and the signature is in the folder."""


def write(steps: Iterable[Step]) -> bytes:
    """Return steps as JSON, a line each, in order of time."""
    lines = b",\n ".join(msgspec.json.encode(step) for step in sorted(steps, key=lambda step: (step.at, step.of)))
    return b"[\n " + lines + b"\n]\n"


def read(content: bytes) -> tuple[Step, ...]:
    """Parse steps; raises `PermanentError` with what does not fit."""
    refuse_doubles(content, "custody")
    try:
        steps = msgspec.json.decode(content, type=tuple[Step, ...])
    except (ValueError, RecursionError) as error:
        raise PermanentError(str(error), where="custody") from error
    if len(steps) > MAX_STEPS:
        raise PermanentError(f"more than {MAX_STEPS} steps", where="custody")
    return steps


def proven(
    uid: str, fact: SecurityEvent | EventResponse, legs: Sequence[tuple[LogEntry, Report]], root: TrustedRoot
) -> Iterator[Step]:
    """Yield what attested bytes and verified bundles, with their entries, prove: observed or done, attested, logged."""
    statement = legs[0][1].statement
    assert statement is not None
    if isinstance(fact, SecurityEvent):
        by = fact.spec.source
        yield Step(
            at=moment(fact.spec.detected_at), of=uid, what="observed", by=_who(by.name, by.instance), proven=True
        )
    else:
        yield from _done(uid, fact, statement)
    made = statement.predicate.get("attestor")
    if isinstance(made, dict):
        by_whom = _who(_text(made, "name"), _text(made, "instance"))
        yield Step(at=_text(made, "attestedAt"), of=uid, what="attested", by=by_whom, proven=True)
    for entry, report in legs:
        who = signer(report)
        times = sorted(set(report.times))
        for at in times:
            yield Step(at=moment(at), of=uid, what="signature seen by an authority or log", by=who, proven=True)
        log = root.logs[entry.log_id]
        at_log = moment(dt.datetime.fromtimestamp(entry.integrated_time, dt.UTC)) if entry.integrated_time else ""
        where = f"{log.origin} entry {entry.index}"
        yield Step(at=at_log, of=uid, what="signed and logged", by=who, where=where, proven=True)


def told(
    fact: SecurityEvent | EventResponse, bundle: AttestationBundle | None, kept: Iterable[Stored]
) -> Iterator[Step]:
    """Yield what the cluster's objects and the store say."""
    uid = fact.metadata.uid
    if fact.metadata.creation_timestamp is not None:
        yield Step(at=moment(fact.metadata.creation_timestamp), of=uid, what="object created")
    if isinstance(fact, SecurityEvent):
        status = fact.status
        if status.acknowledged_at is not None:
            yield Step(at=moment(status.acknowledged_at), of=uid, what="acknowledged", by=status.acknowledged_by)
        if status.archived_at is not None:
            yield Step(at=moment(status.archived_at), of=uid, what="object copied into the archive")
    if bundle is not None:
        yield from _sealing(uid, bundle)
    for stored in kept:
        yield kept_step(uid, stored)


def kept_step(of: str, stored: Stored) -> Step:
    """Return how something was kept when it was read: what the store says."""
    until = "" if stored.until is None else f" until {moment(stored.until)}"
    held = ", under legal hold" if stored.held else ""
    return Step(at="", of=of, what=f"kept{until}, enforced by: {stored.lock.value}{held}", where=place(stored.url))


def place(url: str) -> str:
    """Return a URL as it may be shown to strangers: of a directory the part below it, not where that lies."""
    if not url.startswith("file:"):
        return url
    _, found, key = url.partition("/objects/")
    return f"directory: {key}" if found else "directory"


def moment(at: dt.datetime) -> str:
    """Return RFC 3339 in UTC, in as many digits as the time has."""
    return at.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def signer(report: Report) -> str:
    """Return who signed, as people are told."""
    if report.signer is None:
        return ""
    if isinstance(report.signer, PublicKey):
        return f"key {report.signer.key_id}"
    return f"{report.signer.name} (vouched for by {report.signer.issuer})"


def _done(uid: str, fact: EventResponse, statement: Statement) -> Iterator[Step]:
    said = statement.predicate
    by = _who(fact.spec.responder.name, fact.spec.responder.instance)
    action = fact.spec.action.type.value
    for key, what in (("startedAt", f"{action} started"), ("completedAt", f"{action} {_text(said, 'phase')}")):
        if _text(said, key):
            yield Step(at=_text(said, key), of=uid, what=what, by=by, proven=True)


def _sealing(uid: str, bundle: AttestationBundle) -> Iterator[Step]:
    status, name = bundle.status, f"AttestationBundle/{bundle.metadata.name}"
    if bundle.metadata.creation_timestamp is not None:
        yield Step(at=moment(bundle.metadata.creation_timestamp), of=uid, what="sealing begun", where=name)
    for failure in status.failures:
        what = f"a try to {failure.stage} failed: {failure.reason}"
        yield Step(at=moment(failure.timestamp), of=uid, what=what, where=name)
    if status.sealed_at is not None:
        yield Step(at=moment(status.sealed_at), of=uid, what="sealed", where=name)


def _who(name: str, instance: str) -> str:
    return f"{name} ({instance})" if instance else name


def _text(part: dict[str, Any], key: str) -> str:
    found = part.get(key)
    return found if isinstance(found, str) else ""
