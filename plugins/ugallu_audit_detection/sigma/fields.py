"""The fields of an audit record, by the names that rule authors use."""

import re
from collections.abc import Callable
from typing import Any

from ugallu_audit_detection.sigma.certificate import asked_for
from ugallu_audit_detection.sigma.expr import Check, Field, Part, Shape
from ugallu_audit_detection.sigma.objects import containers
from ugallu_audit_detection.sigma.path import Path, Step, Walk, crossing, walk
from ugallu_audit_detection.sigma.peek import peek, peek_crossing
from ugallu_audit_detection.sigma.values import BROKEN
from ugallu_audit_detection.sigma.view import DECISION, Clues, RecordView

Glance = Callable[[bytes], list[Any]]

VERB = Field("verb", Part.KEY, Shape.TEXT, lambda view: view.record.verb)
STAGE = Field("stage", Part.KEY, Shape.TEXT, lambda view: view.record.stage)
API_GROUP = Field("objectRef.apiGroup", Part.KEY, Shape.TEXT, lambda view: view.ref.api_group)
RESOURCE = Field("objectRef.resource", Part.KEY, Shape.TEXT, lambda view: view.ref.resource)
SUBRESOURCE = Field("objectRef.subresource", Part.KEY, Shape.TEXT, lambda view: view.ref.subresource)
HAS_OBJECT = Check("the request names an object (objectRef)", Part.KEY, lambda view: view.record.object_ref is not None)

LEVEL = Field("level", Part.ENVELOPE, Shape.TEXT, lambda view: view.record.level)
AUDIT_ID = Field("auditID", Part.ENVELOPE, Shape.TEXT, lambda view: view.record.audit_id)
REQUEST_URI = Field("requestURI", Part.ENVELOPE, Shape.TEXT, lambda view: view.record.request_uri)
DECODED_URI = Field("requestURI, as sent or percent-decoded,", Part.ENVELOPE, Shape.TEXTS, lambda view: view.uris)
PATH = Field("path of the requestURI", Part.ENVELOPE, Shape.TEXT, lambda view: view.path)
BODY_KNOWN = Check("the event has a body", Part.ENVELOPE, lambda view: view.body_known)
USER_AGENT = Field("userAgent", Part.ENVELOPE, Shape.TEXT, lambda view: view.record.user_agent)
RECEIVED = Field(
    "requestReceivedTimestamp", Part.ENVELOPE, Shape.TEXT, lambda view: view.record.request_received_timestamp
)
STAGE_TIME = Field("stageTimestamp", Part.ENVELOPE, Shape.TEXT, lambda view: view.record.stage_timestamp)
API_VERSION = Field("objectRef.apiVersion", Part.ENVELOPE, Shape.TEXT, lambda view: view.ref.api_version)
NAMESPACE = Field("objectRef.namespace", Part.ENVELOPE, Shape.TEXT, lambda view: view.ref.namespace)
NAME = Field("objectRef.name", Part.ENVELOPE, Shape.TEXT, lambda view: view.ref.name)
OBJECT_UID = Field("objectRef.uid", Part.ENVELOPE, Shape.TEXT, lambda view: view.ref.uid)
RESOURCE_VERSION = Field("objectRef.resourceVersion", Part.ENVELOPE, Shape.TEXT, lambda view: view.ref.resource_version)

USERNAME = Field("user.username", Part.USER, Shape.TEXT, lambda view: view.user.username)
USER_UID = Field("user.uid", Part.USER, Shape.TEXT, lambda view: view.user.uid)
GROUPS = Field("user.groups", Part.USER, Shape.TEXTS, lambda view: view.user.groups)
HAS_USER = Check("user is present", Part.USER, lambda view: bool(view.record.user) and view.user.username != "")


def _of_impersonated(name: str) -> Callable[[RecordView], str]:
    def read(view: RecordView) -> str:
        caller = view.impersonated
        return getattr(caller, name) if caller is not None else ""

    return read


IMPERSONATED_NAME = Field("impersonatedUser.username", Part.USER, Shape.TEXT, _of_impersonated("username"))
IMPERSONATED_UID = Field("impersonatedUser.uid", Part.USER, Shape.TEXT, _of_impersonated("uid"))
IMPERSONATED_GROUPS = Field(
    "impersonatedUser.groups",
    Part.USER,
    Shape.TEXTS,
    lambda view: view.impersonated.groups if view.impersonated is not None else (),
)
HAS_IMPERSONATED = Check("impersonatedUser is present", Part.USER, lambda view: view.impersonated is not None)

CODE = Field(
    "responseStatus.code",
    Part.STATUS,
    Shape.VALUES,
    lambda view: (view.response.code,) if view.response.code else (),
)
STATUS = Field("responseStatus.status", Part.STATUS, Shape.TEXT, lambda view: view.response.status)
REASON = Field("responseStatus.reason", Part.STATUS, Shape.TEXT, lambda view: view.response.reason)
MESSAGE = Field("responseStatus.message", Part.STATUS, Shape.TEXT, lambda view: view.response.message)
DECISION_MADE = Field("the authorizer's decision", Part.ANNOTATIONS, Shape.TEXT, lambda view: view.decision)
DECISION_NOTED = Field(
    f"annotations.{DECISION}", Part.ANNOTATIONS, Shape.TEXT, lambda view: view.annotations.get(DECISION, "")
)
LAST_HOP = Field("sourceIPs (last hop)", Part.SOURCES, Shape.TEXTS, lambda view: view.source_ips[-1:])
ALL_HOPS = Field("sourceIPs", Part.SOURCES, Shape.TEXTS, lambda view: view.source_ips)
DRY_RUN = Check("the request is a dry run", Part.ENVELOPE, lambda view: view.dry_run)


def user_extra(key: str) -> Field:
    """`user.extra` under one key."""
    return Field(f"user.extra.{key}", Part.USER, Shape.TEXTS, lambda view: view.user.extra.get(key, ()))


def impersonated_extra(key: str) -> Field:
    """`impersonatedUser.extra` under one key."""

    def read(view: RecordView) -> tuple[str, ...]:
        caller = view.impersonated
        return caller.extra.get(key, ()) if caller is not None else ()

    return Field(f"impersonatedUser.extra.{key}", Part.USER, Shape.TEXTS, read)


def annotation(key: str) -> Field:
    """One annotation; absent is no value, empty is one."""

    def read(view: RecordView) -> tuple[str, ...]:
        value = view.annotations.get(key)
        return () if value is None else (value,)

    return Field(f"annotations.{key}", Part.ANNOTATIONS, Shape.TEXTS, read)


def parameter(key: str) -> Field:
    """One parameter of the request URI; absent is no value, empty is one."""

    def read(view: RecordView) -> tuple[str, ...]:
        value = view.query.get(key)
        return () if value is None else (value,)

    return Field(f"requestURI parameter {key}", Part.ANNOTATIONS, Shape.TEXTS, read)


_BODIES: dict[Part, tuple[str, Callable[[RecordView], Any]]] = {
    Part.REQUEST: ("requestObject", lambda view: view.request_object),
    Part.RESPONSE: ("responseObject", lambda view: view.response_object),
    Part.EFFECTIVE: ("object", lambda view: view.effective[0]),
}


def body_path(part: Part, path: Path) -> Field:
    """The values at a native path in one of the bodies.

    A JSON Patch is asked for its operations by a path that begins with an index, by any other for what it writes.
    """
    name, body = _BODIES[part]
    if part is Part.REQUEST and (path.root != "$" or (path.steps and isinstance(path.steps[0], str))):
        body = _written
    clue = _clue(path.steps, part) if path.root != "$csr" else b""  # it stands in the bytes in another spelling
    glance = (lambda: peek(path.steps)) if path.root == "$" and part in _RAW else None
    return _body_field(
        f"{name} {path.text}", part, _rooted(part, path.root, body), walk(path.steps), clue=clue, glance=glance
    )


def _written(view: RecordView) -> Any:  # noqa: ANN401 - any JSON
    return view.request_written


def pod_path(root: str, steps: tuple[Step, ...], name: str) -> Field:
    """The values below `$pod` or `$ctr` in the effective object."""
    body = _rooted(Part.EFFECTIVE, root, _BODIES[Part.EFFECTIVE][1])
    return _body_field(name, Part.EFFECTIVE, body, walk(steps), clue=_clue(steps, Part.EFFECTIVE))


def dotted_path(part: Part, segments: tuple[str, ...], *, leaves: bool = True) -> Field:
    """The values of a dotted name in one of the bodies; see `path.crossing`."""
    name, body = _BODIES[part]
    text = _spelt(name, segments, leaves=leaves)
    last = segments[-1] if segments else ""
    clue = f'{last}"'.encode() if _PLAIN_KEY(last) else b""  # a key with dots of its own may end in the last segment
    glance = (lambda: peek_crossing(segments)) if leaves and 0 < len(segments) <= 6 else None
    return _body_field(text, part, body, crossing(segments, leaves=leaves), clue=clue, glance=glance)


def authentication(segments: tuple[str, ...], *, leaves: bool = True) -> Field:
    """The values of a dotted name in `authenticationMetadata`."""
    look = crossing(segments, leaves=leaves)
    name = _spelt("authenticationMetadata", segments, leaves=leaves)
    return Field(name, Part.ANNOTATIONS, Shape.VALUES, lambda view: look(view.authentication))


def _spelt(name: str, segments: tuple[str, ...], *, leaves: bool) -> str:
    """Return a name that no other segments have: `a['b.c']` is not `a.b.c`, and a field is known by its name."""
    steps = (f"['{segment}']" if "." in segment else f".{segment}" for segment in segments)
    return name + "".join(steps) + ("" if leaves else " itself")


_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]+").fullmatch
_EVERYWHERE = frozenset(("add", "data", "image", "key", "kind", "name", "path", "type", "value"))
"""Keys, or parts of words, that nearly every body holds: as a clue the one before them in the path says more."""


def _clue(steps: tuple[Step, ...], part: Part) -> bytes:
    """Return what the bytes of a body must hold for the steps to name anything: the last key that tells something.

    In a JSON Patch keys stand inside pointers, so in the effective object the key counts without its quotes.
    """
    keys = [step for step in reversed(steps) if isinstance(step, str)]
    key = next((each for each in keys if each not in _EVERYWHERE), keys[0] if keys else "")
    if not _PLAIN_KEY(key):
        return b""
    return key.encode() if part is Part.EFFECTIVE else f'"{key}"'.encode()


def _rooted(part: Part, root: str, body: Callable[[RecordView], Any]) -> Callable[[RecordView], Any]:
    if root == "$":
        return body
    if root == "$csr":
        return (lambda view: view.effective_csr) if part is Part.EFFECTIVE else (lambda view: asked_for(body(view)))
    pod: Callable[[RecordView], Any] = (
        (lambda view: view.effective_pod) if part is Part.EFFECTIVE else (lambda view: view.pod_of(body(view)))
    )
    if root == "$pod":
        return pod
    return lambda view: containers(pod(view))


_RAW: dict[Part, tuple[str, Callable[[RecordView], Clues]]] = {
    Part.REQUEST: ("request_object", lambda view: view.request_clues),
    Part.RESPONSE: ("response_object", lambda view: view.response_clues),
}
"""Body -> the name under which a view keeps it once decoded, and its bytes."""
MAX_GLANCES = 2
"""Paths that are read from the bytes of one record; with more, decoding the whole body is cheaper."""


def _body_field(
    name: str,
    part: Part,
    body: Callable[[RecordView], Any],
    look: Walk,
    *,
    clue: bytes,
    glance: Callable[[], Glance] | None = None,
) -> Field:
    """Make the field. `glance` makes the reader of bytes, and only at first use: that costs more than compiling."""
    glancing: Glance | None = None

    def read(view: RecordView) -> list[Any]:
        nonlocal glancing
        found = view.found
        if found is None:
            found = view.found = {}
        values = found.get(name)
        if values is not None:
            return values
        if glance is not None and len(found) < MAX_GLANCES:
            decoded, raw = _RAW[part]
            if decoded not in view.__dict__ and not (clues := raw(view)).is_list:
                if glancing is None:
                    glancing = glance()
                try:
                    values = found[name] = glancing(clues.body)
                except BROKEN:
                    pass
                else:
                    return values
        document = body(view)
        values = found[name] = look(document) if document is not None else []
        return values

    return Field(name, part, Shape.VALUES, read, clue)
