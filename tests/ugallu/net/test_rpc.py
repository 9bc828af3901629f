"""gRPC over real sockets: who may call, what a caller may cost, how it ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import structlog
from grpclib.exceptions import GRPCError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rig.keys import Authority
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError
from ugallu.net.bearer import BearerToken, read_token
from ugallu.net.rpc import (
    PROTOCOL,
    RELOAD_SECONDS,
    Limits,
    RpcServer,
    Servable,
    Stream,
    _quiet,
    _Server,
    connected,
    refusal,
    replies,
    request_of,
    send,
    server_streaming,
    translated,
)
from ugallu.net.tls import ServerTls, client_context
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.relay import until
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

PATH = "/test/Stream"
CALL = pb.SubscribeRequest(consumer_name="c")


class Place:
    """Keys, a service that says what it is told to, and what its server complained of."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "ca")
        self.pair = self.authority.issue("server", "server", hosts=("127.0.0.1",))
        self.token = folder / "token"
        self.token.write_text("s3cret\n")
        self.clock = ManualClock()
        self.unauthenticated = 0
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.calls = 0
        self.error: UgalluError | None = None
        self.endless = False
        self.closing = anyio.Event()
        self.replies = [pb.AuditEvent(verb=f"v{n}", user_agent="x" * 100) for n in range(3)]

    async def serve(self, stream: Stream) -> None:
        self.calls += 1
        await request_of(stream)
        if self.error is not None:
            raise self.error
        await stream.send_initial_metadata()
        await send(stream, [reply.SerializeToString() for reply in self.replies])
        if self.endless:
            await self.closing.wait()
            raise TransientError("the server is stopping")

    @asynccontextmanager
    async def running(self, *, mutual: bool = False, limits: Limits | None = None) -> AsyncIterator[int]:
        method = server_streaming(self.serve, pb.SubscribeRequest, pb.AuditEvent)
        ca = self.authority.pair.certificate if mutual else None
        server = RpcServer(
            "127.0.0.1:0",
            [Servable({PATH: method}, self.closing.set)],
            tls=ServerTls(self.pair.certificate, self.pair.key, ca, protocol=PROTOCOL),
            token=BearerToken(self.token),
            limits=limits or Limits(drain_seconds=1.0, known_seconds=2.0),
            clock=self.clock,
            log=structlog.wrap_logger(None, processors=[self._note]),
            unauthenticated=self._count,
        )
        async with anyio.create_task_group() as tg:
            yield await tg.start(lambda *, task_status: server.serve(task_status=task_status))
            tg.cancel_scope.cancel()

    def _note(self, _: object, __: str, event: Any) -> str:
        self.logged.append((event.pop("event"), dict(event)))
        raise structlog.DropEvent

    def _count(self) -> None:
        self.unauthenticated += 1

    async def ask(self, port: int, *, token: str = "s3cret", limit: int = 1 << 20, path: str = PATH) -> list[str]:
        tls = client_context(self.authority.pair.certificate, protocol=PROTOCOL)
        async with connected("127.0.0.1", port, tls=tls) as channel:
            stream = replies(channel, path, CALL, pb.AuditEvent, token=token, limit=limit)
            return [reply.verb async for reply in stream]


async def ended(stream: anyio.abc.ByteStream) -> bool:
    """Whether the server ends the connection."""
    with anyio.fail_after(20):
        try:
            while True:
                await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_messages_that_are_sent_together_arrive_one_by_one(place: Place) -> None:
    """As any client of gRPC reads them, over any number of frames."""
    place.replies = [pb.AuditEvent(verb=f"v{n}", user_agent="x" * (n * 977 % 40_000)) for n in range(200)]
    async with place.running() as port:
        assert await place.ask(port) == [f"v{n}" for n in range(200)]


@pytest.mark.parametrize("token", ["", "wrong", "s3cre", "s3crett"])
async def test_without_the_token_nothing_is_served(place: Place, token: str) -> None:
    """W1: the call is refused before its request is read, and counted."""
    async with place.running() as port:
        with pytest.raises(RefusedError, match="unauthenticated"):
            await place.ask(port, token=token)
    assert (place.calls, place.unauthenticated) == (0, 1)
    assert not any("wrong" in str(line) or "s3cre" in str(line) for line in place.logged)


async def test_what_an_error_says_comes_over(place: Place) -> None:
    """Its kind decides what the caller does."""
    async with place.running() as port:
        for error in (RefusedError("no", fix="ask"), PermanentError("never"), TransientError("later")):
            place.error = error
            with pytest.raises(type(error), match=error.what):
                await place.ask(port)
        with pytest.raises(UgalluError):
            await place.ask(port, path="/test/Other")


async def test_a_reply_over_the_limit_is_not_waited_for(place: Place) -> None:
    """W4: the reader decides how large a message may be, before it has it."""
    async with place.running() as port:
        with pytest.raises(TransientError, match="the limit is 50"):
            await place.ask(port, limit=50)


async def test_a_request_over_the_limit_is_not_waited_for(place: Place) -> None:
    """Whoever announces four gigabytes gets an answer, and no memory."""
    place.error = None
    big = pb.SubscribeRequest(consumer_name="x" * 100_000)
    tls = client_context(place.authority.pair.certificate, protocol=PROTOCOL)
    async with place.running() as port, connected("127.0.0.1", port, tls=tls) as channel:
        with pytest.raises(TransientError, match="the limit is 65536"):
            async for _ in replies(channel, PATH, big, pb.AuditEvent, token="s3cret", limit=1000):
                pass


async def test_the_end_is_told_to_every_stream(place: Place) -> None:
    """W5: endless streams end at once when the server does, and know why; nothing waits for a deadline."""
    place.endless = True
    errors: list[Exception] = []

    async def follow(port: int) -> None:
        try:
            await place.ask(port)
        except TransientError as error:
            errors.append(error)

    async with anyio.create_task_group() as tg:
        with anyio.fail_after(10):
            async with place.running(limits=Limits(drain_seconds=60)) as port:
                for _ in range(3):
                    tg.start_soon(follow, port)
                await until(lambda: place.calls == 3)
    assert ["the server is stopping" in str(error) for error in errors] == 3 * [True]


async def test_a_stream_that_does_not_end_is_cut(place: Place) -> None:
    """W5: after a while, whatever it waits for."""
    place.endless = True

    async def ask(port: int) -> None:
        with pytest.raises(TransientError):
            await place.ask(port)

    async with anyio.create_task_group() as tg:
        with anyio.fail_after(10):
            async with place.running(limits=Limits(drain_seconds=0.1)) as port:
                tg.start_soon(ask, port)
                await until(lambda: bool(place.calls))
                place.closing = anyio.Event()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64, id="half a frame"),
        pytest.param(b"\x16\x03\x01" + b"\0" * 200, id="no TLS"),
    ],
)
async def test_garbage_is_its_senders_business(place: Place, data: bytes) -> None:
    """The connection ends, the server goes on, and the log stays quiet."""
    async with place.running(limits=Limits(known_seconds=0.2)) as port:
        for _ in range(10):
            tls = client_context(place.authority.pair.certificate, protocol=PROTOCOL)
            stream: anyio.abc.ByteStream
            if data.startswith(b"\x16"):
                stream = await anyio.connect_tcp("127.0.0.1", port)
            else:
                stream = await anyio.connect_tcp("127.0.0.1", port, ssl_context=tls, tls_standard_compatible=False)
            async with stream:
                await stream.send(data)
                assert await ended(stream)
        assert len(await place.ask(port)) == 3
    assert len(place.logged) <= 5


class Pipe(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


FRAMES = st.builds(frame, st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=80))


@settings(max_examples=150)
@given(st.booleans(), st.lists(FRAMES | st.binary(max_size=60), max_size=6))
def test_no_bytes_break_a_server(begun: bool, sent: list[bytes]) -> None:
    """Whatever a stranger sends ends in an answer or the end of the connection, and in no error of ours."""

    async def feed() -> None:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        method = server_streaming(no_call, pb.SubscribeRequest, pb.AuditEvent)
        link = _Server([Servable({PATH: method})], Limits()).link()
        pipe = Pipe()
        with _quiet(lambda *_, **__: None):
            link.connection_made(pipe)
            for data in [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""), *sent] if begun else sent:
                if not pipe.closed:
                    link.data_received(data)
                await anyio.lowlevel.checkpoint()
            link.connection_lost(None)
            await link.idle()
        assert failures == []

    anyio.run(feed)


async def no_call(stream: Stream) -> None:
    await request_of(stream)


async def test_who_does_not_call_is_not_kept(place: Place) -> None:
    """A connection without a call that shows the token ends after a while, so nobody takes all of them."""
    tls = client_context(place.authority.pair.certificate, protocol=PROTOCOL)
    async with place.running(limits=Limits(known_seconds=0.3)) as port:
        async with await anyio.connect_tcp("127.0.0.1", port, ssl_context=tls, tls_standard_compatible=False) as stream:
            assert await ended(stream)
        assert len(await place.ask(port)) == 3


async def test_connections_from_one_address_are_bounded(place: Place) -> None:
    """One bad neighbour must not take all of them."""
    async with place.running(limits=Limits(per_address=2)) as port:
        held = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(2)]
        await settled()
        with pytest.raises(TransientError):
            await place.ask(port)
        for each in held:
            await anyio.aclose_forcefully(each)


async def test_callers_show_a_certificate_where_one_is_asked_for(place: Place) -> None:
    """Without one there is no connection."""
    async with place.running(mutual=True) as port:
        with pytest.raises(TransientError):
            await place.ask(port)
    assert place.calls == 0


async def test_certificates_and_token_are_taken_over(place: Place, tmp_path: Path) -> None:
    """W1: a Secret that changes is in force within seconds; one that cannot be used is told once and changes nothing."""

    async def cut_off(ca: Path, port: int) -> None:
        tls = client_context(ca, protocol=PROTOCOL)
        async with connected("127.0.0.1", port, tls=tls) as channel:
            stream = replies(channel, PATH, CALL, pb.AuditEvent, token="s3cret", limit=1 << 20)
            with pytest.raises(TransientError):
                assert [reply async for reply in stream]

    async with place.running() as port:
        old = place.authority.pair.certificate
        place.token.write_text("another\n")
        (tmp_path / "new").mkdir()
        place.authority = Authority(tmp_path / "new", "new")
        fresh = place.authority.issue("server", "server", hosts=("127.0.0.1",))
        place.pair.certificate.write_bytes(fresh.certificate.read_bytes())
        place.pair.key.write_bytes(fresh.key.read_bytes())
        await until(lambda: bool(place.clock.sleeping))
        place.endless = True
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                tg.start_soon(cut_off, old, port)
                await until(lambda: place.calls == 1)
                await place.clock.advance(RELOAD_SECONDS)
        place.endless = False
        assert len(await place.ask(port, token="another")) == 3
        with pytest.raises(RefusedError):
            await place.ask(port)
        place.token.write_text("\n")
        await place.clock.advance(RELOAD_SECONDS)
        await place.clock.advance(RELOAD_SECONDS)
        assert len(await place.ask(port, token="another")) == 3
    assert [event for event, _ in place.logged].count("cannot be taken over; the one before stays in use") == 1


async def test_an_address_that_is_taken(place: Place) -> None:
    """Is named."""
    async with place.running() as port:
        server = RpcServer(f"127.0.0.1:{port}", [], tls=None, token=None, clock=place.clock, log=structlog.get_logger())
        with pytest.raises(PermanentError, match="cannot listen"):
            await server.serve()


async def test_nobody_there() -> None:
    """Is something that may pass."""
    async with connected("127.0.0.1", 1, tls=None) as channel:
        with pytest.raises(TransientError, match=r"(?i)connect"):
            async for _ in replies(channel, PATH, CALL, pb.AuditEvent, token="", limit=1):
                pass


@pytest.mark.parametrize(
    ("error", "kind"),
    [(RefusedError("a"), RefusedError), (PermanentError("a"), PermanentError), (TransientError("a"), TransientError)],
)
def test_errors_survive_the_wire(error: UgalluError, kind: type[UgalluError]) -> None:
    """What is refused there is refused here."""
    sent = refusal(error)
    assert isinstance(sent, GRPCError)
    assert type(translated(sent)) is kind


@pytest.mark.parametrize("spoil", [lambda p: p.write_text(""), lambda p: p.unlink(), lambda p: p.write_text("a b")])
def test_a_token_to_show_is_read_whole(place: Place, spoil: Callable[[Path], object]) -> None:
    """Or named as missing."""
    assert read_token(place.token) == "s3cret"
    spoil(place.token)
    with pytest.raises(PermanentError):
        read_token(place.token)


@pytest.mark.parametrize("part", ["ca", "certificate"])
def test_files_of_a_caller_are_named(place: Place, part: str, tmp_path: Path) -> None:
    """The one that cannot be used, and what to do."""
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    ca = bad if part == "ca" else place.authority.pair.certificate
    with pytest.raises(PermanentError) as caught:
        client_context(ca, bad if part == "certificate" else None, bad)
    assert caught.value.where == str(bad)
