"""`Pods`: what only a cluster with Pods can do: run a command in one, read its log, add an ephemeral container."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec


class Target(msgspec.Struct, frozen=True):
    """One container of one Pod; an empty container means the Pod's default one."""

    namespace: str
    pod: str
    container: str = ""


class Output(msgspec.Struct, frozen=True):
    """What a command said, and its exit status."""

    stdout: bytes
    stderr: bytes
    status: int


class Session(Protocol):
    """A command at work, or an attached container: bytes in, bytes out."""

    async def send(self, data: bytes) -> None:
        """Write to its stdin."""
        ...

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (1 for stdout, 2 for stderr; bytes) until it ends."""
        ...

    async def status(self) -> int:
        """Return the exit status once the output has ended; raises `UnavailableError` when the connection was cut."""
        ...


class Pods(Protocol):
    """Errors are those of the port: `NotFoundError`, `ForbiddenError`, `InvalidError`, `UnavailableError`."""

    async def run(
        self, target: Target, command: Sequence[str], *, stdin: bytes = b"", limit: int = 1 << 20, within: float = 30.0
    ) -> Output:
        """Run a command to its end; more than `limit` bytes of output, or `within` seconds, is an error."""
        ...

    def exec(self, target: Target, command: Sequence[str]) -> AbstractAsyncContextManager[Session]:
        """Open a command with stdin, stdout and stderr as streams."""
        ...

    def attach(self, target: Target) -> AbstractAsyncContextManager[Session]:
        """Attach to the container's main process."""
        ...

    def logs(
        self, target: Target, *, follow: bool = False, since_seconds: int = 0, tail: int = 0, previous: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the log in chunks as they come."""
        ...

    async def add_ephemeral(self, namespace: str, pod: str, container: Mapping[str, Any]) -> None:
        """Add an ephemeral container (`core/v1` EphemeralContainer); the same one twice is success."""
        ...
