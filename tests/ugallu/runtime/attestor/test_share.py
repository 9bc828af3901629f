"""Bursts: many events in one statement, each proven alone, each logged once, wherever the process dies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import ClusterIdentity, EventPhase, SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.cluster.fence import NotLeadingError
from ugallu.cluster.port import Cluster, UnavailableError, list_all
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import Envelope, IntegrityError, Stored
from ugallu.evidence.seal import PATIENCE
from ugallu.evidence.share import MAX_BYTES, OVERHEAD, fitting, pack, part_of
from ugallu.evidence.statement import MAX_SUBJECTS, spec_bytes
from ugallu.operator.contract import After
from ugallu.runtime.attestor.proof import confirm_in
from ugallu.runtime.attestor.share import ASIDE, LANES, Share
from ugallu.runtime.attestor.stages import Draft
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import FaultyCluster, memory_cluster, seeded
from ugallu.testing.evidence import make_event
from ugallu.testing.sealing import Desk, Killed, desk, log_size, mortal


@given(st.lists(st.integers(0, MAX_BYTES + 5), max_size=2000))
def test_what_goes_together_fits(sizes: list[int]) -> None:
    """Never more than verifiers take, never more bytes than readers take unless one alone has them, never none of some."""
    count = fitting(sizes)
    assert count <= MAX_SUBJECTS
    assert bool(count) == bool(sizes)
    assert count <= 1 or sum(sizes[:count]) + count * OVERHEAD <= MAX_BYTES


@given(st.lists(st.binary(min_size=1).filter(lambda b: b"\n" not in b), max_size=20))
def test_each_one_is_a_line_and_a_part(contents: list[bytes]) -> None:
    """Both ways of cutting the whole give every single one back."""
    whole, parts = pack(contents)
    assert [whole[part.first : part.last + 1] for part in parts] == contents
    assert whole.split(b"\n")[:-1] == contents
    assert [part_of(whole, content) for content in contents] == [parts[contents.index(each)] for each in contents]
    assert part_of(whole, b"".join(contents) + b"?") is None


def name(number: int) -> str:
    return f"se-{number:024x}"


async def crowd(cluster: Cluster, count: int) -> None:
    for number in range(count):
        await cluster.create(make_event(name(number)))


def share_of(at: Desk) -> Share:
    found = at.reseal.share
    assert isinstance(found, Share)
    return found


@asynccontextmanager
async def sharing(at: Desk) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tg:
        await share_of(at)._know()
        tg.start_soon(share_of(at).run)
        yield
        while share_of(at)._turns.taken:
            await at.clock.advance(60.0)  # an answer of the cluster may have been lost, and a lane wait to ask again
        tg.cancel_scope.cancel()


async def burst(at: Desk, count: int) -> None:
    """Look at every event and bundle once, as if many more were under way."""
    at.reseal._busy = 1000
    for number in range(count):
        event = await at.seen_event(name(number))
        await at.enqueue.reconcile(event)
        bundle = await at.seen_bundle(f"att-se-{name(number)}")
        await at.reseal.reconcile(bundle)


async def all_attested(at: Desk, count: int) -> None:
    view = at.cache.view(EventMark)

    def attested() -> bool:
        return [e.status.phase for e in view.items()] == [EventPhase.ATTESTED] * count

    await view.until(attested)


async def prove(at: Desk) -> list[AttestationBundle]:
    """Every event's own bytes are proven by what its own bundle names, and no event is in two statements."""
    bundles, _ = await list_all(at.cluster, AttestationBundle)
    for bundle in bundles:
        assert bundle.status.phase is BundlePhase.SEALED
        await confirm_in(at.reseal.stages.store, lambda b, s: at.reseal.stages.ports.check(b, subject=s), bundle)
        event = await at.event(bundle.spec.attested_for.name)
        assert bundle.status.subject_ref is not None
        store = at.reseal.stages.store
        assert await store.get(store.key(bundle.status.subject_ref.url)) == spec_bytes(event)
        assert event.status.attestation_digest == bundle.status.statement_digest
    for lane in (0, 1):
        assert await at.reseal.stages.store.stat(f"staging/shared/{lane}.json") is None
    statements = {bundle.status.statement_digest for bundle in bundles}
    assert log_size(at.folder) == len(statements)
    return bundles


async def test_a_burst_shares_a_statement(tmp_path: Path) -> None:
    """Thirty events, one signature, one log entry, one archived bundle, and thirty bundles that name their own part of it."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 30)
    async with desk(tmp_path, cluster, clock) as at:
        await burst(at, 30)
        async with sharing(at):
            await all_attested(at, 30)
        bundles = await prove(at)
        assert log_size(tmp_path) == 1
        assert len({b.status.worm_ref.url for b in bundles if b.status.worm_ref}) == 1
        assert len({b.status.subject_ref.url for b in bundles if b.status.subject_ref}) == 30
        assert {c.type: c.status for c in bundles[0].status.conditions} == dict.fromkeys(
            ("Signed", "Logged", "Archived"), "True"
        )
        assert "shared by 30 events" in bundles[0].status.conditions[0].message
        assert at.metrics.value("ugallu_attestor_shared_events_total") == 30
        assert not share_of(at)._turns.taken


async def test_a_cache_that_is_behind_logs_nobody_twice(tmp_path: Path) -> None:
    """What a lane has sealed is not taken again because the cache still shows it as it was."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 3)
    async with desk(tmp_path, cluster, clock) as at:
        at.reseal._busy = 1000
        for number in range(3):
            await at.enqueue.reconcile(await at.seen_event(name(number)))
        seen = [await at.seen_bundle(f"att-se-{name(number)}") for number in range(3)]
        async with sharing(at):
            for mark in seen:
                await at.reseal.reconcile(mark)
            await all_attested(at, 3)
        async with sharing(at):
            for mark in seen:
                await at.reseal.reconcile(mark)
            while share_of(at)._pool:
                await anyio.lowlevel.checkpoint()
        await prove(at)
        assert log_size(tmp_path) == 1


async def test_few_events_have_a_statement_each(tmp_path: Path) -> None:
    """Nobody waits for company: what comes while few are under way is sealed at once, alone."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 2)
    async with desk(tmp_path, cluster, clock) as at, sharing(at):
        for number in range(2):
            await at.enqueue.reconcile(await at.seen_event(name(number)))
            assert await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}")) is None
        await prove(at)
        assert log_size(tmp_path) == 2


async def test_who_cannot_share_does_not_stop_the_rest(tmp_path: Path) -> None:
    """An event that is gone fails alone with its reason; the others are sealed without it."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 5)
    async with desk(tmp_path, cluster, clock) as at:
        await burst(at, 5)
        await cluster.delete(SecurityEvent, name(2))
        async with sharing(at):
            await all_attested(at, 4)
            await at.cache.view(AttestationBundle).until(lambda: _failed(at, 2))
        status = (await at.bundle(f"att-se-{name(2)}")).status
        assert [failure.reason for failure in status.failures] == ["ParentGone"]
        assert log_size(tmp_path) == 1


def _failed(at: Desk, number: int) -> bool:
    bundle = at.cache.view(AttestationBundle).get(f"att-se-{name(number)}")
    return bundle is not None and bundle.status.phase is BundlePhase.FAILED


async def test_a_bundle_that_is_deleted_meanwhile_comes_back(tmp_path: Path) -> None:
    """Its event is attested all the same: by a bundle of its own."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 3)
    async with desk(tmp_path, cluster, clock) as at:
        await burst(at, 3)
        real = at.reseal.stages.archive
        gone = f"att-se-{name(1)}"

        async def archive(*args: Any, **options: Any) -> Any:
            view = at.cache.view(AttestationBundle)
            await cluster.delete(AttestationBundle, gone)
            await view.until(lambda: view.get(gone) is None)
            at.reseal.stages.archive = real  # type: ignore[method-assign]
            return await real(*args, **options)

        at.reseal.stages.archive = archive  # type: ignore[method-assign]
        async with sharing(at):
            view = at.cache.view(AttestationBundle)
            await view.until(lambda: _sealed(at) == 2 and view.get(gone) is not None)
            at.reseal._busy = 0
            assert await at.reseal.reconcile(await at.seen_bundle(gone)) is None
            await all_attested(at, 3)


def _sealed(at: Desk) -> int:
    return sum(b.status.phase is BundlePhase.SEALED for b in at.cache.view(AttestationBundle).items())


async def test_a_crash_between_any_two_effects_logs_everybody_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before any call to cluster, signer, log or store: all are sealed, none is in two statements.

    Killed after a call is killed before the next one: nothing else is left of the process.
    """
    step, count = 0, 3
    while True:
        folder, clock = tmp_path / str(step), ManualClock()
        cluster = memory_cluster(clock)
        await crowd(cluster, count)
        async with desk(folder, cluster, clock) as at:
            await burst(at, count)
            with monkeypatch.context() as patch:
                died = mortal(patch, at, step)
                try:
                    async with sharing(at):
                        await all_attested(at, count)
                except BaseExceptionGroup as group:
                    if (other := group.split(Killed)[1]) is not None:
                        raise other from group
        await clock.advance(1.0)
        async with desk(folder, cluster, clock) as at:
            async with sharing(at):
                await burst(at, count)
                await all_attested(at, count)
            await prove(at)
        if not died():
            assert step > 40
            return
        step += 2


@pytest.mark.parametrize("other_parts", [False, True])
async def test_who_was_taken_by_a_service_that_ended_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_parts: bool
) -> None:
    """A service breaks, or its Parts are exchanged, before the statement is staged: the next one has everybody."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 5)
    async with desk(tmp_path, cluster, clock) as at:
        before = share_of(at)
        with monkeypatch.context() as patch:
            patch.setattr(at.reseal.stages.store, "put", _for_ever)
            await burst(at, 5)
            async with anyio.create_task_group() as tg:
                tg.start_soon(before.run)
                await settled()
                assert before._turns.taken
                tg.cancel_scope.cancel()
        if other_parts:
            at.reseal.share = Share(
                at.reseal.stages, at.reseal, cluster, before._turns,
                attestor=before._attestor, again=before._again, clock=clock, metrics=at.metrics, log=before._log,
            )  # fmt: skip
            at.reseal._busy = 1000
            for number in range(5):
                await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}"))
        with anyio.fail_after(20):
            async with sharing(at):
                await all_attested(at, 5)
        await prove(at)


async def _for_ever(*_: Any, **__: Any) -> Any:
    await anyio.sleep_forever()


async def test_one_who_fails_alone_stops_no_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that the store does not let go of today is let go of tomorrow; those after it are sealed meanwhile."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 1)
    async with desk(tmp_path, cluster, clock) as at:
        real = at.reseal.stages.store.drop

        async def drop(key: str) -> None:
            if not key.startswith("staging/shared/"):
                raise TransientError("the store is busy")
            await real(key)

        with monkeypatch.context() as patch:
            patch.setattr(at.reseal.stages.store, "drop", drop)
            await burst(at, 1)
            async with sharing(at):
                await at.cache.view(AttestationBundle).until(lambda: _sealed(at) == 1)
                await settled()
                patch.undo()
                await clock.advance(1.0)
                await all_attested(at, 1)
        await prove(at)


async def test_what_fails_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is away fails every member with its reason; once it is back the very statement goes on."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 3)
    async with desk(tmp_path, cluster, clock) as at:
        await burst(at, 3)
        log = at.reseal.stages.log

        async def away(*_: Any) -> Any:
            raise TransientError("the log is away")

        with monkeypatch.context() as patch:
            patch.setattr(log, "add", away)
            async with sharing(at):
                await at.cache.view(AttestationBundle).until(lambda: _said(at) == 3)
                for number in range(3):
                    assert await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}")) is None
                patch.undo()
                await clock.advance(1.0)
                await all_attested(at, 3)
        bundles = await prove(at)
        assert [failure.stage for failure in bundles[0].status.failures] == ["log"]
        assert bundles[0].status.next_attempt_at is None
        assert log_size(tmp_path) == 1


def _said(at: Desk) -> int:
    return sum(len(b.status.failures) for b in at.cache.view(AttestationBundle).items())


async def test_a_lane_that_was_tampered_with_is_emptied(tmp_path: Path) -> None:
    """What was staged must be the statement of those who are in it; it is set aside, and whoever was is sealed anew."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 3)
    async with desk(tmp_path, cluster, clock) as at:
        store = at.reseal.stages.store
        await store.put("staging/shared/0.json", b"forged", media_type="x", until=None)
        await store.put("staging/shared/0.facts", b"forged", media_type="x", until=None)
    async with desk(tmp_path, cluster, clock) as at:
        with pytest.raises(IntegrityError):
            await share_of(at)._staged(0)
        async with sharing(at):
            await burst(at, 3)
            await all_attested(at, 3)
        assert log_size(tmp_path) == 1
        aside = digest(b"forged").removeprefix("sha256:")[:32]
        assert await at.reseal.stages.store.get(f"{ASIDE}/{aside}") == b"forged"
        assert await share_of(at)._staged(0) is None


async def test_a_lane_that_lost_half_of_what_it_held_is_emptied(tmp_path: Path) -> None:
    """A statement without those who are in it stops nobody: it is set aside like one that was tampered with."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 3)
    async with desk(tmp_path, cluster, clock) as at:
        for lane in range(LANES):
            await at.reseal.stages.stage(f"staging/shared/{lane}.json", Draft(payload=b"{}"))
    async with desk(tmp_path, cluster, clock) as at, sharing(at):
        await burst(at, 3)
        await all_attested(at, 3)
        assert log_size(tmp_path) == 1


@pytest.mark.parametrize(
    "cluster_id", ["arn:aws:eks:eu-west-1:123456789012:cluster/prod", "prod eu", "a@b", "..", "../../x", "x" * 300]
)
async def test_a_cluster_of_an_odd_name_has_a_safe_place(tmp_path: Path, cluster_id: str) -> None:
    """An id that fits into no key, as an ARN, seals like any other, alone and in company; whose it is stands in the event."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    identity = ClusterIdentity(cluster_name="prod", cluster_id=cluster_id)
    for number in range(3):
        event = make_event(name(number))
        event = msgspec.structs.replace(event, spec=msgspec.structs.replace(event.spec, cluster_identity=identity))
        await cluster.create(event)
    async with desk(tmp_path, cluster, clock) as at:
        at.reseal._busy = -1000
        await at.enqueue.reconcile(await at.seen_event(name(0)))
        await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(0)}"))
        await burst(at, 3)
        async with sharing(at):
            await all_attested(at, 3)
        for bundle in await prove(at):
            assert bundle.status.worm_ref is not None
            assert "/unknown/2026/01/" in bundle.status.worm_ref.url
        assert log_size(tmp_path) == 2


async def test_no_lane_waits_for_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wait, one is woken and gets stuck: what comes then is taken by the other."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 6)
    async with desk(tmp_path, cluster, clock) as at:
        share, go, stuck = share_of(at), anyio.Event(), anyio.Event()
        real = share._seal

        async def seal(lane: int, marks: list[BundleMark]) -> None:
            if marks[0].metadata.name.endswith("0"):
                stuck.set()
                await go.wait()
            await real(lane, marks)

        monkeypatch.setattr(share, "_seal", seal)
        async with sharing(at):
            await settled()
            at.reseal._busy = 1000
            for number in range(6):
                await at.enqueue.reconcile(await at.seen_event(name(number)))
                await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}"))
                if not number:
                    await stuck.wait()
            view = at.cache.view(EventMark)
            with anyio.fail_after(5):
                await view.until(lambda: sum(e.status.phase is EventPhase.ATTESTED for e in view.items()) == 5)
            go.set()
            await all_attested(at, 6)


async def test_a_statement_that_cannot_be_sealed_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A permanent error holds no lane: the statement is kept beside it, its members are sealed alone, the rest goes on."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 6)
    async with desk(tmp_path, cluster, clock) as at:
        store = at.reseal.stages.store
        real = store.put
        refused: set[str] = set()

        async def put(key: str, *args: Any, **options: Any) -> Stored:
            if "/shared-" in key and not key.startswith("staging/") and refused | {key[:40]} == {key[:40]}:
                refused.add(key[:40])
                raise PermanentError("no such key", where=key)
            return await real(key, *args, **options)

        monkeypatch.setattr(store, "put", put)
        await burst(at, 3)
        async with anyio.create_task_group() as tg:
            tg.start_soon(share_of(at).run)
            await settled()
            while share_of(at)._turns.taken or not refused:
                await clock.advance(60.0)
                await settled()
            assert log_size(tmp_path) == 1
            for number in range(3):
                bundle = await at.bundle(f"att-se-{name(number)}")
                assert bundle.status.failures[-1].reason == "StatementSetAside"
                assert "entry 0 of the log is of no use" in bundle.status.failures[-1].detail
                await clock.advance(400.0)
                assert await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}")) is None
            assert log_size(tmp_path) == 4
            for number in range(3, 6):
                await at.enqueue.reconcile(await at.seen_event(name(number)))
                await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}"))
            await all_attested(at, 6)
            tg.cancel_scope.cancel()
        whole = await at.bundle(f"att-se-{name(0)}")
        assert whole.status.phase is BundlePhase.SEALED


async def test_who_does_not_lead_any_more_logs_and_stages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A19: stopped beyond its Lease and woken again, a process leaves the log and the lanes to the one that leads now."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 3)
    async with desk(tmp_path, cluster, clock) as at:
        leads, stopped, go = True, anyio.Event(), anyio.Event()
        at.reseal.stages.leads = lambda: leads
        signer = at.reseal.stages.ports.legs[0].signer
        real = signer.sign

        async def sign(*args: Any) -> Envelope:
            stopped.set()
            await go.wait()
            return await real(*args)

        monkeypatch.setattr(signer, "sign", sign)
        await burst(at, 3)
        async with anyio.create_task_group() as tg:
            tg.start_soon(share_of(at).run)
            await stopped.wait()
            leads = False
            go.set()
            for _ in range(5):
                await clock.advance(60.0)
                await settled()
            assert log_size(tmp_path) == 0
            assert await at.reseal.stages.store.stat("staging/shared/0.json") is None
            assert not (await at.bundle(f"att-se-{name(0)}")).status.failures
            with pytest.raises(NotLeadingError):
                await at.reseal.alone(await at.seen_bundle(f"att-se-{name(0)}"))
            leads = True
            await clock.advance(60.0)
            await all_attested(at, 3)
            tg.cancel_scope.cancel()
        assert log_size(tmp_path) == 1


async def test_a_cluster_that_fails_now_and_then_is_outlasted(tmp_path: Path) -> None:
    """Lost answers and refused writes cost time: every event ends attested, in one statement."""
    clock = ManualClock()
    behind = memory_cluster(clock)
    await crowd(behind, 5)
    cluster = FaultyCluster(behind, seeded(3, 0.3))
    async with desk(tmp_path, cluster, clock) as at:
        at.reseal._busy = 1000
        async with sharing(at):
            pending = list(range(5))
            for _ in range(400):
                for number in list(pending):
                    try:
                        await at.enqueue.reconcile(await at.seen_event(name(number)))
                        await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}"))
                        if (await at.event(name(number))).status.phase is EventPhase.ATTESTED:
                            pending.remove(number)
                    except UnavailableError:
                        continue
                await clock.advance(400.0)
                if not pending:
                    break
            assert not pending
        assert cluster.faults


async def test_what_was_sealed_stays_so_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that cannot be made demotes nothing; one that failed for a while is made again, though the draft is gone."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await crowd(cluster, 2)
    async with desk(tmp_path, cluster, clock) as at:
        await burst(at, 2)
        async with sharing(at):
            await all_attested(at, 2)
        at.reseal._busy = 0
        await cluster.patch_status(SecurityEvent, name(0), {"phase": None, "attestationDigest": None})
        await at.cache.view(EventMark).until(lambda: not _attested(at, 0))

        async def away(_: str) -> bytes:
            raise TransientError("no route to the store")

        bundle = f"att-se-{name(0)}"
        with monkeypatch.context() as patch:
            patch.setattr(at.reseal.stages.store, "get", away)
            for _ in range(PATIENCE + 2):
                again = await at.reseal.reconcile(await at.seen_bundle(bundle))
                assert isinstance(again, After)
                await clock.advance(again.seconds)
        assert (await at.bundle(bundle)).status.phase is BundlePhase.SEALED
        (pack,) = (tmp_path / "evidence/store/objects").rglob("*.spec.jsonl")
        whole = pack.read_bytes()
        pack.write_bytes(b"x" + whole[1:])
        again = await at.reseal.reconcile(await at.seen_bundle(bundle))
        assert isinstance(again, After)
        assert (await at.bundle(bundle)).status.phase is BundlePhase.FAILED
        pack.write_bytes(whole)
        await clock.advance(again.seconds)
        assert await at.reseal.reconcile(await at.seen_bundle(bundle)) is None
        assert (await at.bundle(bundle)).status.phase is BundlePhase.SEALED
        assert (await at.event(name(0))).status.phase is EventPhase.ATTESTED
        await prove(at)


def _attested(at: Desk, number: int) -> bool:
    event = at.cache.view(EventMark).get(name(number))
    return event is not None and event.status.phase is EventPhase.ATTESTED
