"""`Wire`: a TCP connection that a test can cut, hold up, or refuse, between a client and a server of ours."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc


class Wire:
    """Passes bytes on, both ways, as they are: TLS goes through it unseen."""

    def __init__(self, port: int) -> None:
        self.target = port
        """Where it leads; may be changed."""
        self.port = 0
        """Where clients come in."""
        self.made = 0
        """How many connections came through."""
        self.open = anyio.Event()
        """While it is unset, nothing passes."""
        self.open.set()
        self.refusing = False
        self._ends: set[anyio.abc.SocketStream] = set()

    async def cut(self) -> None:
        """Close every connection in the middle of whatever it says."""
        for end in tuple(self._ends):
            await anyio.aclose_forcefully(end)

    def hold(self) -> None:
        """Let nothing pass until `open` is set."""
        self.open = anyio.Event()

    async def _carry(self, client: anyio.abc.SocketStream) -> None:
        if self.refusing:
            await anyio.aclose_forcefully(client)
            return
        try:
            server = await anyio.connect_tcp("127.0.0.1", self.target)
        except OSError:
            await anyio.aclose_forcefully(client)
            return
        self.made += 1
        self._ends |= {client, server}
        try:
            async with server, client, anyio.create_task_group() as tg:
                tg.start_soon(self._pump, client, server)
                await self._pump(server, client)
                tg.cancel_scope.cancel()
        finally:
            self._ends -= {client, server}

    async def _pump(self, source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
        try:
            async for data in source:
                await self.open.wait()
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        finally:
            await anyio.aclose_forcefully(sink)


@asynccontextmanager
async def wired(port: int) -> AsyncIterator[Wire]:
    """Lend a wire to a port of this machine."""
    wire = Wire(port)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tg,
    ):
        wire.port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - no Django
        tg.start_soon(listener.serve, wire._carry)  # noqa: SLF001 - its own module
        yield wire
        tg.cancel_scope.cancel()
