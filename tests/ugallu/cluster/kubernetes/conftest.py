"""An API server that misbehaves as it is told: raw HTTP over a socket, one script a connection or a request."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import pytest

from ugallu.cluster.kubernetes.auth import Access
from ugallu.cluster.kubernetes.client import KubernetesCluster
from ugallu.cluster.kubernetes.http import Patience
from ugallu.cluster.kubernetes.identity import Kept, Material
from ugallu.metrics import Metrics
from ugallu.testing.clock import settled


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each request with the next handler of its plan, and for ever with the last."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""
        self._plan: list[Handler] = []
        self._asked = anyio.Event()
        self._writers: list[asyncio.StreamWriter] = []

    def plan(self, *handlers: Handler) -> None:
        self._plan = list(handlers)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split(" ")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, path, headers, body)
                self.requests.append(request)
                self._asked.set()
                handler = self._plan.pop(0) if len(self._plan) > 1 else self._plan[0]
                await handler(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def until(self, holds: Callable[[list[Request]], bool]) -> None:
        """Wait for requests."""
        while not holds(self.requests):
            self._asked = anyio.Event()
            await self._asked.wait()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


def reply(status: int = 200, body: bytes | dict[str, Any] = b"{}", **headers: str) -> Handler:
    """A whole answer; a dict is JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        fields = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + data)

    return handler


def status(code: int, reason: str = "", message: str = "no", **details: Any) -> Handler:
    """A refusal as an API server makes it."""
    return reply(code, {"kind": "Status", "status": "Failure", "message": message, "reason": reason, "code": code,
                        "details": details})  # fmt: skip


def chunks(*parts: bytes, end: bool = True, hold: bool = False) -> Handler:
    """A chunked answer; without `end` the connection breaks after it, with `hold` it stays and says no more."""

    async def handler(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in parts:
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
            await asyncio.sleep(0)
        if hold:
            await asyncio.Event().wait()
        elif end:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    return handler


async def silent(_: Request, writer: asyncio.StreamWriter) -> None:
    """No answer at all."""
    await asyncio.Event().wait()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield made
    listening.close()
    made.cut()
    # Handlers that hold their connection end with it.
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task() and "Server.serve" in repr(task.get_coro()):
            task.cancel()
    await settled()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def cluster(server: Server, metrics: Metrics) -> AsyncIterator[KubernetesCluster]:
    """Return an impatient client of the server."""
    access = Access(server.url, Kept(token=Material(data=b"hidden")))
    patience = Patience(connect=1.0, silence=0.3, call=1.0, lease=0.2, quiet=0.3)
    made = await KubernetesCluster.open(access, metrics=metrics, patience=patience)
    yield made
    await made.close()
