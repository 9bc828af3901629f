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


def spec_bytes(event: SecurityEvent) -> bytes:
    """Return the canonical bytes of the whole `.spec`: what is attested, archived and handed to verifiers."""
    return canonical(event.spec)


def event_subject(event: SecurityEvent, content: bytes = b"") -> Subject:
    """Return the subject of one event: `SecurityEvent/<name>@v1alpha1` and the digest of `spec_bytes`."""
    name = f"SecurityEvent/{event.metadata.name}@{event.kind_info.version}"
    return subject_of(name, content or spec_bytes(event))


def event_statement(
    event: SecurityEvent, attestor: Attestor, attested_at: dt.datetime, *, content: bytes = b""
) -> bytes:
    """Return the Statement about one event. `attested_at` is fixed by the caller: a retry must give the same bytes.

    `content` is what `spec_bytes` made of the event, for a caller that has it already.
    """
    spec = event.spec
    predicate = {
        "incident": {
            "securityEventUID": event.metadata.uid,
            "class": spec.class_,
            "type": spec.type,
            "severity": spec.severity,
            "detectedAt": micro(spec.detected_at),
            "clusterIdentity": spec.cluster_identity,
        },
        "attestor": {
            "name": attestor.name,
            "version": attestor.version,
            "instance": attestor.instance,
            "attestedAt": micro(attested_at),
        },
        "tooling": {"ugalluVersion": attestor.version, "signingPredicate": EVENT_PREDICATE},
        "specCanonicalization": "RFC8785",
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
    return build([event_subject(event, content)], EVENT_PREDICATE, msgspec.to_builtins(predicate))


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
    """Return the uid of the event that the statement is about, empty when it names none."""
    incident = statement.predicate.get("incident")
    uid = incident.get("securityEventUID") if isinstance(incident, dict) else None
    return uid if isinstance(uid, str) else ""


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
