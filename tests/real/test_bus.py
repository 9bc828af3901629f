"""The road over NATS, a real server in between: the battery, restarts, retention, accounts; and the whole road as it is shipped."""

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import pytest
import yaml

from tests.rig.cluster import ApiServer
from tests.rig.ground import Process, answers, free_port, wait
from tests.rig.keys import Authority
from tests.rig.nats import NatsServer
from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Batch, Checkpoint
from ugallu.bus.bus import LocalBus
from ugallu.bus.jetstream import opened
from ugallu.bus.port import Publish
from ugallu.clock import SystemClock
from ugallu.errors import TransientError
from ugallu.metrics import Metrics
from ugallu.settings import NatsSettings
from ugallu.sources.nats import Forwarded, StreamReader, _record
from ugallu.supervisor.intake import Intake
from ugallu.supervisor.positions import Positions
from ugallu.testing.contracts.bus import BusContract, Road, events, names
from ugallu.testing.relay import QUIET, until
from ugallu.testing.wire import Wire, wired

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    with NatsServer() as server:
        yield server


def settings(server: NatsServer, **changes: Any) -> NatsSettings:
    base = NatsSettings(
        url=f"tls://127.0.0.1:{server.port}",
        stream=server.name(),
        ca=str(server.ca),
        token_file=str(server.token),
        stream_bytes=1 << 24,
    )
    return msgspec.structs.replace(base, **changes)


class Log:
    """A source that can be rewound: what it was given, from wherever it is asked."""

    name = "log"

    def __init__(self) -> None:
        self.records: list[AuditRecord] = []
        self.sent = 0
        self._more = anyio.Event()

    def add(self, records: Sequence[AuditRecord]) -> None:
        self.records += records
        self._more.set()

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        at = start.next if start else 0
        while True:
            if at == len(self.records):
                self._more = anyio.Event()
                await self._more.wait()
                continue
            part = self.records[at : at + 16]
            await publish(Batch(self.name, at, part, b"%d" % (at + len(part)), {"received": at + len(part)}))
            at += len(part)
            self.sent = max(self.sent, at)


class OverNats:
    """One process writes, another reads; between them a server, and a wire to it that a test cuts."""

    def __init__(self, where: NatsSettings, wire: Wire | None = None) -> None:
        self.where = where
        self.wire = wire
        self.log = Log()
        self.metrics = Metrics()
        self.bus = LocalBus(self.metrics)
        self.points: list[Checkpoint] = []
        clock = SystemClock()
        self.reader = StreamReader(
            where, checkpoints=lambda _: self.points, clock=clock, metrics=self.metrics, log=QUIET
        )
        self.writer = Forwarded(
            self.log, where, "here", redact=lambda body, _: body, scrub=str, metrics=self.metrics, log=QUIET
        )
        self.positions = Positions()
        self.intakes = [
            Intake(self.bus, self.positions, clock=clock, metrics=self.metrics, log=QUIET) for _ in range(2)
        ]

    @asynccontextmanager
    async def working(self, *, read: bool = True, write: bool = True) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg:
            reading, writing = self.intakes
            if write:
                writing.add(self.writer, "test")
                writing.open(tg, lambda _: ("op",))
            if read:
                reading.add(self.reader, "test")
                reading.open(tg, lambda _: ("op",))
                await until(self.reader.reading.is_set)
            yield
            for intake in self.intakes:
                intake.close()

    def take_in(self, batch: Batch[Any]) -> None:
        """Have it for good, as a worker does."""
        end = batch.first + len(batch.observations)
        point = Checkpoint(batch.source, "op", next=end, resume=batch.resume, counts=batch.counts)
        self.positions.put(point)
        self.points = [point]

    async def publish(self, records: Sequence[AuditRecord]) -> None:
        self.log.add(records)
        await until(lambda: self.log.sent == len(self.log.records))

    async def cut(self) -> None:
        assert self.wire is not None
        await self.wire.cut()


class TestOverNats(BusContract):
    @pytest.fixture(autouse=True)
    def server(self, nats: NatsServer) -> None:
        self.nats = nats

    @asynccontextmanager
    async def road(self, folder: Path, *, holds: int = 0) -> AsyncIterator[Road]:
        async with wired(self.nats.port) as wire:
            where = settings(self.nats, url=f"tls://127.0.0.1:{wire.port}")
            if holds:
                await small(where, holds)
            road = Loses(where, wire) if holds else OverNats(where, wire)
            # One that loses has a reader that comes late.
            async with road.working(read=not holds):
                yield road


class Loses(OverNats):
    """The stream keeps the last few events only, and its reader comes when all have been written."""

    async def publish(self, records: Sequence[AuditRecord]) -> None:
        await super().publish(records)
        if records[-1].audit_id == "99":
            self._late = self.intakes[0]
            self.positions.put(
                Checkpoint("nats", "op", next=0, resume=b'{"made":"%s","sequence":0}' % await self.made())
            )
            await self.begin()

    async def made(self) -> bytes:
        async with opened(self.where, QUIET) as stream:
            return (await stream.origin()).made.encode()

    @asynccontextmanager
    async def working(self, *, read: bool = True, write: bool = True) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg, super().working(read=read, write=write):
            self._tg = tg
            yield

    async def begin(self) -> None:
        self._late.add(self.reader, "test")
        self._late.open(self._tg, lambda _: ("op",))
        await until(self.reader.reading.is_set)


async def small(where: NatsSettings, holds: int) -> None:
    """Make a stream that holds so many events."""
    import nats
    from nats.js.api import StreamConfig

    from ugallu.bus.jetstream import _options

    client = await nats.connect(where.url, **_options(where))
    await client.jetstream().add_stream(
        StreamConfig(name=where.stream, subjects=[f"ugallu.{where.stream}.>"], max_msgs=holds, duplicate_window=60)
    )
    await client.close()


async def test_a_reader_that_crashed_goes_on_behind_its_checkpoint(nats: NatsServer) -> None:
    """Under the same numbers; what it had taken in does not come again."""
    road = OverNats(settings(nats))
    heard = road.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with road.working():
        await road.publish(events(range(40)))
        while not road.points or road.points[0].next < 40:
            batch = await heard.receive()
            assert batch is not None
            road.take_in(batch)
        await road.publish(events(range(40, 50)))
    again = OverNats(road.where)
    again.positions.put(road.points[0])
    heard = again.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with again.working(write=False):
        while not (batch := await heard.receive()) or not batch.observations:
            pass
        assert (batch.first, [record.audit_id for record in batch.observations]) == (
            40,
            [str(n) for n in range(40, 50)],
        )


async def test_a_reader_that_lost_its_state_goes_on_where_it_acknowledged(nats: NatsServer) -> None:
    """The durable consumer knows how far its checkpoints came; what lies behind comes again rather than not at all."""
    road = OverNats(settings(nats))
    heard = road.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with road.working():
        await road.publish(events(range(20)))
        while not road.points or road.points[0].next < 20:
            batch = await heard.receive()
            assert batch is not None
            road.take_in(batch)
        async with opened(road.where, QUIET) as stream:
            with anyio.fail_after(20):
                while await stream.floor("ugallu") < 20:  # noqa: ASYNC110 - the server tells nobody
                    await anyio.sleep(0.1)
        await road.publish(events(range(20, 25)))
    lost = OverNats(road.where)
    heard = lost.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with lost.working(write=False):
        assert await names(heard, 5) == ["20", "21", "22", "23", "24"]


async def test_a_writer_that_crashed_stores_nothing_twice(nats: NatsServer) -> None:
    """It goes on at its position; what it had stored before it noted that is told by its id."""
    road = OverNats(settings(nats))
    async with road.working(read=False):
        await road.publish(events(range(48)))
    async with opened(road.where, QUIET) as stream:
        point = await stream.position("here/log")
        assert point is not None
        assert point.next == 48
        await stream.moved(msgspec.structs.replace(point, next=16, resume=b"16"))
    again = OverNats(road.where)
    heard = again.bus.subscribe(AuditRecord, "op", capacity=1000)
    again.log.records = events(range(60))
    async with again.working():
        assert await names(heard, 60) == [str(n) for n in range(60)]
        await until(lambda: again.log.sent == 60)
    async with opened(road.where, QUIET) as stream:
        assert (await stream.origin()).last == 60


async def test_a_server_that_dies_is_waited_for(nats: NatsServer) -> None:
    """Writer and reader say so in their readiness, and go on once it is back: nothing lost, nothing twice."""
    road = OverNats(settings(nats))
    heard = road.bus.subscribe(AuditRecord, "op", capacity=1000)
    async with road.working():
        await road.publish(events(range(20)))
        nats.process.stop()
        road.log.add(events(range(20, 30)))
        await until(lambda: all(intake.reasons for intake in road.intakes), 30)
        await anyio.to_thread.run_sync(nats.start)
        assert await names(heard, 30) == [str(n) for n in range(30)]
        await until(lambda: not any(intake.reasons for intake in road.intakes))


async def test_users_of_accounts_show_their_credentials() -> None:
    """A .creds file, as NATS hands them out; without it nothing is served."""
    with NatsServer(accounts=True) as server:
        where = settings(server, token_file="", credentials=str(server.credentials))
        async with opened(where, QUIET) as stream:
            await stream.append("a", [(0, b"x")])
            assert (await stream.origin()).last == 1
        with pytest.raises(TransientError, match="cannot connect"):
            async with opened(msgspec.structs.replace(where, credentials=""), QUIET):
                pass


async def test_strangers_are_told_apart(nats: NatsServer, tmp_path: Path) -> None:
    """A wrong token, a server of another CA, and nobody there are errors that may pass, each with its reason."""
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong\n")
    for changes, said in (
        ({"token_file": str(wrong)}, "Authorization"),
        ({"ca": ""}, "certificate"),
        ({"url": "tls://127.0.0.1:1"}, "cannot connect"),
    ):
        with pytest.raises(TransientError, match=f"(?i){said}") as caught:
            async with opened(settings(nats, **changes), QUIET):
                pass
        assert "wrong" not in str(caught.value)


MANIFESTS: Final = Path(__file__).parents[2] / "manifests"
CONFIG: Final = "/apis/security.ugallu.io/v1alpha1/auditdetectionconfigs/default"


class Shipped:
    """What the overlay `event-bus` and the component `ingest` say, at work outside of a cluster: same settings, same Secrets."""

    def __init__(self, api: ApiServer, nats: NatsServer, folder: Path) -> None:
        self.api, self.folder = api, folder
        self.port, self.health = free_port(), (free_port(), free_port())
        self.nats = settings(nats)
        authority = Authority(folder, "ca")
        pair = authority.issue("server", "server", hosts=("127.0.0.1",))
        self.served, self.shown = folder / "served", folder / "shown"
        for path, text in {
            self.served / "ugallu-audit-bus-tls" / "tls.crt": pair.certificate.read_text(),
            self.served / "ugallu-audit-bus-tls" / "tls.key": pair.key.read_text(),
            self.served / "ugallu-audit-bus-token" / "token": "let-me-in",
            self.shown / "ugallu-audit-bus-token" / "token": "let-me-in",
            self.shown / "ugallu-audit-bus-client" / "ca.crt": authority.pair.certificate.read_text(),
            self.shown / "ugallu-nats" / "ca.crt": nats.ca.read_text(),
            self.shown / "ugallu-nats" / "token": nats.token.read_text(),
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def serving(self) -> Process:
        """Return an audit-detection that follows the API server's log."""
        arguments = ["--kubeconfig", str(self.api.kubeconfig), "--audit-log", str(self.api.audit_log)]
        arguments += ["--secrets", str(self.served), "--state", str(self.folder / "serving")]
        return self._process("audit-detection", self.health[0], arguments, {})

    def reading(self) -> Process:
        """Return an ingest with the environment of its Pod, as far as it speaks of the bus and of NATS."""
        (pod,) = [
            document["spec"]["template"]["spec"]
            for document in yaml.safe_load_all((MANIFESTS / "components" / "ingest" / "workload.yaml").read_text())
            if document["kind"] == "StatefulSet"
        ]
        environ = {
            entry["name"]: entry["value"].replace("/etc/ugallu/secrets", str(self.shown))
            for entry in pod["containers"][0]["env"]
            if entry["name"].startswith(("UGALLU_AUDIT_BUS_", "UGALLU_BUS_"))
        }
        assert len(environ) == 6
        moved = {"UGALLU_AUDIT_BUS_ADDRESSES": f"127.0.0.1:{self.port}", "UGALLU_BUS_URL": self.nats.url}
        moved["UGALLU_BUS_STREAM"] = self.nats.stream
        arguments = ["--cluster", "embedded", "--state", str(self.folder / "reading")]
        return self._process("ingest", self.health[1], arguments, environ | moved)

    def _process(self, name: str, health: int, arguments: list[str], environ: dict[str, str]) -> Process:
        run = [sys.executable, "-m", "ugallu", "run", "--enable", name, "--health", f"127.0.0.1:{health}"]
        command = [*run, "--metrics", "", "--log-format", "json", *arguments]
        outside = {key: value for key, value in os.environ.items() if not key.startswith("UGALLU_")}  # noqa: TID251
        return Process(name, command, self.folder / f"{name}.log", {**outside, **self.api.environ, **environ})

    @contextmanager
    def running(self) -> Iterator[Process]:
        """Run both; the one that reads is given."""
        serving, reading = self.serving(), self.reading()
        try:
            serving.start()
            reading.start()
            yield reading
        finally:
            serving.stop()
            reading.stop()

    def ready(self, which: int) -> bool:
        return answers(f"http://127.0.0.1:{self.health[which]}/readyz")

    def why(self, which: int) -> str:
        """Return what a process that is not ready says."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health[which]}/readyz", timeout=5):
                return ""
        except urllib.error.HTTPError as error:
            return error.read().decode()
        except OSError:  # it does not listen yet
            return ""


def conditions(api: ApiServer) -> dict[str, str]:
    """Return what the object says of itself."""
    found = json.loads(api.kubectl("get", "auditdetectionconfigs", "default", "-o", "json"))
    return {each["type"]: each["status"] for each in found.get("status", {}).get("conditions", ())}


async def stored(where: NatsSettings) -> list[AuditRecord]:
    """Return what lies in the stream."""
    async with opened(where, QUIET) as stream:
        last = (await stream.origin()).last
        found: list[AuditRecord] = []
        async for messages in stream.read("test", 1):
            found += [record for message in messages if (record := _record(message.data)) is not None]
            if not last or (messages and messages[-1].sequence >= last):
                return found
    return found


def test_the_shipped_road_from_one_process_to_another(api: ApiServer, nats: NatsServer, tmp_path: Path) -> None:
    """The overlay opens the bus with TLS and token; ingest, as its component says, reads it and fills NATS: each event once.

    With another token it is shut out and says so; with the right one it goes on behind what it has.
    """
    api.serve_kinds()
    api.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "overlays" / "event-bus"))
    shipped = Shipped(api, nats, tmp_path)
    listens = {"spec": {"eventBus": {"listenAddr": f"127.0.0.1:{shipped.port}"}}}
    api.kubectl("patch", "auditdetectionconfigs", "default", "--type=merge", "-p", json.dumps(listens))
    namespace = api.namespace("bus")

    def make(name: str) -> None:
        api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}})

    def names() -> list[str]:
        made = [one for one in anyio.run(stored, shipped.nats) if one.verb == "create" and one.object_ref]
        refs = [one.object_ref for one in made if one.object_ref]
        return [ref.name for ref in refs if (ref.namespace, ref.resource) == (namespace, "secrets")]

    try:
        with shipped.running() as reading:
            api.wait("both ready", lambda: shipped.ready(0) and shipped.ready(1))
            for name in ("a", "b"):
                make(name)
            api.wait("what was made", lambda: len(names()) >= 2)

            wanted = {"BusServing": "True", "ConfigValid": "True"}
            wait("a status", lambda: conditions(api).items() >= wanted.items(), hint=lambda: str(conditions(api)))

            reading.stop()
            token = shipped.shown / "ugallu-audit-bus-token" / "token"
            token.write_text("another")
            reading.start()
            api.wait("shut out", lambda: "bearer token" in shipped.why(1))
            make("c")
            token.write_text("let-me-in")
            api.wait("let in", lambda: len(names()) >= 3)
            assert names() == ["a", "b", "c"]
    finally:
        api.request("DELETE", CONFIG)
