"""From the end of a window to a deleted object: what must be true before, and what stands on the object meanwhile."""

from pathlib import Path

from ugallu.api.bundle import BundlePhase
from ugallu.api.event import SecurityEvent
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.lifecycle import lifecycle

HOUR = 3600.0


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
