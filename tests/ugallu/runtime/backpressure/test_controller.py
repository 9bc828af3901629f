"""The controller over an embedded cluster, and a server whose metrics the test writes."""

import datetime as dt
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import structlog

from ugallu.api.bundle import AttestationBundle, AttestationBundleSpec
from ugallu.api.event import ClusterIdentity
from ugallu.api.marks import BundleMark
from ugallu.api.meta import Config, Metadata, ObjectReference
from ugallu.cluster.cache import SharedCache
from ugallu.emit.pressure import NAME, PressureMap
from ugallu.errors import TransientError
from ugallu.metrics import Metrics
from ugallu.operator.platform import Platform
from ugallu.operator.rights import rights
from ugallu.runtime.backpressure.controller import Controller
from ugallu.runtime.backpressure.operator import Backpressure
from ugallu.settings import load
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import FaultyCluster, memory_cluster, running_cache, scripted, unavailable
from ugallu.testing.harness import running
from ugallu.testing.lifecycle import Heard

GIB = 1 << 30


class Api:
    """A `Server` whose metrics the test sets."""

    def __init__(self) -> None:
        self.used: float | None = 1.0
        self.events = 0
        self.rejected = 0
        self.started = 100

    async def server_time(self) -> dt.datetime | None:
        return None

    async def fetch(self, path: str) -> bytes:
        assert path == "/metrics"
        if self.used is None:
            raise TransientError("timed out")
        return (
            f'apiserver_storage_size_bytes{{storage_cluster_id="etcd-0"}} {self.used * GIB}\n'
            f'apiserver_storage_objects{{resource="securityevents.security.ugallu.io"}} {self.events}\n'
            f"apiserver_flowcontrol_rejected_requests_total {self.rejected}\n"
            f"process_start_time_seconds {self.started}\n"
        ).encode()


class Desk:
    """A controller that the test turns by hand."""

    def __init__(self, cluster: Any, cache: SharedCache, clock: ManualClock, api: Api, folder: Path) -> None:
        self.cluster, self.clock, self.api = cluster, clock, api
        self.metrics, self.heard = Metrics(), Heard()
        platform = Platform(
            identity=ClusterIdentity(cluster_name="test", cluster_id="test"),
            cluster=cluster,
            cache=cache,
            emitter=self.heard,
            clock=clock,
            log=structlog.get_logger(),
            metrics=self.metrics,
            settings=load({"state": str(folder)}, {}),
            namespace="ugallu-system",
            state=folder,
            server=api,
        )
        self.parts = Backpressure().build(Config(), platform)

    @property
    def controller(self) -> Controller:
        (service,) = self.parts.services
        assert isinstance(service, Controller)
        return service

    async def turn(self, used: float | None = None, times: int = 1) -> dict[str, str]:
        if used is not None:
            self.api.used = used
        for _ in range(times):
            await self.controller.turn()
            await self.clock.advance(30)
        found = await self.cluster.get(PressureMap, NAME, "ugallu-system")
        return dict(found.data)


async def test_a_full_store_is_said_and_reported(tmp_path: Path) -> None:
    """B6: a level is said in the ConfigMap, in the metrics and, when it rises, as an event; critical once it is red."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with running_cache(cluster) as cache:
        at = Desk(cluster, cache, clock, Api(), tmp_path)
        assert (await at.turn(1.0))["level"] == "Green"
        assert (await at.turn(6.0, times=4))["level"] == "Yellow"
        data = await at.turn(7.9, times=4)
        assert (data["level"], data["effectiveRateMultiplier"], data["minSeverityAccepted"]) == ("Red", "0.0", "high")
        assert data["usedBytes"] == str(int(7.9 * GIB))
        assert float(data["ratio"]) > 0.9
        found = await cluster.get(PressureMap, NAME, "ugallu-system")
        assert found.metadata.labels == {
            "app.kubernetes.io/name": "ugallu", "app.kubernetes.io/component": "backpressure",
        }  # fmt: skip
        events = at.heard.of("EtcdBackpressureHigh")
        assert [(e.signals["level"], e.severity and e.severity.value) for e in events] == [
            ("yellow", "high"), ("red", "critical"),
        ]  # fmt: skip
        assert at.metrics.value("ugallu_backpressure_level") == 2
        assert at.metrics.value("ugallu_backpressure_transitions_total", **{"from": "yellow", "to": "red"}) == 1
        assert at.metrics.value("ugallu_backpressure_ratio", signal="etcd") > 0.9


async def test_a_restart_does_not_call_all_clear(tmp_path: Path) -> None:
    """B6: the level begins where the last controller left it, and what others wrote beside it stays."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with running_cache(cluster) as cache:
        await Desk(cluster, cache, clock, Api(), tmp_path).turn(7.9, times=3)
        await cluster.patch(PressureMap, NAME, {"data": {"somebodys": "own"}}, "ugallu-system")
        again = Desk(cluster, cache, clock, Api(), tmp_path)
        data = await again.turn(7.0)
        assert data["level"] == "Red"
        assert data["somebodys"] == "own"
        assert again.heard.findings == []


async def test_what_cannot_be_measured_is_said_to_be_stale(tmp_path: Path) -> None:
    """B7: after three failed samples the level is called stale, readiness says why, and the word is still renewed."""
    clock, api = ManualClock(), Api()
    cluster = memory_cluster(clock)
    async with running_cache(cluster) as cache:
        at = Desk(cluster, cache, clock, api, tmp_path)
        assert (await at.turn(7.9))["stale"] == "false"
        api.used = None
        before = await at.turn(times=2)
        assert (before["level"], before["stale"]) == ("Red", "false")
        data = await at.turn()
        assert (data["level"], data["stale"]) == ("Red", "true")
        assert data["updatedAt"] != before["updatedAt"]
        assert "cannot measure" in at.parts.ready()
        assert at.metrics.value("ugallu_backpressure_sample_errors_total", signal="etcd") == 3
        assert (await at.turn(1.0))["stale"] == "false"
        assert at.parts.ready() == ""


async def test_more_than_the_size_counts(tmp_path: Path) -> None:
    """B5: security events, refused requests and bundles that wait are signals too, and the highest one decides."""
    clock, api = ManualClock(), Api()
    cluster = memory_cluster(clock)
    async with running_cache(cluster) as cache:
        at = Desk(cluster, cache, clock, api, tmp_path)
        api.events = 95_000
        assert (await at.turn(1.0))["level"] == "Red"
        api.events = 10
        assert (await at.turn(times=8))["level"] == "Green"
        for _ in range(6):
            api.rejected += 400
            await at.turn()
        api.rejected += 400
        assert (await at.turn())["level"] == "Red"
        # Another API server behind the same address has counted otherwise: that is no burst.
        api.started, api.rejected = 200, 10_000_000
        assert (await at.turn(times=10))["level"] == "Green"


async def test_an_attestor_that_is_away_slows_and_sheds_nothing(tmp_path: Path) -> None:
    """B5, T17: a bundle that waits for hours makes the level yellow, and never red by itself."""
    clock, api = ManualClock(), Api()
    cluster = memory_cluster(clock)
    await cluster.create(
        AttestationBundle(
            metadata=Metadata(name="att-se-1"),
            spec=AttestationBundleSpec(attested_for=ObjectReference(kind="SecurityEvent", name="se-1", uid="u")),
        )
    )
    async with running_cache(cluster) as cache:
        at = Desk(cluster, cache, clock, api, tmp_path)
        await cache.view(BundleMark).synced()
        await clock.advance(100 * 3600)
        assert (await at.turn(times=6))["level"] == "Yellow"


async def test_a_cluster_that_refuses_is_asked_again(tmp_path: Path) -> None:
    """B8: the ConfigMap is applied field by field as one manager, so nobody's write is in the way of it."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    async with running_cache(cluster) as cache:
        broken = FaultyCluster(cluster, scripted(unavailable(), unavailable(after=True)))
        at = Desk(broken, cache, clock, Api(), tmp_path)
        await at.controller.turn()
        assert "cannot say the level" in at.parts.ready()
        await at.controller.turn()
        assert (await at.turn())["level"] == "Green"
        assert at.parts.ready() == ""


def test_only_its_own_configmap_is_granted() -> None:
    """B8: read and written by name; the server's metrics are the only page."""
    grants = [grant for grant in rights(Backpressure) if "configmaps" in grant.resources]
    assert {(grant.names, grant.namespace) for grant in grants} == {((NAME,), "ugallu-system")}
    assert {verb for grant in grants for verb in grant.verbs} == {"get", "list", "watch", "patch"}
    assert [grant.urls for grant in rights(Backpressure) if grant.urls] == [("/metrics",)]


async def test_in_one_process_it_measures_its_own_files() -> None:
    """Without a server behind the cluster the same ConfigMap is written, and the process obeys it."""
    async with running(Backpressure) as run:
        with anyio.fail_after(5):
            while not run.metrics.value("ugallu_emitter_backpressure_level", level="green"):
                await anyio.lowlevel.checkpoint()
        found = await run.cluster.get(PressureMap, NAME, "ugallu-system")
        assert found.data["level"] == "Green"
