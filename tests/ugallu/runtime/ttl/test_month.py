"""Thirty simulated days with holds, outages, restarts and a clock that jumps, against a model that knows the truth.

The model sees every deletion as the cluster carries it out. What it asks is short: was it time, by the true time? was
its evidence vouched for, its copy in the store and equal, and listed? did anybody hold it? And at each day's end: is
there an object past its window without a word about why?
"""

import datetime as dt
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.catalog import Severity
from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Metadata, Resource
from ugallu.api.response import EventResponse, EventResponseSpec
from ugallu.cluster.port import ANY, Cluster, NotFoundError, Preconditions, UnavailableError, list_all
from ugallu.cluster.through import Asked, Through
from ugallu.errors import TransientError, UgalluError
from ugallu.evidence.copies import Manifest
from ugallu.runtime.ttl import notes
from ugallu.runtime.ttl.marks import whole
from ugallu.runtime.ttl.snapshot import snapshot
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.lifecycle import Lifecycle, MemoryStore, MemoryVault, lifecycle, sealed

R = TypeVar("R", bound=Resource)
HOUR = 3600.0
WINDOWS = {"info": 6, "low": 12, "medium": 24, "high": 72, "critical": 168}
GRACE = 168
SLACK_HOURS = 4
SLACK = dt.timedelta(hours=SLACK_HOURS)
"""What an hourly look, a minute to settle and a manifest may take when nothing is in the way."""
LEAST = {"SecurityEvent": 60, "EventResponse": 10, "AttestationBundle": 20}
"""A month in which fewer went would prove nothing."""


class Drifting(ManualClock):
    """A wall clock that can be wrong; `true` knows better."""

    def __init__(self) -> None:
        super().__init__()
        self.true_start = self._now

    @property
    def true(self) -> dt.datetime:
        """The time."""
        return self.true_start + dt.timedelta(seconds=self.monotonic())

    def jump(self, seconds: float) -> None:
        """Set the wall clock."""
        self._now += dt.timedelta(seconds=seconds)

    def mend(self) -> None:
        """Set it right."""
        self._now = self.true


@dataclass
class Model:
    """What is true of each object, by uid."""

    clock: Drifting
    store: MemoryStore
    vaults: list[MemoryVault] = field(default_factory=list)
    born: dict[str, dt.datetime] = field(default_factory=dict)
    hours: dict[str, int] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)
    family: dict[str, str] = field(default_factory=dict)
    """The event's uid by member."""
    held: set[str] = field(default_factory=set)
    """Uids of families under hold."""
    ended: dict[str, dt.datetime] = field(default_factory=dict)
    """When an object went."""
    faults: list[str] = field(default_factory=list)
    gone: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LEAST, 0))

    def due(self, item: Resource) -> dt.datetime:
        """Return when an object's time is over, by the true time."""
        uid = item.metadata.uid
        if isinstance(item, AttestationBundle):
            parent = item.spec.attested_for.uid
            ended = self.ended.get(parent)
            far = self.clock.true_start + dt.timedelta(days=10_000)
            return far if ended is None else max(ended, self.born[uid]) + dt.timedelta(hours=GRACE)
        return self.born[uid] + dt.timedelta(hours=self.hours[uid])

    def goes(self, item: Resource, kept: Any) -> None:
        """Look at a deletion that is about to be carried out."""
        uid, name = item.metadata.uid, f"{item.kind_info.name}/{item.metadata.name}"
        if self.clock.true < self.due(item) - dt.timedelta(seconds=1):
            self.faults.append(f"{name} went at {self.clock.true}, its time is over at {self.due(item)}")
        about = item.spec.attested_for.uid if isinstance(item, AttestationBundle) else uid
        if about not in self.sealed or not any(about in vault.confirmed for vault in self.vaults):
            self.faults.append(f"{name} went before its evidence was verified")
        if self.family[uid] in self.held:
            self.faults.append(f"{name} went under legal hold")
        key = item.metadata.annotations.get(notes.SNAPSHOT, "")
        if self.store.blobs.get(key, (b"",))[0] != snapshot(kept):
            self.faults.append(f"{name} went without a copy of what it was")
        manifests = [content for where, (content, _) in self.store.blobs.items() if "/manifests/" in where]
        if not any(key in {entry.key for entry in msgspec.json.decode(m, type=Manifest).entries} for m in manifests):
            self.faults.append(f"{name} went before its copy was listed")
        self.ended[uid] = self.clock.true
        self.gone[item.kind_info.name] += 1

    def overdue(self, item: Resource) -> bool:
        """Tell whether an object is long past its time and says nothing about it."""
        annotations = item.metadata.annotations
        said = annotations.get(notes.REASON) or annotations.get(notes.FROZEN) == "true"
        postponed = notes.moment(annotations.get(notes.POSTPONE, ""))
        archived = notes.moment(annotations.get(notes.ARCHIVED_AT, ""))
        on_its_way = archived is not None and self.clock.true < archived + SLACK
        return not (said or postponed or on_its_way) and self.clock.true > self.due(item) + SLACK


class Watched(Through):
    """ttl's way to the cluster: the model sees what it deletes, and the cluster is away at times."""

    def __init__(self, cluster: Cluster, model: Model, away: list[bool], dice: random.Random) -> None:
        super().__init__(cluster)
        self._behind = cluster
        self._model = model
        self._away = away
        self._dice = dice

    def _look(self, asked: Asked) -> None:
        if self._away[0] and asked.verb != "watch" and self._dice.random() < 0.5:
            raise UnavailableError("connection refused")

    async def delete(self, kind: type[R], name: str, namespace: str = "", *, when: Preconditions = ANY) -> None:
        self._look(Asked("delete", kind, name, namespace))
        known = {each.kind_info: each for each in (SecurityEvent, EventResponse, AttestationBundle)}
        item = await self._behind.get(known[kind.kind_info], name)
        kept = await self._behind.get(whole(kind.kind_info), name)
        await self._behind.delete(kind, name, namespace, when=when)
        self._model.goes(item, kept)


class World:
    """What happens in the cluster while ttl works: facts, answers, seals, holds; and what goes wrong."""

    def __init__(self, cluster: Any, clock: Drifting, dice: random.Random) -> None:
        self.cluster, self.clock, self.dice = cluster, clock, dice
        self.store = MemoryStore(clock)
        self.model = Model(clock, self.store)
        self.away = [False]
        self.number = 0
        self.unsealed: list[tuple[dt.datetime, Resource]] = []
        self.holders: list[Resource] = []

    async def hour(self) -> None:
        """Let an hour's worth of things happen."""
        dice = self.dice
        for _ in range(dice.choice((0, 0, 1))):
            await self.fact()
        for due, item in [each for each in self.unsealed if each[0] <= self.clock.true]:
            self.unsealed.remove((due, item))
            await self.seal(item)
        if dice.random() < 0.04:
            await self.hold()
        if self.holders and dice.random() < 0.03:
            await self.let_go(self.holders.pop(0))
        if dice.random() < 0.02:
            self.store.broken = TransientError("the store is away")
        elif dice.random() < 0.3:
            self.store.broken = None
        self.away[0] = dice.random() < (0.9 if self.away[0] else 0.02)
        if dice.random() < 0.01:
            self.clock.jump(dice.choice((-5, -1, 1, 3, 40)) * 86400.0)
        elif dice.random() < 0.15:
            self.clock.mend()

    async def fact(self) -> None:
        self.number += 1
        severity = self.dice.choice(list(Severity))
        # The API server's clock is another machine's, and right.
        wrong, self.clock._now = self.clock.now(), self.clock.true
        event = await made_event(self.cluster, f"se-{self.number}", severity, self.clock)
        self.note(event, WINDOWS[severity.value], event.metadata.uid)
        if self.dice.random() < 0.25:
            answer = await made_response(self.cluster, event, f"er-{self.number}")
            self.note(answer, WINDOWS[severity.value], event.metadata.uid)
        self.clock._now = wrong

    def note(self, item: Resource, hours: int, family: str) -> None:
        uid = item.metadata.uid
        self.model.born[uid], self.model.hours[uid] = self.clock.true, hours
        self.model.family[uid] = family
        # Now and then sealing takes days, and now and then it never comes.
        delay = self.dice.choice((0, 0, 0, 0, 1, 1, 30, 24 * 365))
        self.unsealed.append((self.clock.true + dt.timedelta(hours=delay), item))

    async def seal(self, item: Resource) -> None:
        broken, self.store.broken = self.store.broken, None
        wrong, self.clock._now = self.clock.now(), self.clock.true
        try:
            await self.cluster.get(type(item), item.metadata.name)
            bundle = await sealed(self.cluster, self.store, item, self.clock, phase=BundlePhase.SEALED)
            self.model.sealed.add(item.metadata.uid)
            self.model.born[bundle.metadata.uid] = self.clock.true
            self.model.family[bundle.metadata.uid] = self.model.family[item.metadata.uid]
        finally:
            self.store.broken, self.clock._now = broken, wrong

    async def hold(self) -> None:
        kind = self.dice.choice((SecurityEvent, EventResponse, AttestationBundle))
        there, _ = await list_all(self.cluster, kind)
        there = [item for item in there if item.metadata.annotations.get(notes.FROZEN) != "true"]
        if there:
            item = self.dice.choice(sorted(there, key=lambda each: each.metadata.name))
            await annotate(self.cluster, item, {notes.FROZEN: "true"})
            self.model.held.add(self.model.family[item.metadata.uid])
            self.holders.append(item)
            # What is on its way was judged before: it has a minute to be seen.
            await settled()

    async def let_go(self, item: Resource) -> None:
        family = self.model.family[item.metadata.uid]
        await annotate(self.cluster, item, {notes.FROZEN: None})
        if not any(self.model.family[other.metadata.uid] == family for other in self.holders):
            self.model.held.discard(family)


async def made_event(cluster: Any, name: str, severity: Severity, clock: ManualClock) -> SecurityEvent:
    desk = Lifecycle(cluster, None, None, None, clock, None, None, None)  # type: ignore[arg-type]
    return await desk.event(name, severity)


async def made_response(cluster: Any, event: SecurityEvent, name: str) -> EventResponse:
    spec = {
        "securityEventRef": {"name": event.metadata.name, "uid": event.metadata.uid},
        "responder": {"kind": "Operator", "name": "ugallu-forensics"},
        "action": {"type": "PodFreeze"},
    }
    await cluster.create(EventResponse(metadata=Metadata(name=name), spec=msgspec.convert(spec, EventResponseSpec)))
    found: EventResponse = await cluster.patch_status(EventResponse, name, {"phase": "Succeeded"})
    return found


async def annotate(cluster: Any, item: Resource, changes: dict[str, str | None]) -> None:
    try:
        await cluster.patch(type(item), item.metadata.name, {"metadata": {"annotations": changes}})
    except NotFoundError:
        return


@asynccontextmanager
async def process(world: World, folder: Path) -> AsyncIterator[Lifecycle]:
    """One process of ttl, over what the last one left."""
    async with lifecycle(
        folder,
        world.cluster,
        world.clock,
        store=world.store,
        wrap=lambda cluster: Watched(cluster, world.model, world.away, world.dice),
    ) as at:
        world.model.vaults.append(at.vault)
        yield at


async def pass_over(at: Lifecycle) -> None:
    """Look at everything that is there, as the queue would in this hour; what fails is looked at again later."""
    for kind in (SecurityEvent, EventResponse, AttestationBundle):
        for mark in tuple(at.cache.view(at.collector(kind).watches).items()):
            try:
                await at.collector(kind).reconcile(mark)
            except UgalluError:
                continue
    try:
        await at.chain()
    except UgalluError:
        return


@pytest.mark.parametrize("seed", range(2))
async def test_thirty_days_with_everything_going_wrong(tmp_path: Path, seed: int) -> None:
    """Nothing goes before its time, its evidence, its copy, or under a hold; nothing stays beyond without a word."""
    clock = Drifting()
    dice = random.Random(seed)
    world = World(memory_cluster(clock, judging=False), clock, dice)
    model = world.model
    hour = 0
    while hour < 30 * 24:
        async with process(world, tmp_path) as at:
            lifetime, reached = dice.randint(5, 60), 0
            for _ in range(lifetime):
                await world.hour()
                await at.service("clock").turn()
                await settled()
                await pass_over(at)
                await clock.advance(HOUR)
                hour += 1
                assert model.faults == []
                reached = 0 if world.away[0] else reached + 1
                # While the cluster is away nothing can be written on anything.
                if reached > SLACK_HOURS and hour % 12 == 0:
                    silent = [
                        f"{item.kind_info.name}/{item.metadata.name}"
                        for kind in (SecurityEvent, EventResponse, AttestationBundle)
                        for item in (await list_all(world.cluster, kind))[0]
                        if model.overdue(item)
                    ]
                    assert silent == [], (hour, clock.true, clock.now())
        if dice.random() < 0.5:
            # Nobody runs for a while, and the clock may be set meanwhile.
            clock.jump(dice.choice((0, 0, 20)) * 86400.0)
            await clock.advance(dice.randint(1, 10) * HOUR)
            hour += 5
    assert {kind: count for kind, count in model.gone.items() if count < LEAST[kind]} == {}
