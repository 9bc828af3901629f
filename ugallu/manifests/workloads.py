"""Role -> Deployment, StatefulSet or DaemonSet, and its Services, claims and disruption budget."""

from collections.abc import Iterator
from typing import Any

from ugallu.manifests import pods
from ugallu.manifests.document import Document
from ugallu.manifests.names import metadata, selector
from ugallu.manifests.roles import Role, Shape, service_of


def workload(role: Role) -> Iterator[Document]:
    """Yield everything that runs a role, its rights apart."""
    shape = role.shape
    yield from _services(role)
    if shape is Shape.DEPLOYMENT and role.workload.durable:
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata(pods.claim(role), role.name, role.namespace),
            "spec": _claim(),
        }
    yield {
        "apiVersion": "apps/v1",
        "kind": shape.value,
        "metadata": metadata(role.account, role.name, role.namespace),
        "spec": {
            **_spec(role, shape),
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(role.name)},
            "template": pods.template(role),
            **({"volumeClaimTemplates": [_claims(role)]} if shape is Shape.STATEFUL_SET else {}),
        },
    }
    if not role.daemon and role.workload.replicas > 1:
        yield _budget(role)


def _spec(role: Role, shape: Shape) -> dict[str, Any]:
    replicas = role.workload.replicas
    if shape is Shape.DAEMON_SET:
        # Two on one node would both keep its state; the old one goes first.
        return {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}
    if shape is Shape.STATEFUL_SET:
        service = next((service_of(role, port) for port in role.workload.ports if port.service), role.account)
        return {
            "replicas": replicas,
            "serviceName": service,
            "podManagementPolicy": "Parallel",
            "updateStrategy": {"type": "RollingUpdate"},
        }
    if role.workload.durable:
        # The claim is for one node at a time: a new Pod beside the old one would wait for it for ever.
        return {"replicas": replicas, "strategy": {"type": "Recreate"}}
    rolling = {"maxSurge": 1, "maxUnavailable": 0}
    return {"replicas": replicas, "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}


def _services(role: Role) -> Iterator[Document]:
    for port in role.workload.ports:
        if not port.service:
            continue
        target = {"name": port.name, "port": port.service, "targetPort": port.name, "protocol": "TCP"}
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(service_of(role, port), role.name, role.namespace),
            "spec": {
                "type": "ClusterIP",
                **({"clusterIP": "None"} if port.headless else {}),
                # What a Pod acknowledges is on its disk, ready or not; a batch nobody takes is lost to the API server.
                "publishNotReadyAddresses": True,
                "selector": selector(role.name),
                "ports": [target],
            },
        }


def _claims(role: Role) -> Document:
    """Nobody may change this later, so it carries no version."""
    return {"metadata": {"name": "state", "labels": selector(role.name)}, "spec": _claim()}


def _claim() -> dict[str, Any]:
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": pods.STATE_SIZE}}}


def _budget(role: Role) -> Document:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(role.account, role.name, role.namespace),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(role.name)},
            # A Pod that is not ready must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }
