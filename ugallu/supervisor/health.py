"""Probes and metrics over HTTP: `/healthz`, `/readyz`, `/metrics`.

A server of our own, because these three GETs are all there is: importing aiohttp for them costs every process at rest
15 MiB (docs/decisions). One request a connection, a bounded head, a deadline, few connections at a time.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import anyio
import anyio.abc
import anyio.to_thread
import msgspec
import structlog

from ugallu.errors import PermanentError
from ugallu.metrics import CONTENT_TYPE, Metrics
from ugallu.net.address import split_address

HEAD_BYTES = 8192
DEADLINE_SECONDS = 5.0
CONNECTIONS = 16


class Readiness(msgspec.Struct, frozen=True):
    """What `/readyz` answers: `reasons` maps what is not ready to why."""

    ready: bool
    reasons: dict[str, str] = {}


class Answer(NamedTuple):
    """One HTTP answer."""

    status: str
    content_type: str
    body: bytes


JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class Probes:
    """What the endpoints say; knows nothing of sockets but how to read a request from one."""

    def __init__(self, metrics: Metrics, ready: Callable[[], Mapping[str, str]]) -> None:
        self._metrics = metrics
        self._ready = ready

    def readiness(self) -> Readiness:
        """Return whether work is taken, and what stands in the way."""
        reasons = dict(self._ready())
        return Readiness(not reasons, reasons)

    async def answer(self, method: str, path: str, *, metrics: bool, health: bool) -> Answer:
        """Answer one request on a listener that serves `metrics`, `health` or both."""
        path = path.partition("?")[0]
        if method not in ("GET", "HEAD"):
            return Answer("405 Method Not Allowed", TEXT, b"GET only\n")
        if path == "/healthz" and health:
            return Answer("200 OK", TEXT, b"ok\n")
        if path == "/readyz" and health:
            now = self.readiness()
            return Answer("200 OK" if now.ready else "503 Service Unavailable", JSON, msgspec.json.encode(now) + b"\n")
        if path == "/metrics" and metrics:
            # Tens of milliseconds at thousands of series: not in the loop.
            return Answer("200 OK", CONTENT_TYPE, await anyio.to_thread.run_sync(self._metrics.render))
        return Answer("404 Not Found", TEXT, b"/healthz /readyz /metrics\n")


async def serve(
    probes: Probes,
    *,
    health: str,
    metrics: str,
    log: structlog.typing.FilteringBoundLogger,
    task_status: anyio.abc.TaskStatus[Mapping[str, str]] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Listen until cancelled; started once the sockets are bound, with the address each name really got.

    An empty address switches its endpoints off; one address may serve both. Raises `PermanentError` when an address
    cannot be had.
    """
    wanted: dict[str, list[str]] = {}
    for name, address in (("health", health), ("metrics", metrics)):
        if address:
            wanted.setdefault(address, []).append(name)
    bound: dict[str, str] = {}
    limit = anyio.CapacityLimiter(CONNECTIONS)
    async with anyio.create_task_group() as listeners:
        for address, names in wanted.items():
            host, port = split_address(address)
            try:
                listener = await anyio.create_tcp_listener(local_host=host or None, local_port=port)
            except OSError as error:
                raise PermanentError(
                    f"cannot listen on {address}: {error.strerror or error}",
                    where=" and ".join(names),
                    fix="choose another address, or an empty one to switch it off",
                ) from error
            port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django here
            bound |= dict.fromkeys(names, f"{host or '127.0.0.1'}:{port}")

            async def handle(stream: anyio.abc.SocketStream, names: list[str] = names) -> None:
                async with limit, stream:
                    with anyio.move_on_after(DEADLINE_SECONDS):
                        await _converse(stream, probes, names)

            listeners.start_soon(_listen, listener, handle)
        if bound:
            log.info("listening", **bound)
        task_status.started(bound)


async def _listen(
    listener: anyio.abc.Listener[anyio.abc.SocketStream], handle: Callable[[anyio.abc.SocketStream], Awaitable[None]]
) -> None:
    async with listener:
        await listener.serve(handle)


async def _converse(stream: anyio.abc.SocketStream, probes: Probes, names: list[str]) -> None:
    try:
        head = b""
        while b"\r\n\r\n" not in head:
            if len(head) > HEAD_BYTES:
                await _send(stream, Answer("431 Request Header Fields Too Large", TEXT, b"too large\n"), "GET")
                return
            head += await stream.receive(HEAD_BYTES)
        parts = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            await _send(stream, Answer("400 Bad Request", TEXT, b"no HTTP/1 request\n"), "GET")
            return
        answer = await probes.answer(parts[0], parts[1], metrics="metrics" in names, health="health" in names)
        await _send(stream, answer, parts[0])
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # the client went away; it asked, it knows


async def _send(stream: anyio.abc.SocketStream, answer: Answer, method: str) -> None:
    head = (
        f"HTTP/1.1 {answer.status}\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n"
    )
    await stream.send(head.encode("ascii") + (b"" if method == "HEAD" else answer.body))
