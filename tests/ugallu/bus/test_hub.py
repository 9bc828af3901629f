"""The hub over changes of its settings: what it refuses, what a change keeps, how it ends."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.rig.keys import Authority
from ugallu.api.audit import AuditRecord
from ugallu.api.detection import BUS_TLS, AuditDetectionBusTLS, AuditDetectionConsumer
from ugallu.api.k8s import SecretKeySelector
from ugallu.bus.server import TICK_SECONDS
from ugallu.clock import SystemClock
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.sources.relay import HEARTBEAT_SECONDS
from ugallu.testing.audit import audit_record
from ugallu.testing.clock import ManualClock
from ugallu.testing.relay import CONSUMER, Reader, Secrets, bus_settings, make_hub, records, served, until
from ugallu.testing.wire import wired

CONSUMERS = (AuditDetectionConsumer(name=CONSUMER),)


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    (tmp_path / "keys").mkdir()
    authority = Authority(tmp_path / "keys", "ca")
    pair = authority.issue("server", "server", hosts=("127.0.0.1",))
    return Secrets(tmp_path / "secrets", pair.certificate, pair.key, authority.pair.certificate)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token_secret": None}, "prove nothing"),
        ({"token_secret": SecretKeySelector(name="missing", key="token")}, "no such file"),
        ({"token_secret": SecretKeySelector(name="missing", key="token", optional=True)}, "prove nothing"),
        ({"token_secret": SecretKeySelector(name="../keys", key="ca.key")}, "no name"),
        ({"token_secret": SecretKeySelector(name="bus-token", key="../x")}, "no name"),
        ({"tls": AuditDetectionBusTLS(secret_name="missing")}, "no such file"),
        ({"tls": AuditDetectionBusTLS(client_ca_secret_name="missing")}, "no such file"),
        ({"listen_addr": "nowhere"}, "no address"),
        ({"listen_addr": "127.0.0.1:99999"}, "no address"),
    ],
)
async def test_what_cannot_be_served_safely_is_not_served(secrets: Secrets, changes: dict[str, Any], said: str) -> None:
    """W1: TLS and proof by default; what is missing is named, with what to do, and nothing listens."""
    hub = make_hub(secrets.folder, clock=ManualClock())
    with pytest.raises(PermanentError, match=said) as caught:
        await hub.serve(bus_settings(**changes), CONSUMERS)
    assert caught.value.fix
    assert said in hub.trouble
    assert hub.port == 0


async def test_a_lab_may_do_without(tmp_path: Path) -> None:
    """`insecure` says it: no certificate, no proof."""
    clock = SystemClock()
    hub = make_hub(tmp_path, clock=clock)
    async with served(hub, bus_settings(token_secret=None, insecure=True), CONSUMERS) as port:
        reader = Reader(None, [port], clock=clock)
        async with reader.reading():
            await until(lambda: bool(reader.connected))


async def test_insecure_does_not_take_away_what_there_is(secrets: Secrets) -> None:
    """Where there is a certificate TLS is spoken, and a token is asked for."""
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with served(hub, bus_settings(insecure=True), CONSUMERS) as port:
        reader = Reader(None, [port], clock=clock)
        async with reader.reading():
            await until(lambda: "audit-bus" in reader.intake.reasons)
            assert hub.streams == 0


async def test_streams_know_why_they_end(secrets: Secrets) -> None:
    """W5: at the end each is told to come back, at once; none is waited for."""
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with wired(0) as wire:
        reader = Reader(secrets, [wire.port], clock=clock)
        async with reader.reading():
            async with served(hub, bus_settings(), CONSUMERS) as port:
                wire.target = port
                await until(lambda: hub.streams == 1)
            await until(lambda: "audit-bus" in reader.intake.reasons)
            assert "the server is stopping" in reader.intake.reasons["audit-bus"]


async def test_a_change_of_settings_loses_nothing(secrets: Secrets) -> None:
    """Streams end, come back behind what they have, and the feed goes on: its numbers, its replay."""
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with wired(0) as wire:
        reader = Reader(secrets, [wire.port], clock=clock)
        heard = reader.bus.subscribe(AuditRecord, "op", capacity=100)
        async with reader.reading():
            for turn in range(3):
                more = tuple(AuditDetectionConsumer(name=f"new-{n}") for n in range(turn))
                async with served(hub, bus_settings(), (*CONSUMERS, *more)) as port:
                    wire.target = port
                    await until(lambda: bool(hub.streams))
                    hub.offer([audit_record(auditID=f"{turn}-{n}", stageTimestamp=stamp(turn, n)) for n in range(20)])
                    await until(lambda: hub.feed.waiting(CONSUMER) == 0)
                hub.offer([audit_record(auditID=f"{turn}-between", stageTimestamp=stamp(turn, 21))])
            async with served(hub, bus_settings(), CONSUMERS) as port:
                wire.target = port
                found = await records(heard, 63)
        assert [record.audit_id for record in found] == [
            name for turn in range(3) for name in (*(f"{turn}-{n}" for n in range(20)), f"{turn}-between")
        ]
        assert heard.losses() == {}


def stamp(minute: int, second: int) -> str:
    return f"2026-01-01T00:{minute:02}:{second:02}.000000Z"


async def test_the_books_of_a_consumer_are_metrics(secrets: Secrets) -> None:
    """Who listens, what was sent, what was lost and why."""
    metrics, clock = Metrics(), ManualClock()
    hub = make_hub(secrets.folder, clock=clock, metrics=metrics)
    capped = AuditDetectionConsumer(name=CONSUMER, max_events_per_sec=5)
    async with served(hub, bus_settings(), (capped,)) as port:
        reader = Reader(secrets, [port], clock=SystemClock())
        heard = reader.bus.subscribe(AuditRecord, "op", capacity=100)
        async with reader.reading():
            await until(lambda: bool(reader.connected))
            hub.offer([audit_record(auditID=str(n), stageTimestamp=stamp(0, n)) for n in range(12)])
            await records(heard, 5)
            await clock.advance(TICK_SECONDS)
            assert metrics.value("ugallu_audit_bus_subscribers", consumer=CONSUMER) == 1
            assert metrics.value("ugallu_audit_bus_sent_total", consumer=CONSUMER) == 5
            assert metrics.value("ugallu_audit_bus_dropped_total", consumer=CONSUMER, reason="rate") == 7
            assert metrics.value("ugallu_audit_bus_queue_depth", consumer=CONSUMER) == 0
            assert hub.dropped == {(CONSUMER, "rate"): 7}


async def test_who_does_not_read_slows_nobody(secrets: Secrets) -> None:
    """W6: a consumer whose connection stands still holds up neither the source nor another consumer."""
    clock = SystemClock()
    hub = make_hub(secrets.folder, clock=clock)
    two = (*CONSUMERS, AuditDetectionConsumer(name="slow"))
    async with served(hub, bus_settings(), two) as port, wired(port) as wire:
        slow = Reader(secrets, [wire.port], clock=clock, consumer="slow")
        fast = Reader(secrets, [port], clock=clock)
        heard = fast.bus.subscribe(AuditRecord, "op", capacity=1000)
        async with slow.reading(), fast.reading():
            await until(lambda: hub.streams == 2)
            wire.hold()
            for turn in range(20):
                hub.offer([audit_record(auditID=f"{turn}-{n}", userAgent="x" * 4000) for n in range(100)])
                await anyio.lowlevel.checkpoint()
            assert len(await records(heard, 2000)) == 2000
            assert hub.feed.waiting("slow") > 0
            wire.open.set()
            await until(lambda: hub.feed.waiting("slow") == 0)


async def test_heartbeats_tell_that_it_lives(secrets: Secrets) -> None:
    """At once and then as often as was asked for, although nothing happens."""
    clock = ManualClock()
    hub = make_hub(secrets.folder, clock=clock)
    async with served(hub, bus_settings(), CONSUMERS) as port:
        reader = Reader(secrets, [port], clock=SystemClock())
        beats: list[float] = []
        async with reader.reading():
            await until(lambda: bool(reader.connected))
            (pulse,) = reader.relay.pulses.values()
            for _ in range(3):
                before = pulse.at
                await clock.advance(HEARTBEAT_SECONDS + TICK_SECONDS)
                await until(lambda at=before: pulse.at > at)  # type: ignore[misc]
                beats.append(pulse.at)
        assert beats == sorted(set(beats))


def test_the_certificate_is_found_by_its_usual_name(secrets: Secrets) -> None:
    """Nothing needs to be configured where cert-manager made it."""
    assert (secrets.folder / BUS_TLS / "tls.crt").exists()
    assert make_hub(secrets.folder, clock=ManualClock())._tls(bus_settings()) is not None
