"""`Worker`: one operator's detectors over one type of observation, from the bus's ring to the emitter.

A checkpoint leaves with the findings that it covers, or later, never before. Batches that prove nothing share a
checkpoint, so that a replay is not bound by fsyncs; a crash in between costs another look at them and nothing else.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import anyio
import msgspec
import structlog

from ugallu.api.observation import Batch, Checkpoint, Finding
from ugallu.bus.port import Subscription
from ugallu.clock import Clock
from ugallu.emit.port import ReportingEmitter
from ugallu.metrics import Metrics
from ugallu.operator.contract import BatchDetector, Detector, Keeps
from ugallu.pace import TokenBucket
from ugallu.supervisor.guard import attempt_now, completed, one_by_one, whole
from ugallu.supervisor.positions import SERIAL, Positions, WorkerState, worker_state

IDLE_BATCHES = 64
IDLE_SECONDS = 1.0
"""A checkpoint without findings waits for so many batches or so long."""
BUS_OVERFLOW = "bus_overflow"
"""Why observations were lost that a full ring dropped."""


def detector_name(detector: Detector[Any]) -> str:
    """Return the name under which a detector's state and errors are kept: its `name`, else its class's."""
    name = getattr(detector, "name", "")
    return name if isinstance(name, str) and name else type(detector).__name__


class Worker:
    """Runs until the bus is closed and the ring is empty."""

    def __init__(
        self,
        subscriber: str,
        observes: type[Any],
        detectors: Sequence[Detector[Any]],
        *,
        subscription: Subscription[Any],
        emitter: ReportingEmitter,
        positions: Positions,
        metrics: Metrics,
        clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.subscriber = subscriber
        self.observes = observes
        self._subscription = subscription
        self._emitter = emitter
        self._positions = positions
        self._metrics = metrics
        self._clock = clock
        self._log = log.bind(observes=observes.__name__)
        self._complaints = TokenBucket(rate=0.1, burst=5)
        self._unsaid = 0
        self._changed = changed
        self._lock = anyio.Lock()
        self._held: Batch[Any] | None = None
        self._batches = 0
        self._serial = positions.serial(subscriber)
        self._next: dict[str, int] = {}
        self._states: dict[str, WorkerState] = {}
        self._due: tuple[list[Finding], Checkpoint] | None = None
        self._since = clock.monotonic()
        self._detectors: tuple[Detector[Any], ...] = ()
        self._snapshots: dict[str, bytes] = {}
        self._adopt(detectors, lambda name: positions.state(subscriber, name))

    async def run(self) -> None:
        """Work the ring empty, batch by batch; return at the end of the stream, with everything submitted."""
        await self.flush()
        # A batch stays held until it is taken in whole: a worker that is started again after an error begins with it.
        while (batch := self._held or await self._subscription.receive()) is not None:
            self._held = batch
            async with self._lock:
                await self._take(batch)
            self._held = None
            self._changed()
        await self.flush()

    async def flush(self) -> None:
        """Submit a checkpoint that is still waiting for company, and report what the ring has lost."""
        async with self._lock:
            await self._submit()
            if losses := self._subscription.losses():
                await self._emitter.lost(BUS_OVERFLOW, losses, self._clock.now())

    async def replace(self, detectors: Sequence[Detector[Any]]) -> None:
        """Go on with these detectors; one that is called as before takes over its predecessor's windows and books."""
        async with self._lock:
            await self._submit()
            old = {detector_name(d): d.snapshot() for d in self._detectors if isinstance(d, Keeps)}
            self._adopt(detectors, old.get)

    def inspected(self, source: str) -> int:
        """Return the number of the first observation of this source not yet inspected."""
        known = self._next.get(source)
        if known is None:
            point = self._positions.of(source, self.subscriber)
            known = point.next if point else 0
        return known

    def close(self) -> None:
        """Leave the bus: its publishers no longer wait for this worker."""
        self._subscription.close()

    async def _take(self, batch: Batch[Any]) -> None:
        if self._due is not None and self._due[1].source != batch.source:
            # The windows to come will hold what the other source brought up to here: so must its checkpoint.
            await self._submit()
        if batch.source not in self._next:
            point = self._positions.of(batch.source, self.subscriber)
            self._next[batch.source] = point.next if point else 0
            self._states[batch.source] = worker_state(point)
        known = self._next[batch.source]
        end = batch.first + len(batch.observations)
        if end > known or not batch.observations:
            fresh = batch.observations[known - batch.first :] if known > batch.first else batch.observations
            findings = self._inspect(batch.source, fresh)
            self._next[batch.source] = max(known, end)
            earlier = self._due[0] if self._due else []
            if self._due is None:
                self._batches, self._since = 0, self._clock.monotonic()
            self._due = (earlier + findings, self._checkpoint(batch))
            self._batches += 1
        if self._due and (
            self._due[0] or self._batches >= IDLE_BATCHES or self._clock.monotonic() - self._since >= IDLE_SECONDS
        ):
            await self._submit()

    def _inspect(self, source: str, seen: Sequence[Any]) -> list[Finding]:
        if not seen:
            return []
        found: list[tuple[int, Finding]] = []
        state = self._states[source]
        matched, failures, booked = state.matched, 0, dict(state.booked)
        for detector in self._detectors:
            name = detector_name(detector)
            books = dict(detector.books()) if isinstance(detector, Keeps) else None
            hits, errors = self._sweep(detector, name, seen)
            hits, unfinished = completed(hits, seen, self._emitter.origin.cluster.cluster_id)
            errors += unfinished
            found += hits
            if books is None:
                matched += len(hits)
            elif isinstance(detector, Keeps):
                for key, value in detector.books().items():
                    booked[key] = booked.get(key, 0) + max(0, value - books.get(key, 0))
            if errors:
                failures += len({index for index, _ in errors})
                self._metrics.count(
                    "ugallu_detector_errors_total", len(errors), operator=self.subscriber, detector=name
                )
                self._complain(name, errors[0][1], len(errors))
        found.sort(key=lambda pair: pair[0])
        self._states[source] = WorkerState(self._serial, matched, state.failed + failures, booked)
        return [finding for _, finding in found]

    def _sweep(
        self, detector: Detector[Any], name: str, seen: Sequence[Any]
    ) -> tuple[list[tuple[int, Finding]], list[tuple[int, Exception]]]:
        if isinstance(detector, BatchDetector):
            before = self._snapshots.get(name) or (detector.snapshot() if isinstance(detector, Keeps) else None)
            hits = whole(detector, seen)
            if hits is not None:
                self._snapshots.pop(name, None)
                return hits, []
            if isinstance(detector, Keeps) and before is not None:
                # The batch was half taken in: back to its beginning, then on foot.
                detector.restore(before)
        self._snapshots.pop(name, None)
        return one_by_one(detector, seen)

    def _checkpoint(self, batch: Batch[Any]) -> Checkpoint:
        state = self._states[batch.source]
        books = dict(state.booked)
        books["matched"] = books.get("matched", 0) + state.matched
        if state.failed:
            books["failed"] = state.failed
        return Checkpoint(
            source=batch.source,
            subscriber=self.subscriber,
            next=self._next[batch.source],
            resume=batch.resume,
            counts={**batch.counts, **books},
        )

    async def _submit(self) -> None:
        if self._due is None:
            return
        findings, point = self._due
        self._serial += 1
        state = msgspec.structs.replace(self._states[point.source], serial=self._serial)
        for detector in self._detectors:
            if isinstance(detector, Keeps):
                self._snapshots[detector_name(detector)] = detector.snapshot()
        point = msgspec.structs.replace(point, states={SERIAL: msgspec.json.encode(state), **self._snapshots})
        await self._emitter.submit(findings, point)
        self._positions.put(point)
        self._due = None

    def _adopt(self, detectors: Sequence[Detector[Any]], state_of: Callable[[str], bytes | None]) -> None:
        for detector in detectors:
            name = detector_name(detector)
            state = state_of(name)
            if state is not None and isinstance(detector, Keeps):
                error = attempt_now(partial(detector.restore, state))
                if error is not None:
                    self._log.warning(
                        "detector state not taken over; it starts afresh", detector=name, error=str(error)
                    )
        self._detectors = tuple(detectors)
        self._snapshots = {}

    def _complain(self, detector: str, error: Exception, count: int) -> None:
        if self._complaints.take(self._clock.monotonic()):
            self._log.error(
                "detector failed; observation lost to it",
                detector=detector,
                count=count,
                unsaid=self._unsaid,
                exc_info=error,
            )
            self._unsaid = 0
        else:
            self._unsaid += count
