"""`Twins`: an event that several sources show, an API server's log file and its webhook, is published by one of them.

Who reads it first publishes it, now and whenever it is read again; the others leave it out and count a duplicate. What
a source is about to publish is durable here before that. So whenever the process dies, an event that one source left
out is in the other's list, who publishes it again unless its checkpoint lies behind it. An event is forgotten once its
source has published some hundred thousand others, which costs a second look at it and no loss.
"""

import secrets
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import msgspec

from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Batch, Checkpoint
from ugallu.bus.port import Publish
from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.journal.files import Files
from ugallu.journal.port import Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.sources.seen import BYTES, RETAINED, Generations, digest_of

DIRECTORY: Final = "audit-twins"
ELSEWHERE: Final = "duplicate.elsewhere"
"""Part of `duplicate` in a source's books: what another source has published."""
_WHERE: Final = "audit twins"


class _Noted(msgspec.Struct, frozen=True, array_like=True):
    """A record of the list: the digests of what a source was about to publish, 8 bytes each, little-endian."""

    key: bytes
    source: str
    digests: bytes


class _Published:
    """What one source has published lately."""

    def __init__(self) -> None:
        self._count = 0
        self._known = Generations()

    def __contains__(self, digest: int) -> bool:
        return digest in self._known

    def add(self, digests: Sequence[int]) -> None:
        for digest in digests:
            self._known.note(self._count, digest)
            self._count += 1


class Twins:
    """Who has published what, on disk; opened by whoever uses it first, closed by the last."""

    def __init__(self, directory: Path, *, clock: Clock, log: Logger, files: Files | None = None) -> None:
        self._directory = directory
        self._clock = clock
        self._log = log
        self._files = files
        self._turn = anyio.Lock()
        self._users = 0
        self._list: SegmentedJournal | None = None
        self._published: dict[str, _Published] = {}
        self._key = b""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the list open for the block.

        Raises `PermanentError` when another process has it or it cannot be used, `TransientError` when the disk
        refuses.
        """
        async with self._turn:
            if not self._users:
                await self._open()
            self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._close()

    async def admit(self, source: str, records: Sequence[AuditRecord]) -> list[AuditRecord]:
        """Return those of the records that are this source's to publish, noted for good.

        Raises `TransientError` when the disk refuses; then nothing is noted.
        """
        kept: list[AuditRecord] = []
        # One after the other: a verdict rests on what is durable. Shielded: what is noted must be known to be.
        async with self._turn:
            with anyio.CancelScope(shield=True):
                kept = await self._admit(source, records)
        return kept

    async def _admit(self, source: str, records: Sequence[AuditRecord]) -> list[AuditRecord]:
        journal = self._list
        if journal is None:
            raise PermanentError("the list is not open", where=_WHERE)
        own = self._published.setdefault(source, _Published())
        others = [published for name, published in self._published.items() if name != source]
        kept, fresh = [], array("Q")
        for record in records:
            digest = digest_of(msgspec.json.encode(record), self._key)
            if digest not in own:
                if any(digest in other for other in others):
                    continue
                fresh.append(digest)
            kept.append(record)
        if fresh:
            await journal.append([msgspec.msgpack.encode(_Noted(self._key, source, fresh.tobytes()))])
            own.add(fresh)
        return kept

    async def _open(self) -> None:
        journal = SegmentedJournal(
            self._directory,
            Retention(max_bytes=4 * RETAINED),
            clock=self._clock,
            # Not the process's: the metrics of journals speak of the one that findings go through.
            metrics=Metrics(),
            log=self._log,
            files=self._files,
        )
        self._key, self._published = secrets.token_bytes(16), {}
        try:
            async for record in journal.records(0):
                noted = _decode(record.data)
                self._key = noted.key
                self._published.setdefault(noted.source, _Published()).add(array("Q", noted.digests))
        except BaseException:
            journal.close()
            raise
        self._list = journal

    def _close(self) -> None:
        if self._list is not None:
            self._list.close()
        self._list, self._published = None, {}


class Source(Protocol):
    """A source as the supervisor runs it; the contract of operators lies above this floor."""

    @property
    def name(self) -> str:
        """As `Once` is called."""
        ...

    @property
    def observes(self) -> type[Any]:
        """The type of its observations."""
        ...

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """Publish from `start` on."""
        ...


class Once:
    """A source without the events that another one has published."""

    observes = AuditRecord

    def __init__(self, source: Source, twins: Twins, metrics: Metrics) -> None:
        """Publish what `source` does under its name, except for what the other users of `twins` have published."""
        self.name = source.name
        self._source = source
        self._twins = twins
        self._metrics = metrics
        # One run at a time: what is left out is counted from where a run starts.
        self._turn = anyio.Lock()

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """As the source does; its observations are numbered without those that are left out."""
        left_out = start.counts.get(ELSEWHERE, 0) if start is not None else 0

        async def pass_on(batch: Batch[AuditRecord]) -> None:
            nonlocal left_out
            first = batch.first - left_out
            kept = await self._twins.admit(self.name, batch.observations) if batch.observations else []
            left_out += (fresh := len(batch.observations) - len(kept))
            if fresh:
                self._metrics.count("ugallu_audit_duplicate_total", fresh)
            await publish(Batch(self.name, first, kept, batch.resume, _booked(batch.counts, left_out)))

        async with self._turn, self._twins.opened():
            await self._source.run(pass_on, start)


def once(sources: Sequence[Source], state: Path, *, clock: Clock, metrics: Metrics, log: Logger) -> Sequence[Source]:
    """Return these sources so that what several of them show is published by one; those of other things as they are."""
    twins = Twins(state / DIRECTORY, clock=clock, log=log)
    return [Once(source, twins, metrics) if source.observes is AuditRecord else source for source in sources]


def _booked(counts: dict[str, int], left_out: int) -> dict[str, int]:
    """Return a source's books in which what was left out is no parsed event, but a duplicate."""
    if not left_out:
        return counts
    moved = {"parsed": counts.get("parsed", 0) - left_out, "duplicate": counts.get("duplicate", 0) + left_out}
    return {**counts, **moved, ELSEWHERE: left_out}


def _decode(data: bytes) -> _Noted:
    try:
        noted = msgspec.msgpack.decode(data, type=_Noted)
    except msgspec.DecodeError as error:
        raise _unreadable() from error
    if len(noted.digests) % BYTES:
        raise _unreadable()
    return noted


def _unreadable() -> PermanentError:
    return PermanentError("a list that cannot be read", where=_WHERE, fix=f"remove the folder {DIRECTORY}")
