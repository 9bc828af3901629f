"""The road over NATS, a real server in between: the battery, restarts, retention, accounts."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from tests.rig.nats import NatsServer
from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Batch, Checkpoint
from ugallu.bus.bus import LocalBus
from ugallu.bus.jetstream import opened
from ugallu.bus.port import Publish
from ugallu.clock import SystemClock
from ugallu.errors import TransientError
from ugallu.metrics import Metrics
from ugallu.settings import NatsSettings
from ugallu.sources.nats import Forwarded, StreamReader
from ugallu.supervisor.intake import Intake
from ugallu.supervisor.positions import Positions
from ugallu.testing.contracts.bus import BusContract, Road, events, names
from ugallu.testing.relay import QUIET, until
from ugallu.testing.wire import Wire, wired

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def settings(server: NatsServer, **changes: Any) -> NatsSettings:
    base = NatsSettings(
        url=f"tls://127.0.0.1:{server.port}",
        stream=server.name(),
        ca=str(server.ca),
        token_file=str(server.token),
        stream_bytes=1 << 24,
    )
    return msgspec.structs.replace(base, **changes)


class Log:
    """A source that can be rewound: what it was given, from wherever it is asked."""

    name = "log"

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.sent = 0
        self._more = anyio.Event()

    def add(self, records: Sequence[AuditRecord]) -> None:
        self.records += records
        self._more.set()

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        at = start.next if start else 0
        while True:
            if at == len(self.records):
                self._more = anyio.Event()
                await self._more.wait()
                continue
            part = self.records[at : at + 16]
            await publish(Batch(self.name, at, part, b"%d" % (at + len(part)), {"received": at + len(part)}))
            at += len(part)
            self.sent = max(self.sent, at)


class OverNats:
    """One process writes, another reads; between them a server, and a wire to it that a test cuts."""

    def __init__(self, where: NatsSettings, wire: Wire | None = None) -> None:
        self.where = where
        self.wire = wire
        self.log = Log()
        self.metrics = Metrics()
        self.bus = LocalBus(self.metrics)
        self.points: list[Checkpoint] = []
        clock = SystemClock()
        self.reader = StreamReader(
            where, checkpoints=lambda _: self.points, clock=clock, metrics=self.metrics, log=QUIET
        )
        self.writer = Forwarded(
            self.log, where, "here", redact=lambda body, _: body, scrub=str, metrics=self.metrics, log=QUIET
        )
        self.positions = Positions()
        self.intakes = [
            Intake(self.bus, self.positions, clock=clock, metrics=self.metrics, log=QUIET) for _ in range(2)
        ]

    @asynccontextmanager
    async def working(self, *, read: bool = True, write: bool = True) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg:
            reading, writing = self.intakes
            if write:
                writing.add(self.writer, "test")
                writing.open(tg, lambda _: ("op",))
            if read:
                reading.add(self.reader, "test")
                reading.open(tg, lambda _: ("op",))
                await until(self.reader.reading.is_set)
            yield
            for intake in self.intakes:
                intake.close()

    def take_in(self, batch: Batch[Any]) -> None:
        """Have it for good, as a worker does."""
        end = batch.first + len(batch.observations)
        point = Checkpoint(batch.source, "op", next=end, resume=batch.resume, counts=batch.counts)
        self.positions.put(point)
        self.points = [point]

    async def publish(self, records: Sequence[AuditRecord]) -> None:
        self.log.add(records)
        await until(lambda: self.log.sent == len(self.log.records))

    async def cut(self) -> None:
        assert self.wire is not None
        await self.wire.cut()


class TestOverNats(BusContract):
    @pytest.fixture(autouse=True)
    def server(self, nats: NatsServer) -> None:
        self.nats = nats

    @asynccontextmanager
    async def road(self, folder: Path, *, holds: int = 0) -> AsyncIterator[Road]:
        async with wired(self.nats.port) as wire:
            where = settings(self.nats, url=f"tls://127.0.0.1:{wire.port}")
            if holds:
                await small(where, holds)
            road = Loses(where, wire) if holds else OverNats(where, wire)
            # One that loses has a reader that comes late.
            async with road.working(read=not holds):
                yield road


class Loses(OverNats):
    """The stream keeps the last few events only, and its reader comes when all have been written."""

    async def publish(self, records: Sequence[AuditRecord]) -> None:
        await super().publish(records)
        if records[-1].audit_id == "99":
            self._late = self.intakes[0]
            self.positions.put(
                Checkpoint("nats", "op", next=0, resume=b'{"made":"%s","sequence":0}' % await self.made())
            )
            await self.begin()

    async def made(self) -> bytes:
        async with opened(self.where, QUIET) as stream:
            return (await stream.origin()).made.encode()

    @asynccontextmanager
    async def working(self, *, read: bool = True, write: bool = True) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg, super().working(read=read, write=write):
            self._tg = tg
            yield

    async def begin(self) -> None:
        self._late.add(self.reader, "test")
        self._late.open(self._tg, lambda _: ("op",))
        await until(self.reader.reading.is_set)


async def small(where: NatsSettings, holds: int) -> None:
    """Make a stream that holds so many events."""
    import nats
    from nats.js.api import StreamConfig

    from ugallu.bus.jetstream import _options

    client = await nats.connect(where.url, **_options(where))
    await client.jetstream().add_stream(
        StreamConfig(name=where.stream, subjects=[f"ugallu.{where.stream}.>"], max_msgs=holds, duplicate_window=60)
    )
    await client.close()


async def test_a_reader_that_crashed_goes_on_behind_its_checkpoint(nats: NatsServer) -> None:
    """Under the same numbers; what it had taken in does not come again."""
    road = OverNats(settings(nats))
    heard = road.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with road.working():
        await road.publish(events(range(40)))
        while not road.points or road.points[0].next < 40:
            batch = await heard.receive()
            assert batch is not None
            road.take_in(batch)
        await road.publish(events(range(40, 50)))
    again = OverNats(road.where)
    again.positions.put(road.points[0])
    heard = again.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with again.working(write=False):
        while not (batch := await heard.receive()) or not batch.observations:
            pass
        assert (batch.first, [record.audit_id for record in batch.observations]) == (
            40,
            [str(n) for n in range(40, 50)],
        )


async def test_a_reader_that_lost_its_state_goes_on_where_it_acknowledged(nats: NatsServer) -> None:
    """The durable consumer knows how far its checkpoints came; what lies behind comes again rather than not at all."""
    road = OverNats(settings(nats))
    heard = road.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with road.working():
        await road.publish(events(range(20)))
        while not road.points or road.points[0].next < 20:
            batch = await heard.receive()
            assert batch is not None
            road.take_in(batch)
        async with opened(road.where, QUIET) as stream:
            with anyio.fail_after(20):
                while await stream.floor("ugallu") < 20:  # noqa: ASYNC110 - the server tells nobody
                    await anyio.sleep(0.1)
        await road.publish(events(range(20, 25)))
    lost = OverNats(road.where)
    heard = lost.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with lost.working(write=False):
        assert await names(heard, 5) == ["20", "21", "22", "23", "24"]


async def test_a_writer_that_crashed_stores_nothing_twice(nats: NatsServer) -> None:
    """It goes on at its position; what it had stored before it noted that is told by its id."""
    road = OverNats(settings(nats))
    async with road.working(read=False):
        await road.publish(events(range(48)))
    async with opened(road.where, QUIET) as stream:
        point = await stream.position("here/log")
        assert point is not None
        assert point.next == 48
        await stream.moved(msgspec.structs.replace(point, next=16, resume=b"16"))
    again = OverNats(road.where)
    heard = again.bus.subscribe(AuditRecord, "op", capacity=1000)
    again.log.records = events(range(60))
    async with again.working():
        assert await names(heard, 60) == [str(n) for n in range(60)]
        await until(lambda: again.log.sent == 60)
    async with opened(road.where, QUIET) as stream:
        assert (await stream.origin()).last == 60


async def test_a_server_that_dies_is_waited_for(nats: NatsServer) -> None:
    """Writer and reader say so in their readiness, and go on once it is back: nothing lost, nothing twice."""
    road = OverNats(settings(nats))
    heard = road.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with road.working():
        await road.publish(events(range(20)))
        nats.process.stop()
        road.log.add(events(range(20, 30)))
        await until(lambda: all(intake.reasons for intake in road.intakes), 30)
        await anyio.to_thread.run_sync(nats.start)
        assert await names(heard, 30) == [str(n) for n in range(30)]
        await until(lambda: not any(intake.reasons for intake in road.intakes))


async def test_users_of_accounts_show_their_credentials() -> None:
    """A .creds file, as NATS hands them out; without it nothing is served."""
    with NatsServer(accounts=True) as server:
        where = settings(server, token_file="", credentials=str(server.credentials))
        async with opened(where, QUIET) as stream:
            await stream.append("a", [(0, b"x")])
            assert (await stream.origin()).last == 1
        with pytest.raises(TransientError, match="cannot connect"):
            async with opened(msgspec.structs.replace(where, credentials=""), QUIET):
                pass


async def test_strangers_are_told_apart(nats: NatsServer, tmp_path: Path) -> None:
    """A wrong token, a server of another CA, and nobody there are errors that may pass, each with its reason."""
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    for changes, said in (
        ({"token_file": str(wrong)}, "Authorization"),
        ({"ca": ""}, "certificate"),
        ({"url": "tls://127.0.0.1:1"}, "cannot connect"),
    ):
        with pytest.raises(TransientError, match=f"(?i){said}") as caught:
            async with opened(settings(nats, **changes), QUIET):
                pass
        assert "wrong" not in str(caught.value)
