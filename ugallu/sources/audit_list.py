"""What an audit webhook is sent, cut into events: an `EventList` of `audit.k8s.io/v1`, or one Event; pure.

Events stay the bytes that they are, so that each is decoded as the same event's line of a log file would be. One that
cannot be decoded costs nobody else's event: where the fast decoder gives up on a list, its items are found by brackets.
"""

import re
from typing import Final

import msgspec

from ugallu.errors import PermanentError

GROUP_VERSION: Final = "audit.k8s.io/v1"
_TOKENS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],:]', re.DOTALL)
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BLANK: Final = b" \t\r\n"


class _Envelope(msgspec.Struct, rename="camel"):
    """What tells a list from an event from anything else."""

    kind: str = ""
    api_version: str = ""
    verb: str = ""
    items: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_envelope = msgspec.json.Decoder(_Envelope)


def events_of(body: bytes | bytearray, *, whole: bool = True) -> list[bytes]:
    """Return the events of a request's body, each as it stands there.

    Of a body that is not `whole`, those that are complete. Raises `PermanentError` for what is no list of audit events.
    """
    if whole:
        try:
            found = _envelope.decode(body)
        except msgspec.ValidationError as error:
            raise _no_list(str(error)) from error
        except _BROKEN:
            pass
        else:
            _check(found.kind, found.api_version)
            if isinstance(found.items, list):
                return [bytes(item) for item in found.items]
            if found.kind == "Event" or found.verb:
                return [bytes(body)]
            if found.kind == "EventList":  # Go writes an empty list as null or not at all
                return []
            raise _no_list("neither items nor an event")
    return _by_brackets(bytes(body), whole=whole)


def _by_brackets(body: bytes, *, whole: bool) -> list[bytes]:
    """Find the items of a list without judging what is in them."""
    members = _Members(body)
    _check(members.text("kind"), members.text("apiVersion"))
    if whole and not members.closed:
        raise _no_list("no JSON document")
    if members.items is not None:
        return members.items
    if whole and (members.text("kind") == "Event" or members.text("verb")):
        return [body]
    raise _no_list("neither items nor an event")


class _Members:
    """The outermost members of an object: short strings as they are, `items` cut into whole values."""

    def __init__(self, body: bytes) -> None:
        self.closed = False
        """The object ends, and nothing stands behind it."""
        self.items: list[bytes] | None = None
        self._strings: dict[bytes, bytes] = {}
        self._scan(body)

    def text(self, name: str) -> str:
        """Return a member that is a plain string, else nothing."""
        return self._strings.get(name.encode(), b"").decode("utf-8", "replace")

    def _scan(self, body: bytes) -> None:
        key = last = b""
        start, depth = -1, 0
        for token in _TOKENS.finditer(body):
            mark = token[0]
            if mark in (b"{", b"["):
                depth += 1
                if depth == 2 and mark == b"[" and key == b"items" and self.items is None:
                    self.items, start = [], token.end()
            elif mark in (b"}", b"]"):
                if start >= 0 and depth == 2:
                    self._take(body[start : token.start()])
                    start = -1
                depth -= 1
                if depth <= 0:
                    self.closed = depth == 0 and not body[token.end() :].strip(_BLANK)
                    return
            elif mark == b'"':
                return  # begins and does not end: what follows is text, whatever it looks like
            elif mark == b",":
                if start >= 0 and depth == 2:
                    self._take(body[start : token.start()])
                    start = token.end()
                elif depth == 1:
                    key = b""
            elif depth == 1:
                if mark == b":":
                    key = last
                elif key:
                    self._strings.setdefault(key, mark[1:-1])
                else:
                    last = mark[1:-1]

    def _take(self, text: bytes) -> None:
        text = text.strip(_BLANK)
        if text and self.items is not None:
            self.items.append(text)


def _check(kind: str, api_version: str) -> None:
    if kind not in ("", "EventList", "Event"):
        raise _no_list(f"kind {kind[:64]!r}")
    if api_version not in ("", GROUP_VERSION):
        raise _no_list(f"apiVersion {api_version[:64]!r}")


def _no_list(detail: str) -> PermanentError:
    return PermanentError(f"no list of audit events: {detail}", fix=f"post an EventList of {GROUP_VERSION}")
