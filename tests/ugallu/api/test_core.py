"""Kubernetes' own kinds as servers write them: the few fields that we read, under their own names."""

import msgspec
import pytest

from ugallu.api.core import EndpointSlice, Lease, Pod, Secret, Service, ServiceAccount
from ugallu.api.meta import Resource

RUNNING = b"""
{"apiVersion": "v1", "kind": "Pod",
 "metadata": {"name": "web-0", "namespace": "shop", "uid": "u", "resourceVersion": "7", "managedFields": [{}],
   "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "o", "controller": true}]},
 "spec": {"nodeName": "n1", "serviceAccountName": "web", "hostNetwork": true, "hostPID": true, "hostIPC": true,
   "containers": [{"name": "app", "image": "web:1", "env": [{"name": "TOKEN", "value": "x"}]}],
   "initContainers": [{"name": "init", "image": "init:1"}], "ephemeralContainers": [{"name": "debug", "image": "d:1"}]},
 "status": {"phase": "Running", "podIP": "10.0.0.7", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "fd00::7"}],
   "containerStatuses": [{"name": "app", "image": "web:1", "imageID": "web@sha256:aa", "containerID": "containerd://bb",
     "state": {"running": {"startedAt": null}}, "restartCount": 0}]}}
"""


def test_a_pod_says_where_it_runs_as_whom_and_what() -> None:
    """Names on the wire are Kubernetes' own, initialisms included."""
    pod = msgspec.json.decode(RUNNING, type=Pod)
    assert (pod.spec.node_name, pod.spec.service_account_name) == ("n1", "web")
    assert (pod.spec.host_network, pod.spec.host_pid, pod.spec.host_ipc) == (True, True, True)
    assert [each.ip for each in pod.status.pod_ips] == ["10.0.0.7", "fd00::7"]
    assert pod.status.pod_ip == "10.0.0.7"
    assert [each.image for each in pod.spec.containers] == ["web:1"]
    assert pod.spec.init_containers[0].name + pod.spec.ephemeral_containers[0].name == "initdebug"
    (container,) = pod.status.container_statuses
    assert (container.container_id, container.image_id) == ("containerd://bb", "web@sha256:aa")
    assert pod.metadata.owner_references[0].controller


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Pod, b'{"metadata":{"name":"pending"}}'),
        (EndpointSlice, b'{"metadata":{"name":"empty"},"addressType":"IPv4","endpoints":null,"ports":null}'),
        (
            EndpointSlice,
            b'{"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.7"],"conditions":{}}],"ports":[{}]}',
        ),
        (ServiceAccount, b'{"metadata":{"name":"default"},"automountServiceAccountToken":false}'),
        (
            Service,
            b'{"spec":{"clusterIPs":["None"],"ports":[{"port":80,"targetPort":"http"},{"port":1,"targetPort":2}]}}',
        ),
        (Lease, b'{"spec":{"renewTime":"2026-01-01T00:00:00.000001Z","leaseTransitions":3}}'),
    ],
)
def test_what_servers_leave_out_or_write_as_null_decodes(kind: type[Resource], body: bytes) -> None:
    """A new Pod has no address, an empty slice has null for its lists, a port's target is a number or a name."""
    assert msgspec.json.decode(body, type=kind).kind_info is kind.kind_info


def test_a_secret_has_no_data() -> None:
    """What was read of it can be logged or kept without harm."""
    secret = msgspec.json.decode(
        b'{"metadata":{"name":"s"},"type":"Opaque","data":{"password":"aHVudGVyMg=="}}', type=Secret
    )
    assert "aHVudGVyMg" not in repr(secret)
    assert secret.type == "Opaque"
