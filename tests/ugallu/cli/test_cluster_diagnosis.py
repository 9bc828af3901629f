"""What the doctor reads of a cluster, in the shape that Kubernetes writes."""

import msgspec

from ugallu.cli.cluster_diagnosis import OurPod

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
