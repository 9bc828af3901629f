"""Keys and certificates that change while events are sealed: nothing is lost, nothing signed twice, all of it verifies."""

import random
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ugallu.api.bundle import AttestationBundle, BundlePhase, SigningMode
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.cli.evidence import Archive
from ugallu.cluster.port import list_all
from ugallu.evidence import bundle as bundles
from ugallu.evidence import roll
from ugallu.evidence.trust import Trust
from ugallu.evidence.x509 import Identity
from ugallu.runtime.attestor.choose import published
from ugallu.runtime.attestor.proof import confirm_in
from ugallu.runtime.attestor.publish import SIGNERS
from ugallu.runtime.attestor.rotate import LOOK, NEXT, RotatingSigner
from ugallu.testing.afar import Quiet, Shape, World, empty_cluster, living
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.evidence import make_event
from ugallu.testing.sealing import Desk, desk, log_size
from ugallu.testing.trouble import TrueClock

ROTATIONS = 3
EACH = 6
"""Events between two rotations."""


@pytest.mark.parametrize("burst", [False, True], ids=["alone", "together"])
@pytest.mark.parametrize("mode", [SigningMode.OPENBAO_TRANSIT, SigningMode.FULCIO_KEYLESS, SigningMode.DUAL])
async def test_a_rotation_while_events_are_sealed(tmp_path: Path, mode: SigningMode, burst: bool) -> None:
    """A3, A8: before, during and after, all verify with what is published for strangers; each is signed once by each."""
    true = TrueClock()
    cluster = await empty_cluster(true)
    world = World(Shape(mode, 1, stamped=True, events=EACH * (ROTATIONS + 1), burst=burst), tmp_path, true, cluster)
    async with living(world, random.Random(1)) as life:
        for turn in range(ROTATIONS + 1):
            for number in range(EACH):
                await cluster.create(make_event(f"se-{turn}-{number}"))
            # Half-way through: some are signed, some wait.
            world.trouble.at_call(len(world.trouble.calls) + 40, world.bao.rotate)
            await life.work(rounds=4)
            true.move(700.0)  # longer than a certificate lives
        await life.work()
        assert not life.left
    await _all_hold(world)
    statements = {b.status.statement_digest for b in (await list_all(cluster, AttestationBundle))[0]}
    assert len(world.entries) == len(statements) * world.shape.legs
    if mode is not SigningMode.FULCIO_KEYLESS:
        assert world.bao.signed == len(statements)
        assert len(world.bao.versions) == ROTATIONS + 2
    if mode is not SigningMode.OPENBAO_TRANSIT:
        assert world.sigstore.fulcio.calls > ROTATIONS
    await cluster.close()


async def _all_hold(world: World) -> None:
    """Every event is attested by what holds under the roll of signers in the store, and the trusted root."""
    found, _ = await list_all(world.behind, AttestationBundle)
    assert len(found) == world.shape.events
    assert not world.wrong
    store = Quiet(world.store)
    named = roll.read(await store.get(SIGNERS), where=SIGNERS)
    trust = Trust(world.trust.root, named)
    used = set()
    for bundle in found:
        await confirm_in(store, lambda b, s: trust.check(b, subject=s), bundle)
        for leg in bundle.status.bundles:
            read = bundles.read(await store.get(store.key(leg.url)))
            used.add(read.hint or read.certificate)
    assert len(used) > ROTATIONS
    keys = [one for one in named if not isinstance(one, Identity)]
    assert {one.spki for one in keys} == {one.spki for one in world.bao.published[: len(keys)]}


def next_key(folder: Path) -> bytes:
    """Put a next key into the evidence folder, as `openssl genpkey` does."""
    content = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "evidence" / NEXT
    path.touch(mode=0o600)
    path.write_bytes(content)
    return content


def signer(at: Desk) -> RotatingSigner:
    found = at.reseal.stages.ports.legs[0].signer
    assert isinstance(found, RotatingSigner)
    return found


async def test_the_next_key_of_a_directory_signs_from_when_it_is_there(tmp_path: Path) -> None:
    """Thirty events at once, three keys put beside the first meanwhile: each event is sealed once, under the key of its time."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    names = [f"se-{number}" for number in range(30)]
    for name in names:
        await cluster.create(make_event(name))
    async with desk(tmp_path, cluster, clock) as at:
        at.reseal.share = None

        async def seal(some: list[str]) -> None:
            for name in some:
                await at.enqueue.reconcile(await at.seen_event(name))
                await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name}"))

        async with anyio.create_task_group() as tg:
            tg.start_soon(signer(at).run)
            async with anyio.create_task_group() as load:
                for first in range(3):
                    load.start_soon(seal, names[first:21:3])
                for _ in range(2):
                    next_key(tmp_path)
                    await _taken(tmp_path / "evidence" / NEXT, clock)
            await seal(names[21:25])
            tg.cancel_scope.cancel()
    next_key(tmp_path)
    async with desk(tmp_path, cluster, clock) as at:
        at.reseal.share = None
        await seal_all(at, names[25:])
    assert log_size(tmp_path) == 30
    archive = Archive(tmp_path)
    used = set()
    for bundle in (await list_all(cluster, AttestationBundle))[0]:
        event = await cluster.get(SecurityEvent, bundle.spec.attested_for.name)
        assert (bundle.status.phase, event.status.phase) == (BundlePhase.SEALED, EventPhase.ATTESTED)
        kit = await archive.kit(event, bundle)
        assert archive.check(kit).ok
        before = published(tmp_path / "evidence")
        assert Trust(before.root, before.signers).check(kit.bundle, subject=kit.spec).ok
        used.add(kit.key)
    assert len(archive.keys) == 4
    assert archive.keys[0] in used
    assert len(used) >= 3


async def seal_all(at: Desk, names: list[str]) -> None:
    for name in names:
        await at.enqueue.reconcile(await at.seen_event(name))
        await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name}"))


async def _taken(path: Path, clock: ManualClock) -> None:
    with anyio.fail_after(5):
        while await anyio.Path(path).exists():
            await clock.advance(LOOK)


class Dead(BaseException):
    """The process is gone."""


@pytest.mark.parametrize(
    "step", ["ugallu.evidence.roll.Roll.add", "pathlib.Path.replace", "ugallu.runtime.attestor.rotate._publish"]
)
async def test_a_rotation_cut_short_leaves_a_key_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Wherever the process dies, the next one signs with the old key or the new, and what was sealed before verifies."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event("se-1"))
    await cluster.create(make_event("se-2"))
    async with desk(tmp_path, cluster, clock) as at:
        await seal_all(at, ["se-1"])
        next_key(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(step, _dies)
            with pytest.raises(Dead):
                signer(at).look()
    async with desk(tmp_path, cluster, clock) as at:
        await seal_all(at, ["se-2"])
    archive = Archive(tmp_path)
    for bundle in (await list_all(cluster, AttestationBundle))[0]:
        event = await cluster.get(SecurityEvent, bundle.spec.attested_for.name)
        assert archive.check(await archive.kit(event, bundle)).ok
    assert len(archive.keys) == 2
    assert not (tmp_path / "evidence" / NEXT).exists()


def _dies(*_: Any) -> Any:
    raise Dead


async def test_what_is_no_key_for_us_alone_is_not_taken(tmp_path: Path) -> None:
    """Half a file, or one that others may read: the old key signs on, and the next one is taken once it is right."""
    clock = ManualClock()
    async with desk(tmp_path, memory_cluster(clock), clock) as at:
        before = await signer(at).public_key()
        content = next_key(tmp_path)
        path = tmp_path / "evidence" / NEXT
        for broken, mode in ((content[:100], 0o600), (content, 0o644)):
            path.write_bytes(broken)
            path.chmod(mode)
            signer(at).look()
            assert await signer(at).public_key() == before
            assert path.exists()
        path.chmod(0o600)
        signer(at).look()
        assert await signer(at).public_key() != before
        assert signer(at).signs_as[1] == before
