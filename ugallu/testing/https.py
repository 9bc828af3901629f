"""Requests of HTTP/1.1 over TLS, by hand: a test sees every byte, and may send what no client library would."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio.streams.tls import TLSStream


class Reply(NamedTuple):
    """What a server answered; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Caller:
    """One connection to a server."""

    def __init__(self, stream: TLSStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
        """Post JSON and return the answer."""
        await self.send(head("POST", path, {"Content-Length": str(len(body)), **(headers or {})}) + body)
        return await self.reply()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send(data)

    async def reply(self) -> Reply:
        """Read one answer; raises `anyio.EndOfStream` when the server closes before its end."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += await self._receive()
        first, _, rest = self._buffer.partition(b"\r\n\r\n")
        status, *lines = first.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = int(headers.get("content-length", "0"))
        while len(rest) < size:
            rest += await self._receive()
        self._buffer = rest[size:]
        return Reply(int(status.split(" ")[1]), headers, rest[:size])

    async def closed(self) -> bool:
        """Wait until the server has closed the connection; False when it says more first."""
        try:
            return not await self._receive()
        except anyio.EndOfStream:
            return True

    async def _receive(self) -> bytes:
        try:
            return await self.stream.receive()
        except (anyio.BrokenResourceError, ssl.SSLError) as error:
            raise anyio.EndOfStream from error


@asynccontextmanager
async def calling(
    port: int, ca: Path, *, certificate: Path | None = None, key: Path | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Caller]:
    """Connect to a server of this machine that `ca` vouches for, with a client's certificate or without."""
    context = ssl.create_default_context(cafile=str(ca))
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    async with await anyio.connect_tcp(host, port, ssl_context=context, tls_standard_compatible=False) as stream:
        assert isinstance(stream, TLSStream)
        yield Caller(stream)


def head(method: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the head of a request with a JSON body."""
    lines = {"Host": "localhost", "Content-Type": "application/json", **(headers or {})}
    return "".join([f"{method} {path} HTTP/1.1\r\n", *(f"{k}: {v}\r\n" for k, v in lines.items()), "\r\n"]).encode()
