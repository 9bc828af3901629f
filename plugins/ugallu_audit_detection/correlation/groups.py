"""The groups of one correlation: a window each, the least recently used forgotten first."""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from ugallu_audit_detection.correlation.windows import LATE, NEW, Crossing, Mark, Window

MAX_GROUPS: Final = 10_000
KEY: Final = 16
"""Bytes of the digest that a group is known by."""
OVERHEAD: Final = 192
"""Bytes that a group costs beside its state: two objects, their place in the table and in the order of use."""
ANOTHER: Final = 600.0
"""Seconds. Time that goes back further, and further than a timespan, is no late event but another recording, or the
clock before was wrong: windows begin anew."""


_blank = hashlib.blake2b(digest_size=KEY)


def key_of(group: tuple[str, ...]) -> bytes:
    """Return the digest of a group's values."""
    text = group[0] if len(group) == 1 else msgspec.json.encode(group).decode()
    found = _blank.copy()  # half the price of a new one
    found.update(text.encode() if text.isascii() else text.encode("utf-8", "surrogatepass"))
    return found.digest()


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What a checkpoint keeps of the groups; `print` tells for which version of the correlation."""

    print: str
    newest: float
    late: int
    evicted: int
    evicted_at: float
    keys: bytes
    sizes: bytes
    """Of the states, as 32-bit numbers, least significant byte first."""
    states: bytes


class Groups:
    """Windows by group. `late` counts matches that came too late, `evicted` groups forgotten for want of room."""

    def __init__(self, window: Window, span: float, fingerprint: str) -> None:
        self._window = window
        self._span = span
        self.fingerprint = fingerprint
        self._states: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept: Kept | None = None
        self.newest = float("-inf")
        self.late = 0
        self.evicted = 0
        self.evicted_at = float("-inf")
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._states)

    def take(self, key: bytes, at: float, tags: Sequence[int], mark: Mark) -> Crossing | None:
        """Take in a match of the group with this key; return the crossing that it causes."""
        self._kept = None
        if at > self.newest:
            self.newest = at
        elif (behind := self.newest - at) > LATE:
            if behind <= max(ANOTHER, self._span):
                self.late += 1
                return None
            self.clear()
            self.newest = at
        states = self._states
        before = states.get(key)
        if before is None:
            before = NEW
            self._make_room()
            self.bytes += OVERHEAD + len(NEW)
        else:
            states.move_to_end(key)
        after, crossing = self._window.take(before, at, tags, mark, self.newest - LATE)
        states[key] = after
        self.bytes += len(after) - len(before)
        return crossing

    def evict(self) -> None:
        """Forget the group that was used least recently."""
        _, state = self._states.popitem(last=False)
        self.bytes -= OVERHEAD + len(state)
        self.evicted += 1
        self.evicted_at = self.newest
        self._kept = None

    def clear(self) -> None:
        """Begin anew."""
        self._states.clear()
        self.bytes = 0
        self.newest = float("-inf")
        self._kept = None

    def _make_room(self) -> None:
        """Drop groups whose windows no match can reach any more, two at a time; evict one where that is not enough."""
        states = self._states
        for _ in range(2):
            oldest = next(iter(states), None)
            if oldest is None or self._window.last(states[oldest]) >= self.newest - LATE - self._span:
                break
            self.bytes -= OVERHEAD + len(states.pop(oldest))
        if len(states) >= MAX_GROUPS:
            self.evict()

    def snapshot(self) -> Kept:
        """Return everything that later crossings depend on."""
        if self._kept is None:
            sizes = array("I", map(len, self._states.values()))
            self._kept = Kept(
                self.fingerprint,
                self.newest,
                self.late,
                self.evicted,
                self.evicted_at,
                b"".join(self._states),
                _little(sizes).tobytes(),
                b"".join(self._states.values()),
            )
        return self._kept

    def restore(self, kept: Kept) -> bool:
        """Become what `snapshot` saw, if that was this version of the correlation; tell whether it was."""
        if kept.print != self.fingerprint:
            return False
        self.clear()
        sizes = array("I")
        sizes.frombytes(kept.sizes)
        start = 0
        for index, size in enumerate(_little(sizes)):
            state = kept.states[start : start + size]
            start += size
            self._states[kept.keys[KEY * index : KEY * index + KEY]] = state
            self.bytes += OVERHEAD + size
        self.newest, self.late = kept.newest, kept.late
        self.evicted, self.evicted_at = kept.evicted, kept.evicted_at
        return True


def _little(numbers: "array[int]") -> "array[int]":
    import sys

    if sys.byteorder == "big":
        numbers = array("I", numbers)
        numbers.byteswap()
    return numbers
