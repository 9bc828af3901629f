"""Another log, another shard of it, another bucket: what was sealed before stays evidence, and sealing goes on."""

import dataclasses
from pathlib import Path

import pytest

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import EventPhase
from ugallu.api.marks import BundleMark, EventMark
from ugallu.cluster.port import Cluster, Key
from ugallu.evidence.ports import FullError
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.runtime.attestor.choose import published
from ugallu.runtime.attestor.keeper import Keeper
from ugallu.runtime.attestor.live import LiveStore
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.evidence import make_event
from ugallu.testing.keyless import use, use_keyless
from ugallu.testing.sealing import Desk, Killed, desk, log_size
from ugallu.testing.sigstore import FakeRekor, FakeSigstore


def name(number: int) -> str:
    return f"se-{number:024x}"


async def sealed(at: Desk, number: int) -> AttestationBundle:
    """Make an event and seal it, at the first try."""
    await at.cluster.create(make_event(name(number)))
    return await tried(at, number)


async def tried(at: Desk, number: int) -> AttestationBundle:
    await at.enqueue.reconcile(await at.seen_event(name(number)))
    await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(number)}"))
    bundle = await at.bundle(f"att-se-{name(number)}")
    assert bundle.status.phase is BundlePhase.SEALED, bundle.status.failures
    return bundle


async def known(at: Desk, bundle: AttestationBundle) -> None:
    """Wait until the attestor's cache has a bundle as it was sealed."""
    view = at.cache.view(AttestationBundle)

    def is_there() -> bool:
        found = view.get(bundle.metadata.name)
        return found is not None and found.status.phase is BundlePhase.SEALED

    await view.until(is_there)


def started() -> tuple[ManualClock, Cluster, FakeSigstore]:
    clock = ManualClock()
    return clock, memory_cluster(clock), FakeSigstore(clock)


async def test_from_the_own_log_to_a_rekor(tmp_path: Path) -> None:
    """What the own log signed is asked of no Rekor: sealing goes on, and nobody is told of a log that forgot."""
    clock, cluster, services = started()
    async with desk(tmp_path, cluster, clock) as at:
        for number in range(3):
            await known(at, await sealed(at, number))
    before = published(tmp_path / "evidence")
    async with desk(tmp_path, cluster, clock) as at:
        ports = use_keyless(at, services, tmp_path, trusted=tuple(before.root.logs.values()))
        at.reseal.stages.ports = dataclasses.replace(ports, past=lambda: (*before.signers,))
        await sealed(at, 3)
        assert at.findings == []


async def test_from_one_rekor_to_another_and_back(tmp_path: Path) -> None:
    """Two logs in one trusted root: each is asked for its own past, the second time too, and a lie is still noticed."""
    clock, cluster, services = started()
    other = FakeRekor(clock)
    other.host = "other.test"
    for number, rekor in enumerate((services.rekor, other, services.rekor)):
        async with desk(tmp_path, cluster, clock) as at:
            use_keyless(at, services, tmp_path, rekor=rekor, trusted=(services.rekor.log, other.log))
            await known(at, await sealed(at, number))
            assert at.findings == []
    services.rekor.rewrite(0)
    await cluster.create(make_event(name(3)))
    async with desk(tmp_path, cluster, clock) as at:
        use_keyless(at, services, tmp_path, trusted=(services.rekor.log, other.log))
        await at.enqueue.reconcile(await at.seen_event(name(3)))
        await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name(3)}"))
        status = (await at.bundle(f"att-se-{name(3)}")).status
        assert status.phase is BundlePhase.FAILED
        assert "forgotten a tree of 2 entries" in status.failures[-1].detail
        assert [found.type.name for found in at.findings] == ["WORMIntegrityViolation"]


async def test_a_new_shard_of_a_rekor_is_another_tree(tmp_path: Path) -> None:
    """One key, a new tree: the log begins at nothing again and has forgotten nothing."""
    clock, cluster, services = started()
    async with desk(tmp_path, cluster, clock) as at:
        use_keyless(at, services, tmp_path)
        for number in range(3):
            await known(at, await sealed(at, number))
        services.rekor.shard()
        await sealed(at, 3)
    async with desk(tmp_path, cluster, clock) as at:
        use_keyless(at, services, tmp_path)
        await sealed(at, 4)
        assert at.findings == []


async def test_what_was_logged_before_the_log_was_changed_is_archived_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logged in one log, and then there is another: the entry counts, and is not asked of the log that never had it."""
    clock, cluster, services = started()
    other = FakeRekor(clock)
    other.host = "other.test"
    await cluster.create(make_event(name(0)))
    async with desk(tmp_path, cluster, clock) as at:
        use_keyless(at, services, tmp_path)

        async def die(*_: object, **__: object) -> None:
            raise Killed

        monkeypatch.setattr(at.reseal.stages, "archive", die)
        with pytest.raises(Killed):
            await tried(at, 0)
    async with desk(tmp_path, cluster, clock) as at:
        use_keyless(at, services, tmp_path, rekor=other, trusted=(services.rekor.log,))
        bundle = await tried(at, 0)
        assert bundle.status.rekor_entry is not None
        assert bundle.status.rekor_entry.log_id == services.rekor.log.log_id.hex()
        assert (len(services.rekor.bodies), len(other.bodies)) == (1, 0)


async def test_evidence_in_another_store_is_not_called_changed(tmp_path: Path) -> None:
    """After a change of stores old evidence is not to be had here: that is said in the log, and alarms nobody."""
    clock, cluster, _ = started()
    async with desk(tmp_path, cluster, clock) as at:
        bundle = await sealed(at, 0)
        assert bundle.status.subject_ref is not None
        elsewhere = {"url": "s3://old/x.json", "sha256": bundle.status.subject_ref.sha256}
        await cluster.patch_status(AttestationBundle, bundle.metadata.name, {"subjectRef": elsewhere})
        (keeper,) = (service for service in at.parts.services if isinstance(service, Keeper))
        await keeper._verify(await at.seen_bundle(bundle.metadata.name))
        assert at.metrics.value("ugallu_attestor_reverified_total", outcome="failed") == 0
        assert at.findings == []
        assert (await at.bundle(bundle.metadata.name)).status.phase is BundlePhase.SEALED


@pytest.mark.parametrize("length", [236, 237, 246, 253])
async def test_an_event_of_the_longest_name_has_a_bundle(tmp_path: Path, length: int) -> None:
    """What is put before and behind a name may not make it too long; a bundle that is deleted is found again."""
    clock, cluster, _ = started()
    long = "e" * length
    async with desk(tmp_path, cluster, clock) as at:
        await cluster.create(make_event(long))
        await at.enqueue.reconcile(await at.seen_event(long))
        (bundle,) = (await cluster.list(AttestationBundle)).items
        await at.cache.view(EventMark).until(lambda: at.cache.view(EventMark).get(long) is not None)
        await cluster.delete(AttestationBundle, bundle.metadata.name)
        view = at.cache.view(BundleMark)
        await view.until(lambda: view.get(bundle.metadata.name) is None)
        await at.reseal.gone(Key("", bundle.metadata.name))
        assert await at.reseal.reconcile(await at.seen_bundle(bundle.metadata.name)) is None
        assert (await at.event(long)).status.phase is EventPhase.ATTESTED


async def test_what_was_under_way_is_sealed_in_the_next_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A8: logged, and then WORMConfig names another bucket: the draft is read where it lies, and there is one entry."""
    clock, cluster, _ = started()
    await cluster.create(make_event(name(0)))
    async with desk(tmp_path, cluster, clock) as at:
        stages = at.reseal.stages
        before, after = stages.store, DirectoryStore(tmp_path / "next", clock)
        after.open()

        async def full(*_: object, **__: object) -> None:
            raise FullError("no room", where="bucket")

        with monkeypatch.context() as patch:
            patch.setattr(stages, "archive", full)
            with pytest.raises(AssertionError):
                await tried(at, 0)

        class Led:
            store_now = after

            async def store(self) -> DirectoryStore:
                return after

        use(at, dataclasses.replace(stages.ports, store=LiveStore(Led(), lambda: (before,))))
        await clock.advance(301.0)
        bundle = await tried(at, 0)
        assert bundle.status.worm_ref is not None
        assert await after.stat(after.key(bundle.status.worm_ref.url)) is not None
        assert await before.stat(f"staging/{bundle.metadata.uid}.json") is None
        assert log_size(tmp_path) == 1
        after.close()
