"""The bus of one process: typed fan-out from sources to subscribers, each with a ring of its own."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from ugallu.api.observation import Batch, Observation
from ugallu.bus.ring import Ring
from ugallu.errors import ConflictError
from ugallu.metrics import Metrics

O = TypeVar("O", bound=Observation)  # noqa: E741 - the type of an observation


class RingSubscription:
    """A `Subscription` of the local bus; `dropped` counts observations lost here, by source, since it began."""

    def __init__(self, bus: "LocalBus", observes: type[Any], name: str, capacity: int) -> None:
        self.name = name
        self._bus = bus
        self._observes = observes
        self._ring = Ring(capacity)
        self._told: Counter[str] = Counter()
        self._filled = anyio.Event()
        self._emptied = anyio.Event()
        self._left = False

    @property
    def dropped(self) -> Mapping[str, int]:
        """Observations lost in this ring, by source: cumulative."""
        return self._ring.dropped

    async def receive(self) -> Batch[Any] | None:
        """Return the next batch, None once the bus is closed and the ring is empty."""
        while (batch := self._ring.take()) is None:
            if self._left or self._bus.closed:
                return None
            if self._filled.is_set():
                self._filled = anyio.Event()
            await self._filled.wait()
        self._emptied.set()
        return batch

    def losses(self) -> Mapping[str, int]:
        """Return what this subscriber lost since it was last asked, by source; rings that it left behind included."""
        return self._bus.losses(self._observes, self.name)

    def close(self) -> None:
        """Leave: publishers no longer wait for this ring."""
        if not self._left:
            self._left = True
            self._bus.forget(self._observes, self)
            self._ring.abandon()
            self._report()
            self.wake()

    def push(self, batch: Batch[Any]) -> bool:
        """Offer a batch; False when its publisher has to wait for `room`."""
        if self._left or self._bus.closed:
            return True
        if not self._ring.offer(batch):
            # A new event only in the place of a spent one: other publishers may be waiting on the present one.
            if self._emptied.is_set():
                self._emptied = anyio.Event()
            return False
        if len(self._ring.dropped) and self._ring.dropped != self._told:
            self._report()
        self._filled.set()
        return True

    async def room(self) -> None:
        """Wait until a batch was taken or the reader left."""
        await self._emptied.wait()

    def wake(self) -> None:
        """Let everyone who waits on this ring look again."""
        self._filled.set()
        self._emptied.set()

    def _report(self) -> None:
        for source, count in (self._ring.dropped - self._told).items():
            self._bus.lost(self._observes, source, self.name, count)
        self._told = self._ring.dropped.copy()


class LocalBus:
    """The `Bus` inside one process."""

    def __init__(self, metrics: Metrics) -> None:
        self.closed = False
        self._metrics = metrics
        self._rings: dict[type[Any], list[RingSubscription]] = {}
        self._dropped: dict[tuple[str, str], int] = {}
        self._untold: dict[tuple[type[Any], str], Counter[str]] = {}

    @property
    def dropped(self) -> Mapping[tuple[str, str], int]:
        """Observations that full rings lost, by source and subscriber: cumulative."""
        return self._dropped

    def subscribe(self, observes: type[O], name: str, *, capacity: int = 8) -> RingSubscription:
        """Join; `capacity` is in batches. Only batches published from now on arrive."""
        ring = RingSubscription(self, observes, name, capacity)
        self._rings.setdefault(observes, []).append(ring)
        return ring

    async def publish(self, observes: type[Any], batch: Batch[Any]) -> None:
        """Offer a batch to every subscriber of the type; raises `ConflictError` once the bus is closed.

        Whoever has room gets it at once; then a batch that can be read again waits for the others, one after another.
        """
        self._check_open(batch)
        if batch.lost:
            for ring in self._rings.get(observes, ()):
                self.lost(observes, batch.source, ring.name, batch.lost)
        full = [ring for ring in self._rings.get(observes, ()) if not ring.push(batch)]
        if not full:
            # A publisher whose rings always have room must still let its readers run.
            await anyio.lowlevel.checkpoint()
        for ring in full:
            await ring.room()
            while not ring.push(batch):
                await ring.room()
        if full:
            self._check_open(batch)

    def close(self) -> None:
        """No more batches will come; waiting publishers and readers learn it at once."""
        self.closed = True
        for rings in self._rings.values():
            for ring in rings:
                ring.wake()

    def forget(self, observes: type[Any], ring: RingSubscription) -> None:
        """Drop a subscription that was closed."""
        self._rings[observes].remove(ring)

    def losses(self, observes: type[Any], subscriber: str) -> Mapping[str, int]:
        """Return what the rings of a subscriber lost since this was last asked, by source."""
        return self._untold.pop((observes, subscriber), {})

    def lost(self, observes: type[Any], source: str, subscriber: str, count: int) -> None:
        """Count what a ring has just lost."""
        self._untold.setdefault((observes, subscriber), Counter())[source] += count
        self._dropped[source, subscriber] = self._dropped.get((source, subscriber), 0) + count
        self._metrics.count("ugallu_bus_dropped_total", count, source=source, subscriber=subscriber)

    def _check_open(self, batch: Batch[Any]) -> None:
        if self.closed:
            raise ConflictError("the bus is closed", where=f"source {batch.source}", fix="stop sources before the bus")
