"""From event to evidence: every weak point of the pipeline, and a crash between any two effects."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import msgspec
import pytest

from ugallu.api.bundle import AttestationBundle, AttestationBundleSpec, BundlePhase
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.api.marks import BundleMark, ResponseMark
from ugallu.api.meta import Metadata, ObjectReference
from ugallu.api.response import (
    Action,
    ActionType,
    EventResponse,
    EventResponseSpec,
    ResponderRef,
    ResponsePhase,
    SecurityEventRef,
)
from ugallu.cluster.port import Cluster, UnavailableError, key_of, list_all
from ugallu.errors import ConflictError, PermanentError, TransientError
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import IntegrityError, Leg, Stored
from ugallu.evidence.signers.local import LocalSigner, open_key
from ugallu.evidence.statement import spec_bytes
from ugallu.evidence.verify import verify
from ugallu.operator.contract import After
from ugallu.operator.shared import Shared
from ugallu.runtime.attestor.choose import choose, local
from ugallu.runtime.attestor.enqueue import names_of
from ugallu.runtime.attestor.stages import Draft, Stages
from ugallu.settings import load
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import FaultyCluster, memory_cluster, seeded
from ugallu.testing.evidence import make_event
from ugallu.testing.sealing import BUNDLE, NAME, Desk, Killed, bundle_mark, desk, event_mark, log_size, mortal


def check(folder: Path, bundle: AttestationBundle, event: SecurityEvent) -> bool:
    """Verify what lies in the store, with the key and root that lie beside it."""
    evidence = folder / "evidence"
    (path,) = evidence.rglob(f"{bundle.metadata.uid}.sigstore.json")
    report = verify(
        path.read_bytes(),
        key=keys.from_pem((evidence / "ugallu.pub").read_bytes()),
        root=trusted_root.read((evidence / "trusted-root.json").read_bytes()),
        subject=spec_bytes(event),
    )
    return report.ok


async def test_an_event_becomes_evidence(tmp_path: Path) -> None:
    """One pass seals: status names every stage, the archive verifies, the event says Attested, staging is empty."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        assert await at.seal() is None
        bundle, event = await at.bundle(), await at.event()
        status = bundle.status
        assert status.phase is BundlePhase.SEALED
        assert event.status.phase is EventPhase.ATTESTED
        assert event.status.attestation_digest == status.statement_digest
        assert event.status.attestation_bundle_ref is not None
        assert event.status.attestation_bundle_ref.uid == bundle.metadata.uid
        assert {c.type: c.status for c in status.conditions} == {"Signed": "True", "Logged": "True", "Archived": "True"}
        archived = next(c for c in status.conditions if c.type == "Archived")
        assert "the operating system does not enforce it" in archived.message
        assert status.signature is not None
        assert status.signature.mode == "local-p256"
        assert status.rekor_entry is not None
        assert status.rekor_entry.inclusion_proof is not None
        assert status.worm_ref is not None
        assert status.subject_ref is not None
        assert status.subject_ref.sha256 == digest(spec_bytes(event))
        assert bundle.metadata.labels["ugallu.io/security-event-uid"] == event.metadata.uid
        assert check(tmp_path, bundle, event)
        assert (
            at.metrics.value("ugallu_attestor_bundles_total", kind="SecurityEvent", mode="local-p256", outcome="sealed")
            == 1
        )
        with pytest.raises(PermanentError):
            await at.reseal.stages.store.get(f"staging/{bundle.metadata.uid}.json")
        await at.cache.view(SecurityEvent).until(at.parts.idle)
        store = tmp_path / "evidence/store/objects/test/2026/01"
        assert sorted(path.name.split(".", 1)[1] for path in store.iterdir()) == [
            "intoto.jsonl",
            "sigstore.json",
            "spec.json",
        ]
        envelope = json.loads(next(store.glob("*.intoto.jsonl")).read_text())
        assert envelope["payloadType"] == "application/vnd.in-toto+json"


async def test_a_crash_between_any_two_effects_seals_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before or after any call to cluster, signer, log or store: the next process seals, with one log entry."""
    step = 0
    while True:
        folder, clock = tmp_path / str(step), ManualClock()
        cluster = memory_cluster(clock)
        await cluster.create(make_event())
        digests: set[str] = set()
        async with desk(folder, cluster, clock) as at:
            with monkeypatch.context() as patch:
                died = mortal(patch, at, step)
                for reconcile in (_enqueue, _reseal):
                    try:
                        await reconcile(at)
                    except Killed:
                        break
                    except BaseExceptionGroup as group:
                        if (other := group.split(Killed)[1]) is not None:
                            raise other from group
                        break
        found, _ = await list_all(cluster, AttestationBundle)
        digests |= {b.status.statement_digest for b in found if b.status.statement_digest}
        await clock.advance(1.0)
        async with desk(folder, cluster, clock) as at:
            await at.seal()
            bundle, event = await at.bundle(), await at.event()
            assert bundle.status.phase is BundlePhase.SEALED, step
            assert event.status.phase is EventPhase.ATTESTED, step
            assert log_size(folder) == 1, step
            assert {*digests, bundle.status.statement_digest} == {bundle.status.statement_digest}, step
            assert check(folder, bundle, event), step
            assert await at.seal() is None
            assert log_size(folder) == 1
        if not died():
            assert step > 25
            return
        step += 1


async def _enqueue(at: Desk) -> None:
    await at.enqueue.reconcile(await at.seen_event())


async def _reseal(at: Desk) -> None:
    await at.reseal.reconcile(await at.seen_bundle())


async def test_a_recreated_event_does_not_inherit_old_evidence(tmp_path: Path) -> None:
    """A11: an event under the name of an earlier one gets a bundle of its own, sealed for its own uid."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.seal()
        await cluster.delete(SecurityEvent, NAME)
        event = await cluster.create(make_event())
        assert event.status.phase is None
        await at.enqueue.reconcile(event_mark(event))
        own = await at.bundle(names_of(event_mark(event))[1])
        assert own.spec.attested_for.uid == event.metadata.uid
        await at.reseal.reconcile(bundle_mark(own))
        after = await at.event()
        assert after.status.phase is EventPhase.ATTESTED
        assert after.status.attestation_bundle_ref is not None
        assert after.status.attestation_bundle_ref.name == own.metadata.name


async def test_a_squatted_bundle_name_is_not_believed(tmp_path: Path) -> None:
    """A19: a bundle put under the name before the event came, for another uid, neither attests nor blocks it."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    event = await cluster.create(make_event())
    forged = msgspec.structs.replace(event.ref, uid="00000000-0000-0000-0000-000000000000")
    await cluster.create(
        AttestationBundle(metadata=Metadata(name=BUNDLE), spec=AttestationBundleSpec(attested_for=forged))
    )
    await cluster.patch_status(AttestationBundle, BUNDLE, {"phase": "Sealed", "statementDigest": "sha256:00"})
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(event_mark(event))
        await at.reseal.reconcile(await at.seen_bundle())
        assert (await at.event()).status.phase is None
        await at.reseal.reconcile(await at.seen_bundle(names_of(event_mark(event))[1]))
        assert (await at.event()).status.phase is EventPhase.ATTESTED


async def test_nobody_is_believed_who_says_sealed(tmp_path: Path) -> None:
    """A status that others wrote attests nothing: neither a bare word, nor the evidence of another event."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with desk(tmp_path, cluster, clock) as at:
        await cluster.create(make_event())
        await at.seal()
        true = msgspec.to_builtins((await at.bundle()).status)
        for number, status in enumerate(({"phase": "Sealed", "statementDigest": "sha256:00"}, true)):
            event = await cluster.create(make_event(f"se-{number:024x}"))
            await at.enqueue.reconcile(event_mark(event))
            name = names_of(event_mark(event))[0]
            await cluster.patch_status(AttestationBundle, name, status)
            await at.cache.view(AttestationBundle).until(partial(_says_sealed, at, name))
            with pytest.raises(IntegrityError, match="called sealed"):
                await at.enqueue.reconcile(event_mark(event))
            assert isinstance(await at.reseal.reconcile(await at.seen_bundle(name)), After)
            forged = await at.bundle(name)
            assert forged.status.phase is BundlePhase.FAILED
            assert "called sealed" in forged.status.failures[-1].detail
            assert (await at.event(event.metadata.name)).status.phase is None


def _says_sealed(at: Desk, name: str) -> bool:
    bundle = at.cache.view(AttestationBundle).get(name)
    return bundle is not None and bundle.status.phase is BundlePhase.SEALED


@pytest.mark.parametrize("squatted", [False, True])
async def test_a_bundle_deleted_before_its_time_comes_back(tmp_path: Path, squatted: bool) -> None:
    """While its event waits for evidence a deleted bundle is made anew; afterwards it stays deleted."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    event = await cluster.create(make_event())
    if squatted:
        other = AttestationBundleSpec(attested_for=msgspec.structs.replace(event.ref, uid="another"))
        await cluster.create(AttestationBundle(metadata=Metadata(name=BUNDLE), spec=other))
    name = names_of(event_mark(event))[squatted]
    async with desk(tmp_path, cluster, clock) as at:
        view = at.cache.view(AttestationBundle)
        await at.enqueue.reconcile(event_mark(event))
        first = await at.bundle(name)
        await _delete(at, first)
        await at.reseal.gone(key_of(first))
        second = await at.bundle(name)
        assert second.metadata.uid != first.metadata.uid
        await at.reseal.reconcile(bundle_mark(second))
        assert (await at.event()).status.phase is EventPhase.ATTESTED
        await at.cache.view(SecurityEvent).until(lambda: not _is_active(at))
        await view.until(lambda: view.get(name) is not None)
        await _delete(at, second)
        await at.reseal.gone(key_of(second))
        assert len((await list_all(cluster, AttestationBundle))[0]) == squatted


async def _delete(at: Desk, bundle: AttestationBundle) -> None:
    name, view = bundle.metadata.name, at.cache.view(AttestationBundle)
    await view.until(lambda: view.get(name) is not None)
    await at.cluster.delete(AttestationBundle, name)
    await view.until(lambda: view.get(name) is None)


@pytest.mark.parametrize("noise", [0, 3])
async def test_a_log_put_back_with_its_witness_is_refused(tmp_path: Path, noise: int) -> None:
    """An older copy of log and witness, whole and signed, would sign a second past: earlier bundles remember the first."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    evidence = tmp_path / "evidence"
    name = ""
    for number in range(3):
        name = f"se-{number:024x}"
        await cluster.create(make_event(name))
        if number == 1:
            shutil.copytree(evidence, tmp_path / "yesterday")
        async with desk(tmp_path, cluster, clock) as at:
            await at.enqueue.reconcile(await at.seen_event(name))
            if number == 2:
                break
            assert await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name}")) is None
    shutil.rmtree(evidence / "log")
    shutil.copytree(tmp_path / "yesterday/log", evidence / "log")
    shutil.copyfile(tmp_path / "yesterday/keys/log.witness", evidence / "keys/log.witness")
    proof = {"treeSize": 1 << 40, "logIndex": 0}
    for number in range(noise):
        forged = {"logIndex": 0, "uuid": "x", "inclusionProof": proof, "checkpoint": f"forged {number}"}
        spec = AttestationBundleSpec(attested_for=(await cluster.get(SecurityEvent, name)).ref)
        await cluster.create(AttestationBundle(metadata=Metadata(name=f"noise-{number}"), spec=spec))
        await cluster.patch_status(AttestationBundle, f"noise-{number}", {"rekorEntry": forged})
    async with desk(tmp_path, cluster, clock) as at:
        assert isinstance(await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name}")), After)
        status = (await at.bundle(f"att-se-{name}")).status
        assert status.phase is BundlePhase.FAILED
        assert "forgotten a tree of 2 entries" in status.failures[-1].detail
        assert log_size(tmp_path) == 1


async def test_a_log_that_forgot_what_it_answered_before_a_crash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that was staged and not named yet is as good as the log that has it: put back to before, it is refused."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        shutil.copytree(tmp_path / "evidence", tmp_path / "before")
        monkeypatch.setattr(at.reseal.stages, "archive", _refusing(Killed()))
        with pytest.raises(Killed):
            await at.reseal.reconcile(await at.seen_bundle())
        assert (await at.bundle()).status.phase is BundlePhase.SIGNED
        assert log_size(tmp_path) == 1
    shutil.rmtree(tmp_path / "evidence/log")
    shutil.copytree(tmp_path / "before/log", tmp_path / "evidence/log")
    (tmp_path / "evidence/keys/log.witness").unlink()
    async with desk(tmp_path, cluster, clock) as at:
        assert isinstance(await at.reseal.reconcile(await at.seen_bundle()), After)
        status = (await at.bundle()).status
        assert status.phase is BundlePhase.FAILED
        assert "forgotten a tree of 1 entries" in status.failures[-1].detail


async def test_an_event_that_missed_its_word_is_told_later(tmp_path: Path) -> None:
    """A10: sealed, but the event was never told: the next look at either of the two tells it."""
    for who in ("event", "bundle"):
        clock, folder = ManualClock(), tmp_path / who
        cluster = memory_cluster(clock)
        await cluster.create(make_event())
        async with desk(folder, cluster, clock) as at:
            await at.seal()
            await cluster.patch_status(SecurityEvent, NAME, {"phase": None, "attestationDigest": None})
            if who == "event":
                await at.cache.view(AttestationBundle).until(partial(_is_sealed, at))
                await at.enqueue.reconcile(await at.seen_event())
            else:
                await at.cache.view(SecurityEvent).until(partial(_is_active, at))
                await at.reseal.reconcile(await at.seen_bundle())
            assert (await at.event()).status.phase is EventPhase.ATTESTED, who


def _is_sealed(at: Desk) -> bool:
    bundle = at.cache.view(AttestationBundle).get(BUNDLE)
    return bundle is not None and bundle.status.phase is BundlePhase.SEALED


def _is_active(at: Desk) -> bool:
    event = at.cache.view(SecurityEvent).get(NAME)
    return event is None or event.status.phase is not EventPhase.ATTESTED


async def test_a_parent_that_is_gone_ends_the_bundle(tmp_path: Path) -> None:
    """A12: nothing to sign any more is Failed with reason ParentGone, once, without endless tries."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        await cluster.delete(SecurityEvent, NAME)
        await at.cache.view(SecurityEvent).until(lambda: at.cache.view(SecurityEvent).get(NAME) is None)
        assert await at.reseal.reconcile(await at.seen_bundle()) is None
        bundle = await at.bundle()
        assert bundle.status.phase is BundlePhase.FAILED
        assert [f.reason for f in bundle.status.failures] == ["ParentGone"]
        assert await at.reseal.reconcile(bundle_mark(bundle)) is None
        assert await at.bundle() == bundle
        assert at.parts.idle()


async def test_a_parent_that_goes_after_the_freeze_is_sealed_all_the_same(tmp_path: Path) -> None:
    """What was frozen is evidence, whatever becomes of the event."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    event = await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(event_mark(event))
        _fail(at.reseal.stages, "log", "add", TransientError("the log is away"))
        assert isinstance(await at.reseal.reconcile(await at.seen_bundle()), After)
        await cluster.delete(SecurityEvent, NAME)
    await clock.advance(10.0)
    async with desk(tmp_path, cluster, clock) as at:
        assert await at.reseal.reconcile(await at.seen_bundle()) is None
        bundle = await at.bundle()
        assert bundle.status.phase is BundlePhase.SEALED
        assert check(tmp_path, bundle, event)


def _signer(at: Desk) -> Any:
    return at.reseal.stages.ports.legs[0].signer


def _refusing(error: BaseException) -> Callable[..., Any]:
    async def refuse(*_: Any, **__: Any) -> Any:
        raise error

    return refuse


def _fail(stages: Stages, port: str, verb: str, error: Exception) -> None:
    class Broken:
        def __init__(self, real: Any) -> None:
            self.real = real

        def __getattr__(self, name: str) -> Any:
            return self.refuse if name == verb else getattr(self.real, name)

        async def refuse(self, *_: Any, **__: Any) -> Any:
            raise error

    setattr(stages, port, Broken(getattr(stages, port)))


async def test_failures_are_written_down_bounded_and_tried_again(tmp_path: Path) -> None:
    """A9: a store that is away fails the stage with growing patience; nothing is signed or logged again meanwhile."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        whole = at.reseal.stages.store
        _fail(at.reseal.stages, "store", "read", TransientError("no route to the store", where="store"))
        delays = []
        for _ in range(30):
            again = await at.reseal.reconcile(await at.seen_bundle())
            assert isinstance(again, After)
            delays.append(again.seconds)
            await clock.advance(again.seconds)
        status = (await at.bundle()).status
        assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
        assert max(delays) == 300.0
        assert len(status.failures) == 16
        assert status.failures[0].stage == "archive"
        assert "no route to the store" in status.failures[0].detail
        assert status.attempts == 30
        assert status.phase is BundlePhase.FAILED
        assert {c.type: c.status for c in status.conditions}["Archived"] == "False"
        frozen = status.statement_digest
        at.reseal.stages.store = whole
        assert await at.reseal.reconcile(await at.seen_bundle()) is None
        bundle = await at.bundle()
        assert bundle.status.phase is BundlePhase.SEALED
        assert bundle.status.statement_digest == frozen
        assert log_size(tmp_path) == 1


async def test_a_try_before_its_time_waits(tmp_path: Path) -> None:
    """A restart does not hammer a backend that failed: nextAttemptAt is kept."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        _fail(at.reseal.stages, "log", "add", TransientError("away"))
        await at.reseal.reconcile(await at.seen_bundle())
        before = await at.bundle()
        assert await at.reseal.reconcile(bundle_mark(before)) == After(1.0)
        assert await at.bundle() == before


async def test_a_store_that_changes_bytes_is_never_called_sealed(tmp_path: Path) -> None:
    """W8: what is read back is compared; a difference is a failure of integrity, and the event stays unattested."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        real = at.reseal.stages.store.read

        async def read(key: str) -> tuple[Stored, bytes]:
            stored, content = await real(key)
            if key.endswith(".sigstore.json"):
                content = content.replace(b'"sig":"M', b'"sig":"N')
            return stored, content

        at.reseal.stages.store.read = read  # type: ignore[method-assign]
        await at.reseal.reconcile(await at.seen_bundle())
        status = (await at.bundle()).status
        assert status.phase is BundlePhase.FAILED
        assert "does not hold what was put" in status.failures[-1].detail
        assert (await at.event()).status.phase is None


async def test_a_statement_stays_frozen_while_its_signer_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time in the statement is that of the first try, however late the signature: the status says which it is."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        monkeypatch.setattr(_signer(at), "sign", _refusing(TransientError("the key service is away")))
        assert isinstance(await at.reseal.reconcile(await at.seen_bundle()), After)
        frozen = (await at.bundle()).status
        assert frozen.phase is BundlePhase.PENDING
        assert frozen.statement_digest
    await clock.advance(10.0)
    async with desk(tmp_path, cluster, clock) as at:
        assert await at.reseal.reconcile(await at.seen_bundle()) is None
        status = (await at.bundle()).status
        assert (status.phase, status.statement_digest) == (BundlePhase.SEALED, frozen.statement_digest)


@pytest.mark.parametrize(
    ("staged", "said"),
    [
        (msgspec.msgpack.encode(Draft(payload=b"another")), "not the statement that was frozen"),
        (b'{"payload":"AAAA"}', "cannot be read"),
    ],
)
async def test_a_tampered_draft_is_not_signed_on(tmp_path: Path, staged: bytes, said: str) -> None:
    """What was staged must be the statement that the status froze."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        await cluster.patch_status(AttestationBundle, BUNDLE, {"statementDigest": f"sha256:{'0' * 64}"})
        bundle = await at.bundle()
        await at.reseal.stages.store.put(f"staging/{bundle.metadata.uid}.json", staged, media_type="x", until=None)
        await at.reseal.reconcile(bundle_mark(bundle))
        status = (await at.bundle()).status
        assert status.phase is BundlePhase.FAILED
        assert said in status.failures[-1].detail
        assert log_size(tmp_path) == 0


async def test_a_lost_answer_of_the_cluster_seals_once(tmp_path: Path) -> None:
    """Every write may be carried out and its answer lost: the conflict is met by reading again."""
    clock = ManualClock()
    behind = memory_cluster(clock)
    await behind.create(make_event())
    cluster = FaultyCluster(behind, seeded(7, 0.4))
    async with desk(tmp_path, cluster, clock) as at:
        lost = 0
        for _ in range(200):
            try:
                await at.seal()
                if (await at.event()).status.phase is EventPhase.ATTESTED:
                    break
            except (UnavailableError, ConflictError):
                lost += 1
            await clock.advance(600.0)
        assert cluster.faults
        assert lost
        assert (await at.bundle()).status.phase is BundlePhase.SEALED
        assert (await at.event()).status.phase is EventPhase.ATTESTED
        assert log_size(tmp_path) == 1


async def test_many_events_are_sealed_at_once(tmp_path: Path) -> None:
    """Concurrent seals each have an entry of their own, and idle says when all are done."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with desk(tmp_path, cluster, clock) as at:
        assert at.parts.idle()
        for number in range(40):
            await cluster.create(make_event(f"se-{number:024x}"))
        await at.cache.view(SecurityEvent).until(lambda: not at.parts.idle())

        async def one(name: str) -> None:
            await at.enqueue.reconcile(await at.seen_event(name))
            await at.reseal.reconcile(await at.seen_bundle(f"att-se-{name}"))

        at.reseal.share = None
        async with anyio.create_task_group() as tg:
            for number in range(40):
                tg.start_soon(one, f"se-{number:024x}")
        await at.cache.view(SecurityEvent).until(at.parts.idle)
        found, _ = await list_all(cluster, AttestationBundle)
        assert {b.status.phase for b in found} == {BundlePhase.SEALED}
        assert sorted(b.status.rekor_entry.log_index for b in found if b.status.rekor_entry) == list(range(40))


async def test_a_signing_key_is_never_replaced(tmp_path: Path) -> None:
    """Gone or another: the attestor stops; a second key could vouch for nothing that the first one signed."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    evidence = tmp_path / "evidence"
    async with desk(tmp_path, cluster, clock):
        pass
    key, published = (evidence / "keys/attestor.key"), (evidence / "ugallu.pub").read_bytes()
    kept = key.read_bytes()
    for content in (None, (evidence / "keys/log.key").read_bytes()):
        if content is None:
            key.unlink()
        else:
            key.touch(mode=0o600)
            key.write_bytes(content)
        with pytest.raises(PermanentError, match="another" if content else "gone"):
            local(evidence, SimpleNamespace(clock=clock, log=None))  # type: ignore[arg-type]
        assert (evidence / "ugallu.pub").read_bytes() == published
        assert key.exists() is (content is not None)
    key.write_bytes(kept)
    async with desk(tmp_path, cluster, clock) as at:
        await cluster.create(make_event())
        await at.seal()
        assert check(tmp_path, await at.bundle(), await at.event())


async def test_evidence_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """The folder is its owner's alone, keys twice so, and what a killed process was writing aside is gone."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    folders = (tmp_path / "evidence", tmp_path / "evidence/keys")
    for _ in range(2):
        async with desk(tmp_path, cluster, clock):
            pass
        for folder in folders:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert not [path for path in folder.iterdir() if path.name.startswith(".")]
            (folder / ".attestor.key.0123456789abcdef.tmp").write_text("half a key")
    for path in folders[1].glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_clock_that_is_put_back_delays_nothing(tmp_path: Path) -> None:
    """A retry that was set for noon is not waited for a day, when it is yesterday again."""
    clock = ManualClock()
    await clock.advance(86400.0)
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        _fail(at.reseal.stages, "log", "add", TransientError("away"))
        assert isinstance(await at.reseal.reconcile(await at.seen_bundle()), After)
    async with desk(tmp_path, cluster, ManualClock()) as at:
        assert await at.reseal.reconcile(await at.seen_bundle()) is None
        assert (await at.event()).status.phase is EventPhase.ATTESTED


def test_sealing_on_kubernetes_is_refused_unless_local_evidence_is_asked_for(tmp_path: Path) -> None:
    """A1: a Pod may vanish with its disk, so sealing there is never chosen for want of something better."""
    there = SimpleNamespace(cluster=SimpleNamespace(embedded=False), settings=load({}, {}))
    with pytest.raises(PermanentError, match="none is ever chosen by default"):
        choose(there)  # type: ignore[arg-type]
    there.settings = load({"evidence": "local"}, {})
    there.state, there.clock, there.shared, there.log = tmp_path, ManualClock(), Shared(), None
    choose(there).close()  # type: ignore[arg-type]
    assert issubclass(IntegrityError, PermanentError)


async def _response(cluster: Cluster, phase: ResponsePhase | None) -> EventResponse:
    made = await cluster.create(
        EventResponse(
            metadata=Metadata(name="er-1"),
            spec=EventResponseSpec(
                security_event_ref=SecurityEventRef(name=NAME, uid="11111111-0000-0000-0000-000000000000"),
                responder=ResponderRef(kind="Operator", name="forensics"),
                action=Action(type=ActionType.POD_FREEZE),
            ),
        )
    )
    return await _ends(cluster, phase) if phase else made


async def _ends(cluster: Cluster, phase: ResponsePhase) -> EventResponse:
    status = {"phase": phase, "outcome": {"type": "ActionTaken", "message": "frozen"}}
    return await cluster.patch_status(EventResponse, "er-1", status)


@pytest.mark.parametrize("phase", [ResponsePhase.SUCCEEDED, ResponsePhase.FAILED, ResponsePhase.CANCELLED])
async def test_a_finished_response_is_sealed_with_what_came_of_it(tmp_path: Path, phase: ResponsePhase) -> None:
    """A13, W9: a response is sealed once it is over, found by its event's uid, in its cluster's partition; until then nothing."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with desk(tmp_path, cluster, clock) as at:
        enqueue = at.parts.reconcilers[2]
        response = await _response(cluster, None)
        await enqueue.reconcile(await cluster.get(ResponseMark, "er-1"))
        assert (await list_all(cluster, AttestationBundle))[0] == []
        assert at.parts.idle()
        await _ends(cluster, phase)
        await at.cache.view(ResponseMark).until(lambda: not at.parts.idle())
        await enqueue.reconcile(await cluster.get(ResponseMark, "er-1"))
        bundle = await at.bundle("att-er-er-1")
        assert bundle.metadata.labels["ugallu.io/security-event-uid"] == "11111111-0000-0000-0000-000000000000"
        assert bundle.metadata.labels["ugallu.io/event-response-uid"] == response.metadata.uid
        assert await at.reseal.reconcile(bundle_mark(bundle)) is None
        bundle = await at.bundle("att-er-er-1")
        assert bundle.status.phase is BundlePhase.SEALED
        (path,) = (tmp_path / "evidence/store/objects/test/2026/01").glob("*.sigstore.json")
        report = at.reseal.stages.ports.check(path.read_bytes(), subject=spec_bytes(response))
        assert report.ok
        assert report.statement is not None
        assert report.statement.predicate["phase"] == phase
        assert report.statement.predicate["outcome"] == {"type": "ActionTaken", "message": "frozen"}
        with pytest.raises(PermanentError):
            await at.reseal.stages.store.get(f"staging/{bundle.metadata.uid}.json")
        await at.cache.view(BundleMark).until(at.parts.idle)
        await enqueue.reconcile(await cluster.get(ResponseMark, "er-1"))
        assert await at.reseal.reconcile(bundle_mark(bundle)) is None
        assert log_size(tmp_path) == 1


async def test_a_bundle_for_a_response_that_goes_on_waits(tmp_path: Path) -> None:
    """Whoever makes a bundle too soon gets no statement about half an action."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    response = await _response(cluster, ResponsePhase.RUNNING)
    spec = AttestationBundleSpec(attested_for=response.ref)
    await cluster.create(AttestationBundle(metadata=Metadata(name="early"), spec=spec))
    async with desk(tmp_path, cluster, clock) as at:
        assert isinstance(await at.reseal.reconcile(await at.seen_bundle("early")), After)
        assert "not over" in (await at.bundle("early")).status.failures[-1].detail
        await _ends(cluster, ResponsePhase.SUCCEEDED)
        await clock.advance(1.0)
        assert await at.reseal.reconcile(await at.seen_bundle("early")) is None
        assert (await at.bundle("early")).status.phase is BundlePhase.SEALED


async def test_other_kinds_are_not_attested(tmp_path: Path) -> None:
    """A bundle for anything else is Failed with its field, and nothing is signed."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    spec = AttestationBundleSpec(attested_for=ObjectReference(api_version="v1", kind="Pod", name="web", uid="u"))
    await cluster.create(AttestationBundle(metadata=Metadata(name="pod"), spec=spec))
    async with desk(tmp_path, cluster, clock) as at:
        await at.reseal.reconcile(await at.seen_bundle("pod"))
        status = (await at.bundle("pod")).status
        assert status.phase is BundlePhase.FAILED
        assert "spec.attestedFor.kind: cannot attest a 'Pod'" in status.failures[-1].detail
        assert log_size(tmp_path) == 0


async def test_two_legs_have_two_bundles_and_two_entries(tmp_path: Path) -> None:
    """A4: each signature has a bundle and a log entry of its own over the same statement, and both are verified."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        ports = at.reseal.stages.ports
        second = LocalSigner(open_key(tmp_path / "second.key"))
        legs = (Leg("fulcio", ports.legs[0].signer), Leg("openbao", second))
        at.reseal.stages.ports = replace(ports, legs=legs, require_all=True)
        assert await at.seal() is None
        status = (await at.bundle()).status
        assert [archive.role for archive in status.bundles] == ["fulcio", "openbao"]
        assert [archive.url.rsplit(".", 3)[1] for archive in status.bundles] == ["fulcio", "openbao"]
        assert log_size(tmp_path) == 2
        assert status.signature is not None
        assert status.signature.key_id == f"dual:{status.bundles[0].key_id}+{status.bundles[1].key_id}"
        (line,) = (tmp_path / "evidence/store/objects").rglob("*.intoto.jsonl")
        assert len(line.read_text().splitlines()) == 2
        for archive in status.bundles:
            content = await ports.store.get(ports.store.key(archive.url))
            assert at.reseal.stages.ports.check(content, subject=spec_bytes(await at.event())).ok


async def test_two_who_look_at_one_bundle_seal_it_once(tmp_path: Path) -> None:
    """Parts that come and Parts that go may look at once: the second waits, and there is one statement."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    await cluster.create(make_event())
    async with desk(tmp_path, cluster, clock) as at:
        await at.enqueue.reconcile(await at.seen_event())
        mark, outcomes = await at.seen_bundle(), []

        async def look() -> None:
            outcomes.append(await at.reseal.reconcile(mark))

        async with anyio.create_task_group() as tg:
            tg.start_soon(look)
            tg.start_soon(look)
        assert outcomes == [After(1.0), None]
        assert (await at.bundle()).status.phase is BundlePhase.SEALED
        assert log_size(tmp_path) == 1
