"""Commands, attached containers, logs and ephemeral containers, over WebSockets and HTTP of the API server.

Source of the protocol: `k8s.io/apimachinery/pkg/util/remotecommand` and KEP-4006. A binary message is one byte of
channel and then data: 0 stdin, 1 stdout, 2 stderr, 3 the result as a Status; 255 and a channel's number ends it (v5).
"""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar, Final
from urllib.parse import urlencode

import aiohttp
import anyio
import msgspec

from ugallu.api.meta import Kind
from ugallu.cluster.kubernetes.answers import Status, plain, refusal, result_of
from ugallu.cluster.kubernetes.http import Call, Lane, Socket, Transport
from ugallu.cluster.kubernetes.paths import item, query
from ugallu.cluster.pods import Output, Session, Target
from ugallu.cluster.port import AlreadyExistsError, InvalidError, OutdatedError, UnavailableError
from ugallu.errors import UgalluError

POD: Final = Kind("Pod", "pods", group="", version="v1", namespaced=True)
V5: Final = "v5.channel.k8s.io"
V4: Final = "v4.channel.k8s.io"
"""Cannot end stdin; servers before 1.30 speak only this."""
FRAME: Final = 32 << 10
"""Bytes of stdin sent in one message."""
_STDIN, _STDOUT, _STDERR, _RESULT, _CLOSE = 0, 1, 2, 3, 255
_POD_BYTES: Final = 8 << 20
_TRIES: Final = 5


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    ephemeral_containers: tuple[dict[str, Any], ...] | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Pod(msgspec.Struct, frozen=True):
    """A Pod, as far as adding a container to it goes."""

    metadata: _Metadata = _Metadata()
    spec: _Spec = _Spec()


class PodSession:
    """A command at work, or an attached container."""

    def __init__(self, socket: Socket, where: str) -> None:
        self._socket = socket
        self._where = where
        self._result: Status | None = None

    async def send(self, data: bytes) -> None:
        """Write to its stdin; raises `UnavailableError` when the connection is gone."""
        for start in range(0, len(data), FRAME):
            await self._send(bytes((_STDIN,)) + data[start : start + FRAME])

    def check_end(self) -> None:
        """Raise `InvalidError` where the server cannot end stdin: the command would wait for more for ever."""
        if self._socket.protocol != V5:
            raise InvalidError("the server cannot end stdin", where=self._where, fix="needs Kubernetes 1.30")

    async def end(self) -> None:
        """End its stdin; raises `InvalidError` where the server cannot."""
        self.check_end()
        await self._send(bytes((_CLOSE, _STDIN)))

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (1 for stdout, 2 for stderr; bytes) until it ends."""
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY and message.data:
                channel, data = message.data[0], message.data[1:]
                if channel in (_STDOUT, _STDERR) and data:
                    yield channel, data
                elif channel == _RESULT:
                    self._result = result_of(data) or Status(message="the result is no Status")
            elif message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT):
                # CLOSE, CLOSING, CLOSED or ERROR: with a result it is the end, without one a cut.
                return

    async def status(self) -> int:
        """Return the exit status once the output has ended; raises `UnavailableError` when the connection was cut."""
        if self._result is None:
            raise UnavailableError("the connection was cut before the command ended", where=self._where)
        return exit_status(self._result, self._where)

    async def _send(self, message: bytes) -> None:
        try:
            await self._socket.send_bytes(message)
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(str(error) or "the connection is gone", where=self._where) from error


class KubernetesPods:
    """The `Pods` port over an API server and its kubelets."""

    subresources: ClassVar[tuple[str, ...]] = ("exec", "attach", "log", "ephemeralcontainers")

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def run(
        self, target: Target, command: Sequence[str], *, stdin: bytes = b"", limit: int = 1 << 20, within: float = 30.0
    ) -> Output:
        """Run a command to its end; `UnavailableError` after `within` seconds, `InvalidError` past `limit` bytes."""
        kept: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}
        size = 0
        try:
            with anyio.fail_after(within):
                async with self._session(target, "exec", command=command, stdin=bool(stdin)) as session:
                    if stdin:
                        session.check_end()
                    async with anyio.create_task_group() as tasks:
                        if stdin:
                            tasks.start_soon(_feed, session, stdin)
                        async with aclosing(session.output()) as output:  # type: ignore[type-var]
                            async for channel, data in output:
                                size += len(data)
                                if size > limit:
                                    break
                                kept[channel].append(data)
                        tasks.cancel_scope.cancel()
                    if size > limit:
                        raise InvalidError(f"the output is longer than {limit} bytes", where=_where(target))
                    status = await session.status()
        except TimeoutError as error:
            raise UnavailableError(f"the command did not end within {within:g} s", where=_where(target)) from error
        return Output(b"".join(kept[_STDOUT]), b"".join(kept[_STDERR]), status)

    @asynccontextmanager
    async def exec(self, target: Target, command: Sequence[str]) -> AsyncIterator[Session]:
        """Open a command with stdin, stdout and stderr as streams."""
        async with self._session(target, "exec", command=command, stdin=True) as session:
            yield session

    @asynccontextmanager
    async def attach(self, target: Target) -> AsyncIterator[Session]:
        """Attach to the container's main process; its stdin must have been asked for in the Pod to be heard."""
        async with self._session(target, "attach", command=(), stdin=True) as session:
            yield session

    async def logs(
        self, target: Target, *, follow: bool = False, since_seconds: int = 0, tail: int = 0, previous: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the log in chunks as they come."""
        asked = {
            "container": target.container,
            "follow": "true" if follow else "",
            "sinceSeconds": str(since_seconds) if since_seconds else "",
            "tailLines": str(tail) if tail else "",
            "previous": "true" if previous else "",
        }
        path = item(POD, target.namespace, target.pod, "log") + query(asked)
        call = Call("logs", "GET", path, where=_where(target), lane=Lane.WATCHES)
        # What follows may be silent for hours; the kernel notices when the other side is gone.
        quiet = None if follow else self._transport.patience.silence
        async with self._transport.stream(call, quiet=quiet) as chunks:
            async for chunk in chunks:
                yield chunk

    async def add_ephemeral(self, namespace: str, pod: str, container: Mapping[str, Any]) -> None:
        """Add an ephemeral container; the same one twice is success, another one of its name `AlreadyExistsError`."""
        where, name = f"pods/{namespace}/{pod}", container.get("name")
        if not isinstance(name, str) or not name:
            raise InvalidError("an ephemeral container needs a name", where=where)
        for _ in range(_TRIES):
            found = await self._pod(namespace, pod, where)
            for there in found.spec.ephemeral_containers or ():
                if there.get("name") == name:
                    if not within(container, there):
                        raise AlreadyExistsError(f"another ephemeral container is called {name}", where=where)
                    return
            try:
                await self._add(namespace, pod, container, found.metadata.resource_version, where)
            except OutdatedError:
                continue
            return
        raise OutdatedError(f"the Pod changed {_TRIES} times in a row", where=where, fix="try again")

    async def _pod(self, namespace: str, pod: str, where: str) -> _Pod:
        call = Call("get", "GET", item(POD, namespace, pod), where=where)
        answer = await self._transport.call(call, limit=_POD_BYTES)
        try:
            return msgspec.json.decode(answer.body, type=_Pod)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UnavailableError("what answered is no API server", where=where) from error

    async def _add(self, namespace: str, pod: str, container: Mapping[str, Any], version: str, where: str) -> None:
        # A strategic merge patch merges this list by name; the version keeps a second one of this name out.
        patch = {"metadata": {"resourceVersion": version}, "spec": {"ephemeralContainers": [dict(container)]}}
        try:
            body = msgspec.json.encode(patch)
        except (RecursionError, TypeError) as error:
            raise InvalidError(f"cannot be written as JSON: {error}", where=where) from error
        call = Call(
            "patch", "PATCH", item(POD, namespace, pod, "ephemeralcontainers"), body,
            "application/strategic-merge-patch+json", where,
        )  # fmt: skip
        await self._transport.call(call, limit=_POD_BYTES)

    @asynccontextmanager
    async def _session(
        self, target: Target, part: str, *, command: Sequence[str], stdin: bool
    ) -> AsyncIterator[PodSession]:
        asked = [("command", word) for word in command]
        asked += [("container", target.container)] if target.container else []
        asked += [("stdin", "true")] if stdin else []
        asked += [("stdout", "true"), ("stderr", "true")]
        path = f"{item(POD, target.namespace, target.pod, part)}?{urlencode(asked)}"
        call = Call(part, "GET", path, where=_where(target), lane=Lane.WATCHES)
        async with self._transport.websocket(call, (V5, V4)) as socket:
            yield PodSession(socket, _where(target))


async def _feed(session: PodSession, stdin: bytes) -> None:
    # A connection that is gone shows where the output is read.
    with contextlib.suppress(UnavailableError):
        await session.send(stdin)
        await session.end()


def exit_status(result: Status, where: str = "") -> int:
    """Return the exit status that a result means; raises the error that kept a command from running."""
    if result.status == "Success":
        return 0
    if result.reason == "NonZeroExitCode":
        for cause in result.causes:
            if cause.reason == "ExitCode" and cause.message.isdigit():
                return int(cause.message)
    raise _failure(result, where)


def _failure(result: Status, where: str) -> UgalluError:
    # Runtimes report through a 500 what no second try will change.
    if "executable file not found" in result.message or "no such file or directory" in result.message:
        return InvalidError(plain(result.message), where=where)
    return refusal(result.code or 500, result, where=where)


def within(asked: Any, stored: Any) -> bool:  # noqa: ANN401 - any JSON value
    """Tell whether everything asked for is stored; a server adds defaults of its own."""
    if isinstance(asked, Mapping):
        return isinstance(stored, Mapping) and all(within(value, stored.get(key)) for key, value in asked.items())
    if isinstance(asked, list | tuple):
        return (
            isinstance(stored, list | tuple)
            and len(asked) == len(stored)
            and all(within(one, other) for one, other in zip(asked, stored, strict=True))
        )
    return bool(asked == stored) or (not asked and stored is None)


def _where(target: Target) -> str:
    return f"pods/{target.namespace}/{target.pod}" + (f"/{target.container}" if target.container else "")
