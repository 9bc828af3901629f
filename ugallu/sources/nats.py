"""Audit events over NATS: `Forwarded` writes what a source of this process sees, `StreamReader` is a source that reads.

One stream outlives the processes around it, and many may write to it; whoever detects reads all of it. Positions of
writers lie in NATS beside the events, those of readers in their own checkpoints.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
import msgspec

from ugallu.api.audit import AuditObject, AuditRecord
from ugallu.api.detection import BusBodies
from ugallu.api.observation import Batch, Checkpoint, Observation
from ugallu.bus.port import Publish
from ugallu.clock import Clock
from ugallu.errors import PermanentError, TransientError, UgalluError, first_of
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.settings import NatsSettings, Settings

if TYPE_CHECKING:
    from ugallu.bus.events import Encoder
    from ugallu.bus.jetstream import JetStream, Origin, Stored

NAME: Final = "nats"
RELEASE_SECONDS: Final = 2.0


class Reads(Protocol):
    """A source, as far as it is wrapped here."""

    @property
    def name(self) -> str:
        """As `Source`."""
        ...

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """As `Source`."""
        ...


class Nothing(msgspec.Struct, frozen=True):
    """What a writer observes: the events are the reader's. All that it publishes is that it works."""

    seen_at: dt.datetime

    def correlation(self, cluster_id: str) -> str:
        """Return what identifies it: there never is one."""
        return cluster_id


class Position(msgspec.Struct, frozen=True):
    """How far the stream was read; `made` tells one stream from another, `base` the numbers before this one."""

    made: str
    sequence: int
    base: int = 0


class Forwarded:
    """A source whose batches go to NATS: acknowledged there, they are gone from here."""

    observes: type[Observation] = Nothing

    def __init__(
        self,
        source: Reads,
        settings: NatsSettings,
        instance: str,
        *,
        redact: Callable[[Any, AuditObject | None], Any],
        scrub: Callable[[str], str],
        metrics: Metrics,
        log: Logger,
        streams: Sequence[str] = (),
    ) -> None:
        """`instance` tells this writer's events from others'; `redact` and `scrub` take out secrets first.

        `streams` are the names under which the source publishes, where it has several; each has a place of its own.
        """
        self.name = f"{source.name}-to-{NAME}"
        self._source = source
        self._settings = settings
        self._instance = instance
        self._streams = streams or (source.name,)
        self._points: dict[str, Checkpoint] = {}
        self._redact = redact
        self._scrub = scrub
        self._metrics = metrics
        self._log = log.bind(source=source.name)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """Return where the source goes on, a checkpoint for each stream: everything before is in NATS for good."""
        return list(self._points.values())

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:  # noqa: ARG002 - NATS knows the place
        """Forward until the source ends; raises `TransientError` when NATS does not answer, and as the source does."""
        from ugallu.bus.events import Encoder
        from ugallu.bus.jetstream import opened

        encoder = Encoder(self._redact, self._scrub)
        async with opened(self._settings, self._log) as stream:
            for name in self._streams:
                point = await stream.position(self._key(name))
                if point is not None:
                    self._points[name] = msgspec.structs.replace(point, source=name)
            # That it works again, should it have failed before.
            await publish(Batch(self.name, 0, ()))
            await self._source.run(partial(self._forward, stream, encoder), self._points.get(self._source.name))

    def _key(self, name: str) -> str:
        return f"{self._instance}/{name}"

    async def _forward(self, stream: "JetStream", encoder: "Encoder", batch: Batch[AuditRecord]) -> None:
        if batch.source not in self._streams:
            return
        key = self._key(batch.source)
        found = [encoded(encoder, record, stream.max_bytes) for record in batch.observations]
        messages = [(number, message) for number, message in enumerate(found, batch.first) if message]
        await stream.append(key, messages)
        end = batch.first + len(batch.observations)
        point = Checkpoint(key, NAME, next=end, resume=batch.resume, counts=batch.counts)
        await stream.moved(point)
        self._points[batch.source] = msgspec.structs.replace(point, source=batch.source)
        self._metrics.count("ugallu_audit_bus_sent_total", len(messages), consumer=NAME)
        if len(messages) < len(found):
            dropped = len(found) - len(messages)
            self._metrics.count("ugallu_audit_bus_dropped_total", dropped, consumer=NAME, reason="size")
            self._log.error("events larger than NATS takes are lost; raise its max_payload", events=dropped)


class StreamReader:
    """The stream as a source: it goes on behind its slowest reader's checkpoint."""

    name = NAME
    observes = AuditRecord

    def __init__(
        self,
        settings: NatsSettings,
        *,
        checkpoints: Callable[[str], Sequence[Checkpoint]],
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        """`checkpoints` returns, by source, those of everybody who must not miss anything.

        Raises `PermanentError` for settings that cannot work.
        """
        check(settings)
        self.reading = anyio.Event()
        """Set once it reads."""
        self._last: Checkpoint | None = None
        self._settings = settings
        self._checkpoints = checkpoints
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(source=self.name)
        # One run at a time: one that was cancelled may still be leaving.
        self._turn = anyio.Lock()

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """Publish until cancelled; raises `TransientError` when NATS does not answer."""
        from ugallu.bus.jetstream import opened

        async with self._turn:
            try:
                async with opened(self._settings, self._log) as stream, anyio.create_task_group() as tg:
                    tg.start_soon(self._release, stream)
                    # Nobody has anything of it for good: then what was published last lies in rings.
                    await self._read(stream, publish, start or self._last)
            except BaseExceptionGroup as group:
                ours, rest = group.split(UgalluError)
                if ours is not None and rest is None:
                    raise first_of(ours) from group
                raise
            finally:
                self._metrics.gauge("ugallu_audit_bus_connected", 0.0, source=self.name)

    async def _read(self, stream: "JetStream", publish: Publish, start: Checkpoint | None) -> None:
        origin = await stream.origin()
        reader = self._settings.reader
        first, base = begin(origin, start, await stream.floor(reader))
        counts = {name: start.counts.get(name, 0) if start else 0 for name in ("received", "parsed", "rejected")}
        lost = max(0, origin.first - first)
        first = max(first, origin.first)
        if lost:
            counts["lost"] = (start.counts.get("lost", 0) if start else 0) + lost
        # Where it begins, so that a checkpoint stands there before the first event.
        at = Position(origin.made, first - 1, base)
        await publish(Batch(self.name, base + first - 1, (), msgspec.json.encode(at), dict(counts), lost))
        self._metrics.gauge("ugallu_audit_bus_connected", 1.0, source=self.name)
        self.reading.set()
        async for stored in stream.read(reader, first):
            for batch in self._batches(stored, at, counts):
                await publish(batch)
                at = msgspec.json.decode(batch.resume, type=Position)
                end = batch.first + len(batch.observations)
                self._last = Checkpoint(self.name, "", next=end, resume=batch.resume, counts=batch.counts)

    def _batches(self, stored: "Sequence[Stored]", at: Position, counts: dict[str, int]) -> list[Batch[AuditRecord]]:
        """Return what was fetched as batches without a gap; what is missing between two is lost, and told."""
        found: list[Batch[AuditRecord]] = []
        held: list[AuditRecord] = []
        lost = 0

        def close() -> None:
            nonlocal held, lost
            number = at.base + at.sequence - len(held)
            found.append(Batch(self.name, number, held, msgspec.json.encode(at), dict(counts), lost))
            held, lost = [], 0

        for message in stored:
            missing = message.sequence - at.sequence - 1
            record = _record(message.data)
            if held and (missing or record is None):
                close()
            if missing:
                lost += missing
                counts["lost"] = counts.get("lost", 0) + missing
                self._metrics.count("ugallu_audit_bus_lost_total", missing, source=self.name)
            at = msgspec.structs.replace(at, sequence=message.sequence)
            counts["received"] += 1
            counts["parsed" if record is not None else "rejected"] += 1
            if record is not None:
                held.append(record)
        if held or lost:
            close()
        if stored:
            self._metrics.count("ugallu_audit_bus_received_total", len(stored), source=self.name)
        return found

    async def _release(self, stream: "JetStream") -> None:
        """Let NATS know how far everybody has come for good."""
        while True:
            await self._clock.sleep(RELEASE_SECONDS)
            done = [_position(point).sequence for point in self._checkpoints(self.name) if point.resume]
            if done:
                await stream.acknowledge(min(done))


def begin(origin: "Origin", start: Checkpoint | None, floor: int) -> tuple[int, int]:
    """Return the first sequence to read, and what to add to a sequence for its number.

    A checkpoint decides; without one it is what was acknowledged last, and else everything that there is. In a stream
    that was made anew everything is new, and its numbers go on behind the old ones.
    """
    if start is None or not start.resume:
        return floor + 1 if floor else origin.first, 0
    at = _position(start)
    if at.made == origin.made and at.sequence <= origin.last:
        return at.sequence + 1, at.base
    return origin.first, max(start.next - (origin.first - 1), at.base)


def encoded(encoder: "Encoder", record: AuditRecord, most: int) -> bytes:
    """Return an event as NATS takes it: bodies as far as there is room; empty when there is none for the event."""
    from ugallu.bus.events import Shape

    head = encoder.metadata(record)
    room = most - len(head) - 64
    for shape in (Shape(BusBodies.ALL, room), Shape(BusBodies.REQUEST, room), Shape(BusBodies.NONE, 0)):
        message = head + encoder.bodies(record, shape)
        if len(message) <= most:
            return message
    return b""


def forwarded(
    settings: Settings,
    *,
    redact: Callable[[Any, AuditObject | None], Any],
    scrub: Callable[[str], str],
    clock: Clock,
    metrics: Metrics,
    log: Logger,
) -> list[Any]:
    """Return the sources of this process's audit logs, made to write to NATS.

    Raises `PermanentError` for settings that cannot work, and where there is nothing to forward.
    """
    check(settings.bus)
    audit = settings.audit
    made: list[Forwarded] = []
    others: list[Any] = []

    def forward(source: Reads, streams: Sequence[str] = ()) -> None:
        made.append(
            Forwarded(
                source,
                settings.bus,
                settings.instance,
                redact=redact,
                scrub=scrub,
                metrics=metrics,
                log=log,
                streams=streams,
            )
        )

    def done(source: str) -> Sequence[Checkpoint]:
        return [point for each in made for point in each.checkpoints() if point.source == source]

    if audit.files:
        from ugallu.sources.audit_file import audit_files

        for source in audit_files(audit, clock=clock, metrics=metrics, log=log):
            forward(source)
    if audit.webhook.listen:
        from ugallu.sources.audit_webhook import audit_webhook

        spool, receiver = audit_webhook(
            audit.webhook,
            settings.state_dir,
            max_event_bytes=audit.max_line_bytes,
            checkpoints=done,
            clock=clock,
            metrics=metrics,
            log=log,
        )
        forward(spool)
        others.append(receiver)
    if audit.bus.addresses:
        from ugallu.sources.relay import STREAMS, AuditRelay

        consumer = audit.bus.consumer or "ingest"
        relay = AuditRelay(audit.bus, consumer=consumer, checkpoints=done, clock=clock, metrics=metrics, log=log)
        forward(relay, STREAMS)
    if not made:
        fix = "give --audit-log FILE, --webhook HOST:PORT or --audit-bus HOST:PORT"
        raise PermanentError("no audit log to forward", where="--bus", fix=fix)
    return [*made, *others]


def check(settings: NatsSettings) -> None:
    """Raise `PermanentError` for settings that contradict themselves."""
    where = "--bus"
    scheme, _, rest = settings.url.partition("://")
    if scheme not in ("nats", "tls") or not rest:
        raise PermanentError(f"no address of NATS: {settings.shown!r}", where=where, fix="write tls://HOST:4222")
    if "@" in rest:
        raise PermanentError(
            "credentials in the address", where=where, fix="give --bus-credentials FILE or --bus-token-file FILE"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise PermanentError("a certificate and its key", where=where, fix="give --bus-cert and --bus-key")
    if settings.plaintext and (settings.ca or settings.tls_cert or scheme == "tls"):
        raise PermanentError("TLS and no TLS", where=where, fix="leave out --bus-plaintext, or the files for TLS")
    if settings.credentials and settings.token_file:
        raise PermanentError("two credentials", where=where, fix="give --bus-credentials or --bus-token-file")


def _record(data: bytes) -> AuditRecord | None:
    from google.protobuf.message import DecodeError

    from ugallu.bus.events import record_of
    from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

    try:
        event = pb.AuditEvent.FromString(data)
    except DecodeError:
        return None
    return record_of(event) if event.verb else None


def _position(point: Checkpoint) -> Position:
    try:
        return msgspec.json.decode(point.resume, type=Position)
    except msgspec.DecodeError as error:
        raise TransientError("a checkpoint that is not ours", where=NAME, fix="remove the state directory") from error
