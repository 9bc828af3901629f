"""audit-detection behind its webhook: replicas that share a Service, and a stream that falls silent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.rig.ground import free_port
from tests.rig.keys import Authority
from ugallu.api.event import SecurityEvent
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import list_all
from ugallu.settings import AuditSettings, EmitSettings, Settings, WebhookSettings
from ugallu.testing.clock import ManualClock
from ugallu.testing.harness import Run, running
from ugallu.testing.https import calling
from ugallu.testing.rules import sigma_rule
from ugallu_audit_detection.operator import AuditDetection
from ugallu_audit_detection.pulse import INTERVAL, SILENCE

LIST = '{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":[%s]}'
TOKEN = {"Authorization": "Bearer s3cret"}


def pod_read(number: int) -> dict[str, Any]:
    """An event that the rule is about, each of another Pod."""
    return {
        "level": "Metadata",
        "auditID": f"{number:08x}-0000-4000-8000-000000000000",
        "stage": "ResponseComplete",
        "requestURI": f"/api/v1/namespaces/shop/pods/web-{number}",
        "verb": "get",
        "user": {"username": "eve"},
        "objectRef": {"resource": "pods", "namespace": "shop", "name": f"web-{number}", "apiVersion": "v1"},
        "responseStatus": {"metadata": {}, "code": 200},
        "requestReceivedTimestamp": f"2026-01-01T00:00:{number % 60:02}.000000Z",
        "stageTimestamp": f"2026-01-01T00:00:{number % 60:02}.001000Z",
    }


class Service:
    """The keys of the webhook, and the Pods behind it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder, "ca")
        self.pair = self.authority.issue("server", "server", hosts=("127.0.0.1",))
        self.token = folder / "token"
        self.token.write_text("s3cret")

    def settings(self, name: str, port: int) -> Settings:
        """Return those of one Pod."""
        webhook = WebhookSettings(
            listen=f"127.0.0.1:{port}",
            tls_cert=str(self.pair.certificate),
            tls_key=str(self.pair.key),
            token_file=str(self.token),
        )
        state = self.folder / name
        state.mkdir()
        return Settings(
            state=str(state),
            instance=name,
            audit=AuditSettings(webhook=webhook),
            emit=EmitSettings(creates_per_second=0),
        )

    async def post(self, port: int, *numbers: int) -> int:
        """Send events to a Pod and return the status."""
        body = LIST % ",".join(json.dumps(pod_read(number)) for number in numbers)
        async with calling(port, self.authority.pair.certificate) as caller:
            return (await caller.post("/v1/audit", body.encode(), TOKEN)).status


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


async def until(holds: Callable[[], object]) -> None:
    """Poll with a bound: sockets and disk of the real machine are under way."""
    for _ in range(4000):
        if holds():
            return
        await anyio.sleep(0.005)
    pytest.fail("not within 20 s")


def matches(run: Run) -> float:
    return run.metrics.value("ugallu_audit_rule_matches_total", rule="pod-read")


async def events(cluster: EmbeddedCluster) -> list[SecurityEvent]:
    found, _ = await list_all(cluster, SecurityEvent)
    return sorted(found, key=lambda event: event.spec.subject.name)


async def test_replicas_behind_one_service(service: Service) -> None:
    """A batch whose answer was lost goes to the other replica: both have it, and there is one event of each fact.

    Each has a spool of its own and knows nothing of the other; the name of an event follows from the fact.
    """
    cluster = EmbeddedCluster.in_memory()
    await cluster.create(sigma_rule("pod-read", rateLimit={"burst": 1000, "sustainedPerSec": 1000}))
    ports = free_port(), free_port()
    first, second = service.settings("pod-0", ports[0]), service.settings("pod-1", ports[1])
    async with (
        running(AuditDetection, cluster=cluster, settings=first) as one,
        running(AuditDetection, cluster=cluster, settings=second) as two,
    ):
        await until(lambda: one.process.supervisor.ready.is_set() and two.process.supervisor.ready.is_set())
        await listening(service, *ports)
        assert await service.post(ports[0], *range(10)) == 200
        assert await service.post(ports[1], *range(5, 15)) == 200  # half of them again
        assert await service.post(ports[1], *range(15, 30)) == 200
        assert await service.post(ports[0], *range(20, 40)) == 200  # and in the other order
        await until(lambda: (matches(one), matches(two)) == (30, 25))
        await one.settle()
        await two.settle()
        found = await events(cluster)
    assert [event.spec.subject.name for event in found] == sorted(f"web-{number}" for number in range(40))
    # A fact that the two had told differently would be there under a second name.
    assert all(len(event.metadata.name) == len("se-") + 24 for event in found)
    await cluster.close()


async def test_a_webhook_that_falls_silent_is_reported(service: Service) -> None:
    """Nothing for five minutes, though an API server is never silent: one event, and another one for the next silence."""
    clock = ManualClock()
    cluster = EmbeddedCluster.in_memory(clock=clock)
    port = free_port()

    async def silent() -> int:
        found = await events(cluster)
        return sum(event.spec.type == "AuditLogStreamSilent" for event in found)

    async def wait(seconds: float) -> None:
        for _ in range(int(seconds / INTERVAL)):
            await clock.advance(INTERVAL)

    async with running(AuditDetection, cluster=cluster, clock=clock, settings=service.settings("pod-0", port)) as run:
        await listening(service, port)
        await wait(SILENCE - 2 * INTERVAL)
        assert await service.post(port, 1) == 200
        await until(lambda: run.metrics.value("ugallu_audit_events_total", level="Metadata") == 1)
        await wait(SILENCE - INTERVAL)
        assert await silent() == 0
        await wait(10 * INTERVAL)
        await run.settle()
        assert await silent() == 1
        await wait(2 * SILENCE)  # two within ten minutes would be one event
        assert await service.post(port, 2) == 200
        await until(lambda: run.metrics.value("ugallu_audit_events_total", level="Metadata") == 2)
        await wait(SILENCE + 2 * INTERVAL)
        await run.settle()
        assert await silent() == 2
    await cluster.close()


async def listening(service: Service, *ports: int) -> None:
    """Wait until callers can connect."""
    for port in ports:
        for _ in range(1000):
            try:
                async with calling(port, service.authority.pair.certificate):
                    break
            except OSError:
                await anyio.sleep(0.01)
