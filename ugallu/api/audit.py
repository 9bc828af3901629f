"""AuditRecord: one `audit.k8s.io/v1` Event, decoded as far as a dispatch needs and no further.

The parts that only a candidate rule looks at stay raw JSON (`Raw` views of the line) until someone asks.
"""

import datetime as dt
import hashlib
import re
from typing import Any

import msgspec

from ugallu.api.observation import EMPTY

_UNKNOWN = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class AuditObject(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """`objectRef`: the object that a request names."""

    resource: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_group: str = ""
    api_version: str = ""
    resource_version: str = ""
    subresource: str = ""


class AuditUser(msgspec.Struct, frozen=True):
    """A caller: the original one, or the one it acts as."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: dict[str, tuple[str, ...]] = {}


class AuditResponse(msgspec.Struct, frozen=True, gc=False):
    """`responseStatus`, as far as rules look."""

    code: int = 0
    status: str = ""
    message: str = ""
    reason: str = ""


class AuditRecord(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """One audit event. Raw parts are `EMPTY` when absent; `null` on the wire is `b"null"`.

    The fields stand in the order in which an API server writes them: msgspec then finds each at once.
    """

    level: str = ""
    audit_id: str = msgspec.field(default="", name="auditID")
    stage: str = ""
    request_uri: str = msgspec.field(default="", name="requestURI")
    verb: str = ""
    user: msgspec.Raw = EMPTY
    impersonated_user: msgspec.Raw = EMPTY
    source_ips: msgspec.Raw = msgspec.field(default=EMPTY, name="sourceIPs")
    user_agent: str = ""
    object_ref: AuditObject | None = None
    response_status: msgspec.Raw = EMPTY
    request_object: msgspec.Raw = EMPTY
    response_object: msgspec.Raw = EMPTY
    request_received_timestamp: str = ""
    stage_timestamp: str = ""
    annotations: msgspec.Raw = EMPTY
    authentication_metadata: msgspec.Raw = EMPTY

    @property
    def seen_at(self) -> dt.datetime:
        """The stage's time, else the time the request came in, else the epoch."""
        for text in (self.stage_timestamp, self.request_received_timestamp):
            if text:
                try:
                    moment = msgspec.convert(text, dt.datetime)
                    # Without a zone it would be read as local time, and differ from machine to machine.
                    return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
                except (msgspec.ValidationError, ValueError, OverflowError):
                    continue
        return _UNKNOWN

    def correlation(self, cluster_id: str) -> str:
        """Hash of cluster, audit id, time of receipt, user and URI: `Audit-ID` alone belongs to the client."""
        user = user_of(self.user)
        parts = [
            cluster_id,
            self.audit_id,
            self.request_received_timestamp,
            user.username if user else "",
            self.request_uri,
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


_user = msgspec.json.Decoder(AuditUser)
_response = msgspec.json.Decoder(AuditResponse)
_any = msgspec.json.Decoder()


def user_of(raw: msgspec.Raw) -> AuditUser | None:
    """Decode `user` or `impersonatedUser`; None when absent, null or malformed."""
    try:
        return _user.decode(raw) if raw else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def response_of(raw: msgspec.Raw) -> AuditResponse | None:
    """Decode `responseStatus`; None when absent, null or malformed."""
    try:
        return _response.decode(raw) if raw else None
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def json_of(raw: msgspec.Raw) -> Any:  # noqa: ANN401 - any JSON
    """Decode a body; None when absent, null or malformed."""
    try:
        return _any.decode(raw) if raw else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


MAX_DEPTH = 128
"""Nesting that `mended` keeps; Kubernetes' own objects stay below 40."""

_token = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_escape = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)


def mended(text: bytes) -> bytes:
    """Return JSON that our decoder takes in place of JSON that only the API server takes.

    A patch stands in the log byte for byte as its client sent it, and Go reads more than msgspec: lone surrogates and
    bytes that are no UTF-8 become U+FFFD here as they do there, and what is nested deeper than `MAX_DEPTH` becomes
    null. Else any client could hide a request by making its record unreadable. Costs some 20 ns a byte.
    """
    try:
        text.decode()
    except UnicodeDecodeError:
        text = text.decode("utf-8", "replace").encode()
    text = _escape.sub(lambda found: b"\\ufffd" if found["lone"] else found[0], text)
    kept: list[bytes] = []
    depth = start = 0
    for token in _token.finditer(text):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth == MAX_DEPTH + 1:
                kept += (text[start : token.start()], b"null")
        elif mark in (b"]", b"}"):
            if depth == MAX_DEPTH + 1:
                start = token.end()
            depth -= 1
    if depth <= MAX_DEPTH:
        kept.append(text[start:])
    return b"".join(kept)
