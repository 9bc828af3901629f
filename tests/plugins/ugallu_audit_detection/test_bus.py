"""The bus as part of the operator: what it says of itself, what it reports, and two processes that share a stream."""

from pathlib import Path

import anyio
import msgspec
import pytest

from tests.rig.ground import free_port
from tests.rig.keys import Authority
from ugallu.api.catalog import CATALOGUE
from ugallu.api.detection import (
    AuditDetectionConfig,
    AuditDetectionConfigSpec,
    AuditDetectionConsumer,
    AuditDetectionEventBus,
)
from ugallu.api.meta import Condition, Metadata
from ugallu.settings import AuditSettings, RelaySettings, Settings
from ugallu.testing.audit import audit_record
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.harness import running
from ugallu.testing.relay import Secrets, bus_settings, until
from ugallu.testing.rules import sigma_rule
from ugallu_audit_detection import bus
from ugallu_audit_detection.operator import AuditDetection


class Hub:
    """A bus as far as it is asked how it is."""

    def __init__(self) -> None:
        self.trouble = ""
        self.streams = 0
        self.dropped: dict[tuple[str, str], int] = {}
        self.offered: list[object] = []

    def offer(self, records: object) -> None:
        self.offered.append(records)


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    (tmp_path / "keys").mkdir()
    authority = Authority(tmp_path / "keys", "ca")
    pair = authority.issue("server", "server", hosts=("127.0.0.1",))
    return Secrets(tmp_path / "secrets", pair.certificate, pair.key, authority.pair.certificate)


def config(events: AuditDetectionEventBus | None, *consumers: str) -> AuditDetectionConfig:
    declared = tuple(AuditDetectionConsumer(name=name) for name in consumers)
    spec = AuditDetectionConfigSpec(event_bus=events, consumers=declared)
    return AuditDetectionConfig(metadata=Metadata(name="default"), spec=spec)


def said(found: AuditDetectionConfig) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.reason) for one in found.status.conditions}


async def test_an_operator_in_another_process_sees_the_same_stream(secrets: Secrets) -> None:
    """What one process observes becomes an event of a rule in the other; the object says who listens."""
    port = free_port()
    relay = RelaySettings(
        addresses=(f"127.0.0.1:{port}",),
        consumer="elsewhere",
        ca=str(secrets.ca),
        token_file=str(secrets.token),
    )
    async with running(AuditDetection, settings=Settings(secrets=str(secrets.folder))) as here:
        await here.cluster.create(config(bus_settings(enabled=True, listen_addr=f"127.0.0.1:{port}"), "elsewhere"))
        await until(lambda: AuditDetection.name not in here.process.supervisor.reasons())
        async with running(AuditDetection, settings=Settings(audit=AuditSettings(bus=relay))) as there:
            await there.cluster.create(sigma_rule())
            await there.settle()
            await until(lambda: not there.process.supervisor.reasons())
            found = await here.cluster.get(AuditDetectionConfig, "default")
            with anyio.fail_after(20):
                while found.status.consumers_connected != 1:
                    await anyio.sleep(0.1)
                    found = await here.cluster.get(AuditDetectionConfig, "default")
            assert said(found)["BusServing"] == ("True", "Serving")
            assert said(found)["ConfigValid"] == ("True", "Valid")
            assert found.status.consumers_connected == 1
            assert found.status.last_config_load_at is not None
            await here.publish(audit_record(requestObject={"kind": "Secret", "data": {"a": "c2VjcmV0"}}))
            await until(lambda: there.metrics.value("ugallu_audit_bus_received_total", source="audit-bus-0") == 1)
            (event,) = await there.events()
            assert event.spec.type == "KubernetesAPICall"


async def test_status_says_whether_it_serves() -> None:
    """W8: conditions, count and time are written; nothing is written while nothing changes, nobody's words are lost."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    hub, state = Hub(), bus.State()
    state.loaded_at = clock.now()
    await cluster.create(config(None))
    theirs = Condition(type="Ready", status="True", reason="Running", last_transition_time=clock.now())
    await cluster.patch_status(AuditDetectionConfig, "default", {"conditions": [msgspec.to_builtins(theirs)]})
    status = bus.Status(hub, state, cluster, clock)  # type: ignore[arg-type]
    hub.streams = 2
    await status.look()
    found = await cluster.get(AuditDetectionConfig, "default")
    assert list(said(found)) == ["Ready", "BusServing", "ConfigValid"]
    assert said(found)["BusServing"] == ("True", "Serving")
    assert found.status.consumers_connected == 2
    assert found.status.last_config_load_at == clock.now()
    version = found.metadata.resource_version
    for _ in range(2 * bus.REREAD):
        await status.look()
    assert (await cluster.get(AuditDetectionConfig, "default")).metadata.resource_version == version
    hub.trouble, hub.streams, state.invalid = "cannot listen", 0, "a consumer stands twice"
    await status.look()
    found = await cluster.get(AuditDetectionConfig, "default")
    assert said(found)["BusServing"] == ("False", "CannotServe")
    assert said(found)["ConfigValid"] == ("False", "InvalidConfig")
    assert found.status.consumers_connected == 0


async def test_without_an_object_nothing_is_written() -> None:
    """Defaults need no object."""
    clock = ManualClock()
    status = bus.Status(None, bus.State(), memory_cluster(clock), clock)
    await status.look()


async def test_a_bus_that_is_not_asked_for_says_so() -> None:
    """Disabled is a state, no fault."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(config(None))
    await bus.Status(None, bus.State(), cluster, clock).look()
    found = await cluster.get(AuditDetectionConfig, "default")
    assert said(found)["BusServing"] == ("False", "Disabled")


def test_losses_become_one_event_a_minute() -> None:
    """W2: what consumers lost is in the books as `"SourceRateLimited"`, by consumer and reason."""
    hub = Hub()
    losses = bus.Losses(hub, None, ManualClock())  # type: ignore[arg-type]
    assert losses.look() == []
    hub.dropped = {("a", "rate"): 5, ("a", "buffer"): 2, ("b", "rate"): 1}
    one, two = losses.look()
    assert one.type is CATALOGUE["SourceRateLimited"]
    assert one.signals == {
        "reason": "event_bus",
        "bus.consumer": "a",
        "dropped": "7",
        "dropped.buffer": "2",
        "dropped.rate": "5",
    }
    assert two.signals["bus.consumer"] == "b"
    assert losses.look() == []


def test_the_feeder_finds_nothing() -> None:
    """It hands over, whole batches at once, before any rule looks."""
    hub = Hub()
    feeder = bus.Feeder(hub)  # type: ignore[arg-type]
    records = [audit_record(), audit_record()]
    assert list(feeder.inspect_batch(records)) == []
    assert list(feeder.inspect(records[0])) == []
    assert hub.offered == [records, (records[0],)]
