"""`Journal`: what is acknowledged is here, what is emitted leaves from here.

A record is bytes with a sequence number that grows by one and is never reused. An append is atomic and durable: when
it returns, all of its records survive a crash; when it raises, none is visible, now or after a restart. Concurrent
appends share an fsync. A reader has a name, a cursor and a small state of its own, saved together and atomically;
records at or behind every cursor are kept no longer than `Retention` says, unread ones never go silently.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec

from ugallu.errors import TransientError


class FullError(TransientError):
    """No room for these records before readers have got on."""


class Retention(msgspec.Struct, frozen=True):
    """How much history stays. Read records go when either bound is passed; unread ones go last, counted as lost."""

    max_bytes: int = 1 << 30
    max_age_seconds: float = 24 * 3600.0
    refuse: bool = False
    """For a spool: what every reader is done with goes at once, what is unread stays, and an append that would pass
    `max_bytes` is refused with `FullError`. So is one that would take the last of the disk: what empties a spool has to
    write, too."""


class Record(msgspec.Struct, frozen=True):
    """One record as read back: its sequence number (from 1) and its bytes."""

    seq: int
    data: bytes


class Cursor(msgspec.Struct, frozen=True):
    """Where a reader stands: every record up to `seq` is done, and `state` is what it knew then."""

    seq: int = 0
    state: bytes = b""


class Reader(Protocol):
    """One named reader."""

    @property
    def cursor(self) -> Cursor:
        """The cursor as last saved."""
        ...

    def read(self, after: int, *, limit: int = 512) -> Sequence[Record]:
        """Return up to `limit` durable records behind `after`, without waiting; empty at the end."""
        ...

    async def wait(self, after: int) -> bool:
        """Wait until a record behind `after` is durable; False when the journal closed without one."""
        ...

    def save(self, cursor: Cursor) -> None:
        """Make the cursor durable, atomically. Raises `TransientError` when the disk refuses; the old one stays."""
        ...

    async def store(self, cursor: Cursor) -> None:
        """As `save`, and others run while the disk settles. One at a time."""
        ...


class Journal(Protocol):
    """The log of one process."""

    @property
    def last(self) -> int:
        """Sequence number of the last durable record, 0 when there is none."""
        ...

    async def append(self, records: Sequence[bytes]) -> int:
        """Append as one atomic batch and return the sequence number of the last record, once durable.

        Raises `TransientError` when the disk refuses (full, failed fsync): nothing was written, try again later.
        """
        ...

    def reader(self, name: str) -> Reader:
        """Return the reader of that name; a new one starts before the oldest record kept."""
        ...

    def records(self, after: int) -> AsyncIterator[Record]:
        """Yield durable records behind `after` until the present end, then stop."""
        ...

    def close(self) -> None:
        """Finish what is under way and close the files; waiting readers learn that there is no more."""
        ...
