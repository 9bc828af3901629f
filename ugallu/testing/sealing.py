"""The attestor in a test: reconcilers called by hand over an embedded cluster, and a process that may die anywhere."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import ClusterIdentity, SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.observation import Checkpoint, Finding
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.port import Cluster
from ugallu.emit.port import Origin
from ugallu.metrics import Metrics
from ugallu.operator.contract import After, Parts
from ugallu.operator.platform import Platform
from ugallu.runtime.attestor.enqueue import Enqueue
from ugallu.runtime.attestor.operator import Attestor
from ugallu.runtime.attestor.reseal import Reseal
from ugallu.settings import load
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import running_cache

NAME = "se-0123456789abcdef01234567"
BUNDLE = f"att-se-{NAME}"


class Recorder:
    """An emitter that keeps what it is given."""

    origin = Origin("ugallu-attestor", frozenset())

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    async def submit(self, findings: Sequence[Finding], checkpoint: Checkpoint | None = None) -> None:
        """Keep them."""
        assert checkpoint is None
        self.findings += findings


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Desk:
    """An attestor whose reconcilers the test calls by hand."""

    cluster: Cluster
    cache: SharedCache
    parts: Parts
    metrics: Metrics
    clock: ManualClock
    folder: Path
    findings: list[Finding]
    """What it has emitted."""

    @property
    def enqueue(self) -> Enqueue:
        """The reconciler of events."""
        found = self.parts.reconcilers[0]
        assert isinstance(found, Enqueue)
        return found

    @property
    def reseal(self) -> Reseal:
        """The reconciler of bundles."""
        found = self.parts.reconcilers[1]
        assert isinstance(found, Reseal)
        return found

    async def event(self, name: str = NAME) -> SecurityEvent:
        """Return an event as it is."""
        return await self.cluster.get(SecurityEvent, name)

    async def bundle(self, name: str = BUNDLE) -> AttestationBundle:
        """Return a bundle as it is."""
        return await self.cluster.get(AttestationBundle, name)

    async def seen_event(self, name: str = NAME) -> EventMark:
        """As the cache holds it."""
        return await self.cluster.get(EventMark, name)

    async def seen_bundle(self, name: str = BUNDLE) -> BundleMark:
        """As the cache holds it."""
        return await self.cluster.get(BundleMark, name)

    async def seal(self) -> After | None:
        """Look at the event, then at its bundle."""
        await self.enqueue.reconcile(await self.seen_event())
        return await self.reseal.reconcile(await self.seen_bundle())


def event_mark(event: SecurityEvent) -> EventMark:
    """What the cache holds of an event."""
    return msgspec.convert(msgspec.to_builtins(event), EventMark)


def bundle_mark(bundle: AttestationBundle) -> BundleMark:
    """What the cache holds of a bundle."""
    return msgspec.convert(msgspec.to_builtins(bundle), BundleMark)


@asynccontextmanager
async def desk(folder: Path, cluster: Cluster, clock: ManualClock) -> AsyncIterator[Desk]:
    """Build an attestor over the cluster; leaving closes it, as a dead process would."""
    metrics, emitter = Metrics(), Recorder()
    async with running_cache(cluster) as cache:
        platform = Platform(
            identity=ClusterIdentity(cluster_name="test", cluster_id="test"),
            cluster=cluster,
            cache=cache,
            emitter=emitter,
            clock=clock,
            log=structlog.get_logger(),
            metrics=metrics,
            settings=load({"state": str(folder), "instance": "test"}, {}),
            namespace="ugallu-system",
            state=folder,
        )
        parts = Attestor().build(Attestor.config(), platform)
        try:
            await cache.view(SecurityEvent).synced()
            await cache.view(AttestationBundle).synced()
            yield Desk(cluster, cache, parts, metrics, clock, folder, emitter.findings)
        finally:
            parts.close()


def log_size(folder: Path) -> int:
    """Return how many entries the log has."""
    checkpoint = folder / "evidence" / "log" / "checkpoint"
    return int(checkpoint.read_text().split("\n")[1]) if checkpoint.exists() else 0


def mortal(patch: pytest.MonkeyPatch, at: Desk, after: int) -> Callable[[], bool]:
    """Die before (even) or after (odd) the call with this number to cluster, signer, log or store.

    The function returned tells whether it came to that.
    """
    left, dead = after, False

    def wrap(owner: Any, verb: str) -> None:  # noqa: ANN401 - any port
        real: Callable[..., Awaitable[Any]] = getattr(owner, verb)

        async def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - what the port takes and returns
            nonlocal left, dead
            if left == 0 or dead:
                dead = True
                raise Killed
            left -= 1
            result = await real(*args, **options)
            if left == 0:
                dead = True
                raise Killed
            left -= 1
            return result

        patch.setattr(owner, verb, call)

    stages = at.reseal.stages
    for verb in ("create", "patch_status"):
        wrap(at.cluster, verb)
    for verb in ("put", "get", "read", "drop"):
        wrap(stages.store, verb)
    wrap(stages.log, "add")
    wrap(stages.ports.legs[0].signer, "sign")
    return lambda: dead
