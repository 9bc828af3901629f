"""Each way in which a collector of evidence goes wrong, by its number in the list of them."""

import datetime as dt
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from ugallu.api.backup import BackupVerifyResult, BackupVerifyRun
from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.catalog import Severity
from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Metadata, decode_strict
from ugallu.api.platform import TTLConfigSpec
from ugallu.api.response import EventResponse, EventResponseSpec
from ugallu.api.run import RunPhase
from ugallu.cluster.port import ForbiddenError, InvalidError
from ugallu.errors import TransientError
from ugallu.evidence.ports import IntegrityError
from ugallu.operator.rights import rights
from ugallu.runtime.ttl.operator import TTL
from ugallu.runtime.ttl.windows import windows
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import FaultyCluster, memory_cluster
from ugallu.testing.lifecycle import Lifecycle, MemoryStore, lifecycle

HOUR = 3600.0
DAY = 24 * HOUR
NOTE = "ugallu.io/ttl-reason"


def config(**spec: Any) -> TTLConfigSpec:
    return decode_strict(TTLConfigSpec, spec)


async def response(at: Lifecycle, event: SecurityEvent, name: str = "er-1", phase: str = "Succeeded") -> EventResponse:
    spec = msgspec.convert(
        {
            "securityEventRef": {"name": event.metadata.name, "uid": event.metadata.uid},
            "responder": {"kind": "Operator", "name": "ugallu-forensics"},
            "action": {"type": "PodFreeze"},
        },
        EventResponseSpec,
    )
    made = await at.cluster.create(EventResponse(metadata=Metadata(name=name), spec=spec))
    if phase:
        made = await at.cluster.patch_status(EventResponse, name, {"phase": phase})
    return made


async def test_t1_without_a_store_nothing_is_ever_deleted(tmp_path: Path) -> None:
    """No durable store is no reason to archive somewhere else: everything stays, says why, and readiness says so."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock, vaulted=False) as at:
        event = await at.event("se-1")
        await at.seal(event)
        await clock.advance(40 * DAY)
        await at.look(event)
        assert (await at.notes(event))[NOTE] == "StoreMissing: no evidence store is configured"
        assert "nothing is deleted" in at.parts.ready()
        assert at.metrics.value("ugallu_ttl_overdue", kind="SecurityEvent") == 1


async def test_t3_a_bundle_outlives_its_event_by_its_grace(tmp_path: Path) -> None:
    """Counted from when the event went, not from when it was sealed: an event that is kept for long keeps its proof."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.annotate(event, ttl="720h")
        bundle = await at.seal(event)
        await clock.advance(29 * DAY)
        assert not await at.through(bundle)
        assert NOTE not in await at.notes(bundle)
        await clock.advance(DAY)
        assert await at.through(event)
        # It was told before its event went, and nothing tells it that it has: it looks again soon.
        soon = await at.look(bundle)
        assert soon is not None
        await clock.advance(6.9 * DAY)
        assert not await at.through(bundle)
        await clock.advance(0.2 * DAY)
        assert await at.through(bundle)


async def test_t3_evidence_is_found_without_its_bundle(tmp_path: Path) -> None:
    """An event whose bundle somebody deleted remembers its uid; the store has the proof, or the event stays."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event, other = await at.event("se-1"), await at.event("se-2")
        bundles = [await at.seal(each) for each in (event, other)]
        for bundle in bundles:
            await cluster.delete(AttestationBundle, bundle.metadata.name)
        for key in [key for key in at.store.blobs if bundles[1].metadata.uid in key]:
            del at.store.blobs[key]
        await clock.advance(6 * HOUR)
        assert await at.through(event)
        assert not await at.through(other)
        assert (await at.notes(other))[NOTE].startswith("BundleNotSealed")


@pytest.mark.parametrize("held", ["event", "response", "bundle"])
async def test_t4_a_legal_hold_covers_the_whole_family(tmp_path: Path, held: str) -> None:
    """Whoever of event, response and bundles bears it: all stay and say whose hold it is, and so do the blobs."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        answer = await response(at, event)
        bundle, proof = await at.seal(event), await at.seal(answer)
        holder = {"event": event, "response": answer, "bundle": bundle}[held]
        await at.annotate(holder, ttl_frozen="true")
        await clock.advance(20 * DAY)
        for member in (event, answer, bundle, proof):
            assert not await at.through(member)
        name = f"{holder.kind_info.name}/{holder.metadata.name}"
        for member in (event, answer):
            assert (await at.notes(member))[NOTE] == f"Held: legal hold on {name}"
        evidence = [key for key in at.store.blobs if "snapshots" not in key and "staging" not in key]
        assert len(evidence) == 6
        assert all(at.store.blobs[key][1].held for key in evidence)
        # Lifted, everything goes its way, and the store lets go as well.
        await at.annotate(holder, ttl_frozen=None)
        assert await at.through(event)
        assert await at.through(answer)
        assert not any(at.store.blobs[key][1].held for key in evidence)


async def test_t4_a_hold_that_comes_late_still_covers_the_copy(tmp_path: Path) -> None:
    """The copy of an event that is gone is held by the hold on its bundle; one that comes in the last minute is seen."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event, other = await at.event("se-1"), await at.event("se-2")
        bundle = await at.seal(event)
        await at.seal(other)
        await clock.advance(6 * HOUR)
        assert await at.through(event)
        await at.annotate(bundle, ttl_frozen="true")
        await at.look(bundle)
        (copy,) = [key for key in at.store.blobs if event.metadata.uid in key]
        assert at.store.blobs[copy][1].held
        await at.look(other)
        assert "ugallu.io/ttl-archived-at" in await at.notes(other)
        await at.annotate(other, ttl_frozen="true")
        assert not await at.through(other)
        assert (await at.notes(other))[NOTE] == "Held: legal hold on SecurityEvent/se-2"


async def test_t4_a_run_and_its_result_are_held_together(tmp_path: Path) -> None:
    """And go together, by the run's time."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    place = Metadata(name="r-1", namespace="ugallu-system")
    run = msgspec.convert({"backend": "velero", "mode": "checksum-only", "backupRef": {"name": "b"}}, dict)
    async with lifecycle(tmp_path, cluster, clock) as at:
        fields = {field.name: field.type for field in msgspec.structs.fields(BackupVerifyRun)}
        spec = msgspec.convert(run, fields["spec"])
        made = await cluster.create(BackupVerifyRun(metadata=place, spec=spec))
        derived = {"derivedFromRun": {"name": "r-1"}, "backend": "velero", "mode": "checksum-only"}
        fields = {field.name: field.type for field in msgspec.structs.fields(BackupVerifyResult)}
        result = await cluster.create(BackupVerifyResult(metadata=place, spec=msgspec.convert(derived, fields["spec"])))
        await clock.advance(31 * DAY)
        assert not await at.through(made)
        assert (await at.notes(made))[NOTE].startswith("Unfinished")
        done = {"phase": RunPhase.SUCCEEDED, "completionTime": clock.now().isoformat()}
        await cluster.patch_status(BackupVerifyRun, "r-1", done, "ugallu-system")
        await at.annotate(result, ttl_frozen="true")
        await clock.advance(31 * DAY)
        assert not await at.through(made)
        assert (await at.notes(made))[NOTE] == "Held: legal hold on BackupVerifyResult/r-1"
        await at.annotate(result, ttl_frozen=None)
        assert await at.through(made)
        assert await at.through(result)


async def test_t5_a_bundle_of_another_uid_proves_nothing(tmp_path: Path) -> None:
    """An event under a name that an earlier one had is not proven by the earlier one's bundle."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        first = await at.event("se-1")
        await at.seal(first)
        await cluster.delete(SecurityEvent, "se-1")
        second = await at.event("se-1")
        await clock.advance(7 * HOUR)
        assert not await at.through(second)
        assert (await at.notes(second))[NOTE].startswith("BundleNotSealed")
        # Nor is one whose evidence is about somebody else, whatever its spec says.
        third = await at.event("se-3")
        bundle = await at.seal(third)
        wrong = await at.seal(await at.event("se-4"))
        forged = msgspec.to_builtins(wrong.status) | {"phase": "Sealed"}
        await cluster.patch_status(AttestationBundle, bundle.metadata.name, forged)
        await clock.advance(7 * HOUR)
        assert not await at.through(third)
        assert (await at.notes(third))[NOTE].startswith("EvidenceInvalid")
        (told,) = at.heard.of("WORMIntegrityViolation")
        assert told.signals["kind"] == "SecurityEvent"


async def test_t6_a_response_remembers_its_event(tmp_path: Path) -> None:
    """Severity and cluster are written on it at first sight, so its window is the same when the event is gone."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1", Severity.HIGH)
        await at.seal(event)
        await clock.advance(71 * HOUR)
        answer = await response(at, event)
        await at.seal(answer)
        await at.look(answer)
        assert (await at.notes(answer))["ugallu.io/ttl-parent-severity"] == "high"
        await clock.advance(2 * HOUR)
        assert await at.through(event)
        await clock.advance(60 * HOUR)
        assert not await at.through(answer)
        await clock.advance(12 * HOUR)
        assert await at.through(answer)
        assert [key for key in at.store.blobs if key.startswith("cr-snapshots/test/") and answer.metadata.uid in key]


async def test_t6_a_response_that_nobody_knows_the_event_of_is_kept_longest(tmp_path: Path) -> None:
    """Not shortest."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await cluster.delete(SecurityEvent, "se-1")
        answer = await response(at, event)
        await at.seal(answer)
        await clock.advance(167 * HOUR)
        assert not await at.through(answer)
        await clock.advance(1 * HOUR)
        assert await at.through(answer)


async def test_t7_the_config_is_obeyed(tmp_path: Path) -> None:
    """Windows, strategy, snapshots and postponement are what TTLConfig says; after the last try somebody is told."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    wanted = config(
        defaults={
            "securityEvent": {"info": "2h"},
            "eventResponse": {"strategy": "constant", "constant": "1h"},
            "attestationBundle": {},
        },
        postpone={"initialDelay": "10m", "maxDelay": "15m", "maxAttempts": 3},
        archiveSnapshotEnabled=False,
    )
    async with lifecycle(tmp_path, cluster, clock, config=wanted) as at:
        event, loose = await at.event("se-1"), await at.event("se-2")
        await at.seal(event)
        answer = await response(at, event)
        await at.seal(answer)
        await clock.advance(HOUR)
        assert await at.through(answer)
        assert not await at.through(event)
        await clock.advance(HOUR)
        assert await at.through(event)
        assert not [key for key in at.store.blobs if key.startswith("cr-snapshots")]
        waits = []
        for _ in range(3):
            await at.look(loose)
            notes = await at.notes(loose)
            until = dt.datetime.fromisoformat(notes["ugallu.io/ttl-postpone-until"])
            waits.append(round((until - clock.now()).total_seconds()))
            await clock.advance(900)
        assert waits == [600, 900, 900]
        found = await cluster.get(SecurityEvent, "se-2")
        (condition,) = found.status.conditions
        assert (condition.type, condition.status, condition.reason) == ("Collected", "False", "BundleNotSealed")
        (told,) = at.heard.of("RetentionOverdue")
        assert told.signals == {
            "kind": "SecurityEvent", "reason": "BundleNotSealed", "example": "no sealed bundle attests it",
        }  # fmt: skip


async def test_t7_with_snapshots_off_nothing_goes_of_which_nothing_would_be_left(tmp_path: Path) -> None:
    """A forced event without evidence stays while no copy is to be made of it."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock, config=config(archiveSnapshotEnabled=False)) as at:
        event = await at.event("se-1")
        await at.annotate(event, ttl_force="true")
        await clock.advance(7 * HOUR)
        assert not await at.through(event)
        assert (await at.notes(event))[NOTE].startswith("NotCopied")


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"worker": {"poolSize": 0}}, "poolSize"),
        ({"worker": {"poolSize": 1000}}, "poolSize"),
        ({"postpone": {"maxAttempts": 0}}, "maxAttempts"),
        ({"postpone": {"initialDelay": "48h"}}, "initialDelay"),
        ({"defaults": {"eventResponse": {"strategy": "constant"}}}, "constant"),
    ],
)
def test_t7_what_cannot_be_meant_is_refused(spec: dict[str, Any], where: str) -> None:
    """With the field, so that the object's Ready condition names it; what ran keeps running."""
    with pytest.raises(Exception, match=where):
        windows(config(**spec))


def test_t7_an_empty_window_is_the_default_and_not_nothing() -> None:
    """Whoever leaves a duration empty does not ask for everything to be deleted."""
    empty = config(defaults={"securityEvent": {"critical": ""}, "attestationBundle": {"grace": ""}})
    assert windows(empty).events[Severity.CRITICAL] == 168 * HOUR
    assert windows(empty).grace == 168 * HOUR


async def test_t8_pool_and_rate_are_those_of_the_config(tmp_path: Path) -> None:
    """They are read with every config, and hold back what is archived, not what is looked at."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    wanted = config(worker={"poolSize": 3, "queueRateLimit": "1"})
    async with lifecycle(tmp_path, cluster, clock, config=wanted) as at:
        assert at.collector(SecurityEvent).at_once == 3
        events = [await at.event(f"se-{number}") for number in range(3)]
        for event in events:
            await at.seal(event)
        await clock.advance(6 * HOUR)
        async with anyio.create_task_group() as tasks:
            for event in events:
                tasks.start_soon(at.look, event)
            await settled()

            def archived() -> float:
                return at.metrics.value("ugallu_ttl_archived_total", kind="SecurityEvent", severity="info")

            assert archived() == 1
            await clock.advance(1)
            await clock.advance(1)
            assert archived() == 3


async def test_t10_copies_are_listed_in_a_chain_that_is_attested_daily(tmp_path: Path) -> None:
    """No object goes before a manifest names its copy; each names the one before; a day's last is made an event."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        first, second = await at.event("se-1"), await at.event("se-2")
        for event in (first, second):
            await at.seal(event)
        await clock.advance(6 * HOUR)
        await at.look(first)
        await clock.advance(61)
        await at.look(first)
        assert await at.there(first)
        assert await at.through(first)
        assert await at.through(second)
        manifests = sorted(key for key in at.store.blobs if "/manifests/" in key)
        assert len(manifests) == 2
        one, two = (msgspec.json.decode(at.store.blobs[key][0]) for key in manifests)
        assert one["number"] == 1
        assert "previous" in one
        assert one["previous"] is None
        assert two["previous"] == {"key": manifests[0], "sha256": at.store.blobs[manifests[0]][1].sha256}
        assert [entry["name"] for entry in one["entries"]] == ["se-1"]
        entry = two["entries"][0]
        assert at.store.blobs[entry["key"]][1].sha256 == entry["sha256"]
        assert at.heard.of("ArchiveManifest") == []
        await clock.advance(DAY)
        await at.chain()
        (told,) = at.heard.of("ArchiveManifest")
        assert told.evidence[0].url == f"memory://{manifests[1]}"
        assert told.detected_at == dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
        await at.chain()
        assert len(at.heard.of("ArchiveManifest")) == 1


async def test_t11_failures_name_their_stage_and_looks_are_no_postponements(tmp_path: Path) -> None:
    """A store that is away is `snapshot`, a cluster that refuses to delete is `delete`, and waiting counts nothing."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    refusing = [False]

    def plan(call: Any) -> Any:
        from ugallu.testing.cluster import Fault

        return Fault(ForbiddenError("no")) if refusing[0] and call.verb == "delete" else None

    async with lifecycle(tmp_path, cluster, clock, wrap=lambda inner: FaultyCluster(inner, plan)) as at:
        event = await at.event("se-1")
        await at.seal(event)
        for _ in range(5):
            await at.look(event)
            await clock.advance(HOUR)
        assert at.metrics.value("ugallu_ttl_postponed_total", kind="SecurityEvent", reason="BundleNotSealed") == 0
        await clock.advance(HOUR)
        put = at.store.put
        at.store.put = broken  # type: ignore[method-assign]
        await at.look(event)
        assert at.metrics.value("ugallu_ttl_failures_total", kind="SecurityEvent", stage="snapshot") == 1
        assert (await at.notes(event))[NOTE] == "ArchiveFailed: away"
        at.store.put = put  # type: ignore[method-assign]
        await clock.advance(HOUR)
        await at.look(event)
        await at.chain()
        refusing[0] = True
        await clock.advance(61)
        with pytest.raises(ForbiddenError):
            await at.look(event)
        assert at.metrics.value("ugallu_ttl_failures_total", kind="SecurityEvent", stage="delete") == 1
        assert at.metrics.value("ugallu_ttl_overdue", kind="SecurityEvent") == 1


async def broken(*_: Any, **__: Any) -> Any:
    raise TransientError("away")


async def test_t12_what_changed_since_it_was_copied_is_copied_anew(tmp_path: Path) -> None:
    """A deletion names uid and version; an acknowledgement that comes in between is in the copy that stays."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.seal(event)
        await clock.advance(6 * HOUR)
        await at.look(event)
        await at.chain()
        acknowledged = {
            "acknowledged": True,
            "acknowledgedBy": "ugallu:embedded",
            "acknowledgedAt": clock.now().isoformat(),
        }
        await cluster.patch_status(SecurityEvent, "se-1", acknowledged)
        assert await at.through(event)
        copies = [at.store.blobs[key][0] for key in sorted(at.store.blobs) if event.metadata.uid in key]
        assert len(copies) == 2
        assert sum(b'"acknowledged":true' in copy for copy in copies) == 1


async def test_t12_an_object_of_the_same_name_is_not_deleted_for_another(tmp_path: Path) -> None:
    """Nor one whose annotations say that it was archived: what counts is what the store holds."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.seal(event)
        await at.annotate(event, ttl_archived_at="2026-01-01T00:00:00Z", ttl_snapshot="cr-snapshots/test/x.yaml")
        await clock.advance(6 * HOUR)
        await at.look(event)
        assert await at.there(event)
        assert "ugallu.io/ttl-archived-at" not in await at.notes(event)
        assert await at.through(event)
        assert [key for key in at.store.blobs if event.metadata.uid in key]


@pytest.mark.parametrize("fault", ["torn", "forgetful"])
async def test_what_the_store_does_not_give_back_is_not_deleted(tmp_path: Path, fault: str) -> None:
    """Bytes that rot between archiving and deletion, and a store that says yes and keeps nothing: the object stays."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.seal(event)
        await clock.advance(6 * HOUR)
        if fault == "torn":
            await at.look(event)
            await at.chain()
            at.store.torn = {key for key in at.store.blobs if event.metadata.uid in key}
        else:
            at.store.forgetful = True
        for _ in range(4):
            await at.look(event)
            await clock.advance(61)
        assert await at.there(event)
        assert (await at.notes(event))[NOTE].startswith("ArchiveFailed")
        at.store.torn, at.store.forgetful = set(), False
        await clock.advance(2 * HOUR)
        assert await at.through(event)


async def test_t18_force_and_hold_are_for_those_who_may(tmp_path: Path) -> None:
    """Under the policies only those listed force an end, lift a hold or shorten a window; ttl itself may not."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    people = cluster.acting("jane")
    ttl = cluster.acting("system:serviceaccount:ugallu-system:ugallu-ttl")
    async with lifecycle(tmp_path, cluster, clock) as at:
        await at.event("se-1")
        for note in ({"ugallu.io/ttl-force": "true"}, {"ugallu.io/ttl": "1s"}):
            with pytest.raises(ForbiddenError):
                await people.patch(SecurityEvent, "se-1", {"metadata": {"annotations": note}})
        frozen = {"metadata": {"annotations": {"ugallu.io/ttl-frozen": "true"}}}
        await people.patch(SecurityEvent, "se-1", frozen)
        thawed = {"metadata": {"annotations": {"ugallu.io/ttl-frozen": None}}}
        with pytest.raises(ForbiddenError):
            await people.patch(SecurityEvent, "se-1", thawed)
        with pytest.raises((ForbiddenError, InvalidError)):
            await ttl.patch(SecurityEvent, "se-1", {"metadata": {"labels": {"x": "y"}}})


async def test_t18_force_is_for_bundles_too_and_still_leaves_a_copy(tmp_path: Path) -> None:
    """It waives the sealed evidence, never the copy that is read back."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        bundle = await at.seal(event, phase=BundlePhase.FAILED)
        for each in (event, bundle):
            await at.annotate(each, ttl_force="true")
        await clock.advance(7 * HOUR)
        assert await at.through(event)
        await clock.advance(8 * DAY)
        assert await at.through(bundle)
        assert len([key for key in at.store.blobs if key.endswith(".yaml")]) == 2
        assert at.vault.confirmed == []


async def test_a_dry_run_says_what_would_go(tmp_path: Path) -> None:
    """And touches neither objects nor the store."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock, config=config(dryRun=True)) as at:
        event = await at.event("se-1")
        await at.seal(event)
        held = len(at.store.blobs)
        await clock.advance(7 * HOUR)
        assert not await at.through(event)
        assert (await at.notes(event))[NOTE] == "DryRun: would be archived and deleted"
        assert len(at.store.blobs) == held


async def test_evidence_is_kept_as_long_as_what_it_proves_might_be_asked_for(tmp_path: Path) -> None:
    """An event that outlived its evidence's retention has it extended before it goes."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.annotate(event, ttl="8784h")
        await at.seal(event)
        await clock.advance(366 * DAY)
        assert await at.through(event)
        (proof,) = [stored for key, (_, stored) in at.store.blobs.items() if key.endswith("sigstore.json")]
        assert proof.until is not None
        assert proof.until > clock.now() + dt.timedelta(days=6)


def test_t2_t15_rights_are_its_own_lease_by_name_and_no_secret() -> None:
    """Kinds that it collects, one foreign Lease by name, its config by name: nothing cluster-wide besides."""
    leases = [grant for grant in rights(TTL) if "leases" in grant.resources]
    assert {name for grant in leases for name in grant.names} == {"ugallu-ttl-leader", "ugallu-attestor-leader"}
    assert all(grant.namespace == "ugallu-system" for grant in leases)
    assert not [grant for grant in rights(TTL) if "secrets" in grant.resources and not grant.names]
    touched = {resource for grant in rights(TTL) for resource in grant.resources if "delete" in grant.verbs}
    assert "seccomptrainingprofiles" not in touched
    assert {"securityevents", "eventresponses", "attestationbundles", "backupverifyresults"} <= touched


async def test_integrity_is_an_event_of_its_own(tmp_path: Path) -> None:
    """A store that gives back other bytes is reported once a day, however many objects it is about."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock, store=(store := MemoryStore(clock))) as at:
        events = [await at.event(f"se-{number}") for number in range(4)]
        for event in events:
            await at.seal(event)
        store.broken = IntegrityError("rotten")
        await clock.advance(7 * HOUR)
        for event in events:
            await at.look(event)
        assert len(at.heard.of("WORMIntegrityViolation")) == 1
        for event in events:
            assert (await at.notes(event))[NOTE] == "EvidenceInvalid: rotten"
