"""From the end of a window to a deleted object: what must be true before, and what stands on the object meanwhile."""

import datetime as dt
from pathlib import Path

import msgspec
import pytest

from ugallu.api.bundle import BundlePhase
from ugallu.api.event import SecurityEvent
from ugallu.errors import RefusedError, TransientError, UgalluError
from ugallu.evidence.ports import Stored
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.lifecycle import MemoryStore, lifecycle

HOUR = 3600.0
DAY = 24 * HOUR


async def test_t9_an_event_is_archived_read_back_and_deleted(tmp_path: Path) -> None:
    """After six hours an info event is copied, said to be Archived, listed, and half a minute later gone; its bundle stays."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        bundle = await at.seal(event)
        await clock.advance(5 * HOUR)
        after = await at.look(event)
        assert after is not None
        assert after.seconds == HOUR
        await clock.advance(HOUR)
        await at.look(event)
        archived = await cluster.get(SecurityEvent, "se-1")
        assert archived.status.phase == "Archived"
        assert archived.status.archived_at == clock.now()
        key = archived.metadata.annotations["ugallu.io/ttl-snapshot"]
        assert key == f"cr-snapshots/test/2026/01/{event.metadata.uid}.yaml"
        assert at.vault.confirmed == [event.metadata.uid]
        assert await at.through(event)
        assert await at.there(bundle)
        assert at.store.blobs[key][1].until is not None
        assert at.metrics.value("ugallu_ttl_deleted_total", kind="SecurityEvent") == 1
        assert at.metrics.value("ugallu_ttl_archived_total", kind="SecurityEvent", severity="info") == 1


async def test_what_is_not_sealed_stays_with_a_reason(tmp_path: Path) -> None:
    """An event without a sealed bundle is put off for an hour, two, four, and says why."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.seal(event, phase=BundlePhase.LOGGED)
        await clock.advance(6 * HOUR)
        await at.look(event)
        notes = await at.notes(event)
        assert notes["ugallu.io/ttl-reason"] == "BundleNotSealed: no sealed bundle attests it"
        assert notes["ugallu.io/ttl-postpone-until"] == "2026-01-01T07:00:00Z"
        assert notes["ugallu.io/ttl-archive-attempts"] == "1"
        await at.look(event)
        assert await at.notes(event) == notes
        await clock.advance(HOUR)
        await at.look(event)
        assert (await at.notes(event))["ugallu.io/ttl-postpone-until"] == "2026-01-01T09:00:00Z"
        assert not at.store.blobs


class Unkept(MemoryStore):
    """A store that answers puts of copies with the date that was asked for, and records none."""

    async def put(self, key: str, content: bytes, *, media_type: str, until: dt.datetime | None) -> Stored:
        stored = await super().put(key, content, media_type=media_type, until=until)
        if key.startswith("cr-snapshots/"):
            self.blobs[key] = content, msgspec.structs.replace(stored, until=None)
        return stored


async def test_a_copy_counts_once_the_store_shows_that_it_keeps_it(tmp_path: Path) -> None:
    """Where the copy has no lock, whatever the put answered, the object stays, and says why."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock, store=Unkept(clock)) as at:
        event = await at.event("se-1")
        await at.seal(event)
        await clock.advance(10 * DAY)
        assert not await at.through(event)
        assert "keeps it for less long than asked" in (await at.notes(event))["ugallu.io/ttl-reason"]


async def test_a_copy_is_kept_as_long_as_the_evidence_beside_it(tmp_path: Path) -> None:
    """What is deleted leaves a copy whose lock outlasts the bundle's grace, however old the copy was."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.seal(event)
        await clock.advance(6 * HOUR)
        await at.look(event)
        key = (await at.notes(event))["ugallu.io/ttl-snapshot"]
        content, stored = at.store.blobs[key]
        at.store.blobs[key] = content, msgspec.structs.replace(stored, until=clock.now())
        assert await at.through(event)
        until = at.store.blobs[key][1].until
        assert until is not None
        assert until > clock.now() + dt.timedelta(days=1)


class Unheld(MemoryStore):
    """A store that takes no legal holds."""

    error: UgalluError = RefusedError("nothing is locked here")

    async def hold(self, key: str, *, on: bool) -> Stored:
        raise self.error


@pytest.mark.parametrize(("error", "looks"), [(RefusedError("no right to"), 1), (TransientError("away"), 2)])
async def test_a_hold_that_the_store_does_not_take_is_said(tmp_path: Path, error: UgalluError, looks: int) -> None:
    """Nothing goes, the object says why it stays, and somebody is told: at once, or when it did not pass by itself."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    store = Unheld(clock)
    store.error = error
    async with lifecycle(tmp_path, cluster, clock, store=store) as at:
        event = await at.event("se-1")
        await at.seal(event)
        await at.annotate(event, ttl_frozen="true")
        await clock.advance(100 * DAY)
        for look in range(looks):
            assert not at.heard.of("RetentionOverdue"), look
            assert await at.look(event) is not None
        assert (await at.notes(event))["ugallu.io/ttl-reason"].startswith("HoldFailed: ")
        assert len(at.heard.of("RetentionOverdue")) == 1
        assert at.metrics.value("ugallu_ttl_overdue", kind="SecurityEvent") == 1
        assert not await at.through(event)


async def test_whether_evidence_is_held_is_asked_of_the_store(tmp_path: Path) -> None:
    """An annotation that says so without a hold makes none, and hides none that is missing."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        bundle = await at.seal(event)
        await at.annotate(bundle, ttl_store_held="true")
        await at.annotate(event, ttl_frozen="true")
        await at.look(event)
        assert all(stored.held for _, stored in at.store.blobs.values())
        for key, (content, stored) in at.store.blobs.items():
            at.store.blobs[key] = content, msgspec.structs.replace(stored, held=False)
        await at.look(bundle)
        assert all(stored.held for _, stored in at.store.blobs.values())
        await at.annotate(event, ttl_frozen=None)
        await at.look(event)
        assert not any(stored.held for _, stored in at.store.blobs.values())


async def test_evidence_is_locked_as_long_as_its_event_is_there(tmp_path: Path) -> None:
    """An event that is kept for longer than its bundle was locked for has its evidence's lock renewed before that ends."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with lifecycle(tmp_path, cluster, clock) as at:
        event = await at.event("se-1")
        await at.annotate(event, ttl="43800h")
        bundle = await at.seal(event)
        for _ in range(150):
            await clock.advance(6 * DAY)
            await at.look(event)
            await at.look(bundle)
            for key, (_, stored) in at.store.blobs.items():
                assert stored.until is not None
                assert stored.until > clock.now(), key
