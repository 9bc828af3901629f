"""`Seen`: which of the latest events have come before, byte for byte, across restarts.

An API server that got no answer sends its batch again, and the same bytes are the same event: audit ids belong to
clients, so no id alone may hide an event. A digest of each event is kept, keyed by the spool, so that nobody can make
two events that meet in it. They lie in generations of the spool's numbering: which ones are known at an event depends
on its number and on nothing else, so whoever reads on from an earlier place comes to the same verdicts.
"""

import hashlib
import struct
from array import array
from typing import Final

import anyio.lowlevel

from ugallu.errors import PermanentError
from ugallu.journal.port import Journal

GENERATION: Final = 1 << 17
GENERATIONS: Final = 4
"""The present one and its predecessors: the last 393,216 events at least, 98 s at 4,000 a second, in 8 MiB."""
BYTES: Final = 8
RETAINED: Final = (GENERATIONS + 2) * GENERATION * BYTES
"""What a journal must keep of the digests."""
_FIRST: Final = struct.Struct("<Q")
_SMALLEST: Final = 1 << 10
_CHUNK: Final = 1 << 16


class _Table:
    """A set of 64-bit numbers but 0 in 16 bytes each: open addressing, at most half full."""

    __slots__ = ("_count", "_slots")

    def __init__(self) -> None:
        self._slots = array("Q", bytes(_SMALLEST * BYTES))
        self._count = 0

    def __contains__(self, digest: int) -> bool:
        slots = self._slots
        mask = len(slots) - 1
        at = digest & mask
        while found := slots[at]:
            if found == digest:
                return True
            at = (at + 1) & mask
        return False

    def add(self, digest: int) -> None:
        if 2 * self._count >= len(self._slots):
            old, self._slots = self._slots, array("Q", bytes(2 * len(self._slots) * BYTES))
            for known in filter(None, old):
                self._put(known)
        self._count += self._put(digest)

    def _put(self, digest: int) -> bool:
        slots = self._slots
        mask = len(slots) - 1
        at = digest & mask
        while found := slots[at]:
            if found == digest:
                return False
            at = (at + 1) & mask
        slots[at] = digest
        return True


class Generations:
    """The digests of the latest of many numbered things."""

    def __init__(self) -> None:
        self._tables: dict[int, _Table] = {}

    def __contains__(self, digest: int) -> bool:
        return any(digest in table for table in self._tables.values())

    def note(self, number: int, digest: int) -> bool:
        """Take note of the thing with this number; tell whether its digest was known."""
        generation = number // GENERATION
        table = self._tables.get(generation)
        if table is None:
            table = self._tables[generation] = _Table()
            for old in [g for g in self._tables if g <= generation - GENERATIONS]:
                del self._tables[old]
        known = digest in self
        table.add(digest)
        return known


def digest_of(event: bytes, key: bytes) -> int:
    """Return a digest that is never 0."""
    return int.from_bytes(hashlib.blake2b(event, digest_size=BYTES, key=key).digest(), "little") or 1


class Seen:
    """The digests of the events up to some number, and those of them that are not yet durable."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()
        self._known = Generations()
        self._fresh = array("Q")
        self._first = 1

    @property
    def next(self) -> int:
        """The number of the next event."""
        return self._first + len(self._fresh)

    def repeats(self, seq: int, event: bytes) -> bool:
        """Tell whether the event with this number, the next one, is byte for byte one of those before it."""
        digest = digest_of(event, self._key)
        if not self._fresh:
            self._first = seq
        self._fresh.extend([0] * (seq - self.next))  # numbers that damage has cost
        self._fresh.append(digest)
        return self._known.note(seq, digest)

    async def load(self, journal: Journal, end: int) -> None:
        """Take in what a journal keeps of the events up to number `end`."""
        self._first = 1
        async for record in journal.records(0):
            first, digests = _decode(record.data)
            for seq, digest in enumerate(digests[: max(0, end + 1 - first)], first):
                if digest:
                    self._known.note(seq, digest)
            self._first = max(self._first, min(first + len(digests), end + 1))
            await anyio.lowlevel.checkpoint()

    async def store(self, journal: Journal, end: int) -> None:
        """Make the digests of the events up to number `end` durable; raises `TransientError` when the disk refuses."""
        while (count := min(end + 1 - self._first, len(self._fresh), _CHUNK)) > 0:
            await journal.append([_encode(self._first, self._fresh[:count])])
            del self._fresh[:count]
            self._first += count


def _encode(first: int, digests: "array[int]") -> bytes:
    return _FIRST.pack(first) + struct.pack(f"<{len(digests)}Q", *digests)


def _decode(data: bytes) -> tuple[int, tuple[int, ...]]:
    count, odd = divmod(len(data), BYTES)
    if odd or not count:
        raise PermanentError("no record of digests", where="audit-webhook", fix="remove its folder `seen`")
    first, *digests = struct.unpack(f"<{count}Q", data)
    return first, tuple(digests)
