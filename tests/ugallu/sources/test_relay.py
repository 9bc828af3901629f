"""Reading another process's bus: cuts, several servers, silence, and what a stranger is told."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from tests.rig.keys import Authority
from ugallu.api.audit import AuditRecord
from ugallu.api.bridge import BridgeSilence
from ugallu.api.catalog import Severity
from ugallu.api.detection import AuditDetectionBusTLS, AuditDetectionConsumer
from ugallu.api.event import ClusterIdentity
from ugallu.api.observation import Batch, Checkpoint
from ugallu.clock import SystemClock
from ugallu.errors import PermanentError
from ugallu.net.rpc import RELOAD_SECONDS
from ugallu.settings import RelaySettings
from ugallu.sources.bridge import SilentBridge
from ugallu.sources.relay import (
    HEALTHY_SECONDS,
    RESOLVE_SECONDS,
    SILENCE,
    Position,
    Pulse,
    RelayWatch,
    Server,
    _Stream,
    check,
)
from ugallu.testing.audit import audit_record
from ugallu.testing.clock import ManualClock
from ugallu.testing.relay import (
    CONSUMER,
    Reader,
    Secrets,
    bridged,
    bus_settings,
    make_hub,
    records,
    served,
    until,
)
from ugallu.testing.wire import wired
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

CONSUMERS = (AuditDetectionConsumer(name=CONSUMER),)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "keys").mkdir()
    return Authority(tmp_path / "keys", "ca")


@pytest.fixture
def secrets(tmp_path: Path, authority: Authority) -> Secrets:
    pair = authority.issue("server", "server", hosts=("127.0.0.1",))
    return Secrets(tmp_path / "secrets", pair.certificate, pair.key, authority.pair.certificate)


def events(*names: int | str) -> list[AuditRecord]:
    return [
        audit_record(auditID=f"id-{name}", stageTimestamp=f"2026-01-01T00:00:00.{index:06}Z")
        for index, name in enumerate(names)
    ]


def ids(found: Sequence[AuditRecord]) -> list[str]:
    return [record.audit_id.removeprefix("id-") for record in found]


async def test_events_come_over(secrets: Secrets) -> None:
    """TLS, token, consumer: what is offered there is observed here."""
    async with bridged(secrets) as (hub, _, reader):
        heard = reader.bus.subscribe(AuditRecord, "op")
        hub.offer(events(*range(1000)))
        assert ids(await records(heard, 1000)) == [str(n) for n in range(1000)]
        assert hub.streams == 1
        assert reader.metrics.value("ugallu_audit_bus_received_total", source="audit-bus-0") == 1000


async def test_a_cut_loses_nothing(secrets: Secrets) -> None:
    """W2: cut in the middle again and again, every event comes once and in order."""
    async with bridged(secrets) as (hub, wire, reader):
        heard = reader.bus.subscribe(AuditRecord, "op", capacity=1000)
        found: list[AuditRecord] = []
        for turn in range(4):
            hub.offer(events(*range(turn * 50, turn * 50 + 50)))
            if turn % 2:
                found += await records(heard, turn * 50 + 50 - len(found))
            await wire.cut()
            hub.offer([])
        hub.offer(events(*range(200, 210)))
        found += await records(heard, 210 - len(found))
        assert ids(found) == [str(n) for n in range(210)]
        assert heard.losses() == {}


async def test_what_the_server_drops_is_told_here(secrets: Secrets) -> None:
    """W2: a consumer over its cap learns how many events it lost; so does every operator that reads."""
    capped = AuditDetectionConsumer(name=CONSUMER, max_events_per_sec=5)
    async with bridged(secrets, capped) as (hub, _, reader):
        heard = reader.bus.subscribe(AuditRecord, "op")
        hub.offer(events(*range(100)))
        assert ids(await records(heard, 5)) == ["0", "1", "2", "3", "4"]
        lost: list[int] = []
        with anyio.fail_after(20):
            while not lost:
                hub.offer(events("more"))
                with anyio.move_on_after(0.3):
                    batch = await heard.receive()
                    assert batch is not None
                    lost += [batch.lost] if batch.lost else []
        assert lost[0] >= 95
        assert heard.losses() == {"audit-bus-0": lost[0]}


def test_what_is_lost_or_repeated_has_a_number(secrets: Secrets) -> None:
    """Whoever reads again from further back finds each event under the number that it had: gaps stand for the rest."""
    relay = Reader(secrets, [1], clock=ManualClock()).relay
    stream = _Stream("audit-bus-0", Server("192.0.2.1", 1, "bus"))
    stream.next = 100
    for sequence, (name, missing) in enumerate([("a", 0), ("b", 3), ("a", 0), ("c", 0), ("", 0)], 1):
        event = pb.AuditEvent(audit_id=name, verb="get" if name else "", sequence=sequence, dropped_before=missing)
        stream.queue.append(event)
    batches = relay._batches(stream)
    assert [(batch.first, ids(batch.observations), batch.lost) for batch in batches] == [
        (100, ["a"], 0),
        (104, ["b"], 3),
        (106, ["c"], 0),
    ]
    assert batches[-1].counts == {"received": 4, "parsed": 3, "rejected": 0, "duplicate": 1, "lost": 3}
    assert msgspec.json.decode(batches[-1].resume, type=Position).sequence == 5, "a heartbeat moves on as well"


async def test_every_replica_is_read(secrets: Secrets) -> None:
    """W7: of several servers each has its own part of the traffic; what two of them have comes once."""
    clock = SystemClock()
    one, two = (make_hub(secrets.folder, clock=clock) for _ in range(2))
    async with (
        served(one, bus_settings(), CONSUMERS) as first,
        served(two, bus_settings(), CONSUMERS) as second,
    ):
        reader = Reader(secrets, [first, second], clock=clock)
        async with reader.reading():
            await until(lambda: reader.connected == 2)
            heard = reader.bus.subscribe(AuditRecord, "op", capacity=100)
            shared = events("shared")
            one.offer(events("first") + shared)
            two.offer(shared + events("second"))
            assert sorted(ids(await records(heard, 3))) == ["first", "second", "shared"]
            await until(lambda: sum(c.get("received", 0) for c in reader.intake.counts.values()) == 4)
            assert sum(c.get("duplicate", 0) for c in reader.intake.counts.values()) == 1


async def test_one_of_several_may_be_gone(secrets: Secrets) -> None:
    """The others are read on; it is tried again."""
    clock = SystemClock()
    one, two = (make_hub(secrets.folder, clock=clock) for _ in range(2))
    async with (
        served(one, bus_settings(), CONSUMERS) as first,
        served(two, bus_settings(), CONSUMERS) as second,
        wired(second) as wire,
    ):
        reader = Reader(secrets, [first, wire.port], clock=clock)
        async with reader.reading():
            await until(lambda: reader.connected == 2)
            heard = reader.bus.subscribe(AuditRecord, "op", capacity=100)
            wire.refusing = True
            await wire.cut()
            await until(lambda: reader.connected == 1)
            one.offer(events("a"))
            two.offer(events("b"))
            assert ids(await records(heard, 1)) == ["a"]
            wire.refusing = False
            assert ids(await records(heard, 1)) == ["b"]
            assert reader.intake.reasons == {}


async def test_a_crash_resumes_behind_the_checkpoint(secrets: Secrets) -> None:
    """A process that starts again has what came since its checkpoint, under the same numbers."""
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with served(hub, bus_settings(), CONSUMERS) as port:
        before = Reader(secrets, [port], clock=clock)
        async with before.reading():
            await until(lambda: bool(before.connected))
            heard = before.bus.subscribe(AuditRecord, "op", capacity=100)
            hub.offer(events(*range(5)))
            while not (last := await heard.receive() or pytest.fail("the bus was closed")).observations:
                pass
            hub.offer(events(*range(5, 9)))
        after = Reader(secrets, [port], clock=clock)
        end = last.first + len(last.observations)
        after.points = [Checkpoint(last.source, "op", next=end, resume=last.resume, counts=last.counts)]
        heard = after.bus.subscribe(AuditRecord, "op", capacity=100)
        async with after.reading():
            found: list[Batch[Any]] = []
            while sum(len(batch.observations) for batch in found) < 4:
                batch = await heard.receive()
                assert batch is not None
                found.append(batch)
    assert [ids(batch.observations) for batch in found if batch.observations] == [["5", "6", "7", "8"]]
    assert next(batch for batch in found if batch.observations).first == 5


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s.token.write_text("wrong\n"), "show the bearer token"),
        (lambda s: s.token.write_text("\n"), "holds no token"),
    ],
)
async def test_a_stranger_is_told_why(secrets: Secrets, spoil: Callable[[Secrets], object], said: str) -> None:
    """W1: without the token nothing is served, and the reader says in its readiness what it lacks."""
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with served(hub, bus_settings(), CONSUMERS) as port:
        spoil(secrets)
        reader = Reader(secrets, [port], clock=clock)
        watch = RelayWatch(reader.relay, clock)
        async with reader.reading():
            await until(lambda: "audit-bus" in reader.intake.reasons)
            assert said in reader.intake.reasons["audit-bus"]
            assert hub.streams == 0
            (silence,) = watch.look()
            assert said in silence.why
            assert watch.look() == [], "once"


async def test_a_consumer_that_is_not_declared(secrets: Secrets) -> None:
    """Is told so."""
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with served(hub, bus_settings(), CONSUMERS) as port:
        reader = Reader(secrets, [port], clock=clock, consumer="stranger")
        async with reader.reading():
            await until(lambda: "no such consumer" in reader.intake.reasons.get("audit-bus", ""))


async def test_a_server_of_another_ca_is_not_believed(secrets: Secrets, tmp_path: Path) -> None:
    """Whoever answers at the address must be who it says."""
    (tmp_path / "other").mkdir()
    secrets.ca = Authority(tmp_path / "other", "other").pair.certificate
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with served(hub, bus_settings(), CONSUMERS) as port:
        reader = Reader(secrets, [port], clock=clock)
        async with reader.reading():
            await until(lambda: "its certificate" in reader.intake.reasons.get("audit-bus", ""))
            assert hub.streams == 0


async def test_certificates_are_asked_for(secrets: Secrets, authority: Authority) -> None:
    """With a client CA the token alone does not do."""
    secrets.put("clients", "ca.crt", authority.pair.certificate.read_bytes())
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    bus = bus_settings(tls=AuditDetectionBusTLS(client_ca_secret_name="clients"))
    async with served(hub, bus, CONSUMERS) as port:
        reader = Reader(secrets, [port], clock=clock)
        async with reader.reading():
            await until(lambda: "audit-bus" in reader.intake.reasons)
            assert hub.streams == 0
        pair = authority.issue("client", "client")
        reader = Reader(secrets, [port], clock=clock)
        reader.relay._settings = RelaySettings(
            addresses=reader.settings.addresses,
            ca=str(secrets.ca),
            token_file=str(secrets.token),
            tls_cert=str(pair.certificate),
            tls_key=str(pair.key),
        )
        async with reader.reading():
            await until(lambda: bool(reader.connected))


async def test_a_new_token_is_taken_over(secrets: Secrets) -> None:
    """W1: the Secret changes, both sides read it again, and the old token opens nothing."""
    server_clock = ManualClock()
    hub = make_hub(secrets.folder, clock=server_clock)
    async with served(hub, bus_settings(), CONSUMERS) as port:
        old = secrets.put("old", "token", b"s3cret\n")
        secrets.put("bus-token", "token", b"another\n")
        await until(lambda: server_clock.sleeping >= 2)
        await server_clock.advance(RELOAD_SECONDS)
        clock = SystemClock()
        reader = Reader(secrets, [port], clock=clock)
        async with reader.reading():
            await until(lambda: bool(reader.connected))
        late = Reader(secrets, [port], clock=clock)
        late.relay._settings = RelaySettings(addresses=late.settings.addresses, ca=str(secrets.ca), token_file=str(old))
        async with late.reading():
            await until(lambda: "bearer" in late.intake.reasons.get("audit-bus", ""))


class Noting(ManualClock):
    """Notes how long it was asked to wait, and lets nobody wait but for names to be looked up again."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds == RESOLVE_SECONDS:
            await super().sleep(seconds)
        self.waits.append(seconds)
        await anyio.lowlevel.checkpoint()


async def test_a_stream_that_was_healthy_begins_its_backoff_anew(secrets: Secrets) -> None:
    """W4: one poisoned event after a long healthy time costs half a second of blindness, not thirty."""
    clock = Noting()
    reader = Reader(secrets, [1, 2], clock=clock)
    lives = [*([0.0] * 8), HEALTHY_SECONDS + 1, 0.0]
    over = anyio.Event()

    async def read(stream: Any, server: Server, done: anyio.Event) -> None:
        if server.port == 1:
            stream.connected = True
            await anyio.sleep_forever()
        if not lives:
            over.set()
            await anyio.sleep_forever()
        clock._monotonic += lives.pop(0)
        done.set()
        stream.filled.set()

    reader.relay._read = read  # type: ignore[method-assign]
    async with anyio.create_task_group() as tg:
        with anyio.fail_after(20):
            tg.start_soon(reader.relay.run, partial(reader.bus.publish, AuditRecord), None)
            await over.wait()
        tg.cancel_scope.cancel()
    assert clock.waits[7] > 20
    assert clock.waits[8] < 1
    assert clock.waits[9] < 2


def test_silence_is_reported_once() -> None:
    """After two minutes without event or heartbeat; again after the next."""
    clock = ManualClock()

    class Relay:
        consumer = "c"
        lost_since = None

    relay = Relay()
    pulse = Pulse(clock)
    relay.pulses = {Server("10.0.0.1", 8444, "bus"): pulse}  # type: ignore[attr-defined]
    watch = RelayWatch(relay, clock)  # type: ignore[arg-type]
    clock._monotonic += SILENCE - 1
    assert watch.look() == []
    clock._monotonic += 1
    (silence,) = watch.look()
    assert (silence.server, silence.consumer) == ("10.0.0.1:8444", "c")
    assert watch.look() == []
    pulse.beat()
    clock._monotonic += SILENCE
    assert len(watch.look()) == 1


def test_a_silence_becomes_an_event() -> None:
    """`AuditBridgeSilent`: whoever hears nothing must not take it for peace."""
    clock = ManualClock()
    seen = BridgeSilence("10.0.0.1:8444", "tenant-escape", clock.now(), clock.now(), "refused")
    (finding,) = SilentBridge(ClusterIdentity(cluster_id="c")).inspect(seen)
    assert (finding.type.name, finding.type.severity) == ("AuditBridgeSilent", Severity.HIGH)
    assert finding.signals["bus.consumer"] == "tenant-escape"
    assert seen.correlation("c") == seen.correlation("c") != seen.correlation("d")


@pytest.mark.parametrize(
    ("settings", "consumer", "said"),
    [
        (RelaySettings(addresses=("bus:8444",)), "", "as which consumer"),
        (RelaySettings(addresses=("bus",)), "c", "no address"),
        (RelaySettings(addresses=(":8444",)), "c", "no host"),
        (RelaySettings(addresses=("bus:1",), tls_cert="a"), "c", "a certificate and its key"),
        (RelaySettings(addresses=("bus:1",), plaintext=True, ca="a"), "c", "TLS and no TLS"),
    ],
)
def test_settings_that_cannot_work(settings: RelaySettings, consumer: str, said: str) -> None:
    """Each is named with what to do."""
    with pytest.raises(PermanentError, match=said) as caught:
        check(settings, consumer)
    assert caught.value.fix


async def test_a_name_that_leads_nowhere(secrets: Secrets) -> None:
    """Is a reason not to be ready, and after two minutes an event."""
    clock = SystemClock()
    reader = Reader(secrets, [1], clock=clock)
    reader.relay._settings = RelaySettings(addresses=("no-such-host.invalid:1",))
    async with reader.reading():
        await until(lambda: "no server" in reader.intake.reasons.get("audit-bus", ""))
    watch = RelayWatch(reader.relay, ManualClock(start=clock.now().replace(year=2030)))
    (silence,) = watch.look()
    assert "no server" in silence.why
