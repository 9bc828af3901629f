"""What breaks is said: a condition with a reason on the bundle, an event for who must look, and nothing called sealed."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ugallu.api.bundle import BundlePhase
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence.ports import LogEntry
from ugallu.evidence.stores.s3 import S3Store
from ugallu.evidence.stores.s3_canary import Promise
from ugallu.evidence.stores.s3_client import Endpoint, S3Client
from ugallu.metrics import Metrics
from ugallu.operator.contract import After
from ugallu.runtime.attestor.gate import IN_A_ROW, Gate, ShutError
from ugallu.runtime.attestor.keeper import Keeper
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.evidence import make_event
from ugallu.testing.s3 import FakeS3, Reply, Request, error
from ugallu.testing.sealing import NAME, Desk, desk


@asynccontextmanager
async def over_s3(folder: Path, clock: ManualClock) -> AsyncIterator[tuple[Desk, FakeS3]]:
    """An attestor that keeps one event's evidence in a bucket of a fake service."""
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with FakeS3(clock).serving() as fake:
        fake.bucket("evidence")
        client = S3Client(Endpoint(url=fake.url), fake.credentials, clock, first_wait=0.0)
        async with desk(folder, cluster, clock) as at:
            store = S3Store(client, "evidence", Promise("COMPLIANCE"), clock)
            stages = at.reseal.stages
            stages.store, stages.ports = store, replace(stages.ports, store=store)
            at.enqueue._ports = stages.ports
            yield at, fake
        await client.aclose()


def _ignores_locks(fake: FakeS3) -> None:
    fake.breaks.locks = True


def _is_full(fake: FakeS3) -> None:
    fake.capacity = 6000


def _token_expired(fake: FakeS3) -> None:
    def fault(request: Request) -> Reply | None:
        return None if request.key.startswith(("staging/", "canary/")) else error(400, "ExpiredToken", "expired")

    fake.fault = fault


@pytest.mark.parametrize(
    ("trouble", "reason", "event"),
    [
        (_ignores_locks, "LockNotProven", "WORMIntegrityViolation"),
        (_is_full, "StoreFull", "WORMQuotaExceeded"),
        (_token_expired, "CredentialsRefused", "AttestorUnavailable"),
    ],
)
async def test_a_store_that_does_not_keep_evidence_is_said(
    tmp_path: Path, trouble: Callable[[FakeS3], None], reason: str, event: str
) -> None:
    """W2, W7: locks that are none, no room, an expired token: the condition has the reason, an event tells it once, nothing is sealed."""
    clock = ManualClock()
    async with over_s3(tmp_path, clock) as (at, fake):
        trouble(fake)
        for _ in range(3):
            again = await at.seal()
            assert isinstance(again, After)
            await clock.advance(again.seconds)
        status = (await at.bundle()).status
        assert status.phase is not BundlePhase.SEALED
        assert [c.reason for c in status.conditions if c.status == "False"] == [reason]
        assert [found.type.name for found in at.findings] == [event]
        stage = status.failures[-1].stage
        assert at.metrics.value("ugallu_attestor_stage_failures_total", stage=stage, reason=reason) > 0
        assert (await at.event()).status.phase is None
        fake.breaks.locks, fake.capacity, fake.fault = False, None, lambda _: None
        again = await at.seal()
        while isinstance(again, After):
            await clock.advance(again.seconds)
            again = await at.seal()
        status = (await at.bundle()).status
        assert status.phase is BundlePhase.SEALED
        assert {c.reason for c in status.conditions if c.type == "Archived"} == {"WORMUploaded"}
        assert status.worm_ref is not None
        assert status.worm_ref.url.startswith("s3://evidence/test/2026/01/")


async def test_a_log_that_lies_is_said(tmp_path: Path) -> None:
    """An entry that does not prove what was logged is never believed: Logged is False, an event is made, nothing is sealed."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        real = at.reseal.stages.log.add

        async def lie(envelope: Any) -> LogEntry:
            entry = await real(envelope)
            import msgspec

            return msgspec.structs.replace(entry, root_hash=bytes(32))

        at.reseal.stages.log.add = lie  # type: ignore[method-assign]
        await at.seal()
        status = (await at.bundle()).status
        assert status.phase is BundlePhase.FAILED
        logged = next(c for c in status.conditions if c.type == "Logged")
        assert (logged.status, logged.reason) == ("False", "IntegrityViolation")
        (found,) = at.findings
        assert (found.type.name, found.signals["stage"]) == ("WORMIntegrityViolation", "log")
        assert (await at.event()).status.phase is None


async def test_a_key_that_vanishes_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody signs instead: Signed is False with the reason, and nothing is logged or sealed."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:

        async def gone(*_: Any) -> Any:
            raise PermanentError("the key is gone", where="transit/evidence")

        monkeypatch.setattr(at.reseal.stages.ports.legs[0].signer, "sign", gone)
        await at.seal()
        status = (await at.bundle()).status
        signed = next(c for c in status.conditions if c.type == "Signed")
        assert (status.phase, signed.status) == (BundlePhase.FAILED, "False")
        assert "the key is gone" in signed.message
        assert status.rekor_entry is None


def _keeper(at: Desk) -> Keeper:
    (keeper,) = (service for service in at.parts.services if isinstance(service, Keeper))
    keeper._chance = random.Random(1)
    return keeper


async def test_sealed_evidence_is_verified_again(tmp_path: Path) -> None:
    """W8: a sample is read back long after; what changed since is counted and told, once."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        keeper = _keeper(at)
        await keeper.look()
        await at.seal()
        await at.cache.view(type(await at.bundle())).until(lambda: bool([*keeper._bundles.items()]))
        await keeper._verify(await at.seen_bundle())
        assert at.metrics.value("ugallu_attestor_reverified_total", outcome="verified") == 1
        (path,) = (tmp_path / "evidence/store/objects").rglob("*.spec.json")
        path.write_bytes(path.read_bytes() + b" ")
        for _ in range(2):
            await keeper._verify(await at.seen_bundle())
        assert at.metrics.value("ugallu_attestor_reverified_total", outcome="failed") == 2
        violations = [found for found in at.findings if found.type.name == "WORMIntegrityViolation"]
        assert [found.signals["stage"] for found in violations] == ["reverify"]
        status = (await at.bundle()).status
        assert status.phase is BundlePhase.FAILED
        assert [(c.type, c.reason) for c in status.conditions if c.status == "False"] == [
            ("Archived", "IntegrityViolation")
        ]
        assert len(status.failures) == 1
        await clock.advance(3600.0)
        await keeper._verify(await at.seen_bundle())
        assert sum(found.type.name == "WORMIntegrityViolation" for found in at.findings) == 2
        path.write_bytes(path.read_bytes()[:-1])
        assert await at.reseal.reconcile(await at.seen_bundle()) is None
        status = (await at.bundle()).status
        assert (status.phase, {c.status for c in status.conditions}) == (BundlePhase.SEALED, {"True"})


async def test_a_store_that_fills_is_said_in_time(tmp_path: Path) -> None:
    """W7: above the soft quota an event tells it, once an hour."""
    clock = ManualClock()
    async with desk(tmp_path, memory_cluster(clock), clock) as at:
        keeper = _keeper(at)
        store: Any = at.reseal.stages.store
        for percent, told in ((79, 0), (81, 1), (82, 1)):

            async def used(percent: int = percent) -> int:
                return percent

            store.used = used
            await keeper.look()
            assert len(at.findings) == told
        assert at.findings[0].type.name == "WORMQuotaExceeded"
        assert "81% full" in at.findings[0].signals["detail"]
        del store.used
        assert 0 <= await store.used() <= 100
        await clock.advance(3600.0)


async def test_what_only_fails_is_left_alone(tmp_path: Path) -> None:
    """A19: after some failures in a row nobody is sent any more but one at a time, until one comes back with an answer."""
    clock, metrics = ManualClock(), Metrics()
    gate, calls, fails = Gate("store", 4, clock, metrics), 0, True

    async def work() -> str:
        nonlocal calls
        calls += 1
        if fails:
            raise TransientError("away")
        return "done"

    for _ in range(IN_A_ROW):
        with pytest.raises(TransientError):
            await gate.call(work)
    assert metrics.value("ugallu_attestor_backend_shut", backend="store") == 1
    for _ in range(50):
        with pytest.raises(ShutError):
            await gate.call(work)
    assert calls == IN_A_ROW
    await clock.advance(3.0)
    with pytest.raises(TransientError, match="away"):
        await gate.call(work)
    assert calls == IN_A_ROW + 1
    fails = False
    await clock.advance(100.0)
    assert await gate.call(work) == "done"
    assert metrics.value("ugallu_attestor_backend_shut", backend="store") == 0
    assert await gate.call(work) == "done"


async def test_a_back_end_that_is_left_alone_costs_no_writes(tmp_path: Path) -> None:
    """While the store is shut, bundles that said already what is wrong are not written again."""
    clock = ManualClock()
    async with over_s3(tmp_path, clock) as (at, fake):
        fake.fault = lambda _: error(503, "SlowDown", "busy")
        for _ in range(IN_A_ROW):
            again = await at.seal()
            assert isinstance(again, After)
            await clock.advance(again.seconds)
        before, asked = await at.bundle(), len(fake.requests)
        at.reseal.stages._at_store._ask_at = clock.monotonic() + 50.0
        again = await at.seal()
        assert isinstance(again, After)
        assert await at.bundle() == before
        assert len(fake.requests) == asked
        assert NAME in before.spec.attested_for.name
