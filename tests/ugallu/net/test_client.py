"""A server that is asked may cost so much and no more, and is who was configured."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener

from tests.rig.keys import Authority
from ugallu.errors import PermanentError, RefusedError, TransientError
from ugallu.net.ask import Reply, failed
from ugallu.net.client import HttpClient, Limits

Answer = Callable[[anyio.abc.ByteStream, bytes], Awaitable[None]]


def saying(content: bytes) -> Answer:
    async def answer(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await stream.send(content)

    return answer


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve on loopback while the block lasts; yields the base URL."""

    async def handle(stream: anyio.abc.ByteStream) -> None:
        async with stream:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await stream.receive()
            await answer(stream, head)

    listener: anyio.abc.Listener[anyio.abc.ByteStream] = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    if tls is not None:
        listener = TLSListener(listener, tls, standard_compatible=False)
    async with listener, anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, handle)
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        tg.cancel_scope.cancel()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Log-Index: 7\r\n\r\n{}"


async def test_an_answer_comes_back_as_it_is() -> None:
    """Status, headers by their names in lower case, body; the path is below the base."""
    heads: list[bytes] = []

    async def answer(stream: anyio.abc.ByteStream, head: bytes) -> None:
        heads.append(head)
        await stream.send(OK)

    async with serving(answer) as url, HttpClient(f"{url}/base/") as client:
        reply = await client.ask("POST", "/path", b"x", {"Content-Type": "text/plain"})
    assert (reply.status, reply.headers["x-log-index"], reply.body) == (200, "7", b"{}")
    assert heads[0].startswith(b"POST /base/path HTTP/1.1")
    assert b"User-Agent: ugallu" in heads[0]


async def test_nobody_is_sent_elsewhere() -> None:
    """A redirect is an answer like any other: it is not followed, and no credential goes there."""
    async with (
        serving(saying(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")) as url,
        HttpClient(url) as client,
    ):
        assert (await client.ask("GET", "/")).status == 302


async def test_an_answer_is_bounded() -> None:
    """More than the bound is refused, with a length or without one; exactly the bound is not."""
    limits = Limits(body_bytes=10)
    for content, good in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + bytes(10), True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + bytes(11), False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n" + bytes(11) + b"\r\n0\r\n\r\n", False),
    ):
        async with serving(saying(content)) as url, HttpClient(url, limits=limits) as client:
            if good:
                assert len((await client.ask("GET", "/")).body) == 10
            else:
                with pytest.raises(PermanentError, match="more than 10 bytes"):
                    await client.ask("GET", "/")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Enc",
    ],
)
async def test_a_torn_answer_is_an_outage(content: bytes) -> None:
    """Nothing, half of it, or something that is no HTTP: worth another try, and an error of ours."""
    async with serving(saying(content)) as url, HttpClient(url) as client:
        with pytest.raises(TransientError):
            await client.ask("GET", "/")


async def test_silence_is_an_outage() -> None:
    """Who never answers is given up after the time that was set."""

    async def answer(stream: anyio.abc.ByteStream, _: bytes) -> None:
        await anyio.sleep_forever()

    async with serving(answer) as url, HttpClient(url, limits=Limits(seconds=0.2)) as client:
        with pytest.raises(TransientError, match=r"within 0\.2 s"):
            await client.ask("GET", "/")


async def test_nobody_there_is_an_outage() -> None:
    """A refused connection is worth another try."""
    async with HttpClient("http://127.0.0.1:1") as client:
        with pytest.raises(TransientError, match="cannot be asked"):
            await client.ask("GET", "/")


async def test_a_server_is_who_the_ca_says(tmp_path: Path) -> None:
    """Under the CA that is configured it is asked; under another it is not, unless a lab says that it does not matter."""
    authority, other = Authority(tmp_path, "ca"), Authority(tmp_path, "other")
    pair = authority.issue("server", "server", hosts=["127.0.0.1"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.certificate, pair.key)
    async with serving(saying(OK), tls) as url:
        for ca, verify, good in (
            (authority.pair.certificate.read_bytes(), True, True),
            (other.pair.certificate.read_bytes(), True, False),
            (b"", True, False),
            (b"", False, True),
        ):
            async with HttpClient(url, ca=ca, verify=verify) as client:
                if good:
                    assert (await client.ask("GET", "/")).status == 200
                else:
                    with pytest.raises(TransientError, match="certificate"):
                        await client.ask("GET", "/")


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://log.example", "plain HTTP"),
        ("ftp://127.0.0.1", "base URL"),
        ("https://", "base URL"),
        ("https://u:p@host", "do not belong"),
        ("https://host?x=1", "base URL"),
        ("https://host:port", "not a URL"),
    ],
)
def test_a_url_that_cannot_be_asked_is_refused(url: str, what: str) -> None:
    """Credentials go over TLS or stay on this machine; a base URL is a scheme, a host and a path."""
    with pytest.raises(PermanentError, match=what) as error:
        HttpClient(url)
    assert "u:p" not in str(error.value)


async def test_what_carries_no_secret_may_be_plain() -> None:
    """What a log answers is signed: it may be asked over plain HTTP."""
    assert HttpClient("http://log.example", secret=False).host == "log.example"
    with pytest.raises(PermanentError, match="CA bundle"):
        HttpClient("https://log.example", ca=b"nonsense")


async def test_a_closed_client_asks_nobody() -> None:
    """After the end there is no connection left behind, and none is made."""
    client = HttpClient("http://127.0.0.1:1")
    await client.aclose()
    with pytest.raises(TransientError, match="closed"):
        await client.ask("GET", "/")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, PermanentError) for status in (400, 404, 409)),
        *((status, RefusedError) for status in (401, 403)),
        *((status, TransientError) for status in (408, 429, 500, 503)),
    ],
)
def test_what_a_status_means(status: int, kind: type[Exception]) -> None:
    """Refused, for ever, or worth another try; what the server says is cut short and printable."""
    error = failed(Reply(status, {"retry-after": "9"}, b"no\x1b[31m" + bytes(10_000)), "host")
    assert isinstance(error, kind)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 300
    if isinstance(error, TransientError):
        assert error.retry_after == 9.0


async def test_credentials_do_not_come_back() -> None:
    """A server, or a proxy before it, that echoes what it was sent puts no token into an error; the rest is shown."""
    jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"

    async def answer(stream: anyio.abc.ByteStream, head: bytes) -> None:
        body = head + b' {"jwt":"' + jwt.encode() + b'"} bad request'
        await stream.send(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    sent = {"Authorization": "Bearer s3cr3t-bearer", "X-Vault-Token": "hvs.CAESIJlWT", "X-Vault-Namespace": "team"}
    async with serving(answer) as url, HttpClient(url) as client:
        reply = await client.ask("POST", "/", b"{}", sent)
    for secret in ("s3cr3t-bearer", "hvs.CAESIJlWT", jwt):
        assert secret.encode() not in reply.body
    assert b"X-Vault-Token: [redacted]" in reply.body
    assert b"X-Vault-Namespace: team" in reply.body
    assert b"bad request" in reply.body
