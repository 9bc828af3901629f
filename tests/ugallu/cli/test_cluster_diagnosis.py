"""What the doctor says of Pods, rights, leases and the audit stream of a cluster, by the server's clock and not by ours."""

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest

from ugallu.api.core import Lease, LeaseSpec
from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.meta import Metadata, Resource
from ugallu.cli.cluster_diagnosis import OurPod, Review, examine, of_lease, of_pods, replicas, stream
from ugallu.cli.diagnosis import Finding
from ugallu.cluster.kubernetes.questions import Version
from ugallu.cluster.pods import Target
from ugallu.cluster.port import ForbiddenError, NotFoundError, Page, UnavailableError
from ugallu.sdk import Config, Grant, Operator, Parts, Placement, Platform
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster

if TYPE_CHECKING:
    from ugallu.cluster.kubernetes.client import KubernetesCluster

RUNNING = b"""{"metadata":{"name":"ugallu-local-0","namespace":"ugallu-system","labels":{"app.kubernetes.io/component":"local"}},
"spec":{"serviceAccountName":"ugallu-local","containers":[{"name":"ugallu","args":["run","--enable=attestor,audit-detection"]}]},
"status":{"phase":"Running","conditions":[
 {"lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z","observedGeneration":1,"status":"True","type":"Initialized"},
 {"lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z","status":"True","type":"Ready"}]}}"""
WAITING = RUNNING.replace(b'"status":"True","type":"Ready"', b'"status":"False","type":"Ready"')
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def pod(written: bytes, **metadata: Any) -> OurPod:
    return msgspec.json.decode(written, type=OurPod).with_metadata(**metadata)


def test_a_pod_as_the_kubelet_writes_it_is_read() -> None:
    """Conditions of Pods have no reason while all is well; such a Pod is no reason to say that none runs."""
    found = pod(RUNNING)
    assert found.ready
    assert found.operators == {"attestor", "audit-detection"}
    assert not pod(WAITING).ready


def test_pods_that_have_ended_are_no_illness() -> None:
    """An evicted Pod stays until somebody takes it away, a deleted one until it has gone: others do their work."""
    evicted = pod(WAITING.replace(b'"Running"', b'"Failed"'), name="evicted")
    leaving = pod(WAITING, name="leaving", deletion_timestamp=NOW)
    well = of_pods([pod(RUNNING), evicted, leaving])
    assert (well.verdict, well.detail) == ("ok", "1 ready; 1 ended: evicted")
    ill = of_pods([pod(RUNNING), evicted, pod(WAITING, name="waiting")])
    assert (ill.verdict, ill.detail) == (
        "fail",
        "1 of 2 are not ready: ugallu-system/waiting; 1 ended: evicted",
    )
    none = of_pods([evicted])
    assert (none.verdict, none.detail) == ("warn", "none of ours runs here; 1 ended: evicted")
    assert "-k " not in none.fix, "which overlay is installed, nobody knows"


def lease(renewed: float) -> Lease:
    """A Lease renewed so many seconds before the server's now."""
    spec = LeaseSpec(
        holder_identity="ugallu-attestor-0_1", lease_duration_seconds=15, renew_time=NOW - dt.timedelta(seconds=renewed)
    )
    return Lease(metadata=Metadata(name="ugallu-leader", namespace="ugallu-system"), spec=spec)


@pytest.mark.parametrize(
    ("renewed", "verdict", "word"),
    [(2, "ok", "renewed 2 s ago"), (3600, "fail", "renewed 3600 s ago"), (-3600, "warn", "a clock 3600 s ahead")],
)
def test_a_leader_is_judged_by_the_servers_clock(renewed: float, verdict: str, word: str) -> None:
    """Just renewed, long ago, or in a future that no server has seen."""
    told = of_lease("ugallu-leader", lease(renewed), NOW)
    assert told.verdict == verdict
    assert word in told.detail


def test_without_the_servers_clock_nothing_is_judged_by_age() -> None:
    """Neither good nor bad: it cannot be told, and why."""
    told = of_lease("ugallu-leader", lease(2), None)
    assert (told.verdict, "the server tells no time" in told.detail) == ("warn", True)
    exposition = (
        'ugallu_audit_last_event_timestamp_seconds{source="log"} 1\nugallu_audit_events_total{level="Request"} 1\n'
    )
    (lives, *_) = stream("a/b", exposition, None)
    assert (lives.verdict, "the server tells no time" in lives.detail) == ("warn", True)


class Leading(Operator[Config]):
    """Leads, and reads two objects by name."""

    name = "attestor"
    config = Config
    placement = Placement.ONE_LEADER
    grants = (Grant("", ("configmaps",), ("get",), names=("first", "second"), namespace="ugallu-system"),)

    def build(self, config: Config, platform: Platform) -> Parts:
        raise NotImplementedError


@dataclass
class Told:
    """An API server's answers, as a client hands them on."""

    time: dt.datetime | None = NOW
    pods: tuple[OurPod, ...] = (pod(RUNNING),)
    renewed: float = 2.0
    refused: set[str] = field(default_factory=set)

    async def version(self) -> Version:
        return Version("v1.34.3", "1", "34", self.time)

    async def list(self, kind: type[Resource], **_: str) -> Page[Any]:
        if kind is OurPod:
            return Page(self.pods, "1")
        raise UnavailableError("no connection", where=f"list {kind.kind_info.plural}", fix="is it up?")

    async def get(self, kind: type[Resource], name: str, namespace: str) -> Resource:
        if not self.renewed:
            raise NotFoundError("not found", where=name)
        return lease(self.renewed)

    async def create(self, review: Review) -> Review:
        asked = review.spec["resourceAttributes"]
        return Review(status={"allowed": asked["name"] not in self.refused})

    async def fetch_from_pod(self, target: Target, port: int, path: str) -> bytes:
        raise ForbiddenError("may not", where=f"{target.namespace}/{target.pod}")

    async def fetch(self, path: str) -> bytes:
        raise ForbiddenError("may not", where=path)


async def told(server: Told, *, ahead: float = 0.0) -> dict[str, Finding]:
    """What the doctor says from a machine whose clock is so many seconds ahead."""
    clock = ManualClock(NOW + dt.timedelta(seconds=ahead))
    found = await examine(cast("KubernetesCluster", server), [Leading], clock)
    return {one.check: one for one in found}


@pytest.mark.parametrize("ahead", [30.0, -3600.0, 0.0])
async def test_a_wrong_clock_of_ours_changes_no_verdict_but_its_own(ahead: float) -> None:
    """A healthy leader is healthy and a dead one dead, from whatever machine one looks."""
    well, dead = await told(Told(), ahead=ahead), await told(Told(renewed=3600.0), ahead=ahead)
    name = "lease ugallu-attestor-leader"
    assert (well[name].verdict, dead[name].verdict) == ("ok", "fail"), (well, dead)
    assert (well["clock"].verdict == "ok") is (ahead == 0.0)


async def test_a_server_that_tells_no_time_leaves_ages_open() -> None:
    """That is said once for the clock, and of each age."""
    found = await told(Told(time=None))
    assert found["clock"].verdict == found["lease ugallu-attestor-leader"].verdict == "warn"


async def test_every_name_of_a_right_is_asked_for() -> None:
    """A role may read the first and not the second: the second is named, and the file that holds the role's rights."""
    found = (await told(Told(refused={"second"})))["rights of attestor"]
    assert found.verdict == "fail"
    assert "get configmaps second in ugallu-system" in found.detail
    assert found.fix.endswith(" -f manifests/components/local/rbac.yaml")
    assert (await told(Told()))["rights of attestor"].verdict == "ok"


async def test_a_lease_that_is_gone_comes_back_by_its_file() -> None:
    """The line touches that role's account, rights and Leases, not the rest of the installation."""
    found = (await told(Told(renewed=0.0)))["lease ugallu-attestor-leader"]
    assert (found.verdict, found.fix.rpartition(" ")[2]) == ("fail", "manifests/components/local/rbac.yaml")


async def test_pods_that_have_ended_ask_for_nothing() -> None:
    """Whom an evicted Pod ran as, and whether it leads, is of no interest any more."""
    evicted = pod(WAITING.replace(b'"Running"', b'"Failed"'))
    found = await told(Told(pods=(evicted,)))
    assert [name for name in found if name.startswith(("rights", "lease", "audit stream"))] == []


async def test_an_error_says_where_and_says_its_remedy_once() -> None:
    """What went wrong and where in one column, what to do in the other."""
    found = (await told(Told()))["kinds"]
    assert (found.detail, found.fix) == ("list customresourcedefinitions: no connection", "is it up?")


async def test_replicas_behind_a_webhook_want_the_object_that_they_agree_in() -> None:
    """One alone does not; two without it are told how to get it."""
    cluster = memory_cluster(ManualClock())
    one = pod(RUNNING, labels={"app.kubernetes.io/component": "audit-webhook"})
    assert [found async for found in replicas(cluster, [one])] == []
    (missing,) = [found async for found in replicas(cluster, [one, one])]
    assert (missing.verdict, "overlays/audit-config" in missing.fix) == ("warn", True)
    await cluster.create(AuditDetectionConfig(metadata=Metadata(name="default")))
    (there,) = [found async for found in replicas(cluster, [one, one])]
    assert there.verdict == "ok"
