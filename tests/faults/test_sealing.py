"""Sealing under everything at once: a store and a cluster that fail, answers lost or torn, clocks that jump, kills.

A few weathers here; `UGALLU_SEEDS=20 pytest tests/faults/test_sealing.py` makes thousands of faults.
"""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.cluster.port import list_all
from ugallu.errors import TransientError, UgalluError
from ugallu.evidence.statement import spec_bytes
from ugallu.evidence.stores.s3 import S3Store
from ugallu.evidence.stores.s3_canary import Promise
from ugallu.evidence.stores.s3_client import Endpoint, S3Client
from ugallu.runtime.attestor.proof import confirm_in
from ugallu.runtime.attestor.share import Share
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import FaultyCluster, memory_cluster, seeded
from ugallu.testing.evidence import make_event
from ugallu.testing.s3 import FakeS3, Reply, Request, error
from ugallu.testing.sealing import Desk, Killed, desk, log_size

pytestmark = pytest.mark.faults

SEEDS = int(os.environ.get("UGALLU_SEEDS", "4"))  # noqa: TID251 - a switch of the tests
FIRST = int(os.environ.get("UGALLU_SEED", "0"))  # noqa: TID251 - a switch of the tests
EVENTS = 16
ROUNDS = 60


class Weather:
    """Fails what is asked of the store and the log, now before it is done and now after, and kills now and then."""

    def __init__(self, seed: int, rate: float) -> None:
        self.chance = random.Random(seed)
        self.rate = rate
        self.faults = 0
        self.until_death = 0

    def strikes(self, share: float = 1.0) -> bool:
        if self.chance.random() >= self.rate * share:
            return False
        self.faults += 1
        return True

    def before(self, request: Request) -> Reply | None:
        return self._reply() if self.strikes() else None

    def after(self, request: Request, reply: Reply) -> Reply:
        # What was done is lost on the way back: an error, or half an answer.
        if not self.strikes(0.5):
            return reply
        return replace(reply, cut=len(reply.body) // 2, headers={**reply.headers, "content-length": "1000"})

    def _reply(self) -> Reply:
        return self.chance.choice(
            [
                error(503, "SlowDown", "busy"),
                error(429, "TooManyRequests", "busy"),
                error(409, "OperationAborted", "a race"),
                error(500, "InternalError", "oops"),
                error(400, "RequestTimeout", "slow"),
                Reply(502, b"<html>"),
                Reply(200, b"", {"content-length": "10"}, cut=0),
            ]
        )

    def log(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def add(envelope: Any) -> Any:
            self.mortal()
            if self.strikes():
                raise TransientError("the log is away")
            entry = await real(envelope)
            self.mortal()
            if self.strikes():
                raise TransientError("the log's answer is lost")
            return entry

        return add

    def mortal(self) -> None:
        """Die when it is time."""
        self.until_death -= 1
        if self.until_death == 0:
            self.faults += 1
            raise Killed


@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
async def test_nothing_is_lost_twice_or_false(tmp_path: Path, seed: int) -> None:
    """Whatever fails, and however often the process dies, every event ends attested by evidence that holds, logged once."""
    weather, clock = Weather(seed, 0.25), ManualClock()
    behind = memory_cluster(clock)
    cluster = FaultyCluster(behind, seeded(seed, 0.3))
    for number in range(EVENTS):
        await behind.create(make_event(f"se-{number:024x}"))
    async with FakeS3(clock).serving() as fake:
        fake.bucket("evidence")
        fake.fault, fake.after = weather.before, weather.after
        for _ in range(ROUNDS):
            weather.until_death = weather.chance.randrange(5, 200)
            client = S3Client(Endpoint(url=fake.url), fake.credentials, clock, first_wait=0.0, seconds=5.0)
            try:
                async with desk(tmp_path, cluster, clock) as at:
                    _move_in(at, client)
                    await _through(at, weather)
            except BaseExceptionGroup as group:
                if (other := group.split((Killed, UgalluError))[1]) is not None:
                    raise other from group
            except (Killed, UgalluError):
                pass
            finally:
                await client.aclose()
            # Mostly on, now and then far back: it was set wrong, and is put right.
            await clock.advance(weather.chance.choice([1.0, 400.0, 3600.0, -1800.0]))
            events, _ = await list_all(behind, SecurityEvent)
            if all(event.status.phase is EventPhase.ATTESTED for event in events):
                break
        fake.fault, fake.after = lambda _: None, lambda _, reply: reply
        await _prove(tmp_path, behind, clock, fake)
    print(f"{weather.faults + len(cluster.faults)} faults")  # noqa: T201 - shown by -s
    assert weather.faults + len(cluster.faults) > 30


async def _through(at: Desk, weather: Weather) -> None:
    """One life of the attestor: everything is looked at a few times, in any order, alone or as a burst."""
    stages, share = at.reseal.stages, at.reseal.share
    assert isinstance(share, Share)
    stages.log.add = weather.log(stages.log.add)  # type: ignore[method-assign]
    async with anyio.create_task_group() as tg:
        tg.start_soon(share.run)
        for _ in range(4):
            at.reseal._busy = weather.chance.choice([0, 1000])
            marks: list[EventMark | BundleMark] = [
                *at.cache.view(EventMark).items(),
                *at.cache.view(BundleMark).items(),
            ]
            weather.chance.shuffle(marks)
            for mark in marks:
                weather.mortal()
                try:
                    if isinstance(mark, EventMark):
                        await at.enqueue.reconcile(mark)
                    else:
                        await at.reseal.reconcile(mark)
                except UgalluError:
                    continue
            await at.clock.advance(weather.chance.choice([0.5, 30.0, 400.0]))
        tg.cancel_scope.cancel()


def _move_in(at: Desk, client: S3Client) -> None:
    """Let the attestor keep its evidence in the bucket."""
    store = S3Store(client, "evidence", Promise("COMPLIANCE"), at.clock)
    at.reseal.stages.store = store
    at.reseal.stages.ports = replace(at.reseal.stages.ports, store=store)
    at.enqueue._ports = at.reseal.stages.ports


async def _prove(folder: Path, cluster: Any, clock: ManualClock, fake: FakeS3) -> None:
    client = S3Client(Endpoint(url=fake.url), fake.credentials, clock)
    try:
        await _prove_all(folder, cluster, clock, client)
    finally:
        await client.aclose()
    # Every piece of evidence was created once, under a lock.
    for key, versions in fake.buckets["evidence"].items():
        if not key.startswith(("staging/", "canary/")):
            assert [(version.mode, version.content is None) for version in versions] == [("COMPLIANCE", False)]


async def _prove_all(folder: Path, cluster: Any, clock: ManualClock, client: S3Client) -> None:
    async with desk(folder, cluster, clock) as at:
        _move_in(at, client)
        store, check = at.reseal.stages.store, at.reseal.stages.ports.check
        bundles, _ = await list_all(cluster, AttestationBundle)
        assert len(bundles) == EVENTS
        for bundle in bundles:
            assert bundle.status.phase is BundlePhase.SEALED
            await confirm_in(store, lambda b, s: check(b, subject=s), bundle)
            event = await at.event(bundle.spec.attested_for.name)
            assert event.status.attestation_digest == bundle.status.statement_digest
            assert bundle.status.subject_ref is not None
            assert await store.get(store.key(bundle.status.subject_ref.url)) == spec_bytes(event)
        assert log_size(folder) == len({bundle.status.statement_digest for bundle in bundles})
