"""`running`: an operator at work inside a test, with everything real but the outside world.

The embedded cluster is the cluster, the journal lies in a directory of its own, and the operator is held to what it
declared: another event type, or a verb it was never granted, fails the test.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from tempfile import TemporaryDirectory
from typing import Any, Final

import anyio
import structlog

from ugallu.api.event import SecurityEvent
from ugallu.api.observation import Batch, Observation
from ugallu.clock import Clock, SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import Cluster, ForbiddenError, list_all
from ugallu.cluster.through import Asked, Through
from ugallu.metrics import Metrics
from ugallu.operator.contract import Operator
from ugallu.operator.rights import allows, rights
from ugallu.settings import AuditSettings, ListenSettings, Settings
from ugallu.supervisor.assembly import Process, assembled, embedded_identity

SOURCE = "test"


class Granted(Through):
    """A cluster that refuses what the operator never declared. Closing it leaves the cluster, which is the test's."""

    def __init__(self, cluster: Cluster, operator: Operator[Any]) -> None:
        super().__init__(cluster)
        self._name = operator.name
        self._grants = rights(operator)

    def _look(self, asked: Asked) -> None:
        kind = asked.kind.kind_info
        verb, part = RBAC.get(asked.verb, (asked.verb, ""))
        if not allows(self._grants, verb, kind, name=asked.name, namespace=asked.namespace, part=part):
            what = f"{verb} {kind.plural}{part} was never declared"
            raise ForbiddenError(what, where=f"operator {self._name}", fix="add it to `grants`")

    async def close(self) -> None:
        """Leave the cluster open."""


RBAC: Final = {"apply": ("patch", ""), "patch_status": ("patch", "/status")}
"""Methods of the port that an API server knows as another verb, or on a subresource."""


class Run:
    """What a test does with a running process."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.cluster = process.cluster
        self.metrics = process.metrics
        self._published: dict[type[Any], int] = {}

    async def publish(self, *observations: Observation) -> None:
        """Let a source see these, in order, in one batch a type."""
        by_type: dict[type[Any], list[Observation]] = {}
        for observation in observations:
            by_type.setdefault(type(observation), []).append(observation)
        for observes, seen in by_type.items():
            first = self._published.get(observes, 0)
            self._published[observes] = end = first + len(seen)
            source = f"{SOURCE}-{observes.__name__}"
            await self.process.bus.publish(observes, Batch(source, first, seen, resume=str(end).encode()))

    async def settle(self) -> None:
        """Wait until everything published was inspected, emitted, and dealt with by every operator."""
        supervisor = self.process.supervisor
        for observes, end in self._published.items():
            for cell in supervisor.cells:
                if observes in cell.observed:
                    source = f"{SOURCE}-{observes.__name__}"
                    await supervisor.until(lambda c=cell, o=observes, s=source, e=end: c.inspected(o, s) >= e)  # type: ignore[misc]
        await supervisor.settle()
        self.check()

    async def events(self) -> list[SecurityEvent]:
        """Settle, then return every SecurityEvent there is, by time and name."""
        await self.settle()
        found, _ = await list_all(self.cluster, SecurityEvent)
        return sorted(found, key=lambda event: (event.spec.detected_at, event.metadata.name))

    def check(self) -> None:
        """Fail if an operator emitted what it did not declare."""
        undeclared = self.metrics.value("ugallu_emitter_dropped_total", reason="undeclared_type")
        assert not undeclared, f"{undeclared:.0f} findings of a type that the operator does not declare in `emits`"


@asynccontextmanager
async def running(
    *operators: type[Operator[Any]],
    cluster: Cluster | None = None,
    clock: Clock | None = None,
    settings: Settings | None = None,
) -> AsyncIterator[Run]:
    """Run these operators while the block lasts; leaving it stops them in order and waits for the end.

    Without `cluster` an embedded one in memory is made and closed; without `settings.state` the journal is in a
    temporary directory. Probes do not listen.
    """
    clock = clock or SystemClock()
    with _state(settings) as state:
        base = settings or Settings()
        chosen = Settings(
            state=state,
            cluster_id=base.cluster_id,
            cluster_name=base.cluster_name,
            instance=base.instance,
            grace_seconds=base.grace_seconds,
            seal=base.seal,
            audit=base.audit if settings else AuditSettings(),
            secrets=base.secrets,
            kubernetes=base.kubernetes,
            bus=base.bus,
            emit=base.emit,
            listen=ListenSettings(health="", metrics=""),
        )
        own = EmbeddedCluster.in_memory(clock=clock) if cluster is None else None
        at = cluster if cluster is not None else own
        assert at is not None
        log = structlog.wrap_logger(structlog.PrintLogger())
        try:
            async with (
                assembled(
                    chosen,
                    at,
                    operators,
                    identity=embedded_identity(chosen),
                    clock=clock,
                    log=log,
                    metrics=Metrics(),
                    lend=lambda operator: Granted(at, operator),
                ) as process,
                anyio.create_task_group() as tg,
            ):
                run = Run(process)
                stop = anyio.Event()

                tg.start_soon(process.supervisor.run, stop)
                await process.supervisor.ready.wait()
                yield run
                stop.set()
            run.check()
        except BaseExceptionGroup as group:
            # A failed assertion in the block is what the author wants to read, not the task group around it.
            raise _only(group) from None
        finally:
            if own is not None:
                await own.close()


def _only(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _state(settings: Settings | None) -> AbstractContextManager[str]:
    """A temporary directory, or the one that the test keeps over several runs."""
    return nullcontext(settings.state) if settings and settings.state else TemporaryDirectory(prefix="ugallu-")
