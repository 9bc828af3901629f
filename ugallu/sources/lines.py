"""Whole lines out of a stream, in blocks; a line over the limit is passed over, never held whole."""

from dataclasses import dataclass
from typing import NamedTuple

from ugallu.sources.streams import Stream

BLOCK_BYTES = 64 << 10
"""Small enough to stay in a core's cache between reading and decoding: larger blocks were slower."""

EDGE_BYTES = 64 << 10
"""How much of an oversize line is kept at either end, for its metadata."""


class Block(NamedTuple):
    """Whole lines: the first `size` bytes of `data`. Cutting them off would copy them all."""

    data: bytes
    size: int

    def lines(self) -> list[bytes]:
        """Return the lines one by one, without their newlines."""
        return self.data[: self.size].split(b"\n")[:-1]


@dataclass(frozen=True, slots=True)
class Oversize:
    """What is left of a line that was too long: its two ends, and its size with the newline."""

    head: bytes
    ending: bytes
    size: int


class LineReader:
    """Reads on from the stream's position. The caller consumes a block with `done`, once it is accounted for."""

    def __init__(self, stream: Stream, max_line_bytes: int) -> None:
        self._stream = stream
        self._max = max_line_bytes
        self._head = b""
        self._ending = b""
        self._skipped = 0

    def next(self) -> Block | Oversize | None:
        """Return a block of whole lines, a line that is too long, or None when no line is whole yet.

        An oversize line is already consumed when it is returned.
        """
        if self._skipped:
            return self._skip()
        want = BLOCK_BYTES
        while True:
            data = self._stream.peek(want)
            end = data.rfind(b"\n") + 1
            if end:
                return Block(data, end)
            if len(data) > self._max:
                self._head = data[:EDGE_BYTES]
                return self._skip()
            if len(data) < want:
                return None
            want = min(want * 2, max(self._max + 1, BLOCK_BYTES))
            if want == len(data):
                want += 1

    def done(self, size: int) -> None:
        """Consume `size` bytes of the last block."""
        self._stream.advance(size)

    def rest(self) -> bytes | Oversize | None:
        """Return what stands behind the last newline, consumed; None when there is nothing."""
        if self._skipped:
            return self._finish()
        data = self._stream.peek(self._max + 1)
        if not data:
            return None
        if len(data) > self._max:
            self._head = data[:EDGE_BYTES]
            self._skip()
            return self._finish()
        self._stream.advance(len(data))
        return data

    def _skip(self) -> Oversize | None:
        while True:
            data = self._stream.peek(BLOCK_BYTES)
            if not data:
                return None
            end = data.find(b"\n") + 1
            taken = data[:end] if end else data
            self._stream.advance(len(taken))
            self._skipped += len(taken)
            self._ending = (self._ending + taken)[-EDGE_BYTES:]
            if end:
                return self._finish()

    def _finish(self) -> Oversize:
        found = Oversize(self._head, self._ending, self._skipped)
        self._head = self._ending = b""
        self._skipped = 0
        return found
