"""`HttpClient`: one server that we ask, over aiohttp, with a bound on everything that it may cost us.

No redirects, no proxies, no cookies: who is asked is who was configured. Importing this costs aiohttp, some 15 MiB.
"""

import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self
from urllib.parse import SplitResult, urlsplit

import anyio
import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector

from ugallu.errors import PermanentError, TransientError
from ugallu.net.ask import Reply, redacted

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class Limits(msgspec.Struct, frozen=True):
    """What a server may cost."""

    seconds: float = 30.0
    """For a whole answer, from connecting to its last byte."""
    body_bytes: int = 256 << 10
    at_once: int = 32
    """Requests on their way; more wait."""


LIMITS: Final = Limits()


class HttpClient:
    """Asks one server. Connections are opened when needed; close with `aclose`, or use as a context or a Service."""

    name = "connections"

    def __init__(
        self,
        base: str,
        *,
        ca: bytes = b"",
        verify: bool = True,
        secret: bool = True,
        limits: Limits = LIMITS,
    ) -> None:
        """Name the server by its base URL. `ca` is the PEM of the authorities to believe, empty for the system's.

        `secret`: requests carry credentials, so that plain HTTP goes no further than this machine.
        Raises `PermanentError` for a URL, or authorities, that cannot be used.
        """
        parts = _parts(base)
        if parts.scheme == "http" and secret and parts.hostname not in _LOOPBACK:
            raise PermanentError("credentials are not sent over plain HTTP", where=base, fix="use https://")
        self.base = base.rstrip("/")
        self.host = parts.netloc
        self._limits = limits
        self._tls = _context(ca, verify=verify, where=base) if parts.scheme == "https" else False
        self._places = anyio.Semaphore(limits.at_once)
        self._session: ClientSession | None = None
        self._closed = False

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Send one request below the base URL and return the answer, whatever its status.

        Raises `TransientError` when there is none in time or it is torn, `PermanentError` when it is too large.
        """
        async with self._places:
            session = self._open()
            try:
                async with session.request(
                    method,
                    f"{self.base}{path}",
                    data=body or None,
                    headers={"Accept": "application/json", **(headers or {})},
                    allow_redirects=False,
                ) as answer:
                    content = await answer.content.read(self._limits.body_bytes + 1)
                    while len(content) <= self._limits.body_bytes and not answer.content.at_eof():
                        content += await answer.content.read(self._limits.body_bytes + 1 - len(content))
                    if len(content) > self._limits.body_bytes:
                        raise PermanentError(f"an answer of more than {self._limits.body_bytes} bytes", where=self.host)
                    found = {name.lower(): value for name, value in answer.headers.items()}
                    return redacted(Reply(answer.status, found, content), headers)
            except TimeoutError as error:
                raise TransientError(f"no answer within {self._limits.seconds:g} s", where=self.host) from error
            except (ClientError, OSError, ssl.SSLError) as error:
                raise TransientError(f"cannot be asked: {_why(error)}", where=self.host) from error

    async def run(self) -> None:
        """As a Service: keep connections until cancelled, then close them."""
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; nothing can be asked afterwards."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _open(self) -> ClientSession:
        if self._closed:
            raise TransientError("the connection is closed: this process is ending", where=self.host)
        if self._session is None:
            self._session = ClientSession(
                connector=TCPConnector(ssl=self._tls, limit=self._limits.at_once),
                cookie_jar=DummyCookieJar(),
                timeout=ClientTimeout(total=self._limits.seconds),
                auto_decompress=False,
                headers={"Accept-Encoding": "identity", "User-Agent": "ugallu"},
                trust_env=False,
            )
        return self._session


def _parts(base: str) -> SplitResult:
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError as error:
        raise PermanentError("not a URL", where=base, fix="write https://HOST[:PORT]") from error
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or port == 0:
        raise PermanentError("not the base URL of a server", where=base, fix="write https://HOST[:PORT]")
    if parts.username is not None:
        raise PermanentError("credentials do not belong in a URL", where=parts.hostname, fix="leave them out")
    return parts


def _context(ca: bytes, *, verify: bool, where: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cadata=ca.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise PermanentError("the CA bundle holds no certificate", where=where, fix="write it as PEM") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _why(error: BaseException) -> str:
    """Return what went wrong without the address, which is said already."""
    cause = getattr(error, "os_error", None) or error
    return str(getattr(cause, "strerror", None) or getattr(cause, "reason", None) or cause or type(error).__name__)
