"""What an audit webhook is sent, cut into events: an `EventList` of `audit.k8s.io/v1`, or one Event; pure.

Events stay the bytes that they are, so that each is decoded as the same event's line of a log file would be. One that
cannot be decoded costs nobody else's event: where the fast decoder gives up on a list, its items are found one by one,
by a second decoder or, where that gives up as well, by brackets.
"""

import json
import re
from typing import Final

import msgspec

from ugallu.errors import PermanentError

GROUP_VERSION: Final = "audit.k8s.io/v1"
_TOKENS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\],:]', re.DOTALL)
_BROKEN: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_BLANK: Final = b" \t\r\n"
_BLANKS: Final = re.compile(rb"[ \t\r\n]*+")
_WINDOW: Final = 4 << 20
_CUT: Final = 8
"""A literal or an escape that a window's end cuts begins at most so far before it."""
_ERRORS: Final = 16
_json: Final = json.JSONDecoder(strict=False)


class _Envelope(msgspec.Struct, rename="camel"):
    """What tells a list from an event from anything else."""

    kind: str = ""
    api_version: str = ""
    verb: str = ""
    items: list[msgspec.Raw] | msgspec.UnsetType | None = msgspec.UNSET


_envelope = msgspec.json.Decoder(_Envelope)


def listed(body: bytes | bytearray) -> list[bytes] | None:
    """Return the events of a request's body, each as it stands there; None where they have to be searched for.

    Raises `PermanentError` for what is no list of audit events.
    """
    try:
        found = _envelope.decode(body)
    except msgspec.ValidationError as error:
        raise _no_list(str(error)) from error
    except _BROKEN:
        return None
    _check(found.kind, found.api_version)
    if isinstance(found.items, list):
        return [bytes(item) for item in found.items]
    if found.kind == "Event" or found.verb:
        return [bytes(body)]
    if found.kind == "EventList":  # Go writes an empty list as null or not at all
        return []
    raise _no_list("neither items nor an event")


def searched(body: bytes | bytearray, *, whole: bool) -> list[bytes]:
    """Return the events of a body that cannot be decoded in one go; of one that is not `whole`, the complete ones.

    Takes about a second for 32 MiB, more where brackets are all there is to go by. Raises as `listed`.
    """
    members = _Members(body)
    _check(members.text("kind"), members.text("apiVersion"))
    if whole and not members.closed:
        raise _no_list("no JSON document")
    if members.items is not None:
        return members.items
    if whole and (members.text("kind") == "Event" or members.text("verb")):
        return [bytes(body)]
    raise _no_list("neither items nor an event")


class _Members:
    """The outermost members of an object: short strings as they are, `items` cut into whole values."""

    def __init__(self, body: bytes | bytearray) -> None:
        self.closed = False
        """The object ends, and nothing stands behind it."""
        self.items: list[bytes] | None = None
        self._body = body
        self._strings: dict[bytes, bytes] = {}
        self._scan(body)

    def text(self, name: str) -> str:
        """Return a member that is a plain string, else nothing."""
        return self._strings.get(name.encode(), b"").decode("utf-8", "replace")

    def _scan(self, body: bytes | bytearray) -> None:
        key = last = b""
        depth = at = 0
        while (token := _TOKENS.search(body, at)) is not None:
            mark, at = token[0], token.end()
            if mark in (b"{", b"["):
                depth += 1
                if depth == 2 and mark == b"[" and key == b"items" and self.items is None:
                    at = self._take(at)
            elif mark in (b"}", b"]"):
                depth -= 1
                if depth <= 0:
                    self.closed = depth == 0 and _BLANKS.match(body, at).end() == len(body)  # type: ignore[union-attr]
                    return
            elif mark == b'"':
                return  # begins and does not end: what follows is text, whatever it looks like
            elif depth == 1:
                if mark == b",":
                    key = b""
                elif mark == b":":
                    key = last
                elif key:
                    self._strings.setdefault(bytes(key), bytes(mark[1:-1]))
                else:
                    last = mark[1:-1]

    def _take(self, at: int) -> int:
        """Take the items that begin here; return where their end stands, or the body ends."""
        self.items = []
        body, view = self._body, memoryview(self._body)
        ends = _Ends(body)
        while at < len(body):
            end = ends.behind(at)
            if end < 0:
                return len(body)
            text = bytes(view[at:end]).strip(_BLANK)
            if text:
                self.items.append(text)
            if body[end] == ord("]"):
                return end
            at = end + 1
        return at


class _Ends:
    """Where the values of an array end, asked for in order."""

    def __init__(self, body: bytes | bytearray) -> None:
        self._body = body
        self._start = self._stop = 0
        # Byte for byte, so that places are the same: what is no ASCII looks odd and is not looked at.
        self._text = ""
        # Saying where an error is costs the decoder a look at all that lies before it.
        self._errors_left = _ERRORS

    def behind(self, at: int) -> int:
        """Return where the comma or bracket behind the value stands that begins here; -1 when it is not there."""
        body = self._body
        at = _BLANKS.match(body, at).end()  # type: ignore[union-attr]
        if body[at : at + 1] in (b",", b"]"):
            return at
        end = self._decoded(at) if self._errors_left else -1
        if end < 0:
            return self._bracketed(at)
        end = _BLANKS.match(body, end).end()  # type: ignore[union-attr]
        if end == len(body):
            return -1
        return end if body[end] in b",]" else self._bracketed(at)

    def _decoded(self, at: int) -> int:
        """Return the end of the value as a decoder sees it; -1 when it does not."""
        size = _WINDOW
        while True:
            if not self._start <= at < self._stop:
                self._start, self._stop = at, min(len(self._body), at + size)
                self._text = self._body[at : self._stop].decode("latin-1")
            try:
                return self._start + _json.raw_decode(self._text, at - self._start)[1]
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _CUT or error.msg.startswith("Unterminated string")
                if not cut or self._stop == len(self._body):
                    self._errors_left -= 1
                    return -1
                size *= 4 if at == self._start else 1
                self._stop = 0
            except RecursionError:
                return -1

    def _bracketed(self, at: int) -> int:
        depth = 0
        for token in _TOKENS.finditer(self._body, at):
            mark = token[0]
            if mark in (b"{", b"["):
                depth += 1
            elif mark in (b"}", b"]"):
                if not depth:
                    return token.start()
                depth -= 1
            elif mark == b",":
                if not depth:
                    return token.start()
            elif mark == b'"':
                return -1
        return -1


def _check(kind: str, api_version: str) -> None:
    if kind not in ("", "EventList", "Event"):
        raise _no_list(f"kind {kind[:64]!r}")
    if api_version not in ("", GROUP_VERSION):
        raise _no_list(f"apiVersion {api_version[:64]!r}")


def _no_list(detail: str) -> PermanentError:
    return PermanentError(f"no list of audit events: {detail}", fix=f"post an EventList of {GROUP_VERSION}")
