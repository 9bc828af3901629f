"""`AuditRecord` to and from what the bus sends: `ugallu.auditstream.v1.AuditEvent`.

A message is made of parts that protobuf reads as one when they stand one behind the other: metadata, bodies as far as
a consumer may see them, and the numbers of its stream. So one event is encoded once, whoever gets it. Messages cost a
process 7 MiB: import this module where a bus is served or read.
"""

import datetime as dt
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from ugallu.api.audit import AuditObject, AuditRecord, AuditUser, json_of, response_of, user_of
from ugallu.api.detection import BusBodies
from ugallu.api.observation import EMPTY
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

METHOD: Final = "/ugallu.auditstream.v1.AuditStream/Subscribe"
MAX_METADATA: Final = 1 << 20
"""Bytes of an event without its bodies; a larger one is no event that an API server writes."""
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_UINT32: Final = 2**32 - 1
_UNREADABLE: Final = (msgspec.MsgspecError, OverflowError, RecursionError, ValueError)
_APPLY: Final = "fieldManager="
_DIRECTIVES: Final = (b'"$patch"', b'"$setElementOrder', b'"$retainKeys"', b'"$deleteFromPrimitiveList')
_NULL: Final = b"null"

_texts = msgspec.json.Decoder(list[str])
_table = msgspec.json.Decoder(dict[str, str])

Redact = Callable[[Any, AuditObject | None], Any]
Scrub = Callable[[str], str]


class Shape(NamedTuple):
    """How much of an event a consumer sees: which bodies, and up to how many bytes each."""

    bodies: BusBodies
    cap: int

    @property
    def bare(self) -> "Shape":
        """The same without bodies."""
        return Shape(BusBodies.NONE, 0)


class Encoder:
    """Encodes events; `redact` takes secrets out of a body and every text in it, `scrub` out of free text."""

    def __init__(self, redact: Redact, scrub: Scrub) -> None:
        self._redact = redact
        self._scrub = scrub

    def metadata(self, record: AuditRecord) -> bytes:
        """Return everything but the bodies."""
        scrub = self._scrub
        event = pb.AuditEvent(
            audit_id=record.audit_id,
            stage=record.stage,
            verb=record.verb,
            user_agent=scrub(record.user_agent),
            request_uri=scrub(record.request_uri),
            level=record.level,
            source_ips=_list(record.source_ips),
        )
        if (seen := record.seen_at) != _EPOCH:
            event.timestamp.seconds, event.timestamp.nanos = _moment(seen)
        if (received := _parsed(record.request_received_timestamp)) is not None:
            into = event.request_received_timestamp
            into.seconds, into.nanos = _moment(received)
        _put_user(event.user, user_of(record.user), scrub)
        _put_user(event.impersonated_user, user_of(record.impersonated_user), scrub)
        if (ref := record.object_ref) is not None:
            event.object_ref.CopyFrom(
                pb.ObjectReference(
                    api_group=ref.api_group,
                    api_version=ref.api_version,
                    resource=ref.resource,
                    subresource=ref.subresource,
                    namespace=ref.namespace,
                    name=ref.name,
                    uid=ref.uid,
                    resource_version=ref.resource_version,
                )
            )
        if (response := response_of(record.response_status)) is not None:
            event.response_status_code = max(0, min(response.code, _UINT32))
            event.response_reason = response.reason
            event.response_message = scrub(response.message)
        for key, text in _pairs(record.annotations).items():
            event.annotations[key] = scrub(text)
        return event.SerializeToString()

    def bodies(self, record: AuditRecord, shape: Shape) -> bytes:
        """Return the bodies as far as the shape allows, without secrets; that one is left out is said."""
        part = pb.AuditEvent()
        omitted = False
        for raw, allowed, name in (
            (record.request_object, shape.bodies is not BusBodies.NONE, "request_object"),
            (record.response_object, shape.bodies is BusBodies.ALL, "response_object"),
        ):
            if not raw or bytes(raw) == _NULL:
                continue
            body = self._body(raw, record.object_ref, shape.cap) if allowed else None
            if body is None:
                omitted = True
            else:
                setattr(part, name, body)
        part.bodies_omitted = omitted
        if record.verb == "patch" and record.request_object:
            part.request_is_patch = _patch(record)
        return part.SerializeToString()

    def _body(self, raw: msgspec.Raw, ref: AuditObject | None, cap: int) -> bytes | None:
        # Taking secrets out may make it smaller, but nobody reads megabytes for the sake of that.
        if memoryview(raw).nbytes > 2 * cap:
            return None
        try:
            body = msgspec.json.encode(self._redact(json_of(raw), ref))
        except _UNREADABLE:
            return None
        return body if body != _NULL and len(body) <= cap else None


def stream_part(sequence: int, instance: str) -> bytes:
    """Return the part that says which message of which server it is."""
    return pb.AuditEvent(sequence=sequence, server_instance=instance).SerializeToString()


def lost_part(count: int) -> bytes:
    """Return the part that says how many events the subscriber lost before this one."""
    return pb.AuditEvent(dropped_before=count).SerializeToString()


def heartbeat(sequence: int, instance: str, at: dt.datetime) -> bytes:
    """Return the message that says no more than that the stream lives."""
    event = pb.AuditEvent(sequence=sequence, server_instance=instance)
    event.timestamp.seconds, event.timestamp.nanos = _moment(at)
    return event.SerializeToString()


def record_of(event: pb.AuditEvent) -> AuditRecord:
    """Return the record that a message carries."""
    code, reason, message = event.response_status_code, event.response_reason, event.response_message
    status = {"code": code, "reason": reason, "message": message}
    return AuditRecord(
        level=event.level,
        audit_id=event.audit_id,
        stage=event.stage,
        request_uri=event.request_uri,
        verb=event.verb,
        user=_user_json(event.user) if event.HasField("user") else EMPTY,
        impersonated_user=_user_json(event.impersonated_user) if event.HasField("impersonated_user") else EMPTY,
        source_ips=_raw(list(event.source_ips)) if event.source_ips else EMPTY,
        user_agent=event.user_agent,
        object_ref=_object(event.object_ref) if event.HasField("object_ref") else None,
        response_status=_raw({key: value for key, value in status.items() if value}) if any(status.values()) else EMPTY,
        request_object=msgspec.Raw(event.request_object) if event.request_object else EMPTY,
        response_object=msgspec.Raw(event.response_object) if event.response_object else EMPTY,
        request_received_timestamp=_text(event.request_received_timestamp),
        stage_timestamp=_text(event.timestamp),
        annotations=_raw(dict(event.annotations)) if event.annotations else EMPTY,
    )


def _object(ref: pb.ObjectReference) -> AuditObject:
    return AuditObject(
        resource=ref.resource,
        namespace=ref.namespace,
        name=ref.name,
        uid=ref.uid,
        api_group=ref.api_group,
        api_version=ref.api_version,
        resource_version=ref.resource_version,
        subresource=ref.subresource,
    )


def _user_json(user: pb.AuditUser) -> msgspec.Raw:
    extra = {key: list(values.values) for key, values in user.extra.items()}
    said = {"username": user.username, "uid": user.uid, "groups": list(user.groups), "extra": extra}
    return _raw({key: value for key, value in said.items() if value})


def _put_user(into: pb.AuditUser, user: AuditUser | None, scrub: Scrub) -> None:
    if user is None or not (user.username or user.groups):
        return
    into.username, into.uid = user.username, user.uid
    into.groups.extend(user.groups)
    for key, values in user.extra.items():
        into.extra[key].values.extend(map(scrub, values))


def _patch(record: AuditRecord) -> pb.RequestPatch:
    """Tell what a patch is written in; an audit event does not say, so it is told by its shape."""
    body = bytes(record.request_object)
    if body.lstrip()[:1] == b"[":
        return pb.REQUEST_PATCH_JSON
    if any(mark in body for mark in _DIRECTIVES):
        return pb.REQUEST_PATCH_STRATEGIC
    if _APPLY in record.request_uri and b'"apiVersion"' in body and b'"kind"' in body:
        return pb.REQUEST_PATCH_APPLY
    return pb.REQUEST_PATCH_MERGE


def _list(raw: msgspec.Raw) -> list[str]:
    try:
        return _texts.decode(raw) if raw else []
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def _pairs(raw: msgspec.Raw) -> dict[str, str]:
    try:
        return _table.decode(raw) if raw else {}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


def _raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _parsed(text: str) -> dt.datetime | None:
    if not text:
        return None
    try:
        moment = msgspec.convert(text, dt.datetime)
    except (msgspec.ValidationError, ValueError, OverflowError):
        return None
    return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)


def _moment(at: dt.datetime) -> tuple[int, int]:
    since = at - _EPOCH
    return since.days * 86400 + since.seconds, since.microseconds * 1000


def _text(stamp: Any) -> str:  # noqa: ANN401 - protobuf's Timestamp
    """Return the time as an API server writes it, to the microsecond; empty when it is unknown or out of range."""
    if not stamp.seconds and not stamp.nanos:
        return ""
    try:
        at = _EPOCH + dt.timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)
    except OverflowError:
        return ""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
