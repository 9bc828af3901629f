"""What the engine remembers of past events: bounded, by event time, and small enough to travel in every checkpoint."""

import hashlib
from collections import OrderedDict

import msgspec

CAPACITY = 4096
"""Entries of one memory. Forgetting the oldest costs a repeated event, never a lost one."""


_blank = hashlib.blake2b(digest_size=8)


def digest(*parts: str) -> bytes:
    """Return 8 bytes that stand for these texts."""
    found = _blank.copy()  # half the price of a new one
    found.update(msgspec.json.encode(parts))
    return found.digest()


class Recent:
    """When each of the last facts was reported, in seconds of event time."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._times: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def within(self, fact: bytes, now: float, window: float) -> bool:
        """Whether the fact was last reported less than `window` seconds from `now`, before or after."""
        then = self._times.get(fact)
        return then is not None and abs(now - then) < window

    def note(self, fact: bytes, now: float) -> None:
        """The fact is reported now."""
        self._times[fact] = now
        self._times.move_to_end(fact)
        if len(self._times) > self._capacity:
            self._times.popitem(last=False)

    def knows(self, fact: bytes) -> bool:
        """Whether the fact was reported, whenever that was."""
        return fact in self._times

    def forget(self, fact: bytes) -> None:
        """The fact will not be asked for again."""
        self._times.pop(fact, None)

    def snapshot(self) -> tuple[bytes, list[float]]:
        """Return the digests in one string and their times, oldest first."""
        return b"".join(self._times), list(self._times.values())

    def restore(self, kept: tuple[bytes, list[float]]) -> None:
        """Become what `snapshot` saw."""
        facts, times = kept
        self._times = OrderedDict((facts[8 * index : 8 * index + 8], time) for index, time in enumerate(times))
