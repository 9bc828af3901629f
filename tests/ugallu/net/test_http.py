"""The HTTPS server over real sockets: who may call, what a caller may cost, and how it ends."""

import gzip
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import structlog
from anyio.streams.tls import TLSAttribute
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.rig.keys import Authority, Pair
from ugallu.errors import PermanentError
from ugallu.net.bearer import BearerToken
from ugallu.net.http import CUT, RELOAD_SECONDS, UNTRUSTED, Answer, Body, HttpsServer, Limits
from ugallu.net.tls import ServerTls
from ugallu.testing.clock import ManualClock
from ugallu.testing.https import Caller, Reply, calling, head

LOG = structlog.wrap_logger(structlog.ReturnLogger())
TOKEN = {"Authorization": "Bearer s3cret"}
PATH = "/in"
PACKED = gzip.compress(b"a" * 5000)


class Place:
    """Keys of a server and its callers, and a server that notes what it was sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder, "ca")
        self.pair = self.authority.issue("server", "server", hosts=("127.0.0.1",))
        self.client = self.authority.issue("client", "client")
        self.token = folder / "token"
        self.token.write_text("s3cret\n")
        self.clock = ManualClock()
        self.bodies: list[Body] = []
        self.told: list[int] = []
        self.gate = anyio.Event()
        self.gate.set()
        self.port = 0
        self.logged: list[tuple[str, dict[str, Any]]] = []

    async def take(self, body: Body) -> Answer:
        self.bodies.append(body)
        await self.gate.wait()
        return Answer(200) if body.whole else Answer(413, close=True)

    def server(
        self, *, token: bool = True, mutual: bool = False, limits: Limits | None = None, address: str = "127.0.0.1:0"
    ) -> HttpsServer:
        return HttpsServer(
            address,
            ServerTls(self.pair.certificate, self.pair.key, self.authority.pair.certificate if mutual else None),
            {PATH: self.take},
            token=BearerToken(self.token) if token else None,
            limits=limits or Limits(),
            clock=self.clock,
            log=structlog.wrap_logger(structlog.ReturnLogger(), processors=[self.note]),
            told=self.told.append,
        )

    def note(self, _: object, level: str, about: Any) -> tuple[tuple[str], dict[str, Any]]:
        self.logged.append((level, dict(about)))
        return ("",), {}

    @asynccontextmanager
    async def serving(self, **options: Any) -> AsyncIterator[anyio.abc.TaskGroup]:
        server = self.server(**options)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tg:
                self.port = await tg.start(lambda *, task_status: server.serve(task_status=task_status))
                yield tg
                tg.cancel_scope.cancel()

    @asynccontextmanager
    async def call(self, pair: Pair | None = None) -> AsyncIterator[Caller]:
        certificate, key = (pair.certificate, pair.key) if pair else (None, None)
        async with calling(self.port, self.authority.pair.certificate, certificate=certificate, key=key) as caller:
            yield caller

    async def post(self, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Reply:
        async with self.call() as caller:
            return await caller.post(PATH, body, TOKEN if headers is None else headers)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def until(holds: Callable[[], object]) -> None:
    """Poll with a bound: sockets of the real machine are under way."""
    for _ in range(2000):
        if holds():
            return
        await anyio.sleep(0.005)
    pytest.fail("not within 10 s")


# Who may call


async def test_a_body_arrives_and_is_answered(place: Place) -> None:
    """One connection carries many requests; the answer says how long it is."""
    async with place.serving(), place.call() as caller:
        for number in range(3):
            reply = await caller.post(PATH, b"x" * number * 100_000, TOKEN)
            assert (reply.status, reply.headers["content-length"], reply.body) == (200, "0", b"")
            assert "connection" not in reply.headers
    assert [len(body.data) for body in place.bodies] == [0, 100_000, 200_000]
    assert place.told == [200, 200, 200]


@pytest.mark.parametrize(
    "header",
    [
        "",
        "s3cret",
        "Bearer",
        "Bearer ",
        "Bearer s3cre",
        "Bearer s3cret1",
        "Basic s3cret",
        "Bearer S3CRET",
        "Bearer \u00e9",
    ],
)
async def test_another_token_is_401_before_anything_is_read(place: Place, header: str) -> None:
    """Not even the path is looked at."""
    async with place.serving(), place.call() as caller:
        reply = await caller.post("/elsewhere", b"{}", {"Authorization": header} if header else {})
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert await caller.closed()
    assert place.bodies == []
    assert place.told == [401]


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer s3cret", "Bearer  s3cret "])
async def test_the_token_is_taken_as_http_writes_it(place: Place, header: str) -> None:
    """The scheme's case and spaces around do not matter."""
    async with place.serving():
        assert (await place.post(headers={"Authorization": header})).status == 200


async def test_a_client_certificate_is_asked_for_and_checked(place: Place, tmp_path: Path) -> None:
    """With a client CA nobody gets through without a certificate of that CA, whatever token they show."""
    other = tmp_path / "other"
    other.mkdir()
    stranger = Authority(other, "ca").issue("client", "client")
    async with place.serving(mutual=True, token=False):
        async with place.call(place.client) as caller:
            assert (await caller.post(PATH, b"{}")).status == 200
        for pair in (None, stranger):
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError)):
                async with place.call(pair) as caller:
                    await caller.post(PATH, b"{}", TOKEN)
        await until(lambda: len(place.told) == 3)
    assert place.told == [200, UNTRUSTED, UNTRUSTED]
    assert len(place.bodies) == 1


async def test_token_and_certificate_together(place: Place) -> None:
    """Where both are configured, one is not enough."""
    async with place.serving(mutual=True), place.call(place.client) as caller:
        assert (await caller.post(PATH, b"{}")).status == 401
        with pytest.raises(anyio.EndOfStream):
            await caller.reply()
        async with place.call(place.client) as again:
            assert (await again.post(PATH, b"{}", TOKEN)).status == 200


def for_servers_only(place: Place) -> Pair:
    """Issue a certificate of the CA that is no client's."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        place.authority._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), key)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(place.authority._key, hashes.SHA256())
    )
    pair = Pair(place.folder / "only.crt", place.folder / "only.key")
    pair.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pair.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return pair


async def test_a_servers_certificate_is_no_clients(place: Place) -> None:
    """A certificate of the right CA for another use opens nothing."""
    async with place.serving(mutual=True, token=False):
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError)):
            async with place.call(for_servers_only(place)) as caller:
                await caller.post(PATH, b"{}")
        async with place.call(place.client) as caller:
            assert (await caller.post(PATH, b"{}")).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_old_tls_is_refused(place: Place, version: ssl.TLSVersion) -> None:
    """1.2 is the oldest."""
    context = ssl.create_default_context(cafile=str(place.authority.pair.certificate))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    async with place.serving():
        with pytest.raises((ssl.SSLError, anyio.BrokenResourceError, anyio.EndOfStream, OSError)):
            await anyio.connect_tcp("127.0.0.1", place.port, ssl_context=context)
        await until(lambda: place.told)
    assert place.told == [UNTRUSTED]


async def test_no_session_is_resumed(place: Place) -> None:
    """A resumed session would come in without showing its certificate again."""
    context = ssl.create_default_context(cafile=str(place.authority.pair.certificate))
    async with place.serving(), await anyio.connect_tcp("127.0.0.1", place.port, ssl_context=context) as stream:
        caller = Caller(stream)
        assert (await caller.post(PATH, b"{}", TOKEN)).status == 200
        found = stream.extra(TLSAttribute.ssl_object)
        assert found.session is None or not found.session.has_ticket


# What is answered


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", PATH, {}, 405),
        ("PUT", PATH, {}, 405),
        ("POST", "/in/", {}, 404),
        ("POST", "/", {}, 404),
        ("POST", "/in?x=1", {}, 200),
        ("POST", PATH, {"Content-Type": "text/plain"}, 415),
        ("POST", PATH, {"Content-Type": "application/vnd.kubernetes.protobuf"}, 415),
        ("POST", PATH, {"Content-Type": "application/json; charset=utf-8"}, 200),
        ("POST", PATH, {"Content-Encoding": "br"}, 415),
        ("POST", PATH, {"Content-Encoding": "deflate"}, 415),
        ("POST", PATH, {"Content-Encoding": "identity"}, 200),
    ],
)
async def test_what_is_not_served(place: Place, method: str, path: str, headers: dict[str, str], status: int) -> None:
    """Wrong method, path, type and encoding have an answer each."""
    async with place.serving(), place.call() as caller:
        await caller.send(head(method, path, {**TOKEN, "Content-Length": "2", **headers}) + b"{}")
        reply = await caller.reply()
        assert reply.status == status
        assert reply.headers.get("allow") == ("POST" if status == 405 else None)
    assert place.told == [status]


async def test_chunks_and_gzip(place: Place) -> None:
    """A body may come in chunks, and compressed."""
    packed = gzip.compress(b"a" * 50_000)
    async with place.serving(), place.call() as caller:
        await caller.send(head("POST", PATH, {**TOKEN, "Transfer-Encoding": "chunked"}))
        await caller.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert (await caller.reply()).status == 200
        assert (await caller.post(PATH, packed, {**TOKEN, "Content-Encoding": "gzip"})).status == 200
    assert [bytes(body.data) for body in place.bodies] == [b"abcde", b"a" * 50_000]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(b"no gzip at all", id="text"),
        pytest.param(PACKED[:-20] + b"x" * 20, id="overwritten"),
        pytest.param(PACKED[:-1], id="cut"),
        pytest.param(PACKED + PACKED, id="twice"),
    ],
)
async def test_damaged_gzip_is_400(place: Place, damage: bytes) -> None:
    """Nothing of it is handed on."""
    async with place.serving():
        reply = await place.post(damage, {**TOKEN, "Content-Encoding": "gzip"})
    assert reply.status == 400
    assert place.bodies == []


async def test_a_caller_that_asks_first_is_told_to_go_on(place: Place) -> None:
    """curl sends `Expect: 100-continue` before large bodies."""
    async with place.serving(), place.call() as caller:
        await caller.send(head("POST", PATH, {**TOKEN, "Content-Length": "2", "Expect": "100-continue"}))
        assert (await caller.reply()).status == 100
        await caller.send(b"{}")
        assert (await caller.reply()).status == 200


# What a caller may cost


async def test_over_the_limit_is_413_with_what_fits(place: Place) -> None:
    """The handler gets as much as the limit allows, and the connection ends; the next one is served."""
    async with place.serving(limits=Limits(body_bytes=1000)):
        async with place.call() as caller:
            assert (await caller.post(PATH, b"x" * 1500, TOKEN)).status == 413
            assert await caller.closed()
        assert (await place.post(b"y" * 1000)).status == 200
    assert place.bodies == [Body(bytearray(b"x" * 1000), whole=False), Body(bytearray(b"y" * 1000), whole=True)]


async def test_a_bomb_is_cut_at_the_limit(place: Place) -> None:
    """Compressed bytes count as what they become, and no more of them is unpacked."""
    async with place.serving(limits=Limits(body_bytes=1 << 20)):
        reply = await place.post(gzip.compress(bytes(200 << 20)), {**TOKEN, "Content-Encoding": "gzip"})
    assert reply.status == 413
    assert [len(body.data) for body in place.bodies] == [1 << 20]


async def test_a_head_that_never_ends(place: Place) -> None:
    """Bytes that trickle in win no time: the connection is cut at the limit."""
    async with place.serving(limits=Limits(head_seconds=0.3)), place.call() as caller:
        await caller.send(b"POST /in HTTP/1.1\r\n")
        with anyio.move_on_after(5) as patience:
            try:
                while True:
                    await caller.send(b"X-A: b\r\n")
                    await anyio.sleep(0.05)
            except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError, ConnectionError):
                pass
        assert not patience.cancelled_caught
        assert (await place.post()).status == 200


async def test_a_connection_that_says_nothing(place: Place) -> None:
    """It is cut, also when it does not even begin with TLS."""
    async with place.serving(limits=Limits(head_seconds=0.3)):
        async with await anyio.connect_tcp("127.0.0.1", place.port) as plain:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await plain.receive()
        async with place.call() as caller:
            assert await caller.closed()
    assert place.told == [UNTRUSTED]


async def test_a_head_over_the_limit_is_refused(place: Place) -> None:
    """8 KiB a line."""
    async with place.serving(), place.call() as caller:
        await caller.send(head("POST", PATH, {**TOKEN, "X-Long": "x" * 20_000}))
        assert (await caller.reply()).status == 400
    assert place.bodies == []


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01 no http\r\n\r\n", b"GET\r\n\r\n", b"POST /in HTTP/1.1\r\nAuthorization: Bearer s3\x00cret\r\n\r\n"],
)
async def test_garbage_is_400_and_never_logged(place: Place, garbage: bytes) -> None:
    """What cannot be parsed may hold a token, so no log quotes it."""
    async with place.serving(), place.call() as caller:
        await caller.send(garbage)
        assert (await caller.reply()).status == 400
    assert not [entry for entry in place.logged if "s3" in str(entry) or "no http" in str(entry)]


async def test_a_body_that_trickles_is_408(place: Place) -> None:
    """A body has its time as a whole, however often a byte of it comes."""
    async with place.serving(limits=Limits(body_seconds=0.3)), place.call() as caller:
        await caller.send(head("POST", PATH, {**TOKEN, "Content-Length": "1000"}) + b"x")
        assert (await caller.reply()).status == 408
    assert place.bodies == []
    assert place.told == [408]


async def test_a_cut_body_is_not_handed_on(place: Place) -> None:
    """Half a request is no request."""
    async with place.serving():
        async with place.call() as caller:
            await caller.send(head("POST", PATH, {**TOKEN, "Content-Length": "1000"}) + b"x" * 500)
        await until(lambda: place.told)
    assert place.told == [CUT]
    assert place.bodies == []


async def test_connections_are_bounded(place: Place) -> None:
    """One address gets its share and no more; whoever leaves makes room."""
    async with place.serving(limits=Limits(per_address=2)):
        async with AsyncExitStack() as held:
            for _ in range(2):
                caller = await held.enter_async_context(place.call())
                assert (await caller.post(PATH, b"{}", TOKEN)).status == 200
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError, OSError)):
                await place.post()
        with anyio.fail_after(5):
            while True:
                try:
                    assert (await place.post()).status == 200
                    break
                except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError, OSError):
                    await anyio.sleep(0.01)


async def test_more_callers_than_connections_wait(place: Place) -> None:
    """In the kernel's queue, where they cost us nothing, until a place is free."""
    async with place.serving(limits=Limits(connections=1)), anyio.create_task_group() as tg:
        for _ in range(5):
            tg.start_soon(place.post)
    assert place.told == [200] * 5


async def test_bodies_share_their_memory(place: Place) -> None:
    """Those that do not fit wait for their turn, and are told to come again when it takes too long."""
    place.gate = anyio.Event()
    got: list[int] = []

    async def post() -> None:
        reply = await place.post(b"x" * 600)
        got.append(reply.status)
        if reply.status == 503:
            assert reply.headers["retry-after"]

    async with place.serving(limits=Limits(body_bytes=1000, body_seconds=0.5)):
        async with anyio.create_task_group() as tg:
            tg.start_soon(post)
            await until(lambda: place.bodies)
            tg.start_soon(post)
            await until(lambda: got)
            assert got == [503]
            place.gate.set()
        assert got == [503, 200]
        await post()
    assert got == [503, 200, 200]


# Files that change


async def test_a_new_certificate_is_taken_without_cutting_anybody(place: Place) -> None:
    """Who is connected is served once more and then asked to come again; new callers see the new certificate at once."""
    async with place.serving(), place.call() as before:
        assert (await before.post(PATH, b"{}", TOKEN)).status == 200
        old = before.stream.extra(TLSAttribute.peer_certificate_binary)
        place.authority.issue("server", "server", hosts=("127.0.0.1",))
        await place.clock.advance(RELOAD_SECONDS)
        async with place.call() as after:
            assert after.stream.extra(TLSAttribute.peer_certificate_binary) != old
            assert (await after.post(PATH, b"{}", TOKEN)).headers.get("connection") is None
        reply = await before.post(PATH, b"{}", TOKEN)
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await before.closed()


async def test_a_broken_certificate_changes_nothing(place: Place) -> None:
    """It is told once, with the file, and the next good one is taken."""
    good = place.pair.key.read_bytes()
    async with place.serving():
        for text in (
            b"",
            b"-----BEGIN PRIVATE KEY-----\nno\n-----END PRIVATE KEY-----\n",
            place.client.key.read_bytes(),
        ):
            place.pair.key.write_bytes(text)
            place.logged.clear()
            await place.clock.advance(RELOAD_SECONDS)
            await place.clock.advance(RELOAD_SECONDS)
            errors = [about["error"] for level, about in place.logged if level == "error"]
            assert len(errors) == 1
            assert str(place.pair.key) in errors[0]
            assert (await place.post()).status == 200
        place.pair.key.write_bytes(good)
        await place.clock.advance(RELOAD_SECONDS)
        assert (await place.post()).status == 200


async def test_a_new_token_is_taken(place: Place) -> None:
    """The old one is refused from then on; an empty file changes nothing."""
    async with place.serving():
        place.token.write_text("")
        await place.clock.advance(RELOAD_SECONDS)
        assert (await place.post()).status == 200
        place.token.write_text("another")
        await place.clock.advance(RELOAD_SECONDS)
        assert (await place.post()).status == 401
        assert (await place.post(headers={"Authorization": "Bearer another"})).status == 200
    assert not [entry for entry in place.logged if "another" in str(entry)]


async def test_another_client_ca(place: Place, tmp_path: Path) -> None:
    """Clients of the one before come in no more."""
    other = tmp_path / "other"
    other.mkdir()
    authority = Authority(other, "ca")
    friend = authority.issue("client", "client")
    async with place.serving(mutual=True, token=False):
        trusted = place.authority.pair.certificate.read_bytes()
        place.authority.pair.certificate.write_bytes(authority.pair.certificate.read_bytes())
        await place.clock.advance(RELOAD_SECONDS)
        place.authority.pair.certificate.write_bytes(trusted)  # for the callers, before the server looks again
        async with place.call(friend) as caller:
            assert (await caller.post(PATH, b"{}")).status == 200
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError)):
            async with place.call(place.client) as caller:
                await caller.post(PATH, b"{}")


# The end


async def test_what_has_begun_is_answered_at_the_end(place: Place) -> None:
    """No new caller comes in, an idle connection ends at once, and a request under way has its answer."""
    place.gate = anyio.Event()
    got: list[Reply] = []

    async def post() -> None:
        async with place.call() as caller:
            got.append(await caller.post(PATH, b"x" * 1000, TOKEN))

    async with anyio.create_task_group() as outer, place.serving() as tg, place.call() as idle:
        place.gate.set()
        await idle.post(PATH, b"{}", TOKEN)
        place.gate = anyio.Event()
        outer.start_soon(post)
        await until(lambda: len(place.bodies) == 2)
        tg.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            assert await idle.closed()
            with pytest.raises(OSError, match=r"connect"):
                await anyio.connect_tcp("127.0.0.1", place.port)
            assert not got
            place.gate.set()
    assert [(reply.status, reply.headers["connection"]) for reply in got] == [(200, "close")]


async def test_a_request_that_does_not_end_is_cut_at_the_end(place: Place) -> None:
    """The drain has its time, and no caller can stretch it."""
    place.gate = anyio.Event()

    async def post() -> None:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await place.post()

    async with anyio.create_task_group() as outer, place.serving(limits=Limits(drain_seconds=0.2)) as tg:
        outer.start_soon(post)
        await until(lambda: place.bodies)
        tg.cancel_scope.cancel()


@pytest.mark.parametrize("address", ["127.0.0.1:{taken}", ":{taken}", "203.0.113.7:0", "no.such.host.invalid:1"])
async def test_an_address_that_cannot_be_had(place: Place, address: str) -> None:
    """It is named, with what to do."""
    async with place.serving(token=False):
        wanted = address.format(taken=place.port)
        with pytest.raises(PermanentError, match="cannot listen") as caught:
            await place.server(address=wanted).serve()
        assert caught.value.where == wanted
        assert caught.value.fix


async def test_every_interface(place: Place) -> None:
    """`:PORT` is all of them."""
    async with place.serving(address=":0"):
        assert (await place.post()).status == 200
