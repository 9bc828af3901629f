"""The Statement: what verifiers are told, and that a retry tells them the same."""

import datetime as dt
import json

import pytest

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
