"""Who or what an event is about: the Clue that a source had, and the Subject that an event keeps."""

import enum
from typing import ClassVar

import msgspec

from ugallu.api import snapshots as snap
from ugallu.api.meta import OwnerReference, Wire


class Clue(msgspec.Struct, frozen=True):
    """What a source knew of the thing it saw: one lookup key for the resolver, and a name to fall back on."""

    via: str
    """How to look it up: cgroup_id, pid, pod_uid, pod_ip, container_id or sa_username."""
    key: str
    kind: str = "External"
    name: str = ""
    namespace: str = ""
    uid: str = ""


class ExternalKind(enum.StrEnum):
    """What sort of thing outside the cluster a subject is."""

    USER = "ExternalUser"
    IP = "ExternalIP"
    ENDPOINT = "ExternalEndpoint"
    GROUP = "Group"


class Subject(Wire, frozen=True, kw_only=True):
    """A snapshot of the object concerned: exactly one discriminator is set, the one of its kind, or `unresolved`."""

    api_version: str = ""
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    pod: snap.PodSubject | None = None
    container: snap.ContainerSubject | None = None
    node: snap.NodeSubject | None = None
    service_account: snap.ServiceAccountSubject | None = None
    secret: snap.SecretSubject | None = None
    config_map: snap.ConfigMapSubject | None = None
    namespace_data: snap.NamespaceSubject | None = None
    service: snap.ServiceSubject | None = None
    endpoint_slice: snap.EndpointSliceSubject | None = None
    workload: snap.WorkloadSubject | None = None
    job: snap.JobSubject | None = None
    role: snap.RoleSubject | None = None
    role_binding: snap.RoleBindingSubject | None = None
    network_policy: snap.NetworkPolicySubject | None = None
    ingress: snap.IngressSubject | None = None
    webhook_config: snap.WebhookConfigSubject | None = None
    crd: snap.CRDSubject | None = None
    api_service: snap.APIServiceSubject | None = None
    csr: snap.CSRSubject | None = None
    cluster: snap.ClusterSubject | None = None
    external: snap.ExternalSubject | None = None
    partial: bool = False
    tombstone: bool = False
    unresolved: bool = False

    DISCRIMINATORS: ClassVar[dict[str, str]] = {
        "Pod": "pod",
        "Container": "container",
        "Node": "node",
        "ServiceAccount": "service_account",
        "Secret": "secret",
        "ConfigMap": "config_map",
        "Namespace": "namespace_data",
        "Service": "service",
        "EndpointSlice": "endpoint_slice",
        "Deployment": "workload",
        "StatefulSet": "workload",
        "DaemonSet": "workload",
        "Job": "job",
        "CronJob": "job",
        "Role": "role",
        "ClusterRole": "role",
        "RoleBinding": "role_binding",
        "ClusterRoleBinding": "role_binding",
        "NetworkPolicy": "network_policy",
        "CiliumNetworkPolicy": "network_policy",
        "Ingress": "ingress",
        "Gateway": "ingress",
        "MutatingWebhookConfiguration": "webhook_config",
        "ValidatingWebhookConfiguration": "webhook_config",
        "CustomResourceDefinition": "crd",
        "APIService": "api_service",
        "CertificateSigningRequest": "csr",
        "Cluster": "cluster",
        "External": "external",
    }

    @property
    def resolved(self) -> bool:
        """Whether the discriminator of this kind is filled."""
        field = self.DISCRIMINATORS.get(self.kind)
        return field is not None and getattr(self, field) is not None

    @property
    def key(self) -> str:
        """What makes this object this object: its uid, else kind/namespace/name."""
        return self.uid or f"{self.kind}/{self.namespace}/{self.name}"


def external(kind: ExternalKind, identity: str, *, source: str = "", name: str = "") -> Subject:
    """Return the subject for something outside the cluster; `name` defaults to the identity."""
    return Subject(
        kind="External",
        name=name or identity,
        external=snap.ExternalSubject(kind=kind.value, identity=identity, source=source),
    )
