"""What travels is what was seen, without secrets and within bounds; what comes back is a record like any other."""

import datetime as dt
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.audit import AuditRecord, json_of, response_of, user_of
from ugallu.api.detection import BusBodies
from ugallu.bus.events import Encoder, Shape, heartbeat, lost_part, record_of, stream_part
from ugallu.sources.nats import encoded
from ugallu.testing.audit import audit_event, audit_record
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb
from ugallu_audit_detection.redact import redacted, scrubbed

DATA = Path(__file__).parents[2] / "data" / "audit"
PLAIN = Encoder(lambda body, _: body, lambda text: text)
CAREFUL = Encoder(redacted, scrubbed)
ALL = Shape(BusBodies.ALL, 1 << 20)
REQUEST = Shape(BusBodies.REQUEST, 1 << 20)
EVENTS = [
    line for path in sorted(DATA.rglob("events.jsonl")) for line in path.read_bytes().splitlines()[:400] if line.strip()
]


def sent(record: AuditRecord, shape: Shape = ALL, encoder: Encoder = PLAIN) -> pb.AuditEvent:
    return pb.AuditEvent.FromString(encoder.metadata(record) + encoder.bodies(record, shape))


@pytest.mark.parametrize("line", EVENTS[::7], ids=lambda line: f"{len(line)}b")
def test_recorded_events_come_back(line: bytes) -> None:
    """Everything that a rule looks at is as it was."""
    document = msgspec.json.decode(line)
    record = msgspec.json.decode(msgspec.json.encode(document.get("event", document)), type=AuditRecord)
    back = record_of(sent(record))
    plain = ("level", "audit_id", "stage", "request_uri", "verb", "user_agent", "object_ref", "seen_at")
    assert [getattr(back, name) for name in plain] == [getattr(record, name) for name in plain]
    if len(record.request_received_timestamp) == len("2026-01-01T00:00:00.000000Z"):  # some are from before 1.8
        assert back.correlation("c") == record.correlation("c")
    assert user_of(back.user) == user_of(record.user)
    assert user_of(back.impersonated_user) == user_of(record.impersonated_user)
    for name in ("source_ips", "annotations", "request_object", "response_object"):
        assert json_of(getattr(back, name)) == json_of(getattr(record, name)), name
    before, after = response_of(record.response_status), response_of(back.response_status)
    if before is not None and (before.code or before.reason or before.message):
        assert after is not None
        assert (after.code, after.reason, after.message) == (before.code, before.reason, before.message)


def test_what_the_older_contract_left_out_is_there() -> None:
    """W9: URI, annotations, extra, uid, reason and message, level, resource version, time of receipt."""
    record = audit_record(
        user={"username": "a", "uid": "u-1", "groups": ["g"], "extra": {"k": ["v", "w"]}},
        annotations={"authorization.k8s.io/decision": "forbid"},
        responseStatus={"code": 403, "reason": "Forbidden", "message": "no"},
        objectRef={"resource": "pods", "resourceVersion": "7"},
    )
    event = sent(record)
    assert event.request_uri == record.request_uri
    assert dict(event.annotations) == {"authorization.k8s.io/decision": "forbid"}
    assert (event.user.uid, list(event.user.extra["k"].values)) == ("u-1", ["v", "w"])
    assert (event.response_status_code, event.response_reason, event.response_message) == (403, "Forbidden", "no")
    assert (event.level, event.object_ref.resource_version) == ("Metadata", "7")
    assert event.request_received_timestamp.seconds == 1767225600


SECRET = "c3VwZXItc2VjcmV0LXZhbHVl"
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQifQ.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "changes",
    [
        {"objectRef": {"resource": "secrets"}, "requestObject": {"kind": "Secret", "data": {"password": SECRET}}},
        {"objectRef": {"resource": "secrets"}, "responseObject": {"kind": "Secret", "stringData": {"a": SECRET}}},
        {"objectRef": {"resource": "secrets"}, "requestObject": [{"op": "add", "path": "/data/a", "value": SECRET}]},
        {"objectRef": {"resource": "configmaps"}, "requestObject": {"kind": "ConfigMap", "data": {"a": SECRET}}},
        {
            "requestObject": {
                "kind": "Pod",
                "spec": {"containers": [{"env": [{"name": "DB_PASSWORD", "value": SECRET}]}]},
            }
        },
        {
            "requestObject": {
                "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": f'{{"a":"{SECRET}"}}'}}
            }
        },
        {"responseObject": {"kind": "TokenRequest", "status": {"token": JWT}}},
        {"requestURI": f"/api/v1/namespaces/a/pods/b/exec?command=login&token={SECRET}"},
        {"userAgent": f"curl Bearer {SECRET}"},
        {"responseStatus": {"code": 401, "message": f"bad token={SECRET}"}},
        {"annotations": {"note": f"password={SECRET}"}},
        {"requestURI": f"/x?authorization=Bearer%20{JWT}"},
        {"requestObject": {"spec": {"containers": [{"args": [f"--password={SECRET}"]}]}}},
        {"requestObject": {"spec": {"containers": [{"command": ["curl", "-H", f"Authorization: Bearer {SECRET}"]}]}}},
        {
            "requestObject": {
                "spec": {"containers": [{"env": [{"name": "DB_URL", "value": f"mongodb://u:{SECRET}@h/"}]}]}
            }
        },
        {"requestObject": {"webhooks": [{"clientConfig": {"url": f"https://u:{SECRET}@x/"}}]}},
        {"responseObject": {"spec": {"containers": [{"args": [JWT]}]}}},
        {"user": {"username": "a", "extra": {"x": [f"Bearer {SECRET}"]}}},
        {"impersonatedUser": {"username": "a", "extra": {"x": [f"token={SECRET}"]}}},
    ],
)
def test_no_secret_leaves(changes: dict[str, object]) -> None:
    """W10: bodies and texts are cleaned before anything is encoded, for gRPC and for NATS, whatever a consumer asks for."""
    record = audit_record(**changes)
    for message in (CAREFUL.metadata(record) + CAREFUL.bodies(record, ALL), encoded(CAREFUL, record, 1 << 20)):
        assert SECRET.encode() not in message
        assert JWT.encode() not in message


def test_a_body_over_the_limit_is_left_out() -> None:
    """W4: a message never grows beyond what a consumer can take, and says that something is missing."""
    record = audit_record(verb="create", requestObject={"a": "x" * 5000}, responseObject={"b": "y"})
    assert sent(record, Shape(BusBodies.ALL, 100)).request_object == b""
    event = sent(record, Shape(BusBodies.ALL, 1000))
    assert (event.bodies_omitted, event.request_object, event.response_object) == (True, b"", b'{"b":"y"}')
    assert not sent(record, Shape(BusBodies.ALL, 6000)).bodies_omitted


@pytest.mark.parametrize(
    ("bodies", "request_body", "response_body"),
    [(BusBodies.NONE, b"", b""), (BusBodies.REQUEST, b'{"a":1}', b""), (BusBodies.ALL, b'{"a":1}', b'{"b":2}')],
)
def test_a_consumer_sees_the_bodies_that_it_may(bodies: BusBodies, request_body: bytes, response_body: bytes) -> None:
    """What it may not see is said to be missing, not to be empty."""
    event = sent(audit_record(requestObject={"a": 1}, responseObject={"b": 2}), Shape(bodies, 1000))
    assert (event.request_object, event.response_object) == (request_body, response_body)
    assert event.bodies_omitted is (bodies is not BusBodies.ALL)
    assert not sent(audit_record(), Shape(bodies, 1000)).bodies_omitted, "there was none"


@pytest.mark.parametrize(
    ("uri", "body", "kind"),
    [
        ("/x", [{"op": "add", "path": "/a", "value": 1}], pb.REQUEST_PATCH_JSON),
        ("/x", {"a": None}, pb.REQUEST_PATCH_MERGE),
        ("/x", {"spec": {"$setElementOrder/a": []}}, pb.REQUEST_PATCH_STRATEGIC),
        ("/x?fieldManager=kubectl&force=true", {"apiVersion": "v1", "kind": "Pod"}, pb.REQUEST_PATCH_APPLY),
    ],
)
def test_a_patch_is_told_by_its_shape(uri: str, body: object, kind: int) -> None:
    """A JSON Patch is an array: it travels like any other body."""
    event = sent(audit_record(verb="patch", requestURI=uri, requestObject=body))
    assert event.request_is_patch == kind
    assert msgspec.json.decode(event.request_object) == body


def test_a_heartbeat_is_no_event() -> None:
    """Whoever knows of none sees an empty verb."""
    event = pb.AuditEvent.FromString(heartbeat(7, "i", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)))
    assert (event.verb, event.sequence, event.timestamp.seconds) == ("", 7, 1767225600)


def test_parts_are_one_message() -> None:
    """One behind the other they read as a message that was encoded whole."""
    record = audit_record(requestObject={"a": 1})
    whole = PLAIN.metadata(record) + PLAIN.bodies(record, ALL) + stream_part(5, "i") + lost_part(3)
    event = pb.AuditEvent.FromString(whole)
    assert (event.sequence, event.server_instance, event.dropped_before) == (5, "i", 3)
    assert (event.verb, event.request_object) == ("get", b'{"a":1}')


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
FIELDS = tuple(audit_event(requestObject=1, responseObject=1, annotations=1, impersonatedUser=1))


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(FIELDS), json, max_size=6))
def test_whatever_a_log_holds_is_encoded_or_refused_by_its_decoder(changes: dict[str, object]) -> None:
    """Nothing that decodes as an audit event fails on its way."""
    try:
        record = msgspec.json.decode(msgspec.json.encode({**audit_event(), **changes}), type=AuditRecord)
    except (msgspec.DecodeError, OverflowError):
        return
    back = record_of(sent(record, ALL, CAREFUL))
    assert back.verb == record.verb
    assert back.correlation("c")


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_message_of_a_server_becomes_a_record(data: bytes) -> None:
    """A server is trusted, and still nothing that it can send breaks its reader."""
    try:
        event = pb.AuditEvent.FromString(data)
    except Exception:  # noqa: BLE001 - protobuf's own refusals are of many kinds
        return
    record = record_of(event)
    record.correlation("c")
    assert user_of(record.user) is None or record.user
