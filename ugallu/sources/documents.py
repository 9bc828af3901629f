"""JSON documents that span lines (`jq .`, a pretty-printed EventList), for replays; a live log is one event a line."""

import re
from collections import deque
from dataclasses import dataclass
from typing import Final

from ugallu.sources.lines import EDGE_BYTES, LineReader, Oversize
from ugallu.sources.streams import Stream

_TOKENS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]]')


@dataclass(frozen=True, slots=True)
class Document:
    """The text of one JSON value, and the bytes it takes up in the stream."""

    text: bytes
    size: int


class _Nesting:
    """Which brackets are open; a JSON string never spans lines, so lines can be taken one by one."""

    def __init__(self) -> None:
        self.open = bytearray()

    def feed(self, line: bytes) -> None:
        for token in _TOKENS.finditer(line):
            mark = token[0]
            if mark in (b"{", b"["):
                self.open += mark
            elif mark in (b"}", b"]") and self.open:
                self.open.pop()


def spans_lines(start: bytes) -> bool:
    """Tell whether the first line of a file opens a document that goes on in the next one.

    A log line that was cut in its middle must not be taken for one, so the line has to end where a printer breaks.
    """
    first, newline, _ = start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    first = first.rstrip()
    if not newline or not first.endswith((b"{", b"[", b",")):
        return False
    nesting = _Nesting()
    nesting.feed(first)
    return bool(nesting.open)


class DocumentReader:
    """Reads whole documents; what it returns is consumed already."""

    def __init__(self, stream: Stream, max_bytes: int) -> None:
        self._lines = LineReader(stream, max_bytes)
        self._max = max_bytes
        self._ready: deque[bytes | Oversize] = deque()
        self._nesting = _Nesting()
        self._parts: list[bytes] = []
        self._size = 0
        self._head = b""
        self._ending = b""

    def next(self) -> Document | Oversize | None:
        """Return the next whole document, None when there is no more."""
        while True:
            if not self._ready and not self._fetch():
                return None
            line = self._ready[0]
            if isinstance(line, Oversize):
                return self._finish() if self._size else self._pop_oversize()
            # An object holds no bare object: the document before this line was cut off.
            if self._nesting.open[-1:] == b"{" and line.lstrip()[:1] == b"{":
                return self._finish()
            self._ready.popleft()
            self._take(line)
            if not self._nesting.open and line.strip():
                return self._finish()

    def rest(self) -> Document | Oversize | None:
        """Return what is left without its end, None when there is nothing."""
        line = self._lines.rest()
        if isinstance(line, Oversize):
            return line
        if line is not None:
            self._take(line)
        return self._finish() if self._size else None

    def done(self, size: int) -> None:
        """Do nothing: what `next` returns is consumed."""

    def _fetch(self) -> bool:
        block = self._lines.next()
        if block is None:
            return False
        if isinstance(block, Oversize):
            self._ready.append(block)
        else:
            self._ready.extend(line + b"\n" for line in block.lines())
            self._lines.done(block.size)
        return True

    def _take(self, line: bytes) -> None:
        self._size += len(line)
        self._nesting.feed(line)
        if self._size <= self._max:
            self._parts.append(line)
        elif self._parts:
            self._head = b"".join(self._parts)[:EDGE_BYTES]
            self._parts = []
        if self._size > self._max:
            self._ending = (self._ending + line)[-EDGE_BYTES:]

    def _finish(self) -> Document | Oversize:
        if self._size > self._max:
            found: Document | Oversize = Oversize(self._head, self._ending, self._size)
        else:
            found = Document(b"".join(self._parts), self._size)
        self._begin()
        return found

    def _pop_oversize(self) -> Oversize:
        line = self._ready.popleft()
        assert isinstance(line, Oversize)
        return line

    def _begin(self) -> None:
        self._nesting = _Nesting()
        self._parts = []
        self._size = 0
        self._head = b""
        self._ending = b""
