"""What time it is, as far as that is certain: a clock that jumps ahead must not end anything before its time. Pure.

The wall clock is believed up to a line that grows with the monotonic clock, which nobody can set. The line begins at
the wall time of the first look, and is kept over restarts for as long as the machine runs. After a jump ahead, time
goes on along the line; after a jump back, along the wall clock. Only a clock that is not this machine's, the API
server's, moves the line.
"""

import datetime as dt

import msgspec

from ugallu.runtime.ttl.expiry import Now


class Anchor(msgspec.Struct, frozen=True):
    """A moment that is believed: wall time in Unix seconds, at this reading of the boot's monotonic clock."""

    boot: str
    """Names the boot; another one has another monotonic clock."""
    monotonic: float
    wall: float


class Trust:
    """The line of one process."""

    def __init__(self, boot: str, wall: dt.datetime, monotonic: float, kept: Anchor | None = None) -> None:
        """`kept` is the anchor of an earlier process; worth something only on the same boot."""
        self._boot = boot
        start = wall.timestamp()
        if kept is not None and kept.boot == boot and kept.monotonic <= monotonic:
            start = kept.wall + (monotonic - kept.monotonic)
        self._line = start - monotonic

    def now(self, wall: dt.datetime, monotonic: float) -> Now:
        """Return the time between what is certain and what is possible."""
        line = dt.datetime.fromtimestamp(self._line + monotonic, dt.UTC)
        return Now(min(wall, line), max(wall, line), line)

    def doubt(self, wall: dt.datetime, monotonic: float) -> float:
        """Return by how many seconds the wall clock is ahead of the line (negative: behind it)."""
        return wall.timestamp() - monotonic - self._line

    def witness(self, told: dt.datetime, monotonic: float) -> None:
        """Take the word of a clock that is not this machine's: it was `told` at this monotonic time."""
        self._line = told.timestamp() - monotonic

    def anchor(self, monotonic: float) -> Anchor:
        """Return what the next process of this boot must know."""
        return Anchor(self._boot, monotonic, self._line + monotonic)
