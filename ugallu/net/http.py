"""`HttpsServer`: the server's side of HTTP as the house needs it, on aiohttp: few routes, few callers, all known.

Who calls is asked before anything else is looked at. Everything is bounded: connections, in all and from one address,
heads, bodies, what all bodies take together, and the time that a caller may take for each. Certificates and token are
read again when their files change; open connections end after their next answer then, and none is cut.

aiohttp costs a process some 15 MiB: import this module where a server is configured, and nowhere else.
"""

import asyncio
import logging
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

import anyio
import anyio.abc
import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.logs import Logger
from ugallu.net.bearer import BearerToken
from ugallu.net.listen import Doors, bind
from ugallu.net.room import Room
from ugallu.net.tls import ServerTls
from ugallu.pace import TokenBucket

RELOAD_SECONDS: Final = 5.0
_LINE_BYTES: Final = 8190
_READ_BYTES: Final = 1 << 18
_LINGER_SECONDS: Final = 2.0
"""How long the rest of a refused body is read, so that the caller sees the answer and no reset."""
_PLAIN: Final = ("", "identity")
_JSON: Final = "application/json"


class Limits(msgspec.Struct, frozen=True):
    """What a caller may cost."""

    body_bytes: int = 64 << 20
    """Of one body, decompressed; also of all bodies at a time."""
    connections: int = 256
    per_address: int = 64
    """Connections from one address: one bad neighbour must not take all of them."""
    head_seconds: float = 10.0
    """For the handshake, and again for the head of the first request."""
    body_seconds: float = 25.0
    """For a whole body; and for its turn, when others hold the memory."""
    idle_seconds: float = 120.0
    """Longer than Go's clients keep a connection (90 s), so that none is closed under a request."""
    drain_seconds: float = 8.0
    """At the end, for requests that have begun."""


LIMITS: Final = Limits()


class Body(NamedTuple):
    """A request's body; not `whole`: its first bytes, as many as the limit allows."""

    data: bytearray
    whole: bool


class Answer(NamedTuple):
    """What a caller gets."""

    status: int
    text: str = ""
    headers: Mapping[str, str] = {}
    close: bool = False


Route = Callable[[Body], Awaitable[Answer]]
_UNREADABLE: Final = Answer(400, "the body cannot be read to its end\n", close=True)
CUT: Final = 0
"""Told in place of a status: the caller went away before it had sent everything."""
UNTRUSTED: Final = -1
"""Told in place of a status: no TLS connection came to be."""


class HttpsServer:
    """Serves JSON documents that are posted, until cancelled."""

    def __init__(
        self,
        address: str,
        tls: ServerTls,
        routes: Mapping[str, Route],
        *,
        token: BearerToken | None = None,
        limits: Limits = LIMITS,
        clock: Clock,
        log: Logger,
        told: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Serve these paths; `told` is called once a request with the status of its answer, `CUT` or `UNTRUSTED`."""
        self._address = address
        self._tls = tls
        self._routes = routes
        self._token = token
        self._limits = limits
        self._clock = clock
        self._log = log
        self._told = told
        self._room = Room(limits.body_bytes)
        self._connections = _Connections(
            self._respond,
            access_log=None,
            logger=_quiet(log),
            keepalive_timeout=limits.idle_seconds,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LINE_BYTES,
            max_field_size=_LINE_BYTES,
            read_bufsize=_READ_BYTES,
            # Ours is bounded in what it unpacks, and knows a stream that was cut.
            auto_decompress=False,
        )
        self._doors = Doors(limits.connections, limits.per_address, clock=clock, refused=self._refused)
        self._busy: set[object] = set()
        self._draining = False
        self._calm = anyio.Event()
        self._complaints = TokenBucket(rate=0.1, burst=5)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled, then answer what has begun; started with the port once callers can connect.

        Raises `PermanentError` when the address cannot be had.
        """
        with bind(self._address) as listener:
            try:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._refresh)
                    task_status.started(listener.getsockname()[1])
                    await self._doors.admit(listener, tg, self._converse)
            finally:
                listener.close()
                with anyio.CancelScope(shield=True):
                    await self._drain()

    # Connections

    def _refused(self, event: str, peer: str, error: str) -> None:
        if peer:
            self._told(UNTRUSTED)
        self._complain(event, **{name: text for name, text in (("peer", peer), ("error", error)) if text})

    async def _converse(self, caller: socket.socket, peer: str) -> None:
        try:
            transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(
                self._connections,
                caller,
                ssl=self._tls.context,
                ssl_handshake_timeout=self._limits.head_seconds,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            caller.close()
            self._told(UNTRUSTED)
            why = getattr(error, "reason", None) or str(error) or type(error).__name__
            self._complain("no TLS connection with a caller", peer=peer, error=why)
            return
        link = self._connections.links.get(protocol)
        if link is None:  # gone again
            return
        with anyio.move_on_after(self._limits.head_seconds):
            await link.begun.wait()
        if not link.begun.is_set():
            transport.abort()
        await link.gone.wait()

    async def _refresh(self) -> None:
        """Take over certificates and token as they change; what cannot be used is told once, and changes nothing."""
        watched: tuple[ServerTls | BearerToken | None, ...] = (self._tls, self._token)
        while True:
            await self._clock.sleep(RELOAD_SECONDS)
            for files in watched:
                try:
                    if files is not None and files.refresh():
                        self._log.info("read again", what=type(files).__name__)
                except PermanentError as error:
                    self._log.error("cannot be taken over; the one before stays in use", error=str(error))

    async def _drain(self) -> None:
        self._draining = True
        for connection in self._connections.connections:
            if connection not in self._busy:
                connection.force_close()
        if self._busy:
            with anyio.move_on_after(self._limits.drain_seconds):
                await self._calm.wait()
        await self._connections.shutdown(0.5)

    # Requests

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        link = self._connections.links.get(connection)
        if link is not None:
            link.begun.set()
        self._busy.add(connection)
        try:
            answer = await self._answer(request)
        finally:
            self._busy.discard(connection)
            if self._draining and not self._busy:
                self._calm.set()
        self._told(answer.status)
        response = web.Response(status=answer.status or 400, text=answer.text or None, headers={"Server": "ugallu"})
        response.headers.update(answer.headers)
        known = request.get_extra_info("sslcontext") is self._tls.context
        if answer.close or self._draining or not known:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> Answer:
        headers = request.headers
        if self._token is not None and not self._token.shown_in(headers.get("Authorization", "")):
            return Answer(401, "show the bearer token\n", {"WWW-Authenticate": "Bearer"}, close=True)
        route = self._routes.get(request.path)
        if route is None:
            return Answer(404, f"serves {' '.join(self._routes)}\n", close=True)
        if request.method != "POST":
            return Answer(405, "POST only\n", {"Allow": "POST"}, close=True)
        media = headers.get("Content-Type", _JSON).partition(";")[0].strip().lower()
        if media != _JSON:
            return Answer(415, "send application/json\n", close=True)
        encoding = headers.get("Content-Encoding", "").lower()
        if encoding not in (*_PLAIN, "gzip"):
            return Answer(415, "send it plain, or with gzip\n", {"Accept-Encoding": "gzip"}, close=True)
        if headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # How large compressed and chunked bodies are is not known before they are read.
        packed = encoding not in _PLAIN
        size = None if packed else request.content_length
        with anyio.move_on_after(self._limits.body_seconds) as turn:
            async with self._room.hold(self._limits.body_bytes if size is None else size):
                turn.deadline = float("inf")
                body = await self._read(request, zlib.decompressobj(wbits=31) if packed else None)
                return await route(body) if isinstance(body, Body) else body
        return Answer(503, "too many bodies at a time\n", {"Retry-After": "1"}, close=True)

    async def _read(self, request: web.BaseRequest, packed: "zlib._Decompress | None") -> Body | Answer:
        data = bytearray()
        limit = self._limits.body_bytes
        with anyio.move_on_after(self._limits.body_seconds):
            try:
                while chunk := await request.content.readany():
                    data += packed.decompress(chunk, limit + 1 - len(data)) if packed else chunk
                    if len(data) > limit:
                        del data[limit:]
                        return Body(data, whole=False)
            except (web.RequestPayloadError, HttpProcessingError, zlib.error):
                return _UNREADABLE
            except ConnectionError:
                return Answer(CUT, close=True)
            if packed and (not packed.eof or packed.unused_data):
                return _UNREADABLE
            return Body(data, whole=True)
        return Answer(408, f"send the body within {self._limits.body_seconds:g} s\n", close=True)

    def _complain(self, event: str, **about: str) -> None:
        """Log what strangers can cause, at a bounded rate."""
        if self._complaints.take(self._clock.monotonic()):
            self._log.warning(event, **about)


class _Link:
    """A connection as its server sees it: the first request has come, the connection has gone."""

    __slots__ = ("begun", "gone")

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.gone = anyio.Event()


class _Connections(web.Server):
    """aiohttp's connections, and when each begins and ends."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **kwargs: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(handler, **kwargs)
        self.links: dict[object, _Link] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Note a new connection."""
        super().connection_made(handler, transport)
        self.links[handler] = _Link()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Let whoever waits for the end of it know."""
        super().connection_lost(handler, exc)
        link = self.links.pop(handler, None)
        if link is not None:
            link.begun.set()
            link.gone.set()


class _Faults(logging.Handler):
    """What aiohttp says of its requests: callers that speak no HTTP are theirs to mind, faults of ours are told."""

    def __init__(self, log: Logger) -> None:
        super().__init__(logging.ERROR)
        self._to = log

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on a fault of ours. The message of an error in a caller's head may quote it, token and all."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            self._to.error("a request failed", exc_info=error)


def _quiet(log: Logger) -> logging.Logger:
    found = logging.Logger("ugallu.net.http", logging.ERROR)  # noqa: LOG001 - a tree of its own
    found.addHandler(_Faults(log))
    return found
