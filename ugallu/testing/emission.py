"""Emitter and outbox in a test: a journal in memory, faults at any port call, and findings with few words.

`Fuse` plays `kill -9`: it burns at every call of a port, before and after the effect, and once it has blown nothing
works any more. What the journal and the cluster hold then is what a new process would find.
"""

import datetime as dt
import io
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from ugallu.api.catalog import CATALOGUE, EventType, Severity
from ugallu.api.event import ClusterIdentity, SecurityEvent
from ugallu.api.meta import Resource
from ugallu.api.observation import Finding
from ugallu.api.subject import Clue, Subject
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, list_all
from ugallu.emit.emitter import JournalEmitter
from ugallu.emit.outbox import Outbox
from ugallu.emit.port import Hydrator, Origin
from ugallu.errors import TransientError
from ugallu.journal.port import Cursor, Record
from ugallu.logs import logger
from ugallu.metrics import Metrics
from ugallu.settings import EmitSettings, LogSettings
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import memory_cluster

R = TypeVar("R", bound=Resource)

EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
COMPONENT = "ugallu-test"


class CrashError(Exception):
    """The process is dead."""


class Fuse:
    """Blows at the `at`-th port call, and at every one behind it."""

    def __init__(self, at: int = -1) -> None:
        self.at = at
        self.calls = 0

    def burn(self) -> None:
        """Count a call, and die if it is the one or a later one."""
        self.calls += 1
        if 0 <= self.at <= self.calls - 1:
            raise CrashError(f"call {self.calls}")


class MemoryJournal:
    """The `Journal` port in a list; `refusing` makes the disk refuse."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.cursors: dict[str, Cursor] = {}
        self.forgotten = 0
        """Records up to this number are gone, as retention would have it."""
        self.refusing = False
        self.chunk = 1 << 30
        """At most so many records come of one read."""
        self.fuse = Fuse()
        self.closed = False
        self._grown = anyio.Event()

    @property
    def last(self) -> int:
        """Number of the last record."""
        return len(self.entries)

    async def append(self, records: Sequence[bytes]) -> int:
        """Append, or refuse."""
        self.fuse.burn()
        await anyio.lowlevel.checkpoint()
        if self.refusing:
            raise TransientError("no space left on device", where="journal")
        self.entries += records
        self.fuse.burn()
        grown, self._grown = self._grown, anyio.Event()
        grown.set()
        return self.last

    def reader(self, name: str) -> "MemoryReader":
        """Return a reader."""
        return MemoryReader(self, name)

    async def records(self, after: int) -> AsyncIterator[Record]:
        """Yield what is there."""
        for seq in range(max(after, self.forgotten) + 1, self.last + 1):
            self.fuse.burn()
            yield Record(seq, self.entries[seq - 1])

    def close(self) -> None:
        """Let waiting readers go."""
        self.closed = True
        self._grown.set()

    async def grown(self, after: int) -> bool:
        """Wait for a record."""
        while self.last <= after and not self.closed:
            await self._grown.wait()
        return self.last > after


class MemoryReader:
    """One reader of a `MemoryJournal`."""

    def __init__(self, journal: MemoryJournal, name: str) -> None:
        self._journal = journal
        self._name = name

    @property
    def cursor(self) -> Cursor:
        """As saved."""
        return self._journal.cursors.get(self._name, Cursor())

    def read(self, after: int, *, limit: int = 512) -> Sequence[Record]:
        """Read."""
        self._journal.fuse.burn()
        start = max(after, self._journal.forgotten)
        limit = min(limit, self._journal.chunk)
        return [Record(start + n + 1, data) for n, data in enumerate(self._journal.entries[start : start + limit])]

    async def wait(self, after: int) -> bool:
        """Wait."""
        return await self._journal.grown(after)

    def save(self, cursor: Cursor) -> None:
        """Save, or refuse."""
        self._journal.fuse.burn()
        if self._journal.refusing:
            raise TransientError("no space left on device", where="cursor")
        self._journal.cursors[self._name] = cursor
        self._journal.fuse.burn()

    async def store(self, cursor: Cursor) -> None:
        """As `save`; the pump's other tasks run in between."""
        await anyio.lowlevel.checkpoint()
        self.save(cursor)


class MortalCluster:
    """Creates and reads through a fuse, before and after the effect; everything else is the cluster behind."""

    def __init__(self, cluster: Cluster, fuse: Fuse) -> None:
        self._cluster = cluster
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the cluster has
        return getattr(self._cluster, name)

    async def create(self, resource: R) -> R:
        """Create, or die."""
        self._fuse.burn()
        created = await self._cluster.create(resource)
        self._fuse.burn()
        return created

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """Get, or die."""
        self._fuse.burn()
        return await self._cluster.get(kind, name, namespace)


class Emission:
    """Everything between a finding and its event, over a journal and a cluster that outlive a process."""

    def __init__(
        self,
        *,
        journal: MemoryJournal | None = None,
        cluster: Cluster | None = None,
        clock: Clock | None = None,
        **origin: Any,  # noqa: ANN401 - of Origin
    ) -> None:
        self.journal = journal or MemoryJournal()
        self.clock = clock or ManualClock()
        self.store = memory_cluster()
        self.cluster: Cluster = cluster or self.store
        self.metrics = Metrics()
        self._origin = origin
        self._output = io.TextIOWrapper(io.BytesIO())
        self.log = logger(LogSettings(level="warning", format="json"), self._output)

    @property
    def said(self) -> str:
        """Log lines at warning and above."""
        buffer = self._output.buffer
        assert isinstance(buffer, io.BytesIO)
        return buffer.getvalue().decode()

    @property
    def manual(self) -> ManualClock:
        """The clock, where it is one that the test moves."""
        assert isinstance(self.clock, ManualClock)
        return self.clock

    def emitter(self, *, hydrator: Hydrator | None = None, **origin: Any) -> JournalEmitter:  # noqa: ANN401 - of Origin
        """Return an emitter whose operator declared the whole catalogue."""
        given: dict[str, Any] = {
            "component": COMPONENT,
            "emits": frozenset(CATALOGUE),
            "cluster": ClusterIdentity(cluster_id="c1", cluster_name="test"),
            **self._origin,
        }
        return JournalEmitter(
            Origin(**given | origin),
            self.journal,
            self.clock,
            self.metrics,
            self.log,
            hydrator=hydrator,
            hydrate_seconds=0.02,
        )

    def outbox(self, *, settings: EmitSettings | None = None, **options: Any) -> Outbox:  # noqa: ANN401 - of Outbox
        """Return a new pump over what there is, as a new process would have it."""
        return Outbox(
            self.journal, self.cluster, self.clock, self.metrics, self.log, settings or EmitSettings(), **options
        )

    async def events(self) -> list[SecurityEvent]:
        """Return every event, by resourceVersion: the order of creation."""
        events, _ = await list_all(self.store, SecurityEvent)
        return sorted(events, key=lambda event: int(event.metadata.resource_version))

    async def settled(self, *findings: Finding, settings: EmitSettings | None = None) -> list[SecurityEvent]:
        """Submit findings, pump them to the end of the stream, and return every event."""
        outbox = self.outbox(settings=settings)
        await outbox.recover()
        await self.emitter().submit(findings)
        async with pumping(outbox):
            await outbox.drain()
        return await self.events()


@asynccontextmanager
async def pumping(outbox: Outbox) -> AsyncIterator[None]:
    """Run a pump while the test does something, then stop it as SIGTERM would. Open it inside a test."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        await settled()
        yield
        tasks.cancel_scope.cancel()


def finding(
    key: str = "rule-a",
    second: float = 0,
    *,
    name: str = "pod-a",
    severity: Severity = Severity.MEDIUM,
    type_: EventType = CATALOGUE["ExecIntoPod"],
    **fields: Any,  # noqa: ANN401 - of Finding
) -> Finding:
    """Return a finding about a pod by name, so many seconds into 2026."""
    given: dict[str, Any] = {
        "type": type_,
        "about": Subject(kind="Pod", namespace="shop", name=name),
        "key": key,
        "severity": severity,
        "detected_at": EPOCH + dt.timedelta(seconds=second),
        "correlation": f"{int(second):032x}",
    }
    return Finding(**given | fields)


def numbered(count: int, **fields: Any) -> Iterator[Finding]:  # noqa: ANN401 - of `finding`
    """Yield findings that are all different facts, a second apart."""
    for number in range(count):
        yield finding(f"rule-{number}", number, **fields)


class Lookup:
    """A `Hydrator` that knows some subjects, by key; another key gets `error`, or no answer at all."""

    def __init__(self, known: dict[str, Subject], *, error: Exception | None = None) -> None:
        self.asked: list[Clue] = []
        self._known = known
        self._error = error

    async def hydrate(self, clue: Clue) -> Subject | None:
        """Answer."""
        self.asked.append(clue)
        if clue.key in self._known:
            return self._known[clue.key]
        if self._error is None:
            await anyio.sleep_forever()
        assert self._error is not None
        raise self._error
