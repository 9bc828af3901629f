"""`Replay`: the latest events as they were sent, so that whoever was cut off can go on behind the last one it has.

Bounded in bytes and seconds. What is precious outlives what is not: it has room of its own, so that noise, of which an
attacker can make any amount, cannot push it out.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from ugallu.bus.events import Shape

BYTES: Final = 64 << 20
SECONDS: Final = 60.0
PRECIOUS_SHARE: Final = 8
"""One part in so many is for precious events alone; they may be ten times as old."""
_OVERHEAD: Final = 200
_SLOT: Final = 8
_SLOTS: Final = 1 << 20
_TRIM: Final = 4096

Parts = Mapping[Shape, bytes]


class Replay:
    """Events by their sequence, which rises by one; those that nobody wants take a slot and no room."""

    def __init__(self, first: int = 1, *, most_bytes: int = BYTES, seconds: float = SECONDS) -> None:
        self.size = 0
        """Bytes of what is not precious."""
        self._first = first
        self._head = 0
        self._slots: list[Parts | None] = []
        self._precious: dict[int, tuple[Parts, float]] = {}
        self._marked: set[int] = set()
        self._precious_size = 0
        self._times: deque[tuple[int, float]] = deque()
        self._most = most_bytes - most_bytes // PRECIOUS_SHARE
        self._most_precious = most_bytes // PRECIOUS_SHARE
        self.seconds = seconds
        """How far back it reaches."""

    @property
    def first(self) -> int:
        """The oldest sequence that has a slot."""
        return self._first + self._head

    @property
    def next(self) -> int:
        """The sequence that `put` gives next."""
        return self._first + len(self._slots)

    def put(self, parts: Parts | None, now: float, *, precious: bool = False) -> int:
        """Take in the next event and return its sequence; None: nobody wants it."""
        sequence = self.next
        self._slots.append(parts)
        self.size += _cost(parts)
        if precious:
            self._marked.add(sequence)
        if not self._times or now - self._times[-1][1] >= 1.0:
            self._times.append((sequence, now))
        while self.size > self._most or len(self._slots) - self._head > _SLOTS:
            self._drop(now)
        return sequence

    def age(self, now: float) -> None:
        """Drop what has become too old."""
        while len(self._times) > 1 and now - self._times[1][1] > self.seconds:
            self._times.popleft()
            while self.first < self._times[0][0]:
                self._drop(now)
        if self._times and now - self._times[-1][1] > 2 * self.seconds:
            while self.first < self.next:
                self._drop(now)
        for sequence in [s for s, (_, at) in self._precious.items() if now - at > 10 * self.seconds]:
            self._let_go(sequence)

    def get(self, sequence: int, shapes: Sequence[Shape]) -> bytes | None:
        """Return an event in the first of these shapes that there is, None when it is gone."""
        if sequence >= self.first:
            parts = self._slots[sequence - self._first]
        else:
            parts = self._precious.get(sequence, (None, 0.0))[0]
        if parts is None:
            return None
        return next((found for shape in shapes if (found := parts.get(shape)) is not None), None)

    def _drop(self, now: float) -> None:
        sequence, parts = self.first, self._slots[self._head]
        self._slots[self._head] = None
        self._head += 1
        self.size -= _cost(parts)
        if sequence in self._marked:
            self._marked.discard(sequence)
            if parts is not None:
                self._precious[sequence] = (parts, now)
                self._precious_size += _cost(parts)
                while self._precious_size > self._most_precious:
                    self._let_go(next(iter(self._precious)))
        if self._head >= _TRIM and 2 * self._head >= len(self._slots):
            del self._slots[: self._head]
            self._first += self._head
            self._head = 0

    def _let_go(self, sequence: int) -> None:
        self._precious_size -= _cost(self._precious.pop(sequence)[0])


def _cost(parts: Parts | None) -> int:
    return _SLOT if parts is None else _SLOT + sum(_OVERHEAD + len(data) for data in parts.values())
