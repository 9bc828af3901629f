"""The Statement: what verifiers are told, and that a retry tells them the same."""

import datetime as dt
import json

import pytest

from ugallu.api.event import EvidenceRef
from ugallu.api.meta import Metadata
from ugallu.api.response import (
    Action,
    ActionType,
    EventResponse,
    EventResponseSpec,
    EventResponseStatus,
    Outcome,
    OutcomeType,
    ResponderRef,
    ResponsePhase,
    SecurityEventRef,
)
from ugallu.errors import PermanentError
from ugallu.evidence import statement
from ugallu.testing.evidence import NOON, make_event

AUTHOR = statement.Attestor("ugallu-attestor", "0.1.0", "")


def test_the_same_event_and_time_give_the_same_bytes() -> None:
    """A statement depends on nothing but event, author and the time that was fixed."""
    assert statement.event_statement(make_event(), AUTHOR, NOON) == statement.event_statement(
        make_event(), AUTHOR, NOON
    )


def test_a_statement_says_what_the_contract_asks() -> None:
    """Top level, subject, incident, attestor and tooling stand where readers look; times have six fractional digits."""
    event = make_event(uid="u-1")
    raw = json.loads(statement.event_statement(event, AUTHOR, NOON))
    assert set(raw) == {"_type", "subject", "predicateType", "predicate"}
    assert raw["_type"] == "https://in-toto.io/Statement/v1"
    assert raw["subject"][0]["name"] == f"SecurityEvent/{event.metadata.name}@v1alpha1"
    predicate = raw["predicate"]
    assert predicate["incident"]["securityEventUID"] == "u-1"
    assert predicate["incident"]["detectedAt"] == "2026-01-01T12:00:00.000000Z"
    assert predicate["attestor"] == {
        "name": "ugallu-attestor",
        "version": "0.1.0",
        "instance": "",
        "attestedAt": "2026-01-01T12:00:00.000000Z",
    }
    assert predicate["tooling"]["signingPredicate"] == raw["predicateType"] == statement.EVENT_PREDICATE
    assert predicate["specCanonicalization"] == "RFC8785"


def test_the_time_of_attestation_can_be_read_back() -> None:
    """The month under which evidence is kept comes from the statement, in UTC, whatever the zone it was given in."""
    east = dt.timezone(dt.timedelta(hours=5))
    moment = dt.datetime(2026, 2, 1, 1, 30, 0, 123456, tzinfo=east)
    parsed = statement.parse(statement.event_statement(make_event(), AUTHOR, moment))
    assert statement.attested_at(parsed) == moment
    assert statement.attested_at(parsed).month == 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'{"_type":"https://in-toto.io/Statement/v0.1","subject":[],"predicateType":"x","predicate":{}}',
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"x","predicate":{}}',
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"AB"}}],"predicateType":"x","predicate":{}}',
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"md5":"ab"}}],"predicateType":"x","predicate":{}}',
        b'{"_type":"https://in-toto.io/Statement/v1","subject":[],"predicateType":"x","predicate":{},"extra":1}',
    ],
)
def test_a_malformed_statement_is_refused(payload: bytes) -> None:
    """Whatever strict verifiers refuse, we refuse, with our own error."""
    with pytest.raises(PermanentError, match="statement"):
        statement.parse(payload)


def test_a_shared_statement_proves_each_event_alone() -> None:
    """Every event is a subject and an incident of its own, in order; the bytes of one do not prove another."""
    events = [make_event(f"se-{number:024x}", uid=f"uid-{number}") for number in range(3)]
    made = [(event, statement.spec_bytes(event)) for event in events]
    made[1] = (events[1], statement.spec_bytes(make_event(detected_at=NOON + dt.timedelta(seconds=1))))
    parsed = statement.parse(statement.shared_statement(made, AUTHOR, NOON))
    assert [subject.name for subject in parsed.subject] == [f"SecurityEvent/{e.metadata.name}@v1alpha1" for e in events]
    assert statement.about(parsed) == ""
    assert statement.attested_at(parsed) == NOON
    for event, content in made:
        assert statement.concerns(parsed, event.metadata.uid, content)
    assert not statement.concerns(parsed, "uid-0", made[1][1])
    assert not statement.concerns(parsed, "uid-9", made[0][1])
    assert not statement.concerns(parsed, "", made[0][1])


def test_a_statement_about_one_concerns_it_alone() -> None:
    """The uid and the bytes must be those of the one event."""
    event = make_event(uid="uid-0")
    content = statement.spec_bytes(event)
    parsed = statement.parse(statement.event_statement(event, AUTHOR, NOON))
    assert statement.concerns(parsed, "uid-0", content)
    assert not statement.concerns(parsed, "uid-1", content)
    assert not statement.concerns(parsed, "uid-0", b"{}")


def test_a_response_is_attested_with_what_came_of_it() -> None:
    """A13: outcome, error, times and evidence are in the predicate; the subject is what was asked."""
    response = EventResponse(
        metadata=Metadata(name="er-1", uid="uid-r", resource_version="7"),
        spec=EventResponseSpec(
            security_event_ref=SecurityEventRef(name="se-1", uid="uid-e"),
            responder=ResponderRef(kind="Operator", name="forensics"),
            action=Action(type=ActionType.POD_FREEZE, parameters={"grace": "0"}),
        ),
        status=EventResponseStatus(
            phase=ResponsePhase.SUCCEEDED,
            outcome=Outcome(type=OutcomeType.ACTION_TAKEN),
            completed_at=NOON,
            evidence=(EvidenceRef(media_type="application/x-tar", url="s3://b/k", sha256="sha256:00", size=7),),
        ),
    )
    raw = json.loads(statement.response_statement(response, AUTHOR, NOON))
    assert raw["predicateType"] == "https://ugallu.io/attestation/event-response/v1"
    assert raw["subject"][0]["name"] == "EventResponse/er-1@v1alpha1"
    predicate = raw["predicate"]
    assert predicate["response"] == {
        "eventResponseUID": "uid-r",
        "securityEventName": "se-1",
        "securityEventUID": "uid-e",
        "action": "PodFreeze",
        "responder": {"kind": "Operator", "name": "forensics"},
    }
    assert (predicate["phase"], predicate["outcome"]) == ("Succeeded", {"type": "ActionTaken"})
    assert predicate["completedAt"] == "2026-01-01T12:00:00.000000Z"
    assert predicate["evidence"][0]["url"] == "s3://b/k"
    assert "parameters" not in predicate
    parsed = statement.parse(statement.response_statement(response, AUTHOR, NOON))
    assert statement.concerns(parsed, "uid-r", statement.spec_bytes(response))
    assert statement.about(parsed) == "uid-r"


def test_however_deep_a_statement_is_nested_there_is_an_answer() -> None:
    """What one reader of JSON still looks through, and the next does not, is refused as such, and crashes nothing."""
    whole = statement.build([statement.subject_of("x", b"1")], statement.EVENT_PREDICATE, {"a": 0})
    refused = 0
    for depth in range(800, 1010):
        try:
            statement.parse(whole.replace(b'"a":0', b'"a":' + b"[" * depth + b"]" * depth))
        except PermanentError:
            refused += 1
    assert refused
