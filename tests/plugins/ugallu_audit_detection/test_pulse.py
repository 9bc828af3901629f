"""The watch over a followed stream: one event when it falls silent, one when its clock runs ahead."""

import datetime as dt
from collections.abc import Sequence

import anyio

from ugallu.api.audit import AuditRecord
from ugallu.api.event import ClusterIdentity
from ugallu.api.observation import Checkpoint, Finding
from ugallu.emit.port import Origin
from ugallu.testing.audit import audit_record
from ugallu.testing.clock import ManualClock, settled
from ugallu_audit_detection.pulse import INTERVAL, Pulse, Watch


class Collecting:
    """An emitter that keeps what it gets."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    @property
    def origin(self) -> Origin:
        return Origin(component="ugallu-audit-detection", emits=frozenset())

    async def submit(self, findings: Sequence[Finding], checkpoint: Checkpoint | None = None) -> None:
        self.findings += findings


class Stream:
    """A pulse with its watch, on a clock moved by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.pulse = Pulse()
        self.emitter = Collecting()
        self.watch = Watch(
            self.pulse,
            emitter=self.emitter,
            clock=self.clock,
            identity=ClusterIdentity(cluster_id="c-1", cluster_name="prod"),
        )

    def record(self, ahead: float = 0.0) -> AuditRecord:
        stamp = (self.clock.now() + dt.timedelta(seconds=ahead)).isoformat()
        return audit_record(stageTimestamp=stamp)

    async def wait(self, seconds: float) -> list[str]:
        """Let time pass in steps of the watch, and return the types of what was reported."""
        before = len(self.emitter.findings)
        for _ in range(int(seconds // INTERVAL)):
            await self.clock.advance(INTERVAL)
        return [finding.type.name for finding in self.emitter.findings[before:]]


async def test_silence_is_reported_once_and_again_after_life() -> None:
    """Five minutes without an event, and not a minute earlier; a new silence is a new fact."""
    stream = Stream()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.watch.run)
        await settled()
        stream.pulse.beat([stream.record()])
        assert await stream.wait(300) == []
        assert await stream.wait(20) == ["AuditLogStreamSilent"]
        assert await stream.wait(3000) == []
        stream.pulse.beat([stream.record()])
        assert await stream.wait(330) == ["AuditLogStreamSilent"]
        first, second = stream.emitter.findings
        assert first.correlation != second.correlation
        assert first.signals["last.event"] == "2026-01-01T00:00:00Z"
        tasks.cancel_scope.cancel()


async def test_a_stream_that_never_began_is_silent_too() -> None:
    """A wrong path must not look like peace."""
    stream = Stream()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.watch.run)
        await settled()
        assert await stream.wait(310) == ["AuditLogStreamSilent"]
        assert "last.event" not in stream.emitter.findings[0].signals
        tasks.cancel_scope.cancel()


async def test_events_from_the_future_are_reported_once() -> None:
    """More than a minute ahead of our clock; a backlog, which is behind, is not."""
    stream = Stream()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.watch.run)
        await settled()
        for ahead, expected in ((-86_400.0, []), (65.0, []), (90.0, ["ClockSkewDetected"]), (90.0, []), (0.0, [])):
            stream.pulse.beat([stream.record(ahead)])
            assert await stream.wait(INTERVAL) == expected
        stream.pulse.beat([stream.record(90.0)])
        assert await stream.wait(INTERVAL) == ["ClockSkewDetected"]
        tasks.cancel_scope.cancel()


async def test_what_is_reported_is_about_the_cluster() -> None:
    """With a snapshot of its identity."""
    stream = Stream()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.watch.run)
        await settled()
        await stream.wait(310)
        tasks.cancel_scope.cancel()
    about = stream.emitter.findings[0].about
    assert (about.kind, about.name) == ("Cluster", "prod")
