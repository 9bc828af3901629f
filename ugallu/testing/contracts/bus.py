"""The battery for every road from a source to those who observe: in one process, over gRPC, over NATS.

A subclass in `tests/` says how a road is opened. Whatever lies between, the end of it is a subscription of the bus of
the process that observes.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import anyio

from ugallu.api.audit import AuditRecord, json_of, response_of, user_of
from ugallu.bus.bus import LocalBus
from ugallu.bus.port import Subscription
from ugallu.testing.audit import audit_record


class Road(Protocol):
    """From a source to a bus."""

    bus: LocalBus
    """Where operators observe."""

    async def publish(self, records: Sequence[AuditRecord]) -> None:
        """Let the source see these; return when it is rid of them."""
        ...

    async def cut(self) -> None:
        """Break whatever connection there is, in the middle of what it says."""
        ...


class BusContract:
    """What every road keeps."""

    def road(self, folder: Path, *, holds: int = 0) -> AbstractAsyncContextManager[Road]:
        """Open a road that is ready; `holds`: one that loses what goes beyond so many events, told to who observes."""
        raise NotImplementedError

    async def test_everybody_gets_everything_in_order(self, tmp_path: Path) -> None:
        """Each subscriber has every event, in the order in which it was seen."""
        async with self.road(tmp_path) as road:
            heard = [road.bus.subscribe(AuditRecord, name, capacity=100) for name in ("one", "two")]
            await road.publish(events(range(30)))
            await road.publish(events(range(30, 300)))
            for subscription in heard:
                assert await names(subscription, 300) == [str(n) for n in range(300)]
                assert subscription.losses() == {}

    async def test_an_event_is_what_it_was(self, tmp_path: Path) -> None:
        """Whatever a rule asks of it."""
        record = audit_record(
            verb="create",
            level="RequestResponse",
            user={"username": "a", "uid": "u", "groups": ["g", "h"], "extra": {"k": ["v"]}},
            impersonatedUser={"username": "b"},
            sourceIPs=["10.0.0.1", "192.0.2.1"],
            objectRef={"resource": "pods", "namespace": "n", "name": "p", "apiVersion": "v1", "subresource": "exec"},
            responseStatus={"code": 403, "reason": "Forbidden", "message": "no"},
            requestObject={"kind": "Pod", "spec": {"containers": [{"image": "é"}]}},
            responseObject={"kind": "Status"},
            annotations={"authorization.k8s.io/decision": "forbid"},
        )
        async with self.road(tmp_path) as road:
            heard = road.bus.subscribe(AuditRecord, "op")
            await road.publish([record])
            (back,) = await take(heard, 1)
        assert (back.verb, back.level, back.audit_id, back.stage) == ("create", "RequestResponse", *ident(record))
        assert (back.request_uri, back.user_agent, back.object_ref) == (
            record.request_uri,
            record.user_agent,
            record.object_ref,
        )
        assert user_of(back.user) == user_of(record.user)
        assert user_of(back.impersonated_user) == user_of(record.impersonated_user)
        assert response_of(back.response_status) == response_of(record.response_status)
        for part in ("source_ips", "request_object", "response_object", "annotations"):
            assert json_of(getattr(back, part)) == json_of(getattr(record, part)), part
        assert (back.seen_at, back.correlation("c")) == (record.seen_at, record.correlation("c"))

    async def test_who_comes_later_gets_what_comes_from_then_on(self, tmp_path: Path) -> None:
        """The past is a checkpoint's business."""
        async with self.road(tmp_path) as road:
            early = road.bus.subscribe(AuditRecord, "early", capacity=100)
            await road.publish(events(range(5)))
            assert await names(early, 5) == ["0", "1", "2", "3", "4"]
            late = road.bus.subscribe(AuditRecord, "late", capacity=100)
            await road.publish(events(range(5, 8)))
            assert await names(late, 3) == ["5", "6", "7"]

    async def test_a_cut_neither_loses_nor_repeats(self, tmp_path: Path) -> None:
        """Whatever breaks in between, each event comes once and in order."""
        async with self.road(tmp_path) as road:
            heard = road.bus.subscribe(AuditRecord, "op", capacity=100)
            for turn in range(3):
                await road.publish(events(range(turn * 40, turn * 40 + 40)))
                await road.cut()
            await road.publish(events(range(120, 130)))
            assert await names(heard, 130) == [str(n) for n in range(130)]
            assert heard.losses() == {}

    async def test_loss_is_told_to_the_event(self, tmp_path: Path) -> None:
        """What a road cannot hold is lost, and whoever observes is told how much: the books close."""
        async with self.road(tmp_path, holds=20) as road:
            heard = road.bus.subscribe(AuditRecord, "op", capacity=100)
            for turn in range(10):
                await road.publish(events(range(turn * 10, turn * 10 + 10)))
            got, lost = 0, 0
            with anyio.fail_after(30):
                while got + lost < 100:
                    batch = await heard.receive()
                    assert batch is not None
                    got += len(batch.observations)
                    lost += sum(heard.losses().values())
            assert (got + lost, lost > 0) == (100, True)

    async def test_the_end_is_the_end(self, tmp_path: Path) -> None:
        """Once its bus is closed a subscriber reads what it holds, and then None."""
        async with self.road(tmp_path) as road:
            heard = road.bus.subscribe(AuditRecord, "op", capacity=100)
            await road.publish(events(range(3)))
            assert await names(heard, 3) == ["0", "1", "2"]
            road.bus.close()
            while (batch := await heard.receive()) is not None:
                assert not batch.observations


def events(numbers: range) -> list[AuditRecord]:
    """Return events that differ in id and time."""
    return [
        audit_record(auditID=str(n), stageTimestamp=f"2026-01-01T00:{n // 60 % 60:02}:{n % 60:02}.{n:06}Z")
        for n in numbers
    ]


def ident(record: AuditRecord) -> tuple[str, str]:
    """Return id and stage."""
    return record.audit_id, record.stage


async def take(subscription: Subscription[AuditRecord], count: int) -> list[AuditRecord]:
    """Return so many events from a subscription."""
    found: list[AuditRecord] = []
    with anyio.fail_after(30):
        while len(found) < count:
            batch = await subscription.receive()
            assert batch is not None, "the bus was closed"
            found += batch.observations
    return found


async def names(subscription: Subscription[AuditRecord], count: int) -> list[str]:
    """Return the ids of so many events."""
    return [record.audit_id for record in await take(subscription, count)]
