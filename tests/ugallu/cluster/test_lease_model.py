"""Candidates with clocks that differ and drift, processes that stop and go on, a network that delays and loses: a model.

Time here is the world's; each process sees it through a clock of its own. Nothing happens between two events of the
world, so what holds after each event holds always.
"""

import datetime as dt
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import anyio
import anyio.lowlevel
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.meta import Resource
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.lease import Election, Terms
from ugallu.cluster.port import ANY, Preconditions, UnavailableError
from ugallu.errors import UgalluError
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import FaultyCluster, memory_cluster

R = TypeVar("R", bound=Resource)
T = TypeVar("T")

TERMS = Terms(duration=15, renew=10.0, every=4.0, retry=2.0, release=5.0)
FAULTS_END = 90.0
TIMEOUT = 6.0
"""Seconds after which a client gives a request up."""
TURNS = 25
"""Turns of the loop in which everybody has done what an event lets him do."""


class Span(NamedTuple):
    """A stretch of the world's time, before `FAULTS_END`."""

    start: float
    length: float

    def holds(self, moment: float) -> bool:
        return self.start <= moment < self.end

    @property
    def end(self) -> float:
        return min(self.start + self.length, FAULTS_END)


class Fate(NamedTuple):
    """What a process has to live with."""

    offset: float
    rate: float
    """Seconds of its clock in a second of the world."""
    wall: int
    """Hours by which its wall clock is off."""
    stops: list[Span]
    outages: list[Span]


class World:
    """The one true time, and what is due when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, anyio.Event]] = []
        self._numbers = itertools.count()

    async def until(self, moment: float) -> None:
        """Wait; a cancelled wait is forgotten."""
        event = anyio.Event()
        heapq.heappush(self._due, (max(moment, self.now), next(self._numbers), event))
        await event.wait()

    async def play(self, end: float, look: Callable[[], None]) -> None:
        """Let events happen, one after the other, and look after each and at the end."""
        await self._settle()
        look()
        while self._due and self._due[0][0] <= end:
            self.now, _, event = heapq.heappop(self._due)
            event.set()
            await self._settle()
            look()
        self.now = end
        look()

    async def _settle(self) -> None:
        for _ in range(TURNS):
            await anyio.lowlevel.checkpoint()


class Own(ManualClock):
    """A process's clock; its code runs late when the process was stopped."""

    def __init__(self, world: World, fate: Fate) -> None:
        super().__init__()
        self._world = world
        self.fate = fate

    def awake(self, moment: float) -> float:
        """Return when code that is due then will run."""
        return max([moment, *(stop.end for stop in self.fate.stops if stop.holds(moment))])

    def now(self) -> dt.datetime:
        return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=self._world.now, hours=self.fate.wall)

    def monotonic(self) -> float:
        return self.fate.offset + self.fate.rate * self._world.now

    async def sleep(self, seconds: float) -> None:
        await self._world.until(self.awake(self._world.now + max(0.0, seconds) / self.fate.rate))


class Wire(FaultyCluster):
    """A process's way to the cluster: what was sent arrives, late or never, whether or not its sender still waits."""

    def __init__(
        self,
        cluster: EmbeddedCluster,
        world: World,
        clock: Own,
        dice: random.Random,
        post: anyio.abc.TaskGroup,
        loss: float,
    ) -> None:
        super().__init__(cluster, lambda _: None)
        self._world, self._clock, self._dice, self._post = world, clock, dice, post
        self._loss = loss

    async def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        return await self._send(lambda: self._cluster.get(kind, name, namespace))

    async def create(self, resource: R) -> R:
        return await self._send(lambda: self._cluster.create(resource))

    async def patch(
        self, kind: type[R], name: str, patch: Mapping[str, Any], namespace: str = "", *, when: Preconditions = ANY
    ) -> R:
        return await self._send(lambda: self._cluster.patch(kind, name, patch, namespace, when=when))

    async def _send(self, effect: Callable[[], Awaitable[T]]) -> T:
        answer: list[T | UgalluError] = []
        answered = anyio.Event()
        self._post.start_soon(self._carry, effect, answer, answered)
        await answered.wait()
        (said,) = answer
        if isinstance(said, UgalluError):
            raise said
        return said

    async def _carry(
        self, effect: Callable[[], Awaitable[T]], answer: list[T | UgalluError], answered: anyio.Event
    ) -> None:
        sent, faulty = self._world.now, self._world.now < FAULTS_END
        longest = 8.0 if faulty and self._dice.random() < self._loss else 0.05
        await self._world.until(sent + self._dice.uniform(0, longest))
        said: T | UgalluError = UnavailableError("no answer")
        if not (self._cut() or (faulty and self._dice.random() < self._loss / 2)):
            try:
                said = await effect()
            except UgalluError as error:
                said = error
        await self._world.until(self._world.now + self._dice.uniform(0, longest))
        if self._cut() or (faulty and self._dice.random() < self._loss / 2):
            said = UnavailableError("no answer")
        late = sent + TIMEOUT
        if isinstance(said, UnavailableError) or self._world.now > late:
            said = UnavailableError("no answer")
            await self._world.until(late)
        await self._world.until(self._clock.awake(self._world.now))
        answer.append(said)
        answered.set()

    def _cut(self) -> bool:
        return any(outage.holds(self._world.now) for outage in self._clock.fate.outages)


spans = st.lists(st.builds(Span, st.floats(0, FAULTS_END), st.floats(0.5, 40)), max_size=3)
fates = st.builds(
    Fate,
    offset=st.floats(0, 1e6),
    rate=st.floats(0.9, 1.1),
    wall=st.integers(-48, 48),
    stops=spans,
    outages=spans,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(fates, min_size=2, max_size=4), st.integers(0, 2**32), st.floats(0, 0.6))
async def test_never_two_leaders_and_soon_one(lives: list[Fate], seed: int, loss: float) -> None:
    """Whatever happens, at most one leads at any moment; when all is well again, one does within duration and retry."""
    dice = random.Random(seed)
    world, cluster = World(), memory_cluster()
    elections: list[Election] = []
    wires: list[Wire] = []
    led: list[float] = []

    def look() -> None:
        leaders = [number for number, election in enumerate(elections) if election.leads()]
        assert len(leaders) <= 1, f"{leaders} lead at {world.now}"
        if leaders:
            led.append(world.now)

    async with anyio.create_task_group() as post:
        try:
            async with anyio.create_task_group() as tasks:
                for number, fate in enumerate(lives):
                    clock = Own(world, fate)
                    wires.append(Wire(cluster, world, clock, dice, post, loss))
                    election = Election(wires[-1], clock, name="l", namespace="n", identity=str(number), terms=TERMS)
                    elections.append(election)
                    tasks.start_soon(_serve, election, clock)
                try:
                    await world.play(FAULTS_END, look)
                    led.clear()
                    # What was sent before may still arrive, and a clock may be a tenth too slow.
                    await world.play(FAULTS_END + 8.0 + (TERMS.duration + TERMS.retry) / 0.9, look)
                    assert led, "nobody leads"
                    await world.play(world.now + 30, look)
                    assert led[-1] > world.now - 1.0
                finally:
                    # Leases are given back, which takes time.
                    post.start_soon(world.play, float("inf"), lambda: None)
                    tasks.cancel_scope.cancel()
        finally:
            post.cancel_scope.cancel()


async def _serve(election: Election, clock: Own) -> None:
    async def work() -> None:
        while True:
            await clock.sleep(1.0)

    while True:
        await election.lead(work)
