"""`AuditFile`: the log backend's file as a source, followed live over rotations, or played from start to end.

A live log is polled: inotify says nothing on network mounts and on files that another mount namespace changes, so the
poll would be needed anyhow, and a `stat` four times a second costs nothing. Nothing is read ahead of what the
subscribers take: `publish` waits for them, and the file itself is the buffer.
"""

import hashlib
import os
import select
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import msgspec

from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Batch, Checkpoint
from ugallu.bus.port import Publish
from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.settings import AuditSettings
from ugallu.sources import place as places
from ugallu.sources.audit_decode import AuditDecoder, Rejected
from ugallu.sources.documents import Document, DocumentReader, spans_lines
from ugallu.sources.lines import BLOCK_BYTES, EDGE_BYTES, Block, LineReader, Oversize
from ugallu.sources.place import Place, Resume
from ugallu.sources.rotation import Sibling, siblings
from ugallu.sources.streams import PREFIX_BYTES, BufferedFile, PlainFile, open_stream

STDIN: Final = "-"
STDIN_FD: Final = 0
BATCH: Final = 512
"""Observations a batch, about: larger ones leave the cache before a detector sees them."""
TICK_SECONDS: Final = 0.25
GRACE_SECONDS: Final = 0.5
"""How long a rotated log may still get lines from a writer that has it open."""
_ROOM: Final = 16 << 20
_COUNTED: Final = {
    "parsed": "ugallu_audit_file_lines_total",
    "rejected": "ugallu_audit_file_parse_errors_total",
}


class _Log:
    """An open log, and how far it is accounted for. `prefix` holds its first bytes, up to the place's offset."""

    def __init__(
        self,
        stream: PlainFile | BufferedFile,
        place: Place,
        max_line_bytes: int,
        *,
        prefix: bytes,
        live: PlainFile | None = None,
    ) -> None:
        status = os.fstat(stream.fd)
        self.stream = stream
        self.offset = place.offset
        self.skip = place.skip
        self._place = msgspec.structs.replace(place, device=status.st_dev, inode=status.st_ino)
        self._prefix = prefix
        self._live = live
        reader = DocumentReader if place.documents else LineReader
        self.reader: LineReader | DocumentReader = reader(stream, max_line_bytes)

    def learn(self, found: bytes) -> None:
        """Remember the first bytes of the log, from what was found at `offset`."""
        if len(self._prefix) < PREFIX_BYTES:
            self._prefix = (self._prefix[: self.offset] + found[:PREFIX_BYTES])[:PREFIX_BYTES]

    def consume(self, size: int) -> None:
        """Account for `size` more bytes."""
        self.reader.done(size)
        self.pass_over(size)

    def pass_over(self, size: int) -> None:
        """Account for bytes that the reader has consumed already."""
        self.offset += size
        self.skip = 0

    @property
    def place(self) -> Place:
        """Where a new process would go on."""
        prefix = self._prefix[: places.prefix_length(self.offset)]
        return msgspec.structs.replace(
            self._place, offset=self.offset, skip=self.skip, prefix=len(prefix), digest=places.digest_of(prefix)
        )

    def was_cut(self, seen: int) -> bool:
        """Tell whether a live log was truncated or rewritten before `seen` bytes were read behind `offset`."""
        if self._live is None:
            return False
        if self._live.status().st_size < max(self._live.position, self.offset + seen):
            return True
        before = self._prefix[: places.prefix_length(self.offset)]
        return self._live.head(len(before)) != before


class AuditFile:
    """One live log with all its rotations, or the files of a replay in the order given."""

    observes = AuditRecord

    def __init__(self, settings: AuditSettings, clock: Clock, metrics: Metrics, log: Logger) -> None:
        """Read what `settings.files` names; raises `PermanentError` when that is nothing, or too much to follow."""
        if not settings.files:
            raise PermanentError("no audit log given", where="audit-file", fix="name one with --audit-log")
        self._follows = settings.follow and settings.files != (STDIN,)
        if self._follows and len(settings.files) > 1:
            # Two logs interleave differently each time, and then numbers would not name the same events again.
            raise PermanentError(
                "one source follows one log",
                where="audit-file",
                fix="name one log to follow; `ugallu replay` plays several",
            )
        self.name = _name(settings.files, live=self._follows)
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(source=self.name)
        self._decoder = AuditDecoder(self.name)
        self._held: list[AuditRecord] = []
        self._next = 0
        self._told: dict[str, int] = {}
        self._backlog = 0
        self._waiting = ""

    @property
    def waiting(self) -> str:
        """What the source is waiting for before it can read anything; empty when it reads."""
        return self._waiting

    @property
    def counts(self) -> Mapping[str, int]:
        """The source's books so far."""
        return dict(self._decoder.counts)

    @property
    def quarantine(self) -> Sequence[Rejected]:
        """The last few lines that became no record, without their content."""
        return tuple(self._decoder.quarantine)

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """Publish from `start` on; return at the end of a replay, never when following.

        Raises `PermanentError` for a log that is missing in a replay, cannot be read, or is in the legacy format.
        """
        # glibc gives freed memory back to the system above a limit that follows the largest block ever freed; without
        # this, each batch was handed back and faulted in again, for 15 % of the time. The block is never touched.
        bytes(_ROOM)
        self._publish = publish
        self._decoder = AuditDecoder(self.name)
        self._held = []
        self._next = 0
        place: Place | None = None
        if start is not None and start.resume:
            resume = places.decode(start.resume, self.name)
            self._next, place = resume.next, resume.place
            self._decoder.counts.update(resume.counts)
        self._told = dict(self._decoder.counts)
        if self._follows:
            await self._follow(Path(self._settings.files[0]), place)
        else:
            await self._replay(place or Place())

    # A replay

    async def _replay(self, place: Place) -> None:
        for number, name in enumerate(self._settings.files):
            if number < place.file:
                continue
            self._backlog = sum(map(_bytes, self._settings.files[number + 1 :]))
            log = await self._open_recorded(name, place if number == place.file else Place(file=number))
            try:
                await self._drain(log)
                await self._finish(log)
            finally:
                log.stream.close()

    async def _open_recorded(self, name: str, place: Place) -> _Log:
        try:
            stream = BufferedFile(STDIN_FD, owned=False) if name == STDIN else open_stream(Path(name))
        except FileNotFoundError as error:
            raise PermanentError("no such audit log", where=name, fix="check the path") from error
        try:
            await _fill(stream, BLOCK_BYTES)
            start = stream.peek(BLOCK_BYTES)
            prefix = start[: place.prefix]
            if place.offset and not places.is_at(place, prefix):
                self._log.warning("not the content of last time: read from its start", file=name)
                place = Place(file=place.file)
            if not place.offset:
                place = Place(file=place.file, skip=place.skip, documents=spans_lines(start))
            await _pass_over(stream, place.offset)
            return _Log(stream, place, self._settings.max_line_bytes, prefix=prefix)
        except BaseException:
            stream.close()
            raise

    # A live log

    async def _follow(self, path: Path, place: Place | None) -> None:
        if place is None:
            place = Place() if self._settings.from_start else await self._begin_at_end(path)
        while True:
            # The log is opened before its siblings are listed: one that was the log until then is among them.
            current = self._open_current(path)
            try:
                place = await self._catch_up(path, place, current)
                if current is not None:
                    place = await self._stay(path, place, current)
            finally:
                if current is not None:
                    current.close()
            if current is None:
                await self._clock.sleep(TICK_SECONDS)

    async def _begin_at_end(self, path: Path) -> Place:
        older = siblings(path)
        place = places.end_of(path, older[-1].key if older else "")
        # So that a crash before the first event does not move the beginning.
        await self._send(place)
        return place

    def _open_current(self, path: Path) -> PlainFile | None:
        try:
            current = PlainFile.open(path)
        except FileNotFoundError:
            if not self._waiting:
                self._log.warning("the audit log does not exist yet", path=str(path))
                self._waiting = f"waiting for {path}"
            return None
        self._waiting = ""
        return current

    async def _catch_up(self, path: Path, place: Place, current: PlainFile | None) -> Place:
        """Read every rotated log from the place on, oldest first; return the place behind them."""
        while True:
            if current is not None and places.known(place) and places.stands_in(place, current):
                return place
            older = _older(path, current)
            at = places.find(place, older) if places.known(place) else None
            if at is not None:
                unread: Sequence[Sibling] = older[at:]
            elif places.known(place) and current is None:
                return place  # perhaps a file system that is not mounted yet: judge when the log is there
            else:
                if places.known(place):
                    self._log.error("the audit log was removed or cut before it was read to its end", path=str(path))
                place = Place(behind=place.behind)
                unread = _newer_than(place, older, current)
            for sibling in unread:
                self._backlog = sum(later.size for later in unread if later.key > sibling.key)
                try:
                    await self._read_rotated(sibling, place)
                except FileNotFoundError:
                    break  # compressed or removed since it was listed: look again
                place = Place(behind=sibling.key)
            else:
                self._backlog = 0
                return place

    async def _read_rotated(self, sibling: Sibling, place: Place) -> None:
        stream = open_stream(sibling.path)
        try:
            prefix = stream.peek(place.prefix)
            await _pass_over(stream, place.offset)
            log = _Log(stream, place, self._settings.max_line_bytes, prefix=prefix)
            await self._drain(log)
            await self._finish(log)
        finally:
            stream.close()

    async def _stay(self, path: Path, place: Place, current: PlainFile) -> Place:
        """Read the log as it grows; return where it ended, once it was rotated or cut."""
        log = _Log(current, place, self._settings.max_line_bytes, prefix=current.head(place.prefix), live=current)
        current.advance(place.offset)
        while True:
            if not log.offset and _newer_than(place, _older(path, current), current):
                break  # copied and cut before its first line was read: nothing in the file itself shows that
            if not await self._drain(log):
                break
            if not _replaced(path, current):
                await self._clock.sleep(TICK_SECONDS)
                continue
            # The writer may have had the old file open while it was renamed: give its last lines time to arrive.
            if await self._drain(log):
                await self._clock.sleep(GRACE_SECONDS)
                if await self._drain(log):
                    await self._finish(log)
            break
        return log.place

    # Lines to batches

    async def _drain(self, log: _Log) -> bool:
        """Publish every whole line up to the present end; False when the log was cut meanwhile."""
        while True:
            found = log.reader.next()
            if log.was_cut(0 if found is None else found.size):
                await self._flush(log)
                return False
            if found is not None:
                await self._take(log, found)
            elif isinstance(log.stream, BufferedFile) and not log.stream.ended:
                if not _has_input(log.stream):
                    await self._flush(log)
                    await anyio.wait_readable(log.stream.fd)
                log.stream.pull()
            else:
                await self._flush(log)
                return True

    async def _finish(self, log: _Log) -> None:
        """Take what stands behind the last newline: no more will come."""
        rest = log.reader.rest()
        if isinstance(rest, bytes):
            log.learn(rest)
            await self._take_line(log, rest)
            log.pass_over(len(rest))
        elif rest is not None:
            await self._take(log, rest)
        if isinstance(log.stream, BufferedFile) and log.stream.damage:
            self._log.error("compressed data is damaged", detail=log.stream.damage)
            self._decoder.damaged(log.stream.damage)
        await self._flush(log)

    async def _take(self, log: _Log, found: Block | Oversize | Document) -> None:
        if isinstance(found, Block):
            log.learn(found.data)
            records = (
                self._decoder.block(found) if found.size <= self._settings.max_line_bytes and not log.skip else None
            )
            if records is None:
                for line in found.lines():
                    await self._take_line(log, line)
                    log.consume(len(line) + 1)
            else:
                self._held += records
                log.consume(found.size)
        elif isinstance(found, Oversize):
            log.learn(found.head)
            self._take_oversize(found)
            log.pass_over(found.size)
        else:
            log.learn(found.text)
            await self._take_line(log, found.text)
            log.pass_over(found.size)
        if len(self._held) >= BATCH:
            await self._flush(log)

    async def _take_line(self, log: _Log, line: bytes) -> None:
        if len(line) > self._settings.max_line_bytes:
            self._take_oversize(Oversize(line[:EDGE_BYTES], line[-EDGE_BYTES:], len(line)))
            return
        for done, record in self._decoder.line(line, log.skip):
            self._held.append(record)
            if len(self._held) >= BATCH:
                log.skip = done
                await self._flush(log)

    def _take_oversize(self, line: Oversize) -> None:
        record = self._decoder.oversize(line)
        if record is not None:
            self._held.append(record)

    async def _flush(self, log: _Log) -> None:
        """Publish what is held, and what was counted since, with the place behind it."""
        if self._held or self._decoder.counts != self._told:
            await self._send(log.place)
        self._metrics.gauge("ugallu_audit_source_lag_bytes", self._backlog + log.stream.behind, source=self.name)

    async def _send(self, place: Place) -> None:
        held, self._held = self._held, []
        counts = dict(self._decoder.counts)
        first, self._next = self._next, self._next + len(held)
        resume = places.encode(Resume(self._next, place, counts))
        for name, metric in _COUNTED.items():
            fresh = counts[name] - self._told.get(name, 0)
            if fresh:
                self._metrics.count(metric, fresh)
        self._told = counts
        if held:
            newest = held[-1].seen_at.timestamp()
            self._metrics.gauge("ugallu_audit_last_event_timestamp_seconds", newest, source=self.name)
            late = max(0.0, self._clock.now().timestamp() - newest)
            self._metrics.gauge("ugallu_audit_source_lag_seconds", late, source=self.name)
        await self._publish(Batch(self.name, first, held, resume, counts))
        await anyio.lowlevel.checkpoint()


def audit_files(settings: AuditSettings, clock: Clock, metrics: Metrics, log: Logger) -> list[AuditFile]:
    """Return the sources for these settings: one a log when they are followed, one in all for a replay."""
    if not settings.files:
        return []
    if not settings.follow:
        return [AuditFile(settings, clock, metrics, log)]
    each = [msgspec.structs.replace(settings, files=(name,)) for name in dict.fromkeys(settings.files)]
    return [AuditFile(one, clock, metrics, log) for one in each]


def _name(files: Sequence[str], *, live: bool) -> str:
    paths = [name if name == STDIN else str(Path(name).absolute()) for name in files]
    if live:
        return f"audit-file:{paths[0]}"
    if len(paths) == 1:
        return f"audit-replay:{paths[0]}"
    digest = hashlib.sha256("\0".join(paths).encode()).hexdigest()[:12]
    return f"audit-replay:{paths[0]}+{len(paths) - 1}:{digest}"


def _bytes(name: str) -> int:
    """Return a file's size, 0 for a pipe and for what is not there: that is said when its turn comes."""
    try:
        return Path(name).stat().st_size
    except OSError:
        return 0


def _older(path: Path, current: PlainFile | None) -> list[Sibling]:
    """Return the rotated logs, without the one that is open as the current one."""
    if current is None:
        return siblings(path)
    status = current.status()
    return [s for s in siblings(path) if (s.device, s.inode) != (status.st_dev, status.st_ino)]


def _newer_than(place: Place, older: Sequence[Sibling], current: PlainFile | None) -> list[Sibling]:
    """Return the rotated logs that came after what lies behind a place."""
    newer = [sibling for sibling in older if sibling.key > place.behind]
    return newer if current is None else [sibling for sibling in newer if not places.is_copy(sibling, current)]


def _replaced(path: Path, current: PlainFile) -> bool:
    """Tell whether another log follows this one. While the name is free and none was rotated since, it may grow."""
    old = current.status()
    try:
        new = path.stat()
    except OSError:
        rotated = siblings(path)
        return bool(rotated) and (rotated[-1].device, rotated[-1].inode) != (old.st_dev, old.st_ino)
    return (new.st_dev, new.st_ino) != (old.st_dev, old.st_ino)


def _has_input(pipe: BufferedFile) -> bool:
    return bool(select.select([pipe.fd], [], [], 0)[0])


async def _fill(stream: PlainFile | BufferedFile, size: int) -> None:
    """Let a pipe bring its first `size` bytes, or all that it has."""
    while isinstance(stream, BufferedFile) and not stream.ended and len(stream.peek(size)) < size:
        await anyio.wait_readable(stream.fd)
        stream.pull()


async def _pass_over(stream: PlainFile | BufferedFile, size: int) -> None:
    """Skip what an earlier process has read."""
    if isinstance(stream, PlainFile):
        stream.advance(size)
        return
    while size:
        want = min(size, BLOCK_BYTES)
        await _fill(stream, want)
        skipped = len(stream.peek(want))
        if not skipped:
            return
        stream.advance(skipped)
        size -= skipped
        await anyio.lowlevel.checkpoint()
