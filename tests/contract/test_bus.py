"""The bus of one process and the relay between two pass one battery."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from tests.rig.keys import Authority
from ugallu.api.audit import AuditRecord
from ugallu.api.detection import AuditDetectionConsumer, AuditDetectionConsumerFilter, BusBodies
from ugallu.api.observation import Batch
from ugallu.bus.bus import LocalBus
from ugallu.bus.hub import Hub
from ugallu.metrics import Metrics
from ugallu.testing.contracts.bus import BusContract, Road
from ugallu.testing.relay import CONSUMER, Reader, Secrets, bridged
from ugallu.testing.wire import Wire


class InProcess:
    """A source and its readers in one process; with a bound, the source is one that cannot be rewound."""

    def __init__(self, holds: int) -> None:
        self.bus = LocalBus(Metrics())
        self._lossy = bool(holds)
        self._next = 0

    async def publish(self, records: Sequence[AuditRecord]) -> None:
        await self.bus.publish(AuditRecord, Batch("test", self._next, records, b"" if self._lossy else b"-"))
        self._next += len(records)

    async def cut(self) -> None:
        await anyio.lowlevel.checkpoint()


class TestInProcess(BusContract):
    @asynccontextmanager
    async def road(self, folder: Path, *, holds: int = 0) -> AsyncIterator[Road]:
        road = InProcess(holds)
        if holds:
            subscribe = road.bus.subscribe
            road.bus.subscribe = lambda observes, name, *, capacity=8: subscribe(observes, name, capacity=2)  # type: ignore[method-assign]
        yield road


class Relayed:
    """A source in one process, its readers in another: a hub serves, a relay reads."""

    def __init__(self, hub: Hub, wire: Wire, reader: Reader, *, capped: bool) -> None:
        self.bus = reader.bus
        self._hub = hub
        self._wire = wire
        self._capped = capped

    async def publish(self, records: Sequence[AuditRecord]) -> None:
        if self._capped and records[-1].audit_id == "99":
            # What a cap drops is told with the next event that comes through.
            self._hub.feed.configure([AuditDetectionConsumer(name=CONSUMER)])
        self._hub.offer(records)
        await anyio.lowlevel.checkpoint()

    async def cut(self) -> None:
        await self._wire.cut()


class TestRelayed(BusContract):
    @asynccontextmanager
    async def road(self, folder: Path, *, holds: int = 0) -> AsyncIterator[Road]:
        (folder / "keys").mkdir()
        authority = Authority(folder / "keys", "ca")
        pair = authority.issue("server", "server", hosts=("127.0.0.1",))
        secrets = Secrets(folder / "secrets", pair.certificate, pair.key, authority.pair.certificate)
        consumer = AuditDetectionConsumer(
            name=CONSUMER, filter=AuditDetectionConsumerFilter(bodies=BusBodies.ALL), max_events_per_sec=holds
        )
        async with bridged(secrets, consumer) as (hub, wire, reader):
            yield Relayed(hub, wire, reader, capped=bool(holds))
