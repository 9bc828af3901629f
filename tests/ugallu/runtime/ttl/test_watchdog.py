"""Whether anybody hears when nothing is sealed any more."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ugallu.api.bundle import AttestationBundle, AttestationBundleSpec, BundlePhase
from ugallu.api.core import Lease, LeaseSpec, micro_time
from ugallu.api.event import SecurityEvent, SecurityEventSpec
from ugallu.api.meta import Metadata
from ugallu.api.observation import Finding
from ugallu.api.platform import TTLConfig
from ugallu.api.subject import ExternalKind, external
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.port import Cluster
from ugallu.cluster.through import Through
from ugallu.metrics import Metrics
from ugallu.runtime.ttl.expiry import Now
from ugallu.runtime.ttl.family import Families
from ugallu.runtime.ttl.health import Outage, Sign, reminder
from ugallu.runtime.ttl.watchdog import LEASE, UNAVAILABLE, Watchdog
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.cluster import memory_cluster, running_cache
from ugallu.testing.evidence import make_event
from ugallu.testing.lifecycle import lifecycle

SPACE = "ugallu-system"


class Desk:
    """A watchdog that the test has look; what it tells becomes events, as an outbox would make them."""

    def __init__(self, cluster: Cluster, cache: SharedCache, clock: ManualClock, *, leases: bool = True) -> None:
        self.cluster, self.clock, self.metrics = cluster, clock, Metrics()
        self.told: list[Finding] = []
        self.dog = Watchdog(
            Families(cache),
            cache.view(Lease, namespace=SPACE, fields=f"metadata.name={LEASE}") if leases else None,
            now=lambda: Now(clock.now(), clock.now(), clock.now()),
            clock=clock,
            metrics=self.metrics,
            submit=self.submit,
        )

    async def submit(self, finding: Finding) -> None:
        self.told.append(finding)
        made = make_event(f"se-{len(self.told)}-{self.clock.monotonic():.0f}")
        assert finding.detected_at is not None
        spec = SecurityEventSpec(
            class_=finding.type.event_class,
            type=finding.type.name,
            severity=finding.type.severity,
            cluster_identity=made.spec.cluster_identity,
            source=made.spec.source,
            subject=made.spec.subject,
            detected_at=finding.detected_at,
            correlation_id=finding.correlation,
        )
        await self.cluster.create(SecurityEvent(metadata=made.metadata, spec=spec))

    async def look(self, minutes: float = 0) -> list[str]:
        await self.clock.advance(60 * minutes)
        await settled()
        before = len(self.told)
        await self.dog.turn()
        await settled()
        return [finding.type.name for finding in self.told[before:]]

    async def renew(self) -> None:
        spec = LeaseSpec(holder_identity="pod-1", renew_time=micro_time(self.clock.now()))
        await self.cluster.apply(Lease(metadata=Metadata(name=LEASE, namespace=SPACE), spec=spec), manager="x")
        await settled()


@asynccontextmanager
async def desk(*, leases: bool = True) -> AsyncIterator[Desk]:
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with running_cache(cluster) as cache:
        at = Desk(cluster, cache, clock, leases=leases)
        await settled()
        yield at


async def test_t13_a_lease_that_never_was_is_an_outage() -> None:
    """An attestor that nobody installed is told of after five minutes, without any event to wait for."""
    async with desk() as at:
        assert await at.look() == []
        assert await at.look(4) == []
        assert await at.look(2) == ["AttestorUnavailable"]
        assert at.told[0].signals["sign"] == "lease"
        assert at.metrics.value("ugallu_ttl_attestor_unavailable") == 1


async def test_an_outage_is_told_hourly_and_its_end_once() -> None:
    """Stale after five minutes, by our own clock; told again each hour; recovered with the first renewal."""
    async with desk() as at:
        await at.renew()
        assert await at.look() == []
        await at.clock.advance(200)
        await at.renew()
        assert await at.look() == []
        assert await at.look(6) == ["AttestorUnavailable"]
        assert await at.look(1) == []
        assert await at.look(60) == ["AttestorUnavailable"]
        await at.renew()
        assert await at.look() == ["AttestorRecovered"]
        assert await at.look(1) == []
        assert at.told[0].correlation == at.told[-1].correlation
        assert at.metrics.value("ugallu_ttl_attestor_unavailable") == 0


async def test_t16_a_restart_tells_nothing_twice_and_forgets_no_outage() -> None:
    """What was told is read from the events that there are: a new process neither repeats nor leaves it open."""
    async with desk() as at:
        await at.renew()
        await at.look()
        assert await at.look(6) == ["AttestorUnavailable"]
        async with running_cache(at.cluster) as cache:
            again = Desk(at.cluster, cache, at.clock)
            await settled()
            await again.look()
            assert await again.look(6) == []
            await again.renew()
            assert await again.look() == ["AttestorRecovered"]
            assert again.told[0].correlation == at.told[0].correlation


async def test_t14_a_lease_that_is_renewed_is_no_alibi() -> None:
    """A process that is there and seals nothing is as unavailable as one that is not."""
    async with desk() as at:
        event = await at.cluster.create(make_event("se-1"))
        await at.cluster.create(
            AttestationBundle(metadata=Metadata(name="att-se-1"), spec=AttestationBundleSpec(attested_for=event.ref))
        )
        for _ in range(15):
            await at.renew()
            assert await at.look(1) == []
        await at.renew()
        assert await at.look(1) == ["AttestorUnavailable"]
        assert at.told[0].signals["sign"] == "backlog"
        await at.cluster.patch_status(AttestationBundle, "att-se-1", {"phase": BundlePhase.SEALED})
        await at.renew()
        assert await at.look() == ["AttestorRecovered"]


async def test_t14_bundles_that_fail_are_an_outage_and_orphans_are_not() -> None:
    """Most of those under way have failed: told. One whose event is gone will never be sealed, and nobody waits."""
    async with desk(leases=False) as at:
        for number in range(5):
            event = await at.cluster.create(make_event(f"se-{number}"))
            name = f"att-se-{number}"
            await at.cluster.create(
                AttestationBundle(metadata=Metadata(name=name), spec=AttestationBundleSpec(attested_for=event.ref))
            )
            await at.cluster.patch_status(AttestationBundle, name, {"phase": BundlePhase.FAILED})
        assert await at.look(1) == ["AttestorUnavailable"]
        assert at.told[0].signals["sign"] == "failures"
        for number in range(5):
            await at.cluster.delete(SecurityEvent, f"se-{number}")
        assert await at.look(60) == ["AttestorRecovered"]


async def test_t15_one_lease_is_watched(tmp_path: Path) -> None:
    """By name, in one namespace: what else is leased in the cluster is nobody's business."""
    clock = ManualClock()
    cluster = memory_cluster(clock)

    class Served(Through):
        embedded = False

    async with lifecycle(tmp_path, cluster, clock, wrap=Served) as at:
        (leases,) = [state for state in at.cache.state() if state.kind == "Lease"]
        assert (leases.namespace, leases.fields) == (SPACE, f"metadata.name={LEASE}")
        # T17: and where nobody configured how long anything is kept, that is said.
        await at.service("config").run()
        assert len(at.heard.of("TTLConfigMissing")) == 1
        await cluster.create(TTLConfig(metadata=Metadata(name="default", namespace=SPACE)))
    async with lifecycle(tmp_path, cluster, clock, wrap=Served) as at:
        await at.service("config").run()
        assert at.heard.findings == []


def test_the_date_of_an_outage_is_its_own() -> None:
    """Two processes that tell of one outage tell it with equal words."""
    since = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    found = Outage(Sign.LEASE, since, "x")
    assert [reminder(found, since + dt.timedelta(minutes=m)) for m in (-5, 5, 59, 61, 185)] == [0, 0, 0, 1, 3]


async def test_what_the_attestor_says_of_itself_is_not_called_over_here() -> None:
    """That a service refuses it is told by the attestor, and nothing that is seen from here says that it was let in again."""
    async with desk() as at:
        await at.renew()
        assert await at.look() == []
        who = external(ExternalKind.ENDPOINT, "ugallu-attestor", source="ugallu-attestor")
        refused = Finding(
            UNAVAILABLE, who, key="x", detected_at=at.clock.now(), correlation="attestor-sign-unauthorized"
        )
        await at.submit(refused)
        await at.clock.advance(60)
        await at.renew()
        assert await at.look() == []
