"""The audit webhook over real sockets and a real disk: who may send, what 200 means, and what each event becomes."""

import errno
import gzip
import json
import shutil
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import structlog
from anyio.streams.tls import TLSAttribute

from tests.rig.keys import Authority, Pair
from ugallu.api.observation import Batch, Checkpoint
from ugallu.errors import PermanentError, TransientError
from ugallu.metrics import Metrics
from ugallu.net.http import RELOAD_SECONDS
from ugallu.settings import WebhookSettings
from ugallu.sources.audit_webhook import DIRECTORY, PATH, RELEASE_SECONDS, AuditReceiver, AuditWebhook, audit_webhook
from ugallu.testing.clock import ManualClock
from ugallu.testing.files import FaultyFiles, SmallDisk, broken, healthy
from ugallu.testing.https import Caller, Reply, calling
from ugallu.testing.sourcing import Heard

if TYPE_CHECKING:
    from ugallu.journal.files import Files

TOKEN = {"Authorization": "Bearer s3cret"}
GZIP = {**TOKEN, "Content-Encoding": "gzip"}
LIST = '{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[%s]}'
ROOM = 1 << 20


def event(number: int, size: int = 0, **more: Any) -> bytes:
    about = {"auditID": f"id-{number}", "stage": "ResponseComplete", "requestURI": f"/{number}", "verb": "get", **more}
    return json.dumps(about | ({"requestObject": "x" * size} if size else {})).encode()


def events(*numbers: int, size: int = 0) -> bytes:
    return (LIST % ",".join(event(number, size).decode() for number in numbers)).encode()


async def until(holds: Callable[[], object]) -> None:
    """Poll with a bound: sockets and disk of the real machine are under way."""
    for _ in range(2000):
        if holds():
            return
        await anyio.sleep(0.005)
    pytest.fail("not within 10 s")


async def nothing(_: Batch[Any]) -> None:
    """Take what a receiver publishes."""
    await anyio.lowlevel.checkpoint()


class Slow(FaultyFiles):
    """A disk whose fsyncs of the spool wait while `gate` is shut; `killed` is what a process killed behind one leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.waits = 0
        self.killed: tuple[Path, Path] | None = None

    def fsync(self, fd: int) -> None:
        """Wait, do it, and perhaps die."""
        path = self._paths.get(fd)
        mine = path is not None and "/spool/" in str(path)
        if mine:
            self.waits += 1
            assert self.gate.wait(10)
        super().fsync(fd)
        if mine and self.killed:
            (live, left), self.killed = self.killed, None
            shutil.copytree(live, left)


class Front:
    """One state directory, and the lives of a webhook over it."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        self.folder = folder
        self.state = state or folder / "state"
        if state is None:
            self.authority = Authority(folder, "ca")
            self.pair = self.authority.issue("server", "server", hosts=("127.0.0.1",))
            self.client = self.authority.issue("client", "client")
        self.token = folder / "token"
        self.token.write_text("s3cret\n")
        self.clock = ManualClock()
        self.files = Slow()
        self.disk: Files = self.files
        self.metrics = Metrics()
        self.heard = Heard()
        self.points: list[Checkpoint] = []
        self.logged: list[dict[str, Any]] = []
        self.max_event_bytes = 1 << 20
        self.settings = WebhookSettings()

    def after_death(self, left: Path) -> "Front":
        """Return the next life, over what a killed process has left; heard is what was durable by then."""
        front = Front(self.folder, left)
        front.authority, front.pair, front.client = self.authority, self.pair, self.client
        return front

    def made(self, **options: Any) -> tuple[AuditWebhook, AuditReceiver]:
        wanted: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "tls_cert": str(self.pair.certificate),
            "tls_key": str(self.pair.key),
            "token_file": str(self.token),
            "max_body_bytes": ROOM // 2,
            "spool_bytes": ROOM,
            **options,
        }
        return audit_webhook(
            WebhookSettings(**wanted),
            self.state,
            max_event_bytes=self.max_event_bytes,
            checkpoints=lambda _: self.points,
            clock=self.clock,
            metrics=self.metrics,
            log=structlog.wrap_logger(structlog.ReturnLogger(), processors=[self._note]),
            files=self.disk,
        )

    def _note(self, _: object, __: str, about: Any) -> tuple[tuple[str], dict[str, Any]]:
        self.logged.append(dict(about))
        return ("",), {}

    @asynccontextmanager
    async def serving(self, *, reads: bool = True, **options: Any) -> AsyncIterator[None]:
        """Run receiver and source until the block ends, from what was heard last."""
        source, receiver = self.made(**options)
        self.source = source
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tg:
                tg.start_soon(receiver.run, nothing, None)
                if reads:
                    tg.start_soon(source.run, self.heard.publish, self.heard.checkpoint())
                await until(lambda: receiver.port and (self.heard.batches or not reads))
                self.port = receiver.port
                yield
                tg.cancel_scope.cancel()

    @asynccontextmanager
    async def call(self, pair: Pair | None = None) -> AsyncIterator[Caller]:
        certificate, key = (pair.certificate, pair.key) if pair else (None, None)
        async with calling(self.port, self.authority.pair.certificate, certificate=certificate, key=key) as caller:
            yield caller

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> Reply:
        async with self.call() as caller:
            return await caller.post(PATH, body, TOKEN if headers is None else headers)

    def save(self) -> None:
        """Let what was heard so far be durable."""
        self.points = [point for point in [self.heard.checkpoint()] if point]

    async def hears(self, *numbers: int) -> None:
        """Wait until exactly these events were published, in this order."""
        await until(lambda: len(self.numbers) >= len(numbers))
        assert self.numbers == list(numbers)

    @property
    def numbers(self) -> list[int]:
        return [int(record.audit_id.removeprefix("id-")) for record in self.heard.observations]

    def outcome(self, outcome: str) -> float:
        return self.metrics.value("ugallu_audit_webhook_requests_total", outcome=outcome)


@pytest.fixture
def front(tmp_path: Path) -> Front:
    return Front(tmp_path)


# What 200 means


async def test_events_are_published_in_the_order_in_which_they_came(front: Front) -> None:
    """Each becomes the record that its line in a log file would be."""
    async with front.serving(), front.call() as caller:
        for numbers in ((0, 1, 2), (), (3,)):
            reply = await caller.post(PATH, events(*numbers), TOKEN)
            assert (reply.status, reply.body) == (200, b"")
        await front.hears(0, 1, 2, 3)
    assert front.heard.counts == {"received": 4, "parsed": 4, "rejected": 0}
    assert front.metrics.value("ugallu_audit_webhook_events_total") == 4
    assert front.outcome("acknowledged") == 3


async def test_nothing_is_acknowledged_before_the_disk_has_it(front: Front) -> None:
    """While the fsync hangs there is no answer and no observation; both come with it."""
    async with front.serving(), front.call() as caller, anyio.create_task_group() as tg:
        front.files.gate.clear()
        replies: list[Reply] = []

        async def post() -> None:
            replies.append(await caller.post(PATH, events(1), TOKEN))

        before = front.files.waits
        tg.start_soon(post)
        await until(lambda: front.files.waits > before)
        assert replies == []
        assert front.numbers == []
        front.files.gate.set()
        await until(lambda: replies)
        assert replies[0].status == 200
        await front.hears(1)


async def test_killed_between_disk_and_answer(front: Front, tmp_path: Path) -> None:
    """The API server was told nothing and sends again, to a process that has the events already: they are seen once."""
    left = tmp_path / "left"
    async with front.serving(reads=False):
        front.files.killed = (front.state, left)
        assert (await front.post(events(1, 2))).status == 200
    after = front.after_death(left)
    async with after.serving():
        await after.hears(1, 2)
        assert (await after.post(events(1, 2, 3))).status == 200
        await after.hears(1, 2, 3)
        await until(lambda: after.heard.counts.get("duplicate") == 2)
    assert after.metrics.value("ugallu_audit_duplicate_total") == 2


async def test_a_disk_that_refuses_is_503_and_nothing_is_taken(front: Front) -> None:
    """All or nothing: not one event of a refused request is seen before it is sent again."""
    async with front.serving():
        for operation in ("pwrite", "fsync"):
            front.files.plan = broken(operation, errno.ENOSPC, name="/spool/")
            reply = await front.post(events(1, 2))
            assert (reply.status, reply.headers["retry-after"], reply.body) == (503, "2", b"the disk refuses\n")
        front.files.plan = healthy
        assert front.numbers == []
        assert (await front.post(events(1, 2))).status == 200
        await front.hears(1, 2)
    assert front.metrics.value("ugallu_audit_webhook_backpressure_total") == 2
    assert "duplicate" not in front.heard.counts


async def test_503_is_for_a_full_spool_alone(front: Front) -> None:
    """A reader that stands still costs nobody an answer until the spool is full to the last request; then 503, and 200 again."""
    async with front.serving(reads=False), front.call() as caller:
        body = events(0, size=100_000)
        sent = 0
        while (reply := await caller.post(PATH, body, TOKEN)).status == 200:
            sent += 1
        assert (reply.status, reply.headers["retry-after"], reply.body) == (503, "2", b"the spool is full\n")
        assert ROOM - len(body) < sent * len(body) <= ROOM
    async with front.serving(), front.call() as caller:
        await until(lambda: len(front.heard.batches) > 1)
        assert (await caller.post(PATH, body, TOKEN)).status == 503  # read, but nobody has it for good
        front.save()
        await until(lambda: front.clock.sleeping >= 2)
        await front.clock.advance(RELEASE_SECONDS)
        await until(lambda: front.metrics.value("ugallu_audit_webhook_spool_bytes") < ROOM // 2)
        assert (await caller.post(PATH, body, TOKEN)).status == 200
    assert front.outcome("busy") == 2


async def test_a_spool_that_fills_its_disk_empties_again(front: Front) -> None:
    """Bounded by the disk and not by its own size: 503 while its reader still has room to note how far it is."""
    disk = SmallDisk(front.state, ROOM)
    front.disk = disk
    async with front.serving(reads=False, spool_bytes=1 << 30), front.call() as caller:
        body = events(0, size=20_000)
        while (reply := await caller.post(PATH, body, TOKEN)).status == 200:
            pass
        assert (reply.status, reply.headers["retry-after"], reply.body) == (503, "2", b"the spool is full\n")
        assert ROOM // 16 < disk.space(front.state).free < ROOM // 4
    (front.state / "ballast").write_bytes(bytes(disk.space(front.state).free - 8192))
    async with front.serving(spool_bytes=1 << 30), front.call() as caller:
        await until(lambda: len(front.heard.batches) > 1)
        front.save()
        await until(lambda: front.clock.sleeping >= 2)
        await front.clock.advance(RELEASE_SECONDS)
        await until(lambda: front.source._spool._stored.seq > 0)
        assert (await caller.post(PATH, body, TOKEN)).status == 200


# Repeats


async def test_a_batch_that_comes_again_is_seen_once(front: Front) -> None:
    """Also in parts, in another order, and while it is still waiting to be read."""
    async with front.serving(), front.call() as caller:
        for numbers in ((1, 2), (1, 2), (2, 3), (3, 1)):
            assert (await caller.post(PATH, events(*numbers), TOKEN)).status == 200
        await until(lambda: front.heard.counts.get("received") == 8)
        await front.hears(1, 2, 3)
    assert front.heard.counts["duplicate"] == 5


async def test_a_repeat_is_known_after_a_restart(front: Front) -> None:
    """Whether the first one was read before it, its place in the spool let go of, or is read again from a checkpoint."""
    async with front.serving(), front.call() as caller:
        assert (await caller.post(PATH, events(1, 2), TOKEN)).status == 200
        await front.hears(1, 2)
        front.save()
        await front.clock.advance(RELEASE_SECONDS)
        assert (await caller.post(PATH, events(3), TOKEN)).status == 200
        await front.hears(1, 2, 3)
    front.heard.forget(2)  # a crash before what came last was durable
    async with front.serving():
        await front.hears(1, 2, 3)
        assert (await front.post(events(3, 1, 4))).status == 200
        await front.hears(1, 2, 3, 4)


async def test_an_audit_id_hides_nothing(front: Front) -> None:
    """`Audit-ID` is the client's to choose: events that share it, and all their times, are two events."""
    async with front.serving():
        body = LIST % ",".join(event(7, verb=verb).decode() for verb in ("get", "delete"))
        assert (await front.post(body.encode())).status == 200
        await front.hears(7, 7)


async def test_a_source_that_starts_again_shuts_no_door(front: Front) -> None:
    """Reading again from an earlier checkpoint is no business of an API server: it is answered all the while."""
    source, receiver = front.made()
    heard = Heard()

    def reached(life: int) -> bool:
        return len(heard.observations) > life

    async with anyio.create_task_group() as tg:
        tg.start_soon(receiver.run, nothing, None)
        await until(lambda: receiver.port)
        front.port = receiver.port
        async with front.call() as caller:
            for life in range(3):
                async with anyio.create_task_group() as reading:
                    reading.start_soon(source.run, heard.publish, heard.checkpoint())
                    assert (await caller.post(PATH, events(life), TOKEN)).status == 200
                    await until(partial(reached, life))
                    reading.cancel_scope.cancel()
        tg.cancel_scope.cancel()
    assert [record.audit_id for record in heard.observations] == ["id-0", "id-1", "id-2"]


# What is sent


async def test_a_single_event_and_a_compressed_list(front: Front) -> None:
    """Both are taken."""
    async with front.serving():
        assert (await front.post(event(1))).status == 200
        assert (await front.post(gzip.compress(events(2, 3)), GZIP)).status == 200
        await front.hears(1, 2, 3)


@pytest.mark.parametrize("packed", [False, True])
async def test_over_the_limit_is_413_and_what_is_complete_is_kept(front: Front, *, packed: bool) -> None:
    """The API server gives such a batch up after five tries: what fits is on disk by then, once."""
    body = events(*range(12), size=50_000)
    sent = gzip.compress(body) if packed else body
    async with front.serving(spool_bytes=4 * ROOM):
        for _ in range(3):
            reply = await front.post(sent, GZIP if packed else TOKEN)
            assert (reply.status, reply.headers["connection"]) == (413, "close")
            assert str(ROOM // 2) in reply.body.decode()
        await front.hears(*range(10))
        await until(lambda: front.heard.counts["received"] == 30)
    assert front.heard.counts["duplicate"] == 20


@pytest.mark.parametrize("body", [b'{"kind":"PodList","apiVersion":"v1","items":[]}', b"{", b"", b"[]"])
async def test_what_is_no_list_of_audit_events_is_400(front: Front, body: bytes) -> None:
    """And nothing of it is on disk."""
    async with front.serving():
        reply = await front.post(body)
        assert reply.status == 400
        assert b"audit.k8s.io/v1" in reply.body
        assert (await front.post(events(1))).status == 200
        await front.hears(1)
    assert front.outcome("no audit events") == 1


async def test_an_event_that_is_none_costs_no_other(front: Front) -> None:
    """It is acknowledged, since sending it again would not mend it, counted, and kept in sight without its content."""
    bad = ['{"auditID":"x","requestObject":"secret-4711"}', '{"verb":7}', '"no object"', '{"verb":"get","user":nil}']
    body = LIST % ",".join([event(1).decode(), *bad, event(2).decode()])
    async with front.serving():
        assert (await front.post(body.encode())).status == 200
        await front.hears(1, 2)
    assert front.heard.counts["received"] == 6
    assert front.heard.counts["rejected"] == 4
    assert front.metrics.value("ugallu_audit_webhook_parse_errors_total") == 4
    assert "4711" not in str(front.logged)
    assert [rejected.reason for rejected in front.source.quarantine] == ["kind", "shape", "shape", "json"]
    assert "4711" not in str(front.source.quarantine)


async def test_of_a_huge_event_the_metadata_stay(front: Front) -> None:
    """What it is about is known; its body is not, and that is counted."""
    front.max_event_bytes = 100_000
    async with front.serving():
        assert (await front.post(events(1, size=200_000))).status == 200
        await front.hears(1)
    assert not front.heard.observations[0].request_object
    assert front.heard.counts["rejected.oversize"] == front.heard.counts["salvaged"] == 1


# Who may send


@pytest.mark.parametrize(
    ("mutual", "token", "shown", "comes_in"),
    [
        (False, True, (False, True), True),
        (False, True, (False, False), False),
        (False, True, (True, False), False),
        (True, False, (True, False), True),
        (True, False, (False, True), False),
        (True, True, (True, True), True),
        (True, True, (False, True), False),
        (True, True, (True, False), False),
    ],
)
async def test_certificate_token_or_both(
    front: Front, *, mutual: bool, token: bool, shown: tuple[bool, bool], comes_in: bool
) -> None:
    """What is configured is asked for, all of it; who does not show it leaves no event."""
    options: dict[str, Any] = {
        "client_ca": str(front.authority.pair.certificate) if mutual else "",
        "token_file": str(front.token) if token else "",
    }
    async with front.serving(**options):
        status = 0
        try:
            async with front.call(front.client if shown[0] else None) as caller:
                status = (await caller.post(PATH, events(1), TOKEN if shown[1] else {})).status
        except (anyio.EndOfStream, anyio.BrokenResourceError, ssl.SSLError):
            pass  # no TLS connection without a certificate
        assert (status == 200) == comes_in
        if comes_in:
            await front.hears(1)
        elif status:
            assert status == 401
            assert front.metrics.value("ugallu_audit_webhook_auth_failures_total") == 1
        else:
            await until(lambda: front.outcome("no connection") == 1)
    assert front.numbers == [1] * comes_in


async def test_anonymous_only_when_told_so(front: Front) -> None:
    """And then it is said aloud."""
    async with front.serving(token_file="", anonymous=True):
        assert (await front.post(events(1), {})).status == 200
        await front.hears(1)
    assert any("forge" in str(line.get("event")) for line in front.logged)


async def test_certificate_and_token_are_replaced_live(front: Front) -> None:
    """From the next look on: the old token is refused, the new certificate shown, and no answer is lost on the way."""
    async with front.serving(), front.call() as caller:
        assert (await caller.post(PATH, events(1), TOKEN)).status == 200
        fresh = front.authority.issue("fresh", "fresh", hosts=("127.0.0.1",))
        shutil.copy(fresh.certificate, front.pair.certificate)
        shutil.copy(fresh.key, front.pair.key)
        front.token.write_text("an0ther\n")
        await front.clock.advance(RELOAD_SECONDS)
        other = {"Authorization": "Bearer an0ther"}
        assert (await caller.post(PATH, events(2), other)).status == 200  # the open connection's last answer
        assert await caller.closed()
        assert (await front.post(events(3), TOKEN)).status == 401
        async with front.call() as again:
            assert (await again.post(PATH, events(3), other)).status == 200
            shown = again.stream.extra(TLSAttribute.peer_certificate_binary)
        assert shown == ssl.PEM_cert_to_DER_cert(fresh.certificate.read_text())
        await front.hears(1, 2, 3)


async def test_a_bad_replacement_changes_nothing(front: Front) -> None:
    """It is told once, and who could send can send."""
    async with front.serving():
        front.pair.certificate.write_text("torn")
        for _ in range(3):
            await front.clock.advance(RELOAD_SECONDS)
        assert (await front.post(events(1))).status == 200
    assert sum("taken over" in str(line.get("event")) for line in front.logged) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"token_file": ""}, "prove nothing"),
        ({"anonymous": True}, "asks callers for proof and does not"),
        ({"tls_cert": ""}, "needs a certificate and its key"),
        ({"tls_key": ""}, "needs a certificate and its key"),
        ({"spool_bytes": 1 << 20, "max_body_bytes": 1 << 20}, "no room for two requests"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(front: Front, options: dict[str, Any], why: str) -> None:
    """Before anything listens, with what to do."""
    with pytest.raises(PermanentError, match=why) as caught:
        front.made(**options)
    assert "--webhook" in str(caught.value)


@pytest.mark.parametrize("name", ["token_file", "tls_cert", "tls_key", "client_ca"])
async def test_a_missing_file_is_named(front: Front, name: str) -> None:
    """The receiver does not start, and says which file it wants."""
    _, receiver = front.made(**{name: "/nowhere/to/be/found"})
    with pytest.raises(PermanentError, match="/nowhere/to/be/found"):
        await receiver.run(nothing, None)


# Beginning and end


async def test_stopping_answers_what_has_begun(front: Front) -> None:
    """A request that waits for the disk while the process is told to stop is answered, and its events are there."""
    replies: list[Reply] = []

    async def post() -> None:
        replies.append(await front.post(events(1)))

    async with anyio.create_task_group() as outside, front.serving(reads=False):
        front.files.gate.clear()
        before = front.files.waits
        outside.start_soon(post)
        await until(lambda: front.files.waits > before)
        threading.Timer(0.2, front.files.gate.set).start()
    assert [reply.status for reply in replies] == [200]
    async with front.serving():
        await front.hears(1)


async def test_a_disk_that_will_not_open_is_tried_again(front: Front) -> None:
    """The spool cannot be opened: the source ends with what its supervisor takes for a reason to try again."""
    front.files.plan = broken("open", errno.EIO, name=DIRECTORY)
    source, receiver = front.made()
    for part in (source, receiver):
        with pytest.raises(TransientError, match="EIO"):
            await part.run(front.heard.publish, None)
    front.files.plan = healthy
    async with front.serving():
        assert (await front.post(events(1))).status == 200
        await front.hears(1)


async def test_a_failing_release_stops_nobody(front: Front) -> None:
    """Events go on; room is made once the disk obliges."""
    async with front.serving():
        assert (await front.post(events(1))).status == 200
        await front.hears(1)
        front.save()
        front.files.plan = broken("fsync", errno.EIO, name="/cursors/")
        await front.clock.advance(RELEASE_SECONDS)
        await until(lambda: any("cannot be emptied" in str(line.get("event")) for line in front.logged))
        assert (await front.post(events(2))).status == 200
        await front.hears(1, 2)
