"""The in-toto Statement: which bytes are attested (subjects), and what is said of them (predicate).

Source of the format: in-toto attestation framework v1; the predicate types are ours. Verifiers parse the top level
strictly, so whatever we add goes into the predicate.
"""

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ugallu.api.event import SecurityEvent
from ugallu.api.response import EventResponse
from ugallu.errors import PermanentError
from ugallu.evidence.canonical import canonical
from ugallu.evidence.encoding import refuse_doubles

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
EVENT_PREDICATE: Final = "https://ugallu.io/attestation/security-event/v1"
RESPONSE_PREDICATE: Final = "https://ugallu.io/attestation/event-response/v1"
MAX_SUBJECTS: Final = 1024
"""cosign refuses a Statement with more ("too many subjects")."""
MAX_DIGESTS: Final = 32

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One attested thing: its name, and the digests of its bytes by algorithm, lower-case hex."""

    name: str
    digest: dict[str, str]


class Statement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parsed Statement."""

    type_: str = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: dict[str, Any]

    def attests(self, content: bytes) -> bool:
        """Tell whether these bytes are one of the subjects."""
        wanted = hashlib.sha256(content).hexdigest()
        return any(subject.digest.get("sha256") == wanted for subject in self.subject)


class Attestor(msgspec.Struct, frozen=True):
    """Who makes the statement."""

    name: str
    version: str
    instance: str


def subject_of(name: str, content: bytes) -> Subject:
    """Return the subject for these bytes."""
    return Subject(name, {"sha256": hashlib.sha256(content).hexdigest()})


def build(subjects: Sequence[Subject], predicate_type: str, predicate: dict[str, Any]) -> bytes:
    """Return the canonical bytes of a Statement; raises `PermanentError` when verifiers would refuse its shape."""
    statement = Statement(STATEMENT_TYPE, tuple(subjects), predicate_type, predicate)
    _check(statement)
    return canonical(statement)


def parse(payload: bytes) -> Statement:
    """Read a Statement strictly; raises `PermanentError` with what does not fit."""
    try:
        statement = msgspec.json.decode(payload, type=Statement)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PermanentError(str(error), where="statement") from error
    _check(statement)
    refuse_doubles(payload, "statement")
    return statement


def spec_bytes(fact: SecurityEvent | EventResponse) -> bytes:
    """Return the canonical bytes of the whole `.spec`: what is attested, archived and handed to verifiers."""
    return canonical(fact.spec)


def event_subject_name(event: SecurityEvent) -> str:
    """Return the name of an event as a subject: `SecurityEvent/<name>@v1alpha1`."""
    return f"SecurityEvent/{event.metadata.name}@{event.kind_info.version}"


def event_subject(event: SecurityEvent, content: bytes = b"") -> Subject:
    """Return the subject of one event: its name and the digest of `spec_bytes`."""
    return subject_of(event_subject_name(event), content or spec_bytes(event))


def response_subject(response: EventResponse, content: bytes = b"") -> Subject:
    """Return the subject of one response: `EventResponse/<name>@v1alpha1` and the digest of `spec_bytes`."""
    name = f"EventResponse/{response.metadata.name}@{response.kind_info.version}"
    return subject_of(name, content or spec_bytes(response))


def event_statement(
    event: SecurityEvent, attestor: Attestor, attested_at: dt.datetime, *, content: bytes = b""
) -> bytes:
    """Return the Statement about one event. `attested_at` is fixed by the caller: a retry must give the same bytes.

    `content` is what `spec_bytes` made of the event, for a caller that has it already.
    """
    incident, more = _incident(event)
    predicate = {"incident": incident, **more, **_made(attestor, attested_at, EVENT_PREDICATE)}
    return build([event_subject(event, content)], EVENT_PREDICATE, msgspec.to_builtins(predicate))


def shared_statement(
    events: Sequence[tuple[SecurityEvent, bytes]], attestor: Attestor, attested_at: dt.datetime
) -> bytes:
    """Return one Statement about many events, each with the bytes that `spec_bytes` made of it.

    Every event is a subject of its own, in order, and has in `incidents` what an event alone has in its predicate; so
    each of them is proven alone, by its bytes and the same bundle.
    """
    incidents = []
    for event, _ in events:
        incident, more = _incident(event)
        incidents.append({"subject": event_subject_name(event), **incident, **more})
    predicate = {"incidents": incidents, **_made(attestor, attested_at, EVENT_PREDICATE)}
    subjects = [event_subject(event, content) for event, content in events]
    return build(subjects, EVENT_PREDICATE, msgspec.to_builtins(predicate))


def response_statement(
    response: EventResponse, attestor: Attestor, attested_at: dt.datetime, *, content: bytes = b""
) -> bytes:
    """Return the Statement about one finished response: what was asked, and in the predicate what came of it."""
    spec, status = response.spec, response.status
    predicate = {
        "response": {
            "eventResponseUID": response.metadata.uid,
            "securityEventName": spec.security_event_ref.name,
            "securityEventUID": spec.security_event_ref.uid,
            "action": spec.action.type,
            "responder": spec.responder,
        },
        "targetRef": spec.action.target_ref,
        "parametersDigest": {"sha256": hashlib.sha256(canonical(spec.action.parameters)).hexdigest()},
        "phase": status.phase,
        "outcome": status.outcome,
        "error": status.error,
        "cancelReason": status.cancel_reason,
        "attempts": status.attempts,
        "startedAt": micro(status.started_at) if status.started_at else None,
        "completedAt": micro(status.completed_at) if status.completed_at else None,
        "evidence": status.evidence,
        "resourceVersion": response.metadata.resource_version,
        **_made(attestor, attested_at, RESPONSE_PREDICATE),
    }
    return build([response_subject(response, content)], RESPONSE_PREDICATE, msgspec.to_builtins(predicate))


def _incident(event: SecurityEvent) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is said of an event: the part that is wire contract, and what we add."""
    spec = event.spec
    incident = {
        "securityEventUID": event.metadata.uid,
        "class": spec.class_,
        "type": spec.type,
        "severity": spec.severity,
        "detectedAt": micro(spec.detected_at),
        "clusterIdentity": spec.cluster_identity,
    }
    more = {
        "resourceVersion": event.metadata.resource_version,
        "correlationID": spec.correlation_id,
        "source": spec.source,
        "evidence": spec.evidence,
        "subjectRef": {
            "kind": spec.subject.kind,
            "name": spec.subject.name,
            "namespace": spec.subject.namespace,
            "uid": spec.subject.uid,
        },
    }
    return incident, more


def _made(attestor: Attestor, attested_at: dt.datetime, predicate_type: str) -> dict[str, Any]:
    """Return what is said of the Statement itself: by whom it was made, when, and how the subjects' bytes were."""
    return {
        "attestor": {
            "name": attestor.name,
            "version": attestor.version,
            "instance": attestor.instance,
            "attestedAt": micro(attested_at),
        },
        "tooling": {"ugalluVersion": attestor.version, "signingPredicate": predicate_type},
        "specCanonicalization": "RFC8785",
    }


def micro(moment: dt.datetime) -> str:
    """Return RFC 3339 in UTC with exactly six fractional digits, the form of every time in a predicate."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def attested_at(statement: Statement) -> dt.datetime:
    """Return the time that the attestor fixed in this Statement; raises `PermanentError` when there is none."""
    try:
        return msgspec.convert(statement.predicate["attestor"]["attestedAt"], dt.datetime)
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        raise PermanentError("the predicate names no time of attestation", where="statement") from error


def about(statement: Statement) -> str:
    """Return the uid of the event that the statement is about; empty when it names none, or many."""
    uids = _uids(statement.predicate)
    return uids[0] if len(uids) == 1 else ""


def concerns(statement: Statement, uid: str, subject: bytes) -> bool:
    """Tell whether the statement is about the object with this uid, and these are the bytes of that very object.

    In a statement about many, the bytes of one event do not prove another.
    """
    uids = _uids(statement.predicate)
    if not uid or uids.count(uid) != 1 or len(uids) != len(statement.subject):
        return False
    wanted = hashlib.sha256(subject).hexdigest()
    return statement.subject[uids.index(uid)].digest.get("sha256") == wanted


def _uids(predicate: dict[str, Any]) -> list[str]:
    """Return the uids that a predicate names, in the order of its subjects."""
    many = predicate.get("incidents")
    parts = many if isinstance(many, list) else [predicate.get("incident") or predicate.get("response")]
    found = []
    for part in parts:
        named = part if isinstance(part, dict) else {}
        uid = named.get("securityEventUID") if "eventResponseUID" not in named else named["eventResponseUID"]
        found.append(uid if isinstance(uid, str) else "")
    return found


def _check(statement: Statement) -> None:
    if statement.type_ != STATEMENT_TYPE:
        raise PermanentError(f"_type is not {STATEMENT_TYPE}", where="statement")
    if not 1 <= len(statement.subject) <= MAX_SUBJECTS:
        raise PermanentError(
            f"{len(statement.subject)} subjects; verifiers take 1 to {MAX_SUBJECTS}", where="statement"
        )
    if not statement.predicate_type:
        raise PermanentError("predicateType is empty", where="statement")
    for subject in statement.subject:
        if not 1 <= len(subject.digest) <= MAX_DIGESTS:
            raise PermanentError(f"{len(subject.digest)} digests; verifiers take 1 to {MAX_DIGESTS}", where="statement")
        if not _SHA256.fullmatch(subject.digest.get("sha256", "")):
            raise PermanentError("a subject has no lower-case SHA-256", where="statement")
