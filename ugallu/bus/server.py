"""`BusServer`: the feed over gRPC, a cursor for each stream (`ugallu.auditstream.v1.AuditStream`)."""

from collections import Counter
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

from ugallu.api.detection import AuditDetectionPriority
from ugallu.bus.events import METHOD, heartbeat
from ugallu.bus.feed import Cursor, Feed
from ugallu.bus.lanes import MAX_GLOBS
from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.net.bearer import BearerToken
from ugallu.net.rpc import LIMITS, Limits, RpcServer, Servable, Stream, request_of, send, server_streaming
from ugallu.net.tls import ServerTls
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

STREAMS: Final = 128
"""More at a time are refused."""
TICK_SECONDS: Final = 1.0
SLOWEST_HEARTBEAT: Final = 300.0


class BusServer:
    """Serves a feed until cancelled; its streams are told to come back elsewhere, or later, behind what they have."""

    def __init__(
        self,
        feed: Feed,
        address: str,
        *,
        tls: ServerTls | None,
        token: BearerToken | None,
        limits: Limits = LIMITS,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
    ) -> None:
        self._feed = feed
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._closing = False
        self._open = 0
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._named: set[str] = set()
        method = server_streaming(self._subscribe, pb.SubscribeRequest, pb.AuditEvent)
        self._server = RpcServer(
            address,
            [Servable({METHOD: method}, self._close)],
            tls=tls,
            token=token,
            limits=limits,
            clock=clock,
            log=log,
            unauthenticated=lambda: metrics.count("ugallu_audit_bus_auth_failures_total"),
        )

    async def serve(self, *, task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started with the port. Raises `PermanentError` when the address cannot be had."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._tick)
            await self._server.serve(task_status=task_status)

    def _close(self) -> None:
        self._closing = True
        self._feed.poke()

    async def _tick(self) -> None:
        """Wake the streams for their heartbeats, let go of what is old, and tell the books."""
        while True:
            await self._clock.sleep(TICK_SECONDS)
            self._feed.age()
            self._feed.poke()
            self.tell()

    def tell(self) -> None:
        """Bring the metrics up to date."""
        streams = self._feed.streams
        for gone in self._named - streams.keys():
            self._metrics.gauge("ugallu_audit_bus_subscribers", 0.0, consumer=gone)
            self._metrics.gauge("ugallu_audit_bus_queue_depth", 0.0, consumer=gone)
        self._named = set(streams)
        for name, lane in self._feed.lanes.items():
            self._metrics.gauge("ugallu_audit_bus_subscribers", streams[name], consumer=name)
            self._metrics.gauge("ugallu_audit_bus_queue_depth", self._feed.waiting(name), consumer=name)
            for reason, count in lane.dropped.items():
                fresh = count - self._dropped[name, reason]
                if fresh > 0:
                    self._metrics.count("ugallu_audit_bus_dropped_total", fresh, consumer=name, reason=reason)
                self._dropped[name, reason] = count

    async def _subscribe(self, stream: Stream) -> None:
        request = await request_of(stream)
        cursor = self._cursor(request)
        self._open += 1
        self._log.info("a consumer has come", consumer=cursor.consumer, streams=self._feed.streams[cursor.consumer])
        try:
            await stream.send_initial_metadata()
            await self._follow(stream, cursor, _interval(request.heartbeat_seconds))
        finally:
            self._open -= 1
            cursor.close()
            self._log.info("a consumer has gone", consumer=cursor.consumer, sent=cursor.sent)

    def _cursor(self, request: pb.SubscribeRequest) -> Cursor:
        if self._open >= STREAMS:
            raise TransientError(f"{STREAMS} streams are open", fix="come back later")
        if not request.consumer_name:
            raise PermanentError("no consumer_name", fix="name a consumer that AuditDetectionConfig declares")
        if len(request.priority) > MAX_GLOBS:
            raise PermanentError(f"more than {MAX_GLOBS} priorities")
        return self._feed.subscribe(
            request.consumer_name,
            after=request.resume_after_sequence,
            instance=request.server_instance,
            bodies=request.want_bodies if request.HasField("want_bodies") else True,
            priority=[
                AuditDetectionPriority(
                    resources=tuple(each.resources), namespaces=tuple(each.namespaces), names=tuple(each.names)
                )
                for each in request.priority
            ],
        )

    async def _follow(self, stream: Stream, cursor: Cursor, interval: float) -> None:
        said = float("-inf")
        while True:
            # Taken before the look: what comes in between sets it.
            changed = self._feed.changed
            messages = cursor.take()
            now = self._clock.monotonic()
            if messages:
                await send(stream, messages)
                self._metrics.count("ugallu_audit_bus_sent_total", len(messages), consumer=cursor.consumer)
                said = now
                await anyio.lowlevel.checkpoint()
                continue
            if self._closing:
                raise TransientError("the server is stopping", fix="subscribe again behind what you have")
            if cursor.closed:
                raise RefusedError("the consumer is not declared any more", where=cursor.consumer)
            if now - said >= interval:
                await send(stream, [heartbeat(cursor.sequence, self._feed.instance, self._clock.now())])
                said = now
                continue
            await changed.wait()


def _interval(seconds: int) -> float:
    """Return the pause between heartbeats; a consumer that knows of none gets none."""
    return min(float(seconds), SLOWEST_HEARTBEAT) if seconds else float("inf")
