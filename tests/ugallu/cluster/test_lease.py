"""Leader election: one leader at a time, whatever the clocks say and whatever breaks."""

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest

from ugallu.api.core import Lease, LeaseSpec, micro_time
from ugallu.api.meta import Metadata, Resource, encode
from ugallu.api.sigma import SigmaRule
from ugallu.cluster.fence import Fenced, NotLeadingError
from ugallu.cluster.lease import Election, Terms
from ugallu.cluster.port import ANY, Cluster, Preconditions
from ugallu.errors import PermanentError
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import Call, Fault, FaultyCluster, memory_cluster, unavailable
from ugallu.testing.contracts.cluster import rule

R = TypeVar("R", bound=Resource)

TERMS = Terms(duration=15, renew=10.0, retry=2.0)


class Candidate:
    """An election and a piece of work that says when it runs."""

    def __init__(self, cluster: Cluster, name: str, clock: ManualClock, wall: dt.timedelta = dt.timedelta()) -> None:
        self.clock = clock
        self.election = Election(
            cluster, Skewed(clock, wall), name="ugallu-x-leader", namespace="ugallu-system", identity=name, terms=TERMS
        )
        self._working = False
        self.turns: list[tuple[float, float]] = []
        self.stop = anyio.Event()

    async def run(self) -> None:
        while not await self.election.lead(self._work):
            pass

    def working(self) -> bool:
        return self._working

    async def _work(self) -> None:
        self._working = True
        start = self.clock.monotonic()
        try:
            await self.stop.wait()
        finally:
            self._working = False
            self.turns.append((start, self.clock.monotonic()))


class Steps(ManualClock):
    """Lets others run a fixed number of loop turns, enough for a cluster in memory, instead of until all are blocked."""

    def jump(self, seconds: float) -> None:
        """Let time pass while no code runs."""
        self._monotonic += seconds
        self._now += dt.timedelta(seconds=seconds)

    async def advance(self, seconds: float) -> None:
        self.jump(seconds)
        for at, wake in self._sleepers:
            if at <= self._monotonic:
                wake.set()
        self._sleepers = [(at, wake) for at, wake in self._sleepers if at > self._monotonic]
        for _ in range(40):
            await anyio.lowlevel.checkpoint()


class Skewed(ManualClock):
    """Another machine's clock: the same seconds, another wall time."""

    def __init__(self, clock: ManualClock, wall: dt.timedelta) -> None:
        super().__init__()
        self._clock = clock
        self._wall = wall

    def now(self) -> dt.datetime:
        return self._clock.now() + self._wall

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


async def seconds(clock: ManualClock, count: int, until: Callable[[], bool] = lambda: False) -> None:
    """Let time pass, second by second."""
    await clock.advance(0)
    for _ in range(count):
        if until():
            return
        await clock.advance(1)


async def test_the_first_leads_and_keeps_leading() -> None:
    """With nobody else it leads at once, renews, and gives the lease back at the end."""
    cluster, clock = memory_cluster(), Steps()
    only = Candidate(cluster, "only", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(only.run)
        await seconds(clock, 100)
        assert only.working()
        assert only.election.leading
        lease = await cluster.get(Lease, "ugallu-x-leader", "ugallu-system")
        assert lease.spec.holder_identity == "only"
        assert lease.spec.lease_duration_seconds == 15
        assert lease.spec.renew_time is not None
        assert clock.now() - lease.spec.renew_time <= dt.timedelta(seconds=3)
        only.stop.set()
    lease = await cluster.get(Lease, "ugallu-x-leader", "ugallu-system")
    assert lease.spec.holder_identity == ""
    assert not only.election.leading


@pytest.mark.parametrize("hours", [-24, 0, 24])
async def test_two_never_lead_at_once_however_their_clocks_differ(hours: int) -> None:
    """A candidate whose clock is a day off neither steals the lease nor waits for ever for it."""
    cluster, clock = memory_cluster(), Steps()
    first = Candidate(cluster, "first", clock)
    second = Candidate(cluster, "second", clock, dt.timedelta(hours=hours))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run)
        await seconds(clock, 1)
        tasks.start_soon(second.run)
        await seconds(clock, 60)
        assert first.working()
        assert not second.working()
        first.stop.set()
        await seconds(clock, 4)
        assert second.working()
        assert (await cluster.get(Lease, "ugallu-x-leader", "ugallu-system")).spec.lease_transitions == 1
        tasks.cancel_scope.cancel()
    assert first.turns[0][1] <= second.turns[0][0]


async def test_a_leader_that_cannot_renew_stops_before_another_starts() -> None:
    """Cut off, it stops by its own clock; the other one takes over only after that."""
    inner, clock = memory_cluster(), Steps()
    cut_off = False
    faulty = FaultyCluster(inner, lambda _: unavailable() if cut_off else None)
    first, second = Candidate(faulty, "first", clock), Candidate(inner, "second", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run)
        await seconds(clock, 5)
        tasks.start_soon(second.run)
        await seconds(clock, 5)
        cut_off = True
        await seconds(clock, 60, until=second.working)
        assert second.working()
        assert not first.working()
        assert first.turns[0][1] < clock.monotonic()
        cut_off = False
        await seconds(clock, 30)
        assert not first.working()
        tasks.cancel_scope.cancel()


async def test_a_server_that_hangs_ends_leadership_in_time() -> None:
    """A renewal that never returns counts as failed when the renew time is over."""
    inner, clock = memory_cluster(), Steps()

    class Hanging(FaultyCluster):
        hangs = False

        async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
            if self.hangs:
                await anyio.sleep_forever()
            return await super().get(kind, name, namespace)

        async def patch(
            self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
        ) -> R:
            if self.hangs:
                await anyio.sleep_forever()
            return await super().patch(kind, name, patch, namespace, when=when)

    cluster = Hanging(inner, lambda _: None)
    leader = Candidate(cluster, "leader", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader.run)
        await seconds(clock, 5)
        assert leader.working()
        cluster.hangs = True
        start = clock.monotonic()
        await seconds(clock, 30, until=lambda: not leader.working())
        assert not leader.working()
        assert clock.monotonic() - start <= 12
        await seconds(clock, 6)
        cluster.hangs = False
        tasks.cancel_scope.cancel()


async def test_a_lost_answer_does_not_cost_leadership() -> None:
    """A renewal whose answer got lost is recognised as our own at the next look."""
    inner, clock = memory_cluster(), Steps()

    def plan(call: Call) -> Fault | None:
        return unavailable(after=True) if call.verb in ("patch", "create") and call.number % 2 == 0 else None

    leader = Candidate(FaultyCluster(inner, plan), "leader", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader.run)
        await seconds(clock, 60)
        assert leader.working()
        tasks.cancel_scope.cancel()
    assert len(leader.turns) == 1


async def test_a_stolen_lease_ends_the_work() -> None:
    """When the Lease names somebody else, the work is cancelled at the next look."""
    cluster, clock = memory_cluster(), Steps()
    leader = Candidate(cluster, "leader", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader.run)
        await seconds(clock, 5)
        await cluster.patch(Lease, "ugallu-x-leader", {"spec": {"holderIdentity": "thief"}}, "ugallu-system")
        await seconds(clock, 3)
        assert not leader.working()
        assert leader.election.holder == "thief"
        await seconds(clock, 30, until=leader.working)
        assert leader.working()
        tasks.cancel_scope.cancel()


async def test_a_leader_that_was_stopped_finds_out_before_it_acts() -> None:
    """Time passes and no code runs: at the next question it leads no more, and what it may write through is shut."""
    cluster, clock = memory_cluster(), Steps()
    leader = Candidate(cluster, "leader", clock)
    fenced = Fenced(cluster, leader.election.leads)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader.run)
        await seconds(clock, 5)
        await fenced.create(rule("a"))
        clock.jump(11)
        assert leader.working()
        assert not leader.election.leads()
        with pytest.raises(NotLeadingError):
            await fenced.create(rule("b"))
        assert (await fenced.get(SigmaRule, "a")).metadata.name == "a"
        tasks.cancel_scope.cancel()


async def test_leadership_counts_from_before_the_request() -> None:
    """An answer that took its time leaves that much less: the others saw the Lease renewed when it was written."""
    inner, clock = memory_cluster(), Steps()

    class Slow(FaultyCluster):
        seconds = 0.0

        async def patch(
            self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
        ) -> R:
            stored = await super().patch(kind, name, patch, namespace, when=when)
            await clock.sleep(self.seconds)
            return stored

    cluster = Slow(inner, lambda _: None)
    leader = Candidate(cluster, "leader", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader.run)
        await seconds(clock, 1)
        cluster.seconds = 5.0
        await seconds(clock, 8)  # asked at 4, answered at 9
        assert leader.election.leads()
        cluster.plan = lambda _: unavailable()
        await seconds(clock, 4)
        assert leader.election.leads()
        await seconds(clock, 1)
        assert clock.monotonic() == 14
        assert not leader.election.leads()
        cluster.seconds = 0.0
        tasks.cancel_scope.cancel()


async def test_renewing_asks_little_of_the_server() -> None:
    """A leader in peace needs no more than a request in four seconds, and none but patches."""
    cluster, clock = FaultyCluster(memory_cluster(), lambda _: None), Steps()
    leader = Candidate(cluster, "leader", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader.run)
        await seconds(clock, 5)
        cluster.calls.clear()
        await seconds(clock, 100)
        assert leader.working()
        assert {call.verb for call in cluster.calls} == {"patch"}
        assert len(cluster.calls) <= 25
        tasks.cancel_scope.cancel()


async def test_a_lease_that_somebody_deletes_is_no_invitation() -> None:
    """Whoever saw its holder waits as long as that one may still lead; the holder makes it anew."""
    cluster, clock = memory_cluster(), Steps()
    first, second = Candidate(cluster, "first", clock), Candidate(cluster, "second", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first.run)
        await seconds(clock, 2)
        tasks.start_soon(second.run)
        await seconds(clock, 3)
        await cluster.delete(Lease, "ugallu-x-leader", "ugallu-system")
        await seconds(clock, 20)
        assert first.working()
        assert not second.working()
        lease = await cluster.get(Lease, "ugallu-x-leader", "ugallu-system")
        assert lease.metadata.labels == {"app.kubernetes.io/part-of": "ugallu"}
        tasks.cancel_scope.cancel()
    assert len(first.turns) == 1


async def test_cancellation_gives_the_lease_back() -> None:
    """A process that is told to stop does not make the next one wait."""
    cluster, clock = memory_cluster(), Steps()
    leader = Candidate(cluster, "leader", clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(leader.run)
        await seconds(clock, 5)
        tasks.cancel_scope.cancel()
    assert (await cluster.get(Lease, "ugallu-x-leader", "ugallu-system")).spec.holder_identity == ""


def test_terms_that_cannot_be_safe_are_refused() -> None:
    """A leader must have given up before another may start."""
    with pytest.raises(PermanentError):
        Terms(duration=10, renew=10.0)


def test_times_have_the_six_digits_that_kubernetes_wants() -> None:
    """A MicroTime without a fraction would not parse there."""
    whole = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    lease = Lease(metadata=Metadata(name="a", namespace="b"), spec=LeaseSpec(renew_time=micro_time(whole)))
    assert b'"renewTime":"2026-01-01T00:00:00.000001Z"' in encode(lease)
