"""Who or what an event is about: the Clue that a source had, and the Subject that an event keeps."""

import enum
from typing import Annotated, ClassVar

import msgspec

from ugallu.api import snapshots as snap
from ugallu.api.meta import OwnerReference, Wire
from ugallu.api.scalars import one_of


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


_DISCRIMINATORS = {
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
"""From each kind to the field that holds its snapshot."""


class Subject(Wire, frozen=True, kw_only=True):
    """A snapshot of the object concerned: exactly one discriminator is set, the one of its kind, or `unresolved`."""

    api_version: str = ""
    """API version of the subject."""
    kind: Annotated[str, one_of(*_DISCRIMINATORS)]
    """Subject kind; selects the discriminator."""
    name: str
    """Object name or synthetic name."""
    namespace: str = ""
    """Namespace if namespaced."""
    uid: str = ""
    """Object UID."""
    resource_version: str = ""
    """Version at snapshot time."""
    labels: dict[str, str] = {}
    """Labels at snapshot time."""
    owner_references: tuple[OwnerReference, ...] = ()
    """Owners at snapshot time."""
    pod: snap.PodSubject | None = None
    """For Pod."""
    container: snap.ContainerSubject | None = None
    """For Container."""
    node: snap.NodeSubject | None = None
    """For Node."""
    service_account: snap.ServiceAccountSubject | None = None
    """For ServiceAccount."""
    secret: snap.SecretSubject | None = None
    """For Secret; never data."""
    config_map: snap.ConfigMapSubject | None = None
    """For ConfigMap; never data."""
    namespace_data: snap.NamespaceSubject | None = None
    """For Namespace."""
    service: snap.ServiceSubject | None = None
    """For Service."""
    endpoint_slice: snap.EndpointSliceSubject | None = None
    """For EndpointSlice."""
    workload: snap.WorkloadSubject | None = None
    """For Deployment, StatefulSet, DaemonSet."""
    job: snap.JobSubject | None = None
    """For Job, CronJob."""
    role: snap.RoleSubject | None = None
    """For Role, ClusterRole."""
    role_binding: snap.RoleBindingSubject | None = None
    """For RoleBinding, ClusterRoleBinding."""
    network_policy: snap.NetworkPolicySubject | None = None
    """For NetworkPolicy, CiliumNetworkPolicy."""
    ingress: snap.IngressSubject | None = None
    """For Ingress, Gateway."""
    webhook_config: snap.WebhookConfigSubject | None = None
    """For Mutating/ValidatingWebhookConfiguration."""
    crd: snap.CRDSubject | None = None
    """For CustomResourceDefinition."""
    api_service: snap.APIServiceSubject | None = None
    """For APIService."""
    csr: snap.CSRSubject | None = None
    """For CertificateSigningRequest."""
    cluster: snap.ClusterSubject | None = None
    """For Cluster (synthetic)."""
    external: snap.ExternalSubject | None = None
    """For External (outside the cluster)."""
    partial: bool = False
    """Snapshot incomplete (resolver degraded)."""
    tombstone: bool = False
    """Subject was already deleted; cached data used."""
    unresolved: bool = False
    """Subject could not be resolved; discriminator may be absent."""

    DISCRIMINATORS: ClassVar[dict[str, str]] = _DISCRIMINATORS

    @property
    def resolved(self) -> bool:
        """Whether the discriminator of this kind is filled."""
        field = self.DISCRIMINATORS.get(self.kind)
        return field is not None and getattr(self, field) is not None

    @property
    def discriminators(self) -> tuple[str, ...]:
        """The fields that hold a snapshot: at most one in a subject that admission takes."""
        return tuple(field for field in dict.fromkeys(_DISCRIMINATORS.values()) if getattr(self, field) is not None)

    @property
    def fault(self) -> str:
        """Why this is no subject that admission takes, empty when it is one."""
        own = _DISCRIMINATORS.get(self.kind)
        if own is None:
            return f"kind {self.kind!r} is none of the {len(_DISCRIMINATORS)} known"
        filled = self.discriminators
        if filled not in ((), (own,)):
            return f"{', '.join(sorted(filled))} filled, {self.kind} has {own}"
        if not filled and not self.unresolved:
            return f"neither {own} is filled nor unresolved said"
        inner = getattr(getattr(self, own), "kind", self.kind)
        if own != "external" and inner != self.kind:
            return f"{own} is of kind {inner}, the subject of kind {self.kind}"
        return ""

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
