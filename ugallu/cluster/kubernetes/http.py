"""HTTP to one API server, on aiohttp: three lanes of connections, time-outs on everything, answers of bounded size.

A Lease is renewed on connections of its own, so no list and no burst of writes can make a leader lose it; watches hold
theirs for minutes and never take one from a request. Whatever goes wrong on the way is `UnavailableError`.
"""

import contextlib
import enum
import os
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any, Final, NamedTuple, TypeAlias

import aiohttp
import anyio
import msgspec
from aiohttp.typedefs import StrOrURL
from yarl import URL

from ugallu import __version__
from ugallu.clock import Clock
from ugallu.cluster.kubernetes.answers import Status, asked_to_wait, refusal, status_of
from ugallu.cluster.kubernetes.auth import Access
from ugallu.cluster.kubernetes.identity import Identity
from ugallu.cluster.port import (
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from ugallu.errors import ConflictError, PermanentError, UgalluError
from ugallu.metrics import Metrics

USER_AGENT: Final = f"ugallu/{__version__}"
"""The part before the slash is also the field manager of what is created and patched."""
Socket: TypeAlias = "aiohttp.ClientWebSocketResponse[Any]"
_IDLE: Final = 60.0
"""Seconds that an unused connection is kept: less than the 90 s after which the API server closes it."""
_CLOSING: Final = 1.0
_REFUSAL_BYTES: Final = 1 << 20
_MESSAGE_BYTES: Final = 4 << 20
"""Of a WebSocket; kubelets send 32 KiB."""
_BUFFER: Final = 1 << 18
"""Bytes read ahead of a watch; the reader is stopped at twice that."""
_OUTCOMES: Final[tuple[tuple[type[UgalluError], str], ...]] = (
    (NotFoundError, "not found"),
    (InvalidError, "invalid"),
    (ForbiddenError, "forbidden"),
    (GoneError, "gone"),
    (UnavailableError, "unavailable"),
    (ConflictError, "conflict"),
)


class Lane(enum.Enum):
    """A pool of connections, with the most that it opens; 0 is no bound."""

    CALLS = 16
    LEASES = 2
    WATCHES = 0


class Patience(msgspec.Struct, frozen=True):
    """Seconds until we give up."""

    connect: float = 5.0
    silence: float = 30.0
    """Between two reads of an answer."""
    call: float = 60.0
    """A whole request, its turn in the lane included."""
    lease: float = 5.0
    """The same for a Lease: an election tries every two seconds and gives up after ten."""
    quiet: float = 165.0
    """A watch without a word: the API server sends a bookmark each minute, the first after two at times."""
    watch: int = 480
    """About how long a watch may last until it is opened anew; spread by a quarter."""


class TooLargeError(UnavailableError):
    """The answer is larger than we take; a smaller page may fit."""


class Answer(NamedTuple):
    """A successful answer."""

    body: bytes
    date: str
    """The server's `Date` header."""


class Call(NamedTuple):
    """One request. `verb` is what it counts as, `where` what errors name."""

    verb: str
    method: str
    path: str
    body: bytes | None = None
    content: str = "application/json"
    where: str = ""
    lane: Lane = Lane.CALLS


class Transport:
    """The connections of one client; opened with the first request."""

    def __init__(self, access: Access, *, clock: Clock, metrics: Metrics, patience: Patience) -> None:
        self.access = access
        self.patience = patience
        self.closed = False
        self._known = False
        """Whether the server ever answered one of our calls."""
        self._clock = clock
        self._metrics = metrics
        self._lanes: dict[Lane, aiohttp.ClientSession] = {}
        self._calls: set[anyio.CancelScope] = set()
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._streams: set[aiohttp.ClientResponse] = set()

    async def call(self, call: Call, *, limit: int) -> Answer:
        """Send one request and return its answer; raises the port's errors."""
        within = self.patience.lease if call.lane is Lane.LEASES else self.patience.call
        with self._counted(call.verb), _translated(call.where), self._open(within):
            response = await self._send(call, self._pace(self.patience.silence))
            try:
                body = await _body(response, limit, call.where)
            finally:
                response.release()
            return Answer(body, response.headers.get("Date", ""))
        raise UnavailableError("the cluster is closed", where=call.where)

    @contextlib.asynccontextmanager
    async def stream(self, call: Call, *, quiet: float | None) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open an answer that goes on, as chunks of bytes; silence for longer than `quiet` seconds is an error."""
        with self._counted(call.verb), _translated(call.where), self._open(self.patience.call):
            response = await self._send(call, self._pace(quiet))
            self._streams.add(response)
        if self.closed:
            raise UnavailableError("the cluster is closed", where=call.where)
        chunks = self._chunks(response, call.where)
        try:
            yield chunks
        finally:
            await chunks.aclose()
            self._streams.discard(response)
            _cut(response)

    @contextlib.asynccontextmanager
    async def websocket(self, call: Call, protocols: tuple[str, ...]) -> AsyncIterator[Socket]:
        """Open a WebSocket that speaks one of these protocols."""
        identity = await self._identity()
        with self._counted(call.verb), _translated(call.where), self._open(self.patience.silence):
            socket_ = await self._websocket(call, protocols, identity)
        if self.closed:
            raise UnavailableError("the cluster is closed", where=call.where)
        try:
            yield socket_
        finally:
            await socket_.close()

    def _pace(self, silence: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=self.patience.connect, sock_read=silence)

    async def close(self) -> None:
        """Close all connections; what is under way fails, watches end."""
        self.closed = True
        for scope in tuple(self._calls):
            scope.cancel()
        # Closing the session alone would leave their readers waiting.
        for response in tuple(self._streams):
            _cut(response)
        lanes, self._lanes = list(self._lanes.values()), {}
        for session in lanes:
            await session.close()
        await self.access.close()
        # asyncio closes sockets in turns of its own, those of TLS by a timer, and complains when there is no next turn.
        with anyio.move_on_after(_CLOSING):
            while any(made.fileno() != -1 for made in self._sockets):  # noqa: ASYNC110 - sockets tell nobody
                await anyio.sleep(0.001)

    @contextlib.contextmanager
    def _open(self, seconds: float) -> Iterator[None]:
        """Raise `TimeoutError` after so many seconds; leave early when we are closed."""
        with anyio.fail_after(seconds) as scope:
            self._calls.add(scope)
            try:
                yield
            finally:
                self._calls.discard(scope)

    def _session(self, lane: Lane) -> aiohttp.ClientSession:
        if self.closed:
            raise UnavailableError("the cluster is closed")
        if lane not in self._lanes:
            self._lanes[lane] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=lane.value, keepalive_timeout=_IDLE, socket_factory=self._socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                # Unpacking costs us more than the bytes cost the network, and packing costs the server's cores.
                headers={"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"},
                read_bufsize=_BUFFER,
            )
        return self._lanes[lane]

    def _socket(self, address: Any) -> socket.socket:  # noqa: ANN401 - aiohttp's AddrInfoType
        made = _socket(address)
        self._sockets.add(made)
        return made

    async def _send(self, call: Call, pace: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        """Return an answer that is good, its body unread; a 401 is tried once more if there are other credentials."""
        session = self._session(call.lane)
        identity = await self._identity()
        response = await self._request(session, call, identity, pace)
        if response.status == 401:
            try:
                renewed = await self._renewed(identity)
            except BaseException:
                response.release()
                raise
            if renewed:
                response.release()
                response = await self._request(session, call, await self._identity(), pace)
        self._known = self._known or response.status // 100 == 2
        if response.status // 100 != 2:
            try:
                raise await self._refusal(response, call.where)
            finally:
                response.release()
        return response

    async def _identity(self) -> Identity:
        with self._lapsing():
            return await self.access.identity()

    async def _renewed(self, refused: Identity) -> bool:
        with self._lapsing():
            return await self.access.renew(refused)

    @contextlib.contextmanager
    def _lapsing(self) -> Iterator[None]:
        """Once the server knew us, a lack of credentials is an outage: plug-ins and mounted files come back."""
        try:
            yield
        except PermanentError as error:
            if not self._known:
                raise
            raise UnavailableError(error.what, where=error.where, fix=error.fix) from None

    async def _request(
        self, session: aiohttp.ClientSession, call: Call, identity: Identity, pace: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        headers = self.access.headers(identity)
        if call.body is not None:
            headers.append(("Content-Type", call.content))
        return await session.request(
            call.method,
            self._url(call),
            data=call.body,
            headers=headers,
            timeout=pace,
            allow_redirects=False,
            **await self._tls(identity),
        )

    async def _websocket(self, call: Call, protocols: tuple[str, ...], identity: Identity) -> Socket:
        session = self._session(Lane.WATCHES)
        for again in (True, False):
            try:
                opened: Socket = await session.ws_connect(
                    self._url(call),
                    protocols=protocols,
                    # A port says what it likes: whoever accepts nothing but JSON is answered with 406.
                    headers=[("Accept", "*/*"), *self.access.headers(identity)],
                    timeout=aiohttp.ClientWSTimeout(ws_close=1.0),
                    heartbeat=self.patience.silence,
                    max_msg_size=_MESSAGE_BYTES,
                    autoclose=True,
                    **await self._tls(identity),
                )
            except aiohttp.WSServerHandshakeError as error:
                if error.status == 401 and again and await self._renewed(identity):
                    identity = await self._identity()
                    continue
                # Without its cause: that one carries the headers of the request. What the server said is lost, and a
                # Pod that is gone is the usual reason for a 404.
                status = Status(message="no such Pod") if error.status == 404 else None
                raise refusal(error.status, status, where=call.where) from None
            else:
                return opened
        raise AssertionError  # pragma: no cover - the second try returns or raises

    async def _tls(self, identity: Identity) -> dict[str, Any]:
        with self._lapsing():
            context = await self.access.tls(identity)
        login = self.access.proxy_login.reveal()
        return {
            # Connections are pooled by context: one made with an older CA or certificate is not used again.
            "ssl": context if context is not None else True,
            "server_hostname": self.access.server_name or None,
            "proxy": self.access.proxy or None,
            "proxy_headers": {"Proxy-Authorization": login} if login and context is not None else None,
        }

    def _url(self, call: Call) -> StrOrURL:
        return URL(self.access.server + call.path, encoded=True)

    async def _refusal(self, response: aiohttp.ClientResponse, where: str) -> UgalluError:
        if response.status // 100 == 3:
            return UnavailableError(
                "answered with a redirect: what answers is no API server", where=where, fix="check the server's URL"
            )
        body = await _body(response, _REFUSAL_BYTES, where)
        asked = asked_to_wait(response.headers.get("Retry-After"), self._clock.now())
        return refusal(response.status, status_of(body), where=where, retry_after=asked)

    async def _chunks(self, response: aiohttp.ClientResponse, where: str) -> AsyncGenerator[bytes, None]:
        try:
            with _translated(where):
                async for chunk in response.content.iter_any():
                    yield chunk
        except UnavailableError:
            if not self.closed:
                raise

    @contextlib.contextmanager
    def _counted(self, verb: str) -> Iterator[None]:
        try:
            yield
        except UgalluError as error:
            outcome = next((word for kind, word in _OUTCOMES if isinstance(error, kind)), "failed")
            self._metrics.count("ugallu_cluster_requests_total", verb=verb, outcome=outcome)
            raise
        self._metrics.count("ugallu_cluster_requests_total", verb=verb, outcome="ok")


def _socket(address: Any) -> socket.socket:  # noqa: ANN401 - aiohttp's AddrInfoType
    """Return a socket whose kernel notices within a minute that nobody is there any more."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # Not every system has each of them.
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 60_000)):
        if option := getattr(socket, name, None):
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _cut(response: aiohttp.ClientResponse) -> None:
    """End an answer before its end, at once: a polite end of TLS waits half a minute for one who is gone."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _body(response: aiohttp.ClientResponse, limit: int, where: str) -> bytes:
    parts: list[bytes] = []
    size = response.content_length or 0
    if size <= limit:
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > limit:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    _cut(response)
    raise TooLargeError(f"the answer is larger than {limit} bytes", where=where)


@contextlib.contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise UnavailableError(str(error) or "no answer in time", where=where) from error
    except aiohttp.ClientConnectorCertificateError as error:
        reason = getattr(error.certificate_error, "verify_message", "").rstrip(".") or "not trusted"
        raise UnavailableError(
            f"the server's certificate is not accepted: {reason}", where=where, fix="check the CA and the server's name"
        ) from error
    except aiohttp.ClientHttpProxyError as error:
        # Without its cause: that one carries the headers of the request.
        raise UnavailableError(
            f"the proxy answered with HTTP status {error.status}", where=where, fix="check `proxy-url`"
        ) from None
    except aiohttp.ClientConnectorError as error:
        who = "proxy " if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
        what = f"no connection to {who}{error.host}:{error.port}: {_why(error.os_error)}"
        raise UnavailableError(what, where=where) from error
    except (aiohttp.ClientError, OSError) as error:
        raise UnavailableError(str(error) or type(error).__name__, where=where) from error


def _why(error: OSError) -> str:
    """Return the reason in the system's words; asyncio's own name the call that failed."""
    if not error.errno or isinstance(error, ssl.SSLError | socket.gaierror):
        return error.strerror or str(error) or "no reason given"
    return os.strerror(error.errno)
