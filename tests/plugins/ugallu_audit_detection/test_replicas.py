"""Replicas behind one webhook: an API server stays with one of them, and only together they know that it is silent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.event import ClusterIdentity
from ugallu.api.meta import Metadata
from ugallu.cluster.port import Cluster, UnavailableError
from ugallu.emit.port import Origin
from ugallu.testing.audit import audit_record
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.pipeline import RememberingEmitter
from ugallu_audit_detection.pulse import INTERVAL, Pulse, Watch
from ugallu_audit_detection.replicas import NAME, TELL_SECONDS, Replicas

CONFIG = AuditDetectionConfig(metadata=Metadata(name=NAME))


class Pods:
    """Two replicas with a watch each."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cluster = memory_cluster(self.clock)
        self.pulses = [Pulse(), Pulse()]
        self.emitters = [
            RememberingEmitter(Origin(component="ugallu-audit-detection", emits=frozenset())) for _ in "12"
        ]

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg:
            for pulse, emitter in zip(self.pulses, self.emitters, strict=True):
                watch = Watch(
                    pulse,
                    emitter=emitter,
                    clock=self.clock,
                    identity=ClusterIdentity(cluster_id="c"),
                    replicas=Replicas(self.cluster, self.clock),
                )
                tg.start_soon(watch.run)
            await settled()
            yield
            tg.cancel_scope.cancel()

    async def wait(self, seconds: float, *hearing: int) -> list[list[str]]:
        """Let time pass while these replicas have events; return what each has reported by then."""
        for _ in range(int(seconds // INTERVAL)):
            for number in hearing:
                self.pulses[number].beat([audit_record(stageTimestamp=self.clock.now().isoformat())])
            await self.clock.advance(INTERVAL)
        return [[finding.type.name for finding in emitter.findings] for emitter in self.emitters]


async def test_who_hears_nothing_asks_the_others() -> None:
    """One replica has all the events, then the other: neither reports a silence. When nobody hears any more, both do."""
    pods = Pods()
    await pods.cluster.create(CONFIG)
    async with pods.watching():
        assert await pods.wait(1200, 0) == [[], []]
        assert await pods.wait(1200, 1) == [[], []]
        assert await pods.wait(300 - TELL_SECONDS) == [[], []]
        assert await pods.wait(2 * TELL_SECONDS + INTERVAL) == [["AuditLogStreamSilent"]] * 2
        assert await pods.wait(3000) == [["AuditLogStreamSilent"]] * 2


async def test_an_old_word_is_no_life() -> None:
    """What stands in the object when a replica starts was said by somebody who may be gone."""
    pods = Pods()
    await pods.cluster.create(CONFIG)
    await pods.cluster.patch_status(AuditDetectionConfig, NAME, {"lastEventAt": "2025-12-31T23:59:00Z"})
    async with pods.watching():
        assert await pods.wait(310) == [["AuditLogStreamSilent"]] * 2


async def test_without_the_object_each_is_alone() -> None:
    """There is nowhere to tell it: a silence too many is reported rather than one too few."""
    pods = Pods()
    async with pods.watching():
        assert await pods.wait(310, 0) == [[], ["AuditLogStreamSilent"]]


async def test_it_is_told_once_a_minute() -> None:
    """However many events there are; the API server has better things to do."""
    pods = Pods()
    await pods.cluster.create(CONFIG)
    async with pods.watching():
        before = (await pods.cluster.get(AuditDetectionConfig, NAME)).metadata.resource_version
        await pods.wait(600, 0)
        after = (await pods.cluster.get(AuditDetectionConfig, NAME)).metadata.resource_version
    assert int(after) - int(before) == 10


class Away:
    """A cluster that does not answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: object, **__: object) -> None:
            raise UnavailableError("no route", where=name)

        return fail


@pytest.mark.parametrize("hearing", [(), (0, 1)])
async def test_an_api_server_that_is_away_changes_nothing(hearing: tuple[int, ...]) -> None:
    """Who cannot ask judges by what it hears itself."""
    pods = Pods()
    pods.cluster = Away(pods.cluster)  # type: ignore[assignment]
    async with pods.watching():
        expected = [] if hearing else ["AuditLogStreamSilent"]
        assert await pods.wait(310, *hearing) == [expected] * 2
