"""What the doctor reads of a cluster, in the shape that Kubernetes writes."""

import msgspec

from ugallu.api.detection import AuditDetectionConfig
from ugallu.api.meta import Metadata
from ugallu.cli.cluster_diagnosis import OurPod, replicas
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster

RUNNING = b"""{"metadata":{"name":"ugallu-local-0","namespace":"ugallu-system"},
"spec":{"serviceAccountName":"ugallu-local","containers":[{"name":"ugallu","args":["run","--enable=attestor,audit-detection"]}]},
"status":{"phase":"Running","conditions":[
 {"lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z","observedGeneration":1,"status":"True","type":"Initialized"},
 {"lastProbeTime":null,"lastTransitionTime":"2026-01-01T00:00:00Z","status":"True","type":"Ready"}]}}"""


def test_a_pod_as_the_kubelet_writes_it_is_read() -> None:
    """Conditions of Pods have no reason while all is well; such a Pod is no reason to say that none runs."""
    pod = msgspec.json.decode(RUNNING, type=OurPod)
    assert pod.ready
    assert pod.operators == {"attestor", "audit-detection"}
    waiting = msgspec.json.decode(
        RUNNING.replace(b'"status":"True","type":"Ready"', b'"status":"False","type":"Ready"'), type=OurPod
    )
    assert not waiting.ready


async def test_replicas_behind_a_webhook_want_the_object_that_they_agree_in() -> None:
    """One alone does not; two without it are told how to get it."""
    cluster = memory_cluster(ManualClock())
    pod = msgspec.json.decode(RUNNING, type=OurPod).with_metadata(
        labels={"app.kubernetes.io/component": "audit-webhook"}
    )
    assert [one async for one in replicas(cluster, [pod])] == []
    (missing,) = [one async for one in replicas(cluster, [pod, pod])]
    assert (missing.verdict, "overlays/audit-config" in missing.fix) == ("warn", True)
    await cluster.create(AuditDetectionConfig(metadata=Metadata(name="default")))
    (there,) = [one async for one in replicas(cluster, [pod, pod])]
    assert there.verdict == "ok"
