"""A cluster for tests, and one that fails on demand: before the effect, or after it, when only the answer is lost."""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple, TypeVar

import anyio

from ugallu.api.meta import Resource
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.embedded.cluster import HISTORY
from ugallu.cluster.port import Cluster, Notice, OutdatedError, UnavailableError
from ugallu.cluster.through import WRITES, Asked, Through
from ugallu.errors import UgalluError
from ugallu.testing.clock import ManualClock

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

VERBS = WRITES | {"get", "list", "notice"}
"""`notice` is one line of a watch."""


def memory_cluster(
    clock: ManualClock | None = None, *, history: int = HISTORY, judging: bool = True
) -> EmbeddedCluster:
    """Return an embedded cluster in memory; its times are those of a ManualClock.

    Not `judging`, it has no admission policies, as a cluster whose objects are older than ours.
    """
    clock = clock or ManualClock()
    if judging:
        return EmbeddedCluster.in_memory(clock=clock, history=history)
    return EmbeddedCluster.in_memory(clock=clock, history=history, policies=())


@asynccontextmanager
async def running_cache(cluster: Cluster) -> AsyncIterator[SharedCache]:
    """Run a shared cache over a cluster. Open it inside a test, not in a fixture."""
    cache = SharedCache(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        yield cache
        tasks.cancel_scope.cancel()


class Call(NamedTuple):
    """One call as a plan sees it; `number` counts the calls of this verb from 0."""

    verb: str
    kind: type[Resource]
    name: str
    number: int


class Fault(NamedTuple):
    """What goes wrong: `error` is raised instead of the effect, or after it when the answer gets lost."""

    error: UgalluError
    after: bool = False


Plan = Callable[[Call], Fault | None]


def unavailable(*, after: bool = False) -> Fault:
    """No connection (before), or a time-out whose request had been carried out (after)."""
    return Fault(UnavailableError("timed out" if after else "connection refused"), after)


def outdated() -> Fault:
    """A conflict: somebody else wrote first."""
    return Fault(OutdatedError("the object has been modified"))


def scripted(*faults: Fault | None, verbs: Iterable[str] = WRITES) -> Plan:
    """Apply these faults to the calls of these verbs in turn; None lets a call through, as does the end of the list."""
    left = iter(faults)
    affected = frozenset(verbs)
    return lambda call: next(left, None) if call.verb in affected else None


def seeded(seed: int, rate: float, *, verbs: Iterable[str] = WRITES, in_row: int = 5) -> Plan:
    """Let a call fail with probability `rate`, before and after its effect alike; never more than `in_row` in a row."""
    dice = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    affected = frozenset(verbs)
    row = 0

    def plan(call: Call) -> Fault | None:
        nonlocal row
        if call.verb not in affected or row == in_row or dice.random() >= rate:
            row = 0
            return None
        row += 1
        return unavailable(after=dice.random() < 0.5)

    return plan


class FaultyCluster(Through):
    """A cluster with the faults of a plan; `calls` and `faults` tell what happened."""

    def __init__(self, cluster: Cluster, plan: Plan) -> None:
        super().__init__(cluster)
        self.calls: list[Call] = []
        self.faults: list[tuple[Call, Fault]] = []
        self.plan = plan
        self._numbers: dict[str, int] = {}

    async def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Notice[R], None]:
        """Watch; a fault before or after a notice breaks the stream there."""
        watch = self._cluster.watch(kind, since=since, namespace=namespace, labels=labels, fields=fields)
        async with aclosing(watch) as notices:  # type: ignore[type-var]
            async for notice in notices:
                name = notice.object.metadata.name if notice.object else ""
                fault = self._fault(Asked("notice", kind, name))
                if fault is not None and not fault.after:
                    raise fault.error
                yield notice
                if fault is not None:
                    raise fault.error

    async def _pass(self, asked: Asked, effect: Callable[[], Awaitable[T]]) -> T:
        fault = self._fault(asked)
        if fault is not None and not fault.after:
            raise fault.error
        result = await effect()
        if fault is not None:
            raise fault.error
        return result

    def _fault(self, asked: Asked) -> Fault | None:
        number = self._numbers.get(asked.verb, 0)
        self._numbers[asked.verb] = number + 1
        call = Call(asked.verb, asked.kind, asked.name, number)
        self.calls.append(call)
        fault = self.plan(call)
        if fault is not None:
            self.faults.append((call, fault))
        return fault
