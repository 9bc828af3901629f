"""gRPC as the house needs it, on grpclib: long streams to few callers, all known, over TLS.

A server asks each request for its token before it looks at anything else, takes over certificates and token as they
change, bounds what callers may cost, and at its end tells every stream so before it cuts what is left. A client bounds
what one message may weigh, and translates what can go wrong.

grpclib and the messages cost a process some 9 MiB: import this module where a stream is served or read.
"""

import asyncio
import dataclasses
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import anyio.abc
import grpclib.client
import grpclib.protocol
import grpclib.server
import h2.exceptions
import msgspec
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.events import RecvRequest, listen
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from ugallu.clock import Clock
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError
from ugallu.logs import Logger
from ugallu.net.bearer import BearerToken
from ugallu.net.listen import Doors, bind
from ugallu.net.tls import ServerTls
from ugallu.pace import TokenBucket

PROTOCOL: Final = "h2"
"""What both sides of TLS agree to speak."""
RELOAD_SECONDS: Final = 5.0
_PREFIX: Final = struct.Struct(">?I")
_PING: Final = Configuration(
    _keepalive_time=20.0,
    _keepalive_timeout=20.0,
    _keepalive_permit_without_calls=True,
    _http2_max_pings_without_data=0,
    _http2_min_sent_ping_interval_without_data=10.0,
)
"""A peer that is gone without a word is noticed within 40 s, by both sides."""
_REFUSALS: Final = {Status.UNAUTHENTICATED, Status.PERMISSION_DENIED}
_FAULTS: Final = {Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED, Status.FAILED_PRECONDITION}
_STRAYS: Final = (
    h2.exceptions.ProtocolError,
    AttributeError,
    KeyError,
    NotImplementedError,
    UnicodeError,
    ValueError,
)
"""What bytes that are no HTTP/2 can raise in grpclib and h2, which take peers for well-behaved."""

Stream = grpclib.server.Stream[Any, Any]
"""One call, as its handler sees it."""


Message = Any
"""A generated message."""


class Limits(msgspec.Struct, frozen=True):
    """What callers may cost a server."""

    connections: int = 128
    per_address: int = 32
    known_seconds: float = 10.0
    """For the handshake, and again until the first request that shows who calls."""
    request_bytes: int = 1 << 16
    drain_seconds: float = 3.0
    """At the end, for streams that were told to."""


LIMITS: Final = Limits()


class Servable(msgspec.Struct, frozen=True):
    """A service: its methods by path, and how its streams are told to end."""

    methods: dict[str, Handler]
    close: Callable[[], None] = lambda: None

    def __mapping__(self) -> dict[str, Handler]:
        """Return the methods, as grpclib asks for them."""
        return self.methods


class RpcServer:
    """Serves until cancelled."""

    def __init__(
        self,
        address: str,
        services: Collection[Servable],
        *,
        tls: ServerTls | None,
        token: BearerToken | None,
        limits: Limits = LIMITS,
        clock: Clock,
        log: Logger,
        unauthenticated: Callable[[], None] = lambda: None,
    ) -> None:
        """Without `tls` all is readable on the way; `unauthenticated` is called for each call without the token."""
        self._address = address
        self._services = services
        self._tls = tls
        self._token = token
        self._limits = limits
        self._clock = clock
        self._log = log
        self._unauthenticated = unauthenticated
        self._links: dict[Any, _Link] = {}
        self._doors = Doors(limits.connections, limits.per_address, clock=clock, refused=self._refused)
        self._complaints = TokenBucket(rate=0.1, burst=5)
        self._server = _Server(services, self._limits)
        listen(self._server, RecvRequest, self._admit)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled, then end every stream; started with the port once callers can connect.

        Raises `PermanentError` when the address cannot be had.
        """
        with bind(self._address) as listener, _quiet(self._complain):
            try:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._refresh)
                    task_status.started(listener.getsockname()[1])
                    await self._doors.admit(listener, tg, self._converse)
            finally:
                listener.close()
                with anyio.CancelScope(shield=True):
                    await self._drain()

    async def _converse(self, caller: socket.socket, peer: str) -> None:
        try:
            _, link = await asyncio.get_running_loop().connect_accepted_socket(
                self._server.link,
                caller,
                ssl=self._tls.context if self._tls else None,
                ssl_handshake_timeout=self._limits.known_seconds if self._tls else None,
                ssl_shutdown_timeout=1.0 if self._tls else None,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            caller.close()
            why = getattr(error, "reason", None) or str(error) or type(error).__name__
            self._complain("no TLS connection with a caller", peer=peer, error=why)
            return
        place = link.place
        self._links[place] = link
        try:
            with anyio.move_on_after(self._limits.known_seconds):
                await link.known.wait()
            if not link.known.is_set():
                link.cut()
            await link.gone.wait()
        finally:
            if link.gone.is_set():
                self._links.pop(place, None)

    async def _admit(self, request: RecvRequest) -> None:
        """Let a call through that shows the token; whoever has none is not kept."""
        if self._token is not None and not self._token.shown_in(str(request.metadata.get("authorization", ""))):
            self._unauthenticated()
            raise GRPCError(Status.UNAUTHENTICATED, "show the bearer token")
        link = self._links.get(request.peer.addr())
        if link is not None:
            link.known.set()

    async def _refresh(self) -> None:
        """Take over certificates and token as they change; what cannot be used is told once, and changes nothing.

        Whoever came in by the ones before comes in again, by the new ones: a lost token opens nothing any more.
        """
        watched: tuple[ServerTls | BearerToken | None, ...] = (self._tls, self._token)
        while True:
            await self._clock.sleep(RELOAD_SECONDS)
            for files in watched:
                try:
                    if files is not None and files.refresh():
                        self._log.info("read again", what=type(files).__name__)
                        for link in tuple(self._server.links):
                            link.cut()
                except PermanentError as error:
                    self._log.error("cannot be taken over; the one before stays in use", error=str(error))

    async def _drain(self) -> None:
        for service in self._services:
            service.close()
        with anyio.move_on_after(self._limits.drain_seconds):
            for link in self._server.links:
                await link.idle()
        for link in tuple(self._server.links):
            link.end()
        with anyio.move_on_after(1.0):
            for link in tuple(self._server.links):
                await link.gone.wait()
        for link in tuple(self._server.links):
            link.cut()

    def _refused(self, event: str, peer: str, error: str) -> None:
        self._complain(event, **{name: text for name, text in (("peer", peer), ("error", error)) if text})

    def _complain(self, event: str, **about: str) -> None:
        """Log what strangers can cause, at a bounded rate."""
        if self._complaints.take(self._clock.monotonic()):
            self._log.warning(event, **about)


async def request_of(stream: Stream, limit: int = LIMITS.request_bytes) -> Message:
    """Return a call's request; raises `GRPCError` when there is none or it is too large."""
    _bound(stream._stream, limit)  # noqa: SLF001 - grpclib reads whatever length a caller announces
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "no request")
    return request


async def send(stream: Stream, messages: Sequence[bytes]) -> None:
    """Send encoded messages in one go: each alone would cost a frame, a TLS record and a write."""
    framed = b"".join([part for message in messages for part in (_PREFIX.pack(False, len(message)), message)])
    await stream._stream.send_data(framed)  # noqa: SLF001 - its own way takes one message


def refusal(error: UgalluError) -> GRPCError:
    """Return what ends a call with this error on the other side: the inverse of `translated`."""
    if isinstance(error, RefusedError):
        status = Status.PERMISSION_DENIED
    elif isinstance(error, PermanentError):
        status = Status.INVALID_ARGUMENT
    else:
        status = Status.UNAVAILABLE
    return GRPCError(status, str(error))


def server_streaming(
    call: Callable[[Stream], Awaitable[None]], request: type[Message], reply: type[Message]
) -> Handler:
    """Return a method that answers one request with a stream; an `UgalluError` that it raises ends the stream."""

    async def handle(stream: Stream) -> None:
        try:
            await call(stream)
        except UgalluError as error:
            raise refusal(error) from error

    return Handler(handle, Cardinality.UNARY_STREAM, request, reply)


@asynccontextmanager
async def connected(
    host: str, port: int, *, tls: ssl.SSLContext | None, name: str = ""
) -> AsyncIterator[grpclib.client.Channel]:
    """Lend a channel to a server; `name` is what its certificate must be for (default: the host)."""
    config = dataclasses.replace(_PING, ssl_target_name_override=name or None)
    channel = grpclib.client.Channel(host, port, ssl=tls, config=config)
    try:
        yield channel
    finally:
        channel.close()


async def replies(
    channel: grpclib.client.Channel,
    path: str,
    request: Message,
    reply: type[Message],
    *,
    token: str,
    limit: int,
) -> AsyncIterator[Message]:
    """Yield the messages of a server's stream until it ends; raises as `translated` says.

    Read it in a task of its own: a stream that is cut leaves the task that read it marked as cancelled.
    """
    method = grpclib.client.UnaryStreamMethod(channel, path, type(request), reply)
    metadata = {"authorization": f"Bearer {token}"} if token else None
    try:
        async with method.open(metadata=metadata) as stream:
            await stream.send_message(request, end=True)
            await stream.recv_initial_metadata()
            _bound(stream._stream, limit)  # noqa: SLF001 - as above
            while (message := await stream.recv_message()) is not None:
                yield message
            # grpclib does not look at how it ended once the connection is closing.
            await stream.recv_trailing_metadata()
    except (GRPCError, StreamTerminatedError, ProtocolError, AssertionError, OSError) as error:
        raise translated(error) from error


def translated(error: Exception) -> UgalluError:
    """Return what a failed call means for its caller: `RefusedError`, `PermanentError`, else `TransientError`."""
    if isinstance(error, GRPCError):
        said = f"{error.status.name.lower().replace('_', ' ')}: {error.message or 'no reason given'}"
        if error.status in _REFUSALS:
            return RefusedError(said, fix="give the token that it asks for, and a consumer that it declares")
        return PermanentError(said) if error.status in _FAULTS else TransientError(said)
    if isinstance(error, ssl.SSLCertVerificationError):
        return TransientError(f"its certificate: {error.verify_message}", fix="give the CA that signed it")
    if isinstance(error, ssl.SSLError):
        return TransientError(f"no TLS connection: {error.reason or error}")
    return TransientError(getattr(error, "strerror", None) or str(error) or type(error).__name__)


class _Server(grpclib.server.Server):
    """grpclib's server without its way to listen: connections are handed to it."""

    def __init__(self, services: Collection[Servable], limits: Limits) -> None:
        super().__init__(services, config=_PING)
        self.links: set[_Link] = set()
        self.limits = limits

    def link(self) -> "_Link":
        """Return the protocol of a new connection."""
        plain = self._protocol_factory()
        link = _Link(plain.handler, plain.config, plain.h2_config)
        link.all = self.links
        return link


class _Link(grpclib.protocol.H2Protocol):
    """A connection: when it is known who calls, and when it has gone."""

    handler: grpclib.server.Handler
    all: "set[_Link]"

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - grpclib's
        super().__init__(*args)
        self.known = anyio.Event()
        self.gone = anyio.Event()
        self.place: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self.place = transport.get_extra_info("peername")
        self.all.add(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Read; a peer that speaks something else is cut off."""
        try:
            super().data_received(data)
        except _STRAYS:
            self.cut()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        super().connection_lost(exc)
        self.all.discard(self)
        self.known.set()
        self.gone.set()

    async def idle(self) -> None:
        """Wait until no call is under way."""
        tasks = [task for task in self.handler._tasks.values() if not task.done()]  # noqa: SLF001
        if tasks:
            await asyncio.wait(tasks)

    def end(self) -> None:
        """Cancel what is under way and close."""
        self.handler.close()
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.close()

    def cut(self) -> None:
        """Close without a word."""
        assert isinstance(self._transport, asyncio.Transport)
        self._transport.abort()


def _bound(stream: grpclib.protocol.Stream, limit: int) -> None:
    """Refuse to wait for a message that is announced as larger than this."""
    read = stream.recv_data

    async def recv_data(size: int) -> bytes:
        if size > limit:
            raise GRPCError(Status.RESOURCE_EXHAUSTED, f"a message of {size} bytes, the limit is {limit}")
        return await read(size)

    setattr(stream, "recv_data", recv_data)  # noqa: B010 - of this one stream


class _Said(logging.Handler):
    """What grpclib says of callers: theirs to mind, so at a bounded rate and without their words."""

    def __init__(self, complain: Callable[..., None]) -> None:
        super().__init__(logging.WARNING)
        self._complain = complain

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on that something failed."""
        error = record.exc_info[1] if record.exc_info else None
        self._complain("a call failed", error=f"{record.msg}: {type(error).__name__}" if error else str(record.msg))


class _quiet:  # noqa: N801 - used as a function
    """While it lasts, grpclib's log goes to `complain`."""

    def __init__(self, complain: Callable[..., None]) -> None:
        self._handler = _Said(complain)
        self._logger = logging.getLogger("grpclib")

    def __enter__(self) -> None:
        self._logger.addHandler(self._handler)
        self._logger.propagate = False

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self._handler)
