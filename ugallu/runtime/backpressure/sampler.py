"""Takes the signals: from the API server's metrics, or where the cluster is in this process, from its files.

etcd      size of the fullest back end over its capacity
events    security events over what is thought bearable
rejected  requests a second that the server refused for want of room
backlog   age of the oldest bundle that waits to be sealed: slows the pace, and never sheds
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import msgspec
from anyio import to_thread

from ugallu.api.bundle import BundlePhase
from ugallu.api.marks import BundleMark, EventMark
from ugallu.clock import Clock
from ugallu.cluster.port import Server, View
from ugallu.errors import TransientError
from ugallu.runtime.backpressure.signals import look, samples
from ugallu.settings import BackpressureSettings

METRICS: Final = "/metrics"
REJECTED: Final = 10.0
"""Rejected requests a second that count as full."""
OLDEST: Final = 1800.0
"""Seconds of a bundle's age that count as full."""


class Reading(msgspec.Struct, frozen=True):
    """One look. Signals are pressures: 1 is full."""

    signals: dict[str, float]
    used_bytes: int


class Sampler(Protocol):
    """Looks once."""

    async def look(self) -> Reading:
        """Return the signals; raises `UgalluError` when nothing can be measured."""
        ...


class ServerSampler:
    """Reads the metrics of the API server that answers; there may be several behind one address."""

    def __init__(self, server: Server, settings: BackpressureSettings, clock: Clock) -> None:
        self._server = server
        self._settings = settings
        self._clock = clock
        self._before: dict[float, tuple[float, float]] = {}
        """By server: when it was asked, and how many requests it had rejected by then."""

    async def look(self) -> Reading:
        """Ask for the page and read it in a thread: it may have megabytes."""
        content = await self._server.fetch(METRICS)
        page = await to_thread.run_sync(lambda: look(samples(content)))
        if page.used is None:
            raise TransientError("no metric says how large the store is", where=METRICS)
        signals = {"etcd": page.used / self._settings.capacity_bytes}
        if page.events is not None:
            signals["events"] = page.events / self._settings.events
        now = self._clock.monotonic()
        known = self._before.pop(page.server, None)
        if known is not None and now > known[0]:
            rate = max(0.0, page.rejected - known[1]) / (now - known[0])
            signals["rejected"] = min(1.0, rate / REJECTED)
        self._before[page.server] = now, page.rejected
        if len(self._before) > 16:
            del self._before[next(iter(self._before))]
        return Reading(signals, page.used)


class FileSampler:
    """Measures the embedded cluster: its files, and the events that the cache holds."""

    def __init__(self, state: Path, events: View[EventMark], settings: BackpressureSettings) -> None:
        self._state = state
        self._events = events
        self._settings = settings

    async def look(self) -> Reading:
        """Add up the database and its log."""
        used = await to_thread.run_sync(self._size)
        count = sum(1 for _ in self._events.items())
        return Reading({"etcd": used / self._settings.capacity_bytes, "events": count / self._settings.events}, used)

    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._state.glob("cluster.db*") if path.is_file())


def backlog(bundles: View[BundleMark], clock: Clock, below: float) -> Callable[[], float]:
    """Return what measures how long bundles wait; never `below` or more, so that it alone sheds nothing."""

    def measured() -> float:
        now = clock.now()
        ages = [
            (now - bundle.metadata.creation_timestamp).total_seconds()
            for bundle in bundles.items()
            if bundle.status.phase not in (BundlePhase.SEALED, BundlePhase.FAILED)
            and bundle.metadata.creation_timestamp is not None
        ]
        return min(max(0.0, max(ages, default=0.0)) / OLDEST, below - 0.01)

    return measured
