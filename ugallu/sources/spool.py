"""`Spool`: what an API server was told is safe, on disk, until everybody has it for good.

    spool/   the events as they came, a number each (ugallu.journal)
    seen/    digests of the latest ones (ugallu.sources.seen)

Numbers only grow, and what observations are called follows from them. The cursor of the spool stands where its slowest
reader's checkpoint stands, with all that is needed to go on there; what lies before it is removed.
"""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import anyio
import msgspec

from ugallu.api.observation import Checkpoint
from ugallu.clock import Clock
from ugallu.errors import PermanentError, TransientError
from ugallu.journal.files import Files
from ugallu.journal.port import Cursor, Record, Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.sources.seen import RETAINED, Seen

READER: Final = "source"
WHERE: Final = "audit-webhook"
PART_BYTES: Final = 4 << 20
_READ: Final = 512


class Place(msgspec.Struct, frozen=True):
    """A position in a spool: the last event that is done with, and the books up to there."""

    spool: str = ""
    seq: int = 0
    next: int = 0
    """The number of the next observation: fewer than events, since some are rejected or have come before."""
    counts: dict[str, int] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Place)


def encode(place: Place) -> bytes:
    """Return a place as a checkpoint carries it."""
    return _encoder.encode(place)


def decode(data: bytes) -> Place:
    """Read a place; raises `PermanentError` for what is none."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise PermanentError("a checkpoint that cannot be read", where=WHERE, fix="remove it") from error


class Spool:
    """One directory of events; opened by whoever uses it first, closed by the last."""

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        *,
        checkpoints: Callable[[], Sequence[Checkpoint]],
        clock: Clock,
        log: Logger,
        files: Files | None = None,
    ) -> None:
        """`checkpoints` returns the latest durable one of everybody who must not miss anything."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._checkpoints = checkpoints
        self._clock = clock
        self._log = log
        self._files = files
        self._users = 0
        self._events: SegmentedJournal | None = None
        self._digests: SegmentedJournal | None = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator["Spool"]:
        """Have the files open for the block.

        Raises `PermanentError` when another process has them or they cannot be used, `TransientError` when the disk
        refuses.
        """
        if not self._users:
            self._open()
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._close()

    @property
    def last(self) -> int:
        """The number of the last event."""
        return self._journal.last

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._journal.size

    def behind(self, seq: int) -> int:
        """Return about how many bytes lie behind this event."""
        journal = self._journal
        kept = journal.last + 1 - journal.first
        return journal.size * max(0, journal.last - seq) // kept if kept else 0

    async def append(self, events: Sequence[bytes]) -> None:
        """Make these events durable.

        Raises `FullError` when there is no room, `TransientError` when the disk refuses: none is there then, or of more
        than `PART_BYTES` perhaps the first ones, which are repeats when they come again.
        """
        journal = self._journal
        size = sum(map(len, events))
        if size <= PART_BYTES or journal.size + 2 * size > self._max_bytes:
            await journal.append(events)
            return
        # A batch is written, and read again by whoever reads a part of it, as a whole.
        for part in _parts(events):
            await journal.append(part)

    async def read(self, after: int) -> Sequence[Record]:
        """Return the next events, once there are any."""
        reader = self._journal.reader(READER)
        while True:
            last = self.last
            if found := reader.read(after, limit=_READ):
                return found
            after = max(after, last)  # what damage has cost
            if not await reader.wait(after):
                raise TransientError("the spool is closed", where=WHERE)

    def place(self, start: Checkpoint | None) -> Place:
        """Return where to go on from a checkpoint; not before what was removed, nor in another spool's numbers."""
        stored = self._stored
        given = decode(start.resume) if start is not None and start.resume else stored
        return given if given.spool == stored.spool and given.seq >= stored.seq else stored

    async def seen(self, place: Place) -> Seen:
        """Return which events have come up to a place."""
        seen = Seen(place.spool)
        await seen.load(self._opened(self._digests), place.seq)
        # A digest becomes durable with the cursor, an event before it: what the digests lack is still here.
        after = seen.next - 1
        reader = self._journal.reader(READER)
        while after < place.seq and (found := reader.read(after, limit=_READ)):
            for record in found:
                if record.seq <= place.seq:
                    seen.repeats(record.seq, record.data)
            after = found[-1].seq
            await anyio.lowlevel.checkpoint()
        return seen

    async def release(self, seen: Seen) -> None:
        """Let go of what everybody is done with; raises `TransientError` when the disk refuses."""
        places = self._known(self._stored.spool)
        slowest = min(places, key=lambda place: place.seq, default=None)
        reader = self._journal.reader(READER)
        if slowest is not None and slowest.seq > reader.cursor.seq:
            await seen.store(self._opened(self._digests), slowest.seq)
            await reader.store(Cursor(slowest.seq, encode(slowest)))

    @property
    def _journal(self) -> SegmentedJournal:
        return self._opened(self._events)

    @property
    def _stored(self) -> Place:
        return decode(self._journal.reader(READER).cursor.state)

    def _opened(self, journal: SegmentedJournal | None) -> SegmentedJournal:
        if journal is None:
            raise PermanentError("the spool is not open", where=WHERE)
        return journal

    def _known(self, spool: str = "") -> list[Place]:
        places = [decode(point.resume) for point in self._checkpoints() if point.resume]
        return [place for place in places if not spool or place.spool == spool]

    def _open(self) -> None:
        with suppress(OSError):  # else the journals say so
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._events = self._open_journal("spool", Retention(max_bytes=self._max_bytes, refuse=True))
        try:
            self._digests = self._open_journal("seen", Retention(max_bytes=RETAINED))
            self._reconcile()
        except BaseException:
            self._close()
            raise

    def _open_journal(self, name: str, retention: Retention) -> SegmentedJournal:
        return SegmentedJournal(
            self._directory / name,
            retention,
            clock=self._clock,
            # Not the process's: the metrics of journals speak of the one that findings go through.
            metrics=Metrics(),
            log=self._log,
            files=self._files,
        )

    def _reconcile(self) -> None:
        """Bring the numbers of the spool in line with those of the checkpoints, whatever became of either."""
        journal = self._journal
        reader = journal.reader(READER)
        if not reader.cursor.state:
            furthest = max(self._known(), key=lambda place: place.next, default=Place())
            if furthest.spool:
                self._log.error("another spool than last time; what lay unread in that one is lost", path=self._path)
            fresh = msgspec.structs.replace(furthest, spool=secrets.token_hex(16), seq=reader.cursor.seq)
            reader.save(Cursor(fresh.seq, encode(fresh)))
            return
        ahead = max(self._known(self._stored.spool), key=lambda place: place.seq, default=Place())
        if ahead.seq > journal.last:
            self._log.error("the spool ends before its reader", path=self._path, last=journal.last, reader=ahead.seq)
            reader.save(Cursor(ahead.seq, encode(ahead)))
            # A journal that is opened behind a cursor goes on behind it: no number is given twice.
            journal.close()
            self._events = self._open_journal("spool", Retention(max_bytes=self._max_bytes, refuse=True))

    @property
    def _path(self) -> str:
        return str(self._directory)

    def _close(self) -> None:
        for journal in (self._events, self._digests):
            if journal is not None:
                journal.close()
        self._events = self._digests = None


def _parts(events: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Cut events into parts of about `PART_BYTES`."""
    start = size = 0
    for at, event in enumerate(events):
        if size and size + len(event) > PART_BYTES:
            yield events[start:at]
            start, size = at, 0
        size += len(event)
    yield events[start:]
