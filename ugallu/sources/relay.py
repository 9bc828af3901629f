"""`AuditRelay`: the audit stream of other processes, read from their event bus as one more source of this one.

Every server has a stream of its own, which its checkpoint resumes behind the last event taken in. What a server says
that it lost is told to whoever reads. Events that two servers both have are published once. One that has heard nothing
for a while says so, through `RelayWatch`.
"""

import ipaddress
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from ugallu.api.audit import AuditRecord
from ugallu.api.bridge import BridgeSilence
from ugallu.api.observation import Batch, Checkpoint
from ugallu.bus.port import Publish
from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError, first_of
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.net.address import split_address
from ugallu.pace import Backoff
from ugallu.settings import RelaySettings

if TYPE_CHECKING:
    import datetime as dt
    import ssl

    from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

NAME: Final = "audit-bus"
SERVERS: Final = 16
"""Read at a time; more replicas than that are for NATS."""
STREAMS: Final = tuple(f"{NAME}-{slot}" for slot in range(SERVERS))
"""What its sources are called, one a server."""
MESSAGE_BYTES: Final = 32 << 20
"""A larger one ends the stream: no server of ours sends one."""
HELD_BYTES: Final = 8 << 20
HELD: Final = 4096
BATCH: Final = 512
HEARTBEAT_SECONDS: Final = 15
SILENCE: Final = 120.0
HEALTHY_SECONDS: Final = 60.0
"""A stream that lasted so long begins its backoff anew."""
RESOLVE_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 5.0
_SEEN: Final = 1 << 16
_MOST_LOST: Final = 1 << 40


class Server(NamedTuple):
    """One server of the bus: where it is, and the name that its certificate is for."""

    address: str
    port: int
    name: str

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


class Position(msgspec.Struct, frozen=True):
    """How far a server's stream was read: what a checkpoint carries."""

    server: str = ""
    instance: str = ""
    sequence: int = 0


class _Recent:
    """The latest events, over all servers: told apart by what no client chooses alone."""

    def __init__(self) -> None:
        self._young: set[int] = set()
        self._old: set[int] = set()

    def repeats(self, event: "pb.AuditEvent") -> bool:
        """Tell whether the event has come before, and remember it."""
        at = event.timestamp
        # Audit ids belong to clients: with one alone, one request could hide another.
        key = hash(
            (event.audit_id, event.stage, at.seconds, at.nanos, event.verb, event.user.username, event.request_uri)
        )
        if key in self._young or key in self._old:
            return True
        self._young.add(key)
        if len(self._young) >= _SEEN:
            self._old, self._young = self._young, set()
        return False


class Pulse:
    """When a server was heard last, however often its stream began anew."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.told = False
        """Whether its present silence was reported."""
        self.beat()

    def beat(self) -> None:
        """Something has come."""
        self.at, self.seen = self._clock.monotonic(), self._clock.now()
        self.error: UgalluError | None = None
        self.told = False


class _Stream:
    """One server's stream: what has come and is not yet published, and how far it is."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server: Server | None = server
        self.position = Position()
        self.next = 0
        self.counts: dict[str, int] = {"received": 0, "parsed": 0, "rejected": 0, "duplicate": 0}
        self.connected = False
        self.error: UgalluError | None = None
        """Why it ended."""
        self.queue: deque[pb.AuditEvent] = deque()
        self.size = 0
        self.filled = anyio.Event()
        self.emptied = anyio.Event()

    def resume(self, start: "_Start") -> None:
        """Go on in the numbers of a stream before, and behind its last event if that came from the same server."""
        if start.position.server == str(self.server):
            self.position = start.position
        self.next = start.next
        self.counts |= start.counts


class _Start(NamedTuple):
    """Where a stream begins."""

    position: Position
    next: int
    counts: dict[str, int]


class AuditRelay:
    """Reads every server that the addresses name."""

    name = NAME
    observes = AuditRecord

    def __init__(
        self,
        settings: RelaySettings,
        *,
        consumer: str,
        checkpoints: Callable[[str], Sequence[Checkpoint]],
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        """`checkpoints` returns, by source, those of everybody who must not miss anything.

        Raises `PermanentError` for settings that cannot work.
        """
        check(settings, consumer)
        self.consumer = consumer
        self.pulses: dict[Server, Pulse] = {}
        """Of every server there is now."""
        self.lost_since: dt.datetime | None = None
        """Since when no address of a server is known."""
        self._settings = settings
        self._checkpoints = checkpoints
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(source=self.name)
        self._recent = _Recent()
        self._streams: list[_Stream] = []
        self._ends: dict[str, _Start] = {}
        # One run at a time: one that was cancelled may still be leaving.
        self._turn = anyio.Lock()

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:  # noqa: ARG002 - each stream has its own
        """Publish what the servers send until cancelled.

        Raises `TransientError` or `RefusedError` when no server can be read, `PermanentError` for files that cannot.
        """
        async with self._turn:
            self._recent = _Recent()
            self._streams = []
            try:
                async with anyio.create_task_group() as tg:
                    while True:
                        await self._follow(await self._servers(), tg, publish)
                        await self._clock.sleep(RESOLVE_SECONDS)
            except BaseExceptionGroup as group:
                ours, rest = group.split(UgalluError)
                if ours is not None and rest is None:
                    raise first_of(ours) from group
                raise

    # Servers

    async def _servers(self) -> list[Server]:
        """Return every server there is now; raises `TransientError` when no name leads to one."""
        found: dict[str, Server] = {}
        for address in self._settings.addresses:
            host, port = split_address(address)
            for each in await _resolved(host, port):
                found.setdefault(str(Server(each, port, host)), Server(each, port, host))
        servers = [found[key] for key in sorted(found)][:SERVERS]
        self.pulses = {server: self.pulses.get(server) or Pulse(self._clock) for server in servers}
        if found:
            self.lost_since = None
        else:
            self.lost_since = self.lost_since or self._clock.now()
            if not self._connected:
                raise TransientError(
                    "no server of the event bus has this name",
                    where=", ".join(self._settings.addresses),
                    fix="check the name, and that eventBus.enabled serves it",
                )
        if len(found) > SERVERS:
            self._log.warning("more servers than are read at a time", servers=len(found), read=SERVERS)
        return servers

    async def _follow(self, servers: Sequence[Server], tg: anyio.abc.TaskGroup, publish: Publish) -> None:
        """Begin a stream for each server that has none; one whose server has gone ends by itself."""
        for stream in self._streams:
            if stream.server not in servers and not stream.connected:
                stream.server = None
        self._streams = [stream for stream in self._streams if stream.server is not None]
        taken = {stream.name for stream in self._streams}
        free = {name: self._start(name) for name in STREAMS if name not in taken}
        known = {stream.server for stream in self._streams}
        fresh = [server for server in servers if server not in known]
        # A server that is known from before goes on in the stream that it had.
        chosen = {server: name for server in fresh for name, at in free.items() if at.position.server == str(server)}
        others = [name for name in free if name not in chosen.values()]
        for server in fresh:
            name = chosen.get(server) or (others.pop(0) if others else "")
            if name:
                stream = _Stream(name, server)
                stream.resume(free[name])
                self._streams.append(stream)
                tg.start_soon(self._keep, stream, publish)

    def _start(self, name: str) -> _Start:
        """Return where a stream goes on: behind what its slowest reader has for good, else where it ended last."""
        point = min(self._checkpoints(name), key=lambda each: each.next, default=None)
        if point is None:
            return self._ends.get(name) or _Start(Position(), 0, {})
        try:
            position = msgspec.json.decode(point.resume, type=Position) if point.resume else Position()
        except msgspec.DecodeError:
            position = Position()
        books = ("received", "parsed", "rejected", "duplicate", "lost")
        return _Start(position, point.next, {key: point.counts[key] for key in books if key in point.counts})

    @property
    def _connected(self) -> bool:
        return any(stream.connected for stream in self._streams)

    # Streams

    async def _keep(self, stream: _Stream, publish: Publish) -> None:
        """Read one server, again with backoff when its stream ends, as long as there is one."""
        backoff = Backoff()
        while (server := stream.server) is not None:
            began = self._clock.monotonic()
            async with anyio.create_task_group() as tg:
                done = anyio.Event()
                tg.start_soon(self._read, stream, server, done)
                await self._publish(stream, publish, done)
            stream.connected = False
            self._metrics.gauge("ugallu_audit_bus_connected", 0.0, source=stream.name)
            self._ends[stream.name] = _Start(stream.position, stream.next, dict(stream.counts))
            if self._clock.monotonic() - began > HEALTHY_SECONDS:
                backoff.reset()
            error = stream.error or TransientError("the stream has ended", where=f"event bus {server}")
            if not self._connected:
                raise error
            wait = backoff.next()
            self._log.warning("no stream", server=str(server), error=str(error), seconds=round(wait, 2))
            await self._clock.sleep(wait)

    async def _read(self, stream: _Stream, server: Server, done: anyio.Event) -> None:
        """Take in one stream to its end, whatever ends it. A task of its own: see `rpc.replies`."""
        from ugallu.bus.events import METHOD
        from ugallu.net.rpc import connected, replies
        from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

        settings = self._settings
        position = stream.position
        request = pb.SubscribeRequest(
            consumer_name=self.consumer,
            resume_after_sequence=position.sequence,
            server_instance=position.instance,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        try:
            token = await _shown(settings)
            async with connected(server.address, server.port, tls=self._tls(), name=server.name) as channel:
                async for event in replies(channel, METHOD, request, pb.AuditEvent, token=token, limit=MESSAGE_BYTES):
                    stream.connected = True
                    if server in self.pulses:
                        self.pulses[server].beat()
                    while stream.size > HELD_BYTES or len(stream.queue) > HELD:
                        stream.emptied = anyio.Event()
                        await stream.emptied.wait()
                    stream.queue.append(event)
                    stream.size += _size(event)
                    stream.filled.set()
        except UgalluError as error:
            stream.error = type(error)(error.what, where=f"event bus {server}", fix=error.fix)
            if server in self.pulses:
                self.pulses[server].error = stream.error
        finally:
            done.set()
            stream.filled.set()

    def _tls(self) -> "ssl.SSLContext | None":
        from ugallu.net.rpc import PROTOCOL
        from ugallu.net.tls import client_context

        settings = self._settings
        if settings.plaintext:
            return None
        paths = (Path(text) if text else None for text in (settings.ca, settings.tls_cert, settings.tls_key))
        return client_context(*paths, protocol=PROTOCOL)

    async def _publish(self, stream: _Stream, publish: Publish, done: anyio.Event) -> None:
        """Publish what has come, until the stream has ended and all of it is published."""
        said = False
        while True:
            if not stream.queue:
                if done.is_set():
                    return
                stream.filled = anyio.Event()
                await stream.filled.wait()
                continue
            if not said:
                said = True
                self._metrics.gauge("ugallu_audit_bus_connected", 1.0, source=stream.name)
                # That it works again, should it have failed before.
                await publish(Batch(self.name, 0, ()))
            for batch in self._batches(stream):
                await publish(batch)
            stream.emptied.set()

    def _batches(self, stream: _Stream) -> list[Batch[AuditRecord]]:
        """Return what has come as batches: a duplicate keeps its number, so none spans one."""
        from ugallu.bus.events import record_of

        found: list[Batch[AuditRecord]] = []
        held: list[AuditRecord] = []
        counts = stream.counts
        first, lost, received = stream.next, 0, 0

        def close() -> None:
            nonlocal first, held, lost
            found.append(Batch(stream.name, first, held, msgspec.json.encode(stream.position), dict(counts), lost))
            first, held, lost = stream.next, [], 0

        for _ in range(min(BATCH, len(stream.queue))):
            event = stream.queue.popleft()
            stream.size -= _size(event)
            repeated = bool(event.verb) and self._recent.repeats(event)
            missing = min(event.dropped_before, _MOST_LOST)
            if held and (missing or repeated):
                close()
            if missing:
                # They have numbers as well: whoever reads again from further back finds the same ones.
                stream.next += missing
                first, lost = stream.next, lost + missing
                counts["lost"] = counts.get("lost", 0) + missing
                self._metrics.count("ugallu_audit_bus_lost_total", missing, source=stream.name)
            stream.position = Position(str(stream.server), event.server_instance, event.sequence)
            if not event.verb:
                continue
            received += 1
            stream.next += 1
            counts["received"] += 1
            counts["duplicate" if repeated else "parsed"] += 1
            if repeated:
                first = stream.next
            else:
                held.append(record_of(event))
        if received:
            self._metrics.count("ugallu_audit_bus_received_total", received, source=stream.name)
        close()
        return found


def _size(event: "pb.AuditEvent") -> int:
    return len(event.request_object) + len(event.response_object) + 512


class RelayWatch:
    """Listens to the silence of a relay's servers; a source of its own, because it observes something else."""

    name = f"{NAME}-watch"
    observes = BridgeSilence

    def __init__(self, relay: AuditRelay, clock: Clock) -> None:
        self._relay = relay
        self._clock = clock
        self._told_lost = False
        self._next = 0

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """Look every few seconds until cancelled."""
        self._next = start.next if start else 0
        while True:
            found = self.look()
            if found:
                batch = Batch(self.name, self._next, found, resume=b"-")
                self._next += len(found)
                await publish(batch)
            await self._clock.sleep(LOOK_SECONDS)

    def look(self) -> list[BridgeSilence]:
        """Return what has fallen silent, or shut us out, since the last look."""
        now, at = self._clock.monotonic(), self._clock.now()
        found: list[BridgeSilence] = []
        for server, pulse in self._relay.pulses.items():
            refused = isinstance(pulse.error, RefusedError | PermanentError)
            if pulse.told or not (refused or now - pulse.at >= SILENCE):
                continue
            pulse.told = True
            why = str(pulse.error) if pulse.error else f"no event and no heartbeat for {SILENCE:.0f} s"
            found.append(BridgeSilence(str(server), self._relay.consumer, pulse.seen, at, why))
        since = self._relay.lost_since
        if since is None:
            self._told_lost = False
        elif not self._told_lost and (at - since).total_seconds() >= SILENCE:
            self._told_lost = True
            found.append(BridgeSilence("", self._relay.consumer, since, at, "no server is known by this name"))
        return found


def check(settings: RelaySettings, consumer: str) -> None:
    """Raise `PermanentError` for settings that contradict themselves."""
    where = "--audit-bus"
    for address in settings.addresses:
        host, _ = split_address(address)
        if not host:
            raise PermanentError(f"no host in {address!r}", where=where, fix="write HOST:PORT")
    if not consumer:
        raise PermanentError(
            "as which consumer?", where=where, fix="give --audit-bus-consumer, as AuditDetectionConfig declares it"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise PermanentError("a certificate and its key", where=where, fix="give --audit-bus-cert and --audit-bus-key")
    if settings.plaintext and (settings.ca or settings.tls_cert):
        raise PermanentError("TLS and no TLS", where=where, fix="leave out --audit-bus-plaintext, or the files for TLS")


async def _resolved(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(address[0]) for *_, address in found})


async def _shown(settings: RelaySettings) -> str:
    from ugallu.net.bearer import read_token

    if not settings.token_file:
        return ""
    return await anyio.to_thread.run_sync(read_token, Path(settings.token_file))
