"""RecordView: the parts of one audit record that rules look into, decoded when first asked for, and only once.

A part of the wrong shape behaves as if it were absent, and costs nothing but itself: an odd group hides no user name.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, get_args, get_origin, overload
from urllib.parse import unquote, unquote_plus

import msgspec

from ugallu.sdk import AuditObject, AuditRecord, AuditResponse, AuditUser

if TYPE_CHECKING:
    from ugallu_audit_detection.sigma.keywords import Haystack
    from ugallu_audit_detection.sigma.questions import Surroundings
from ugallu_audit_detection.sigma.certificate import asked_for
from ugallu_audit_detection.sigma.objects import is_resource, pod_spec, projected
from ugallu_audit_detection.sigma.values import BROKEN, body_of, tidy

NOBODY = AuditUser()
NOTHING = AuditObject()
UNANSWERED = AuditResponse()
DECISION = "authorization.k8s.io/decision"
TRUNCATED = "audit.k8s.io/truncated"

_user = msgspec.json.Decoder(AuditUser | None)
_response = msgspec.json.Decoder(AuditResponse | None)
_texts = msgspec.json.Decoder(dict[str, str] | None)
_addresses = msgspec.json.Decoder(tuple[str, ...] | None)
_BACKSLASH = ord("\\")
_list = re.compile(rb"\s*\[").match
_broken_escape = re.compile("%(?![0-9A-Fa-f]{2})").search
MAX_CALLERS = 4 << 20
"""Bytes of all callers that are remembered, as JSON: ten thousand or more. Then they are forgotten and learned anew."""
MAX_FAMILIAR = 4096
"""Answers, and annotations, that are remembered."""
MAX_SHORT = 512
"""Bytes of one: room for a refusal that a controller meets again and again, and for a decision with its reason."""
MAX_KEY = 4096
"""Bytes. What is longer (a caller with hundreds of groups, an invented resource) is not remembered."""


def salvaged(value: Any, shape: Any) -> Any:  # noqa: ANN401 - any JSON, any type of a part
    """Return what of a value has the right shape; None when nothing of it could."""
    kind = get_origin(shape) or shape
    if kind is dict and isinstance(value, dict):
        item = get_args(shape)[1]
        kept = {key: salvaged(each, item) for key, each in value.items()}
        return {key: each for key, each in kept.items() if each is not None}
    if kind is tuple and isinstance(value, list):
        return tuple(each for each in value if isinstance(each, str))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not isinstance(value, dict):
            return None
        fields = {field.name: salvaged(value.get(field.name), field.type) for field in msgspec.structs.fields(kind)}
        return kind(**{name: each for name, each in fields.items() if each is not None})
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError:
        return None


class Callers:
    """Callers already decoded, by their bytes: a cluster has few, and each makes thousands of requests.

    And answers, nearly all of which are a code and nothing else; and annotations, most of which name the binding that
    allows what a caller does.
    """

    def __init__(self) -> None:
        self.known: dict[bytes, AuditUser | None] = {}
        self._bytes = 0
        self.answers: dict[bytes, AuditResponse] = {}
        self.notes: dict[bytes, dict[str, str]] = {}

    def remember(self, key: bytes, caller: AuditUser | None) -> None:
        """Keep a caller, unless it is so long that few would fit."""
        if len(key) > MAX_KEY:
            return
        self._bytes += len(key)
        if self._bytes > MAX_CALLERS:
            self.known.clear()
            self._bytes = len(key)
        self.known[key] = caller


T = TypeVar("T")


class part(Generic[T]):  # noqa: N801 - reads like `property`
    """A property that is computed once: afterwards the instance's own value hides it, at the cost of an attribute."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: "RecordView", owner: type) -> T: ...
    def __get__(self, view: "RecordView | None", owner: type) -> "Self | T":
        """Compute, and remember under the same name."""
        if view is None:
            return self
        value = view.__dict__[self.name] = self.compute(view)
        return value


class RecordView:
    """One record, opened part by part. Make one per record and let all rules share it."""

    unsure = False
    """Whether a condition could not be told, because nobody knows what surrounds this event."""
    found: dict[str, list[Any]] | None = None
    """What paths named in the bodies, for the other rules that look there."""
    haystack: "Haystack | None" = None
    searched = 0
    """Characters that keywords have searched: they are bounded for each event."""

    def __init__(
        self, record: AuditRecord, callers: Callers | None = None, around: "Surroundings | None" = None
    ) -> None:
        self.record = record
        self._callers = callers
        self.around = around

    def forget_searches(self) -> None:
        """Forget what conditions found so far, but not what was decoded for them."""
        self.found, self.haystack, self.searched = None, None, 0

    @property
    def ref(self) -> AuditObject:
        """The object reference; one without any field when the request names none."""
        return self.record.object_ref or NOTHING

    @part
    def user(self) -> AuditUser:
        """The original caller."""
        return self._caller(self.record.user) or NOBODY

    @part
    def impersonated(self) -> AuditUser | None:
        """The caller whom the original one acts as."""
        return self._caller(self.record.impersonated_user)

    def _caller(self, raw: msgspec.Raw) -> AuditUser | None:
        key = bytes(raw)
        if not key:
            return None
        callers = self._callers
        if callers is not None:
            known = callers.known.get(key, NOBODY)
            if known is not NOBODY:
                return known
        try:
            caller: AuditUser | None = _user.decode(key)
        except BROKEN:
            caller = salvaged(body_of(key)[1], AuditUser)
        if callers is not None:
            callers.remember(key, caller)
        return caller

    @part
    def response(self) -> AuditResponse:
        """`responseStatus`; code 0 before a status is known."""
        raw = self.record.response_status
        if self._callers is None or len(raw) > MAX_SHORT:
            return self._decoded(_response, raw, AuditResponse) or UNANSWERED
        answers, key = self._callers.answers, bytes(raw)
        answer = answers.get(key)
        if answer is None:
            if len(answers) >= MAX_FAMILIAR:
                answers.clear()
            answer = answers[key] = self._decoded(_response, raw, AuditResponse) or UNANSWERED
        return answer

    @part
    def annotations(self) -> Mapping[str, str]:
        """What admission and authorization noted."""
        raw = self.record.annotations
        if self._callers is None or len(raw) > MAX_SHORT:
            return self._decoded(_texts, raw, dict[str, str]) or {}
        known, key = self._callers.notes, bytes(raw)
        notes = known.get(key)
        if notes is None:
            if len(known) >= MAX_FAMILIAR:
                known.clear()
            notes = known[key] = self._decoded(_texts, raw, dict[str, str]) or {}
        return notes

    @part
    def source_ips(self) -> tuple[str, ...]:
        """The addresses a request came through; only the last one was seen by the API server itself."""
        return self._decoded(_addresses, self.record.source_ips, tuple[str, ...]) or ()

    def _decoded(self, decoder: msgspec.json.Decoder[Any], raw: msgspec.Raw, shape: Any) -> Any:  # noqa: ANN401
        if not raw:
            return None
        try:
            return decoder.decode(raw)
        except BROKEN:
            return salvaged(body_of(raw)[1], shape)

    @property
    def body_known(self) -> bool:
        """Whether the event has a body at all."""
        return bool(self.record.request_object or self.record.response_object)

    @property
    def truncated(self) -> bool:
        """Whether the API server cut the bodies off: they are unknown then, not absent."""
        return not self.body_known and self.annotations.get(TRUNCATED) == "true"

    @part
    def request_object(self) -> Any:  # noqa: ANN401 - any JSON
        """The body that was sent; None when there is none."""
        return self._body(self.record.request_object)

    @part
    def response_object(self) -> Any:  # noqa: ANN401 - any JSON
        """The body that was answered; None when there is none."""
        return self._body(self.record.response_object)

    @part
    def authentication(self) -> Any:  # noqa: ANN401 - any JSON
        """`authenticationMetadata` of recent API servers."""
        return self._body(self.record.authentication_metadata)

    def _body(self, raw: msgspec.Raw) -> Any:  # noqa: ANN401 - any JSON
        return body_of(raw)[1] if raw else None

    @part
    def effective(self) -> tuple[Any, bool]:
        """The object a request is about, and whether it is whole (a patch knows only what it changes)."""
        return self._effective_object()

    def _effective_object(self) -> tuple[Any, bool]:
        verb = self.record.verb
        if self.record.response_object and is_resource(self.response_object):
            return self.response_object, True
        if verb in ("create", "update"):
            return self.request_object, True
        if verb == "patch":
            return self.request_written, False
        return None, True

    @part
    def request_written(self) -> Any:  # noqa: ANN401 - any JSON
        """The body that was sent, a JSON Patch as the object that it writes."""
        body = self.request_object
        return projected(body) if self.record.verb == "patch" and isinstance(body, list) else body

    @part
    def effective_csr(self) -> Any:  # noqa: ANN401 - any JSON
        """What a CertificateSigningRequest asks for; see `certificate`."""
        return asked_for(self.effective[0])

    @part
    def effective_pod(self) -> Any:  # noqa: ANN401 - any JSON
        """The Pod spec of the effective object."""
        return self.pod_of(self.effective[0])

    def pod_of(self, body: Any) -> Any:  # noqa: ANN401 - any JSON
        """Return the Pod spec inside a body of the resource that the request names."""
        ref = self.ref
        return None if body is None else pod_spec(ref.api_group, ref.resource, body)

    @property
    def decision(self) -> str:
        """`allow` or `forbid` by the authorizer's annotation, else by the response code; empty when unknown."""
        noted = self.annotations.get(DECISION, "")
        if noted in ("allow", "forbid"):
            return noted
        code = self.response.code
        return "" if code == 0 else "forbid" if code == 403 else "allow"

    @part
    def dry_run(self) -> bool:
        """Whether the request was made with `dryRun=All`, so that nothing was stored.

        The API server ignores the query of a delete that has a body. A delete whose body is not in the record is
        therefore never taken for a dry run: it would be an easy way past every rule.
        """
        record = self.record
        if record.verb in ("delete", "deletecollection"):
            body = self.request_object
            if body is not None:
                wanted = body.get("dryRun") if isinstance(body, dict) else None
                return isinstance(wanted, list) and "All" in wanted
            if record.level not in ("Request", "RequestResponse") or self.truncated:
                return False
        return dry_run_asked(record.request_uri)

    @part
    def uris(self) -> tuple[str, ...]:
        """The request URI as sent, and decoded where that differs: in a query a space may be `%20` as well as `+`."""
        uri = self.record.request_uri
        if "%" not in uri and "+" not in uri:
            return (uri,)
        plain = unquote(uri)
        return (uri, plain, unquote_plus(uri)) if "+" in uri else (uri, plain)

    @part
    def path(self) -> str:
        """The path of the request URI, decoded, as a server reads it."""
        return tidy(unquote(self.record.request_uri.partition("?")[0]))

    @part
    def query(self) -> Mapping[str, str]:
        """The parameters of the request URI, each with its first value, which is the one that the API server takes."""
        return parameters(self.record.request_uri)

    @part
    def request_clues(self) -> "Clues":
        """What the request body cannot hold, told from its bytes."""
        return Clues(bytes(self.record.request_object))

    @part
    def response_clues(self) -> "Clues":
        """What the response body cannot hold."""
        return Clues(bytes(self.record.response_object))

    @part
    def effective_clues(self) -> "Clues":
        """What neither body can hold."""
        return Clues(bytes(self.record.request_object) + bytes(self.record.response_object))


class Clues:
    """The bytes of a body, searched before it is worth decoding."""

    __slots__ = ("_escaped", "_lacking", "body", "is_list")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.is_list = _list(body) is not None
        """A JSON Patch, most likely: its keys stand inside pointers, without quotes of their own."""
        self._lacking: dict[bytes, bool] = {}
        self._escaped: bool | None = None

    def lacks(self, clue: bytes) -> bool:
        """Whether no text or key in the body can hold the clue, which has no character that JSON must escape."""
        lacking = self._lacking.get(clue)
        if lacking is None:
            sought = clue.strip(b'"') if self.is_list else clue
            # `find`, because `in` costs twice as much for anything but the largest bodies.
            lacking = self._lacking[clue] = self.body.find(sought) < 0 and not self._has_escapes()
        return lacking

    def _has_escapes(self) -> bool:
        escaped = self._escaped
        if escaped is None:
            # A single byte is found ten times as fast, and most bodies have no backslash at all.
            escaped = self._escaped = _BACKSLASH in self.body and self.body.find(b"\\u") >= 0
        return escaped


def parameters(uri: str) -> dict[str, str]:
    """Return the parameters of a URI as Go reads them: what has a `;` or a broken escape is passed over."""
    found: dict[str, str] = {}
    for pair in uri.partition("?")[2].split("&"):
        if pair and ";" not in pair and not _broken_escape(pair):
            name, _, value = pair.partition("=")
            found.setdefault(unquote_plus(name), unquote_plus(value))
    return found


def dry_run_asked(uri: str) -> bool:
    """Whether the query of a request URI holds `dryRun=All`, in whatever spelling."""
    query = uri.partition("?")[2]
    if "dryRun" not in query and not ("%" in query and "dryRun" in unquote(query)):
        return False
    return any(
        unquote_plus(name) == "dryRun" and unquote_plus(value) == "All"
        for name, _, value in (pair.partition("=") for pair in query.split("&"))
    )
