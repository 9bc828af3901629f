"""`SegmentedJournal`: the journal of one process in a directory of its own.

    lock                      held while a process has the journal
    0000000001.seg ...        segments, oldest first; only the last one grows
    cursors/NAME.cursor       where each reader stands
    quarantine/               bytes that were damaged or torn, for a person to look at; the newest few are kept

Appends that wait while an fsync runs share the next one. After a failed fsync nobody knows what the disk holds behind
the last durable byte, and asking again proves nothing (the kernel may have dropped the pages and forgotten the error):
the tail is cut off and the segment never written again. The next one begins with the same number, and that alone makes
whatever may reappear in the old tail void.
"""

import contextlib
import errno
import math
import os
import re
import threading
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from ugallu.clock import Clock
from ugallu.errors import PermanentError, TransientError
from ugallu.journal.cursors import CursorFiles, check_name
from ugallu.journal.files import FULL, Files, SystemFiles, sync_directory, write_all
from ugallu.journal.frames import HEADER_BYTES, Frame, Header, Hole, encode_frame
from ugallu.journal.port import Cursor, FullError, Record, Retention
from ugallu.journal.segment import Segment
from ugallu.logs import Logger
from ugallu.metrics import Metrics

_NAME: Final = re.compile(r"(\d{10})\.seg")
_GROUP_BYTES: Final = 8 << 20
_SEGMENT_BYTES: Final = 8 << 20
_QUARANTINE_FILES: Final = 64
_QUARANTINE_BYTES: Final = 1 << 20
_OPEN_SEGMENTS: Final = 4
_AIR_BYTES: Final = 64 << 20
_AIR_SHARE: Final = 8
"""A spool leaves an eighth of its disk to others, at most `_AIR_BYTES`."""
_REFUSALS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})


class _Ticket:
    """One append on its way to the disk."""

    __slots__ = ("error", "last", "records", "size", "wake")

    def __init__(self, records: Sequence[bytes]) -> None:
        self.records = records
        self.size = sum(map(len, records))
        self.wake = anyio.Event()
        self.last = 0
        self.error: Exception | None = None

    @property
    def settled(self) -> bool:
        return self.last > 0 or self.error is not None


class _Reader:
    """A named reader of one journal."""

    def __init__(self, journal: "SegmentedJournal", name: str, cursor: Cursor, lost: int) -> None:
        self.name = name
        self.lost = lost
        self._journal = journal
        self._cursor = cursor

    @property
    def cursor(self) -> Cursor:
        """The cursor as last saved."""
        return self._cursor

    def read(self, after: int, *, limit: int = 512) -> Sequence[Record]:
        """Return up to `limit` durable records behind `after`. Raises `TransientError` when the disk refuses."""
        return self._journal.read(after, limit)

    async def wait(self, after: int) -> bool:
        """Wait until a record behind `after` is durable; False when the journal closed without one."""
        return await self._journal.wait(after)

    def save(self, cursor: Cursor) -> None:
        """Make the cursor durable, atomically; may run in a worker thread."""
        self._journal.save(self.name, cursor, self.lost)
        self._cursor = cursor
        self._journal.moved()

    async def store(self, cursor: Cursor) -> None:
        """As `save`, in a worker thread: it takes two syncs."""
        await anyio.to_thread.run_sync(self.save, cursor)


class SegmentedJournal:
    """The `Journal` of `port.py` on segment files."""

    def __init__(
        self,
        directory: Path | str,
        retention: Retention,
        *,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        files: Files | None = None,
        segment_bytes: int = 0,
    ) -> None:
        """Open or create the journal and recover it; blocks while it reads the last segment.

        Raises `PermanentError` when another process has it or the directory cannot be used, `TransientError` when
        the disk refuses. `segment_bytes` 0: a sixteenth of the retention, 8 MiB at most.
        """
        self._path = Path(directory).absolute()
        self._retention = retention
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._files: Files = SystemFiles() if files is None else files
        self._segment_bytes = segment_bytes or max(4096, min(_SEGMENT_BYTES, retention.max_bytes // 16))
        self._cursors = CursorFiles(self._files, self._path / "cursors")
        self._segments: list[Segment] = []
        self._warm: list[Segment] = []
        self._readers: dict[str, _Reader] = {}
        self._last = 0
        self._spoiled = False
        self._haunted = False
        self._queue: list[_Ticket] = []
        self._leading = False
        self._closed = False
        self._grown = anyio.Event()
        self._lost_told: dict[str, int] = {}
        self._damaged = 0
        self._missing = 0
        self._torn = 0
        # Two locks: `_writing` is held for a whole write and fsync, `_books` only for moments, so reads never wait
        # for the disk to settle.
        self._writing = threading.Lock()
        self._books = threading.RLock()
        self._lock_fd = -1
        try:
            self._open()
        except OSError as error:
            self._release()
            raise _translate(error, self._path) from error
        except BaseException:
            self._release()
            raise

    @property
    def last(self) -> int:
        """Sequence number of the last durable record, 0 when there is none."""
        return self._last

    @property
    def first(self) -> int:
        """Sequence number of the oldest record kept, or of the next one when there is none."""
        with self._books:
            return self._segments[0].first

    @property
    def size(self) -> int:
        """Bytes on disk."""
        with self._books:
            return sum(segment.end for segment in self._segments)

    @property
    def haunted(self) -> bool:
        """The disk refused an append and then also refused to cut it off and to begin a new segment.

        Only then can a crash at this moment bring back what an append that raised had written.
        """
        return self._haunted

    def books(self) -> Mapping[str, int]:
        """Return counts since this process began, but `lost.<reader>` since the reader's first start.

        `damaged` stretches skipped and the `missing` records they cost, `torn` bytes cut off the tail.
        """
        lost = {f"lost.{name}": reader.lost for name, reader in self._readers.items()}
        return {"damaged": self._damaged, "missing": self._missing, "torn": self._torn, **lost}

    async def append(self, records: Sequence[bytes]) -> int:
        """Append as one atomic batch and return the sequence number of the last record, once durable.

        Raises `TransientError` with path and errno when the disk refuses. A cancelled append may have been written.
        """
        self._check_open()
        if not records:
            return self._last
        ticket = _Ticket(records)
        self._queue.append(ticket)
        try:
            while not ticket.settled:
                if self._leading:
                    ticket.wake = anyio.Event()
                    await ticket.wake.wait()
                else:
                    await self._lead()
        finally:
            if not ticket.settled and ticket in self._queue:
                self._queue.remove(ticket)
                self._pass_on()
        if ticket.error is not None:
            raise ticket.error
        return ticket.last

    def reader(self, name: str) -> _Reader:
        """Return the reader of that name; a new one starts before the oldest record kept."""
        check_name(name)
        with self._books:
            found = self._readers.get(name)
            if found is None:
                self._check_open()
                found = _Reader(self, name, Cursor(self._segments[0].first - 1), 0)
                self._readers[name] = found
            return found

    async def records(self, after: int) -> AsyncIterator[Record]:
        """Yield durable records behind `after` until the present end, then stop."""
        end = self._last
        while after < end:
            block = self.read(after, 512)
            if not block:
                return
            for record in block:
                if record.seq > end:
                    return
                yield record
            after = block[-1].seq
            await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """Finish what is under way and close the files; waiting readers learn that there is no more."""
        with self._writing, self._books:
            if self._closed:
                return
            self._closed = True
            for ticket in self._queue:
                ticket.error = _closed()
                ticket.wake.set()
            self._queue = []
            active = self._segments[-1]
            with contextlib.suppress(OSError):
                if self._spoiled:
                    active.cut()
                    self._haunted = False
                else:
                    # Says that all before it was acknowledged, so that damage there is not taken for a torn tail.
                    active.append_loosely(encode_frame(self._last + 1, (), self._last))
            self._release()
        self._grown.set()

    def read(self, after: int, limit: int) -> list[Record]:
        """Return up to `limit` durable records behind `after`. Raises `TransientError` when the disk refuses."""
        found: list[Record] = []
        with self._books:
            self._check_open()
            at = max(0, bisect_right(self._segments, after + 1, key=lambda segment: segment.first) - 1)
            while len(found) < limit and at < len(self._segments):
                segment = self._segments[at]
                if segment.next > after + 1:
                    try:
                        found += segment.read(after, limit - len(found), self._note_damage)
                    except OSError as error:
                        raise _translate(error, segment.path) from error
                    self._keep_warm(segment)
                at += 1
        return found

    async def wait(self, after: int) -> bool:
        """Wait until a record behind `after` is durable; False when the journal closed without one."""
        while self._last <= after:
            if self._closed:
                return False
            await self._grown.wait()
        return True

    def save(self, name: str, cursor: Cursor, lost: int) -> None:
        """Make a reader's cursor durable. Raises `TransientError` when the disk refuses; the old one stays."""
        self._check_open()
        try:
            self._cursors.save(name, cursor, lost)
        except OSError as error:
            raise _translate(error, self._path / "cursors" / name) from error

    def moved(self) -> None:
        """A reader has got on: a spool makes room at once, for others on its disk as well."""
        with self._books:
            if self._retention.refuse and not self._closed:
                self._retire()

    # Appending: the event loop's side

    async def _lead(self) -> None:
        group = [self._queue.pop(0)]
        size = group[0].size
        while self._queue and size + self._queue[0].size <= _GROUP_BYTES:
            size += self._queue[0].size
            group.append(self._queue.pop(0))
        self._leading = True
        try:
            # Shielded: others wait for this group, whatever becomes of the task that happens to carry it.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._commit, group)
        finally:
            self._leading = False
            for ticket in group:
                ticket.wake.set()
            grown, self._grown = self._grown, anyio.Event()
            grown.set()
            if self._closed:
                self._grown.set()
            self._pass_on()
        failed = sum(ticket.error is not None for ticket in group)
        if failed:
            self._metrics.count("ugallu_journal_appends_total", failed, outcome="failed")
        if failed < len(group):
            self._metrics.count("ugallu_journal_appends_total", len(group) - failed, outcome="durable")
        self._tell()

    def _pass_on(self) -> None:
        if self._queue and not self._leading:
            self._queue[0].wake.set()

    def _tell(self) -> None:
        """Bring the metrics up to date; on the event loop, since they are not made for threads."""
        self._metrics.gauge("ugallu_journal_bytes", self.size)
        for name, reader in self._readers.items():
            fresh = reader.lost - self._lost_told.get(name, 0)
            if fresh > 0:
                self._metrics.count("ugallu_journal_lost_total", fresh, reader=name)
                self._log.error("unread records removed to keep the journal's size", reader=name, records=fresh)
                self._lost_told[name] = reader.lost

    # Appending: the worker thread's side

    def _commit(self, group: list[_Ticket]) -> None:
        with self._writing:
            try:
                self._check_open()
                try:
                    self._store(group)
                except OSError as error:
                    # History is worth less than what is new.
                    if error.errno not in FULL or not self._forget():
                        raise
                    self._store([ticket for ticket in group if not ticket.settled])
            except OSError as error:
                path = Path(error.filename) if error.filename else self._segments[-1].path
                for ticket in group:
                    refusal = _translate(error, path)
                    refusal.__cause__ = error
                    ticket.error = refusal
            except PermanentError as error:
                for ticket in group:
                    ticket.error = PermanentError(error.what, where=error.where, fix=error.fix)

    def _store(self, group: list[_Ticket]) -> None:
        parts: list[bytes] = []
        frames: list[Frame] = []
        taken: list[_Ticket] = []
        first = self._last + 1
        offset = 0
        room = self._room(sum(ticket.size for ticket in group))
        for ticket in group:
            part = encode_frame(first, ticket.records, self._last)
            if offset + len(part) > room:
                ticket.error = self._refusal()
                continue
            frames.append(Frame(first, first + len(ticket.records), self._last, offset, offset + len(part)))
            parts.append(part)
            taken.append(ticket)
            offset += len(part)
            first += len(ticket.records)
        if not taken:
            return
        segment = self._writable(offset)
        frames = [frame._replace(start=frame.start + segment.end, end=frame.end + segment.end) for frame in frames]
        try:
            segment.write(b"".join(parts))
        except OSError:
            self._retreat(segment)
            raise
        with self._books:
            segment.publish(frames)
            self._last = first - 1
        for ticket, frame in zip(taken, frames, strict=True):
            ticket.last = frame.following - 1
        self._retire()

    def _room(self, wanted: int) -> float:
        """Return how many bytes may be appended now."""
        if not self._retention.refuse:
            return math.inf
        self._retire()
        active = self._segments[-1]
        if wanted > self._left() and active.first < active.next <= self._done() + 1:
            self._roll(active.next)
            self._retire()
        return self._left()

    def _left(self) -> int:
        """Return how many bytes a spool may still take."""
        return min(self._retention.max_bytes - self.size, self._spare())

    def _spare(self) -> int:
        """Return what the disk has beyond what a spool leaves to others."""
        free, total = self._files.space(self._path)
        return free - min(_AIR_BYTES, total // _AIR_SHARE)

    def _refusal(self) -> FullError:
        if self._retention.max_bytes - self.size < self._spare():
            return FullError("full", where=str(self._path), fix="it empties as its readers get on")
        return FullError("the disk is nearly full", where=str(self._path), fix="free space there")

    def _writable(self, size: int) -> Segment:
        active = self._segments[-1]
        age = self._clock.now().timestamp() - active.created
        full = active.end + size > self._segment_bytes or age > self._retention.max_age_seconds / 8
        if self._spoiled or (full and active.next > active.first):
            self._roll(self._last + 1)
        return self._segments[-1]

    def _roll(self, first: int) -> None:
        before = self._segments[-1] if self._segments else None
        # A creation that fails half-way may leave a header that voids, after a restart, everything from `first` on in
        # the present segment: from here on only a new one may take records.
        self._spoiled = True
        made = self._create(before.ordinal + 1 if before else 1, first)
        with self._books:
            self._segments.append(made)
            if before is not None:
                before.next = first
                before.release()
                if before.first == first:
                    self._remove(before)
        self._spoiled = self._haunted = False

    def _create(self, ordinal: int, first: int) -> Segment:
        header = Header(first, self._clock.now().timestamp())
        while True:
            try:
                return Segment.create(self._files, self._path / f"{ordinal:010}.seg", ordinal, header)
            except FileExistsError:  # left by a creation that failed and could not be undone
                ordinal += 1

    def _retreat(self, segment: Segment) -> None:
        """Make sure that a failed write is not seen again, and that this file is not trusted again."""
        self._spoiled = True
        try:
            segment.cut()
        except OSError:
            self._haunted = True
            with contextlib.suppress(OSError):
                self._roll(self._last + 1)

    def _retire(self) -> None:
        """Remove whole segments from the front: read ones past either bound, unread ones past the size alone.

        Where appends are refused instead, read ones at once and unread ones never.
        """
        refuse = self._retention.refuse
        now = self._clock.now().timestamp()
        with self._books:
            total = sum(segment.end for segment in self._segments)
            done = self._done()
            while len(self._segments) > 1:
                oldest = self._segments[0]
                read = oldest.next - 1 <= done
                aged = now - self._segments[1].created > self._retention.max_age_seconds
                if not (read if refuse else total > self._retention.max_bytes or (aged and read)):
                    return
                if not self._remove(oldest):
                    return
                total -= oldest.end
                for reader in self._readers.values():
                    reader.lost += max(0, oldest.next - 1 - max(reader.cursor.seq, oldest.first - 1))

    def _forget(self) -> bool:
        """Remove what every reader is done with, however young; whether there was any. For a disk that is full."""
        with self._books:
            done, before = self._done(), len(self._segments)
            while len(self._segments) > 1 and self._segments[0].next - 1 <= done and self._remove(self._segments[0]):
                pass
            return len(self._segments) < before

    def _done(self) -> int:
        """Return the sequence number up to which every reader has read."""
        with self._books:
            return min((reader.cursor.seq for reader in self._readers.values()), default=0)

    def _remove(self, segment: Segment) -> bool:
        segment.release()
        try:
            self._files.unlink(segment.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._log.warning("cannot remove a segment of the journal", path=str(segment.path), error=str(error))
            return False
        self._segments.remove(segment)
        if segment in self._warm:
            self._warm.remove(segment)
        return True

    # Opening

    def _open(self) -> None:
        # One after the other: parents that are made on the way are not for this user alone.
        self._files.mkdir(self._path)
        self._files.mkdir(self._path / "cursors")
        self._lock_fd = self._files.open(self._path / "lock", os.O_RDWR | os.O_CREAT)
        try:
            self._files.lock(self._lock_fd)
        except BlockingIOError as error:
            raise PermanentError(
                "another process uses this journal", where=str(self._path), fix="stop it, or pass another --state"
            ) from error
        for name in self._cursors.names():
            self._load_cursor(name)
        self._find_segments()
        done = max((reader.cursor.seq for reader in self._readers.values()), default=0)
        if self._segments:
            self._recover(self._segments[-1])
            self._last = self._segments[-1].next - 1
        if not self._segments:
            self._roll(done + 1)
        elif done > self._last:
            # Records that a reader had already seen are gone. Their numbers must not be given to others.
            self._damaged += 1
            self._missing += done - self._last
            self._log.error("the journal ends before its reader", path=str(self._path), last=self._last, reader=done)
            self._roll(done + 1)
        self._last = self._segments[-1].next - 1
        for reader in self._readers.values():
            reader.lost += max(0, self._segments[0].first - 1 - reader.cursor.seq)
        self._tell()

    def _load_cursor(self, name: str) -> None:
        stored, damaged = self._cursors.load(name)
        if damaged:
            self._damaged += 1
            self._log.error("a reader's cursor is damaged", reader=name, fallback=stored.seq if stored else 0)
        if stored is not None:
            self._readers[name] = _Reader(self, name, Cursor(stored.seq, stored.state), stored.lost)
            self._lost_told[name] = stored.lost

    def _find_segments(self) -> None:
        names = sorted(name for name in self._files.names(self._path) if _NAME.fullmatch(name))
        for name in names:
            path = self._path / name
            segment = Segment.peek(self._files, path, int(name[:10]))
            if segment is None:
                segment = self._salvage(path, int(name[:10]), last=name == names[-1])
                if segment is None:
                    continue
            while self._segments and self._segments[-1].first >= segment.first:
                # Abandoned before its first batch was durable; whatever it holds is void.
                if not self._remove(self._segments[-1]):
                    self._segments.pop()
            if self._segments:
                self._segments[-1].next = segment.first
            self._segments.append(segment)

    def _salvage(self, path: Path, ordinal: int, *, last: bool) -> Segment | None:
        """Take what frames tell of a segment whose header is damaged; set it aside when there are none."""
        segment = Segment(self._files, path, ordinal, Header(1, self._clock.now().timestamp()))
        found = segment.recover()
        if found.frames:
            segment.first = found.frames[0].first
            segment.end += found.torn
            segment.release()
            self._damaged += 1
            self._log.error("the header of a segment is damaged", path=str(path))
            return segment
        size = found.end + found.torn
        segment.release()
        # A crash while a segment is made leaves a torn header, behind which nothing was ever acknowledged.
        if not last and size > HEADER_BYTES:
            self._damaged += 1
            self._log.error("a segment of the journal is damaged", path=str(path), bytes=size)
        self._files.mkdir(self._path / "quarantine")
        self._files.replace(path, self._path / "quarantine" / path.name)
        return None

    def _recover(self, active: Segment) -> None:
        verdict = active.recover()
        if verdict.damage or verdict.missing:
            self._note_damage(active, verdict.damage, verdict.missing)
        if verdict.torn:
            self._torn += verdict.torn
            self._set_aside(active, verdict.end, verdict.end + verdict.torn)
            self._log.warning("torn tail cut off", path=str(active.path), offset=verdict.end, bytes=verdict.torn)
            active.cut()

    def _note_damage(self, segment: Segment, holes: list[Hole], missing: int) -> None:
        self._damaged += max(1, len(holes))
        self._missing += missing
        self._log.error("the journal is damaged", path=str(segment.path), stretches=len(holes), records_missing=missing)
        for hole in holes:
            self._set_aside(segment, hole.start, hole.end)

    def _set_aside(self, segment: Segment, start: int, end: int) -> None:
        """Keep a copy of bad bytes for a person; nothing depends on it, so a full disk does not matter here."""
        directory = self._path / "quarantine"
        try:
            self._files.mkdir(directory)
            kept = sorted(self._files.names(directory))
            for name in kept[: max(0, len(kept) - _QUARANTINE_FILES + 1)]:
                self._files.unlink(directory / name)
            target = directory / f"{segment.ordinal:010}-{start:010}.bin"
            fd = self._files.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                write_all(self._files, fd, segment.bytes_at(start, min(end, start + _QUARANTINE_BYTES)), 0)
            finally:
                self._files.close(fd)
            sync_directory(self._files, directory)
        except OSError as error:
            self._log.warning("cannot keep damaged bytes", path=str(directory), error=str(error))

    def _keep_warm(self, segment: Segment) -> None:
        """Bound the open files and indexes to the segments in use."""
        if segment is self._segments[-1]:
            return
        if segment in self._warm:
            self._warm.remove(segment)
        self._warm.append(segment)
        while len(self._warm) > _OPEN_SEGMENTS:
            cold = self._warm.pop(0)
            if cold is not self._segments[-1]:
                cold.release()

    def _check_open(self) -> None:
        if self._closed:
            raise _closed()

    def _release(self) -> None:
        for segment in self._segments:
            with contextlib.suppress(OSError):
                segment.release()
        if self._lock_fd >= 0:
            with contextlib.suppress(OSError):
                self._files.close(self._lock_fd)
            self._lock_fd = -1


def _closed() -> PermanentError:
    return PermanentError("the journal is closed", where="journal", fix="append before it closes")


def _translate(error: OSError, path: Path) -> TransientError | PermanentError:
    name = errno.errorcode.get(error.errno or 0, "unknown error")
    what = f"{error.strerror or error} ({name})"
    if error.errno in _REFUSALS:
        return PermanentError(what, where=str(path), fix="give this user the right to write there")
    fix = "free space there" if error.errno in FULL else "check the disk; we keep trying"
    return TransientError(what, where=str(path), fix=fix)
