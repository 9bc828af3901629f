"""Listening, as every server of the house does it: one socket for both families, and doors that bound who comes in."""

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc

from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.net.address import split_address

_BACKLOG: Final = 512


class Doors:
    """At most so many connections at a time, and so many from one address: one bad neighbour must not take them all."""

    def __init__(
        self, connections: int, per_address: int, *, clock: Clock, refused: Callable[[str, str, str], None]
    ) -> None:
        """`refused` is called with what happened, the peer and the reason, both possibly empty."""
        self._places = anyio.Semaphore(connections)
        self._per_address = per_address
        self._peers: Counter[str] = Counter()
        self._clock = clock
        self._refused = refused

    async def admit(
        self,
        listener: socket.socket,
        tg: anyio.abc.TaskGroup,
        serve: Callable[[socket.socket, str], Awaitable[None]],
    ) -> None:
        """Accept until cancelled; `serve` has the connection until it returns, in a task of the group."""
        loop = asyncio.get_running_loop()
        while True:
            await self._places.acquire()
            try:
                caller, peer = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the caller is gone already
                self._places.release()
                self._refused("cannot accept a connection", "", error.strerror or str(error))
                await self._clock.sleep(0.1)
                continue
            except BaseException:
                self._places.release()
                raise
            tg.start_soon(self._let_in, caller, str(peer[0]), serve)

    async def _let_in(
        self, caller: socket.socket, peer: str, serve: Callable[[socket.socket, str], Awaitable[None]]
    ) -> None:
        self._peers[peer] += 1
        try:
            if self._peers[peer] > self._per_address:
                caller.close()
                self._refused("too many connections from one address", peer, "")
                return
            await serve(caller, peer)
        finally:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
            self._places.release()


def bind(address: str) -> socket.socket:
    """Return a listening socket for `host:port`; raises `PermanentError` when the address cannot be had."""
    host, port = split_address(address)
    try:
        listener = _listener(host, port)
    except OSError as error:
        raise PermanentError(
            f"cannot listen: {error.strerror or error}", where=address, fix="choose another address, or free this one"
        ) from error
    listener.setblocking(False)
    return listener


def _listener(host: str, port: int) -> socket.socket:
    if host:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    try:
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise
    return socket.create_server(("", port), backlog=_BACKLOG)  # a machine without IPv6
