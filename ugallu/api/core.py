"""The few fields that we read or write of Kubernetes' own kinds; decoding drops the rest.

Who needs another field declares a Struct of its own: the cache decodes once for all Structs of a kind.
"""

import datetime as dt
from typing import ClassVar

from ugallu.api.meta import Kind, ObjectReference, Resource, Wire


class LeaseSpec(Wire, frozen=True, kw_only=True):
    """Who leads. `renew_time` is by the holder's clock: no one else may compare it with theirs."""

    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: dt.datetime | None = None
    renew_time: dt.datetime | None = None
    lease_transitions: int = 0


class Lease(Resource, frozen=True, kw_only=True):
    """`coordination.k8s.io/v1` Lease."""

    kind_info: ClassVar[Kind] = Kind("Lease", "leases", group="coordination.k8s.io", version="v1", namespaced=True)
    spec: LeaseSpec = LeaseSpec()


class Container(Wire, frozen=True, kw_only=True):
    """A container as its Pod asks for it; `image` is the reference as written."""

    name: str
    image: str = ""


class ContainerStatus(Wire, frozen=True, kw_only=True):
    """A container as it runs. `container_id` is `<runtime>://<id>`, `image_id` has the digest; empty until it runs."""

    name: str
    image: str = ""
    image_id: str = ""
    container_id: str = ""


class PodSpec(Wire, frozen=True, kw_only=True):
    """Where a Pod runs, as whom, and what in it."""

    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    host_pid: bool = False
    host_ipc: bool = False
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[Container, ...] = ()


class PodIP(Wire, frozen=True, kw_only=True):
    """One address of a Pod."""

    ip: str = ""


class PodStatus(Wire, frozen=True, kw_only=True):
    """What became of a Pod; with a host's network its address is the node's."""

    phase: str = ""
    pod_ip: str = ""
    pod_ips: tuple[PodIP, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    ephemeral_container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Resource, frozen=True, kw_only=True):
    """`v1` Pod."""

    kind_info: ClassVar[Kind] = Kind(
        "Pod",
        "pods",
        group="",
        version="v1",
        namespaced=True,
        selectable=("spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP"),
    )
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class NodeAddress(Wire, frozen=True, kw_only=True):
    """One address of a node; `type` is InternalIP, ExternalIP, Hostname, InternalDNS or ExternalDNS."""

    type: str
    address: str


class NodeSystem(Wire, frozen=True, kw_only=True):
    """What a node runs on: `status.nodeInfo`."""

    architecture: str = ""
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""


class NodeSpec(Wire, frozen=True, kw_only=True):
    """What is asked of a node."""

    unschedulable: bool = False
    provider_id: str = ""


class NodeStatus(Wire, frozen=True, kw_only=True):
    """What a node says of itself."""

    addresses: tuple[NodeAddress, ...] = ()
    node_info: NodeSystem = NodeSystem()


class Node(Resource, frozen=True, kw_only=True):
    """`v1` Node."""

    kind_info: ClassVar[Kind] = Kind("Node", "nodes", group="", version="v1")
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class NamespaceStatus(Wire, frozen=True, kw_only=True):
    """`phase` is Active or Terminating."""

    phase: str = ""


class Namespace(Resource, frozen=True, kw_only=True):
    """`v1` Namespace; what selects it are its labels."""

    kind_info: ClassVar[Kind] = Kind("Namespace", "namespaces", group="", version="v1")
    status: NamespaceStatus = NamespaceStatus()


class ServiceAccount(Resource, frozen=True, kw_only=True):
    """`v1` ServiceAccount."""

    kind_info: ClassVar[Kind] = Kind("ServiceAccount", "serviceaccounts", group="", version="v1", namespaced=True)
    automount_service_account_token: bool | None = None


class ServicePort(Wire, frozen=True, kw_only=True):
    """A port of a Service; `target_port` is a number or the name of a container's port."""

    name: str = ""
    protocol: str = ""
    port: int = 0
    target_port: int | str = 0


class ServiceSpec(Wire, frozen=True, kw_only=True):
    """How a Service is reached, and the labels of the Pods behind it."""

    type: str = ""
    cluster_ips: tuple[str, ...] = ()
    """Its addresses; `None` for one without (headless)."""
    external_name: str = ""
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()


class Service(Resource, frozen=True, kw_only=True):
    """`v1` Service."""

    kind_info: ClassVar[Kind] = Kind("Service", "services", group="", version="v1", namespaced=True)
    spec: ServiceSpec = ServiceSpec()


class EndpointConditions(Wire, frozen=True, kw_only=True):
    """Whether an endpoint takes connections; None means unknown, to be read as yes."""

    ready: bool | None = None


class Endpoint(Wire, frozen=True, kw_only=True):
    """One backend of a Service."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    node_name: str = ""
    target_ref: ObjectReference | None = None


class EndpointPort(Wire, frozen=True, kw_only=True):
    """A port of all endpoints of a slice."""

    name: str = ""
    protocol: str = ""
    port: int = 0


class EndpointSlice(Resource, frozen=True, kw_only=True):
    """`discovery.k8s.io/v1` EndpointSlice; the label `kubernetes.io/service-name` names its Service.

    The API server writes null for an empty list here.
    """

    kind_info: ClassVar[Kind] = Kind(
        "EndpointSlice", "endpointslices", group="discovery.k8s.io", version="v1", namespaced=True
    )
    address_type: str = ""
    endpoints: tuple[Endpoint, ...] | None = None
    ports: tuple[EndpointPort, ...] | None = None


class Secret(Resource, frozen=True, kw_only=True):
    """`v1` Secret without its data, which nothing in memory needs to hold."""

    kind_info: ClassVar[Kind] = Kind("Secret", "secrets", group="", version="v1", namespaced=True)
    type: str = ""
    immutable: bool = False


def micro_time(moment: dt.datetime) -> dt.datetime:
    """Return the moment as a MicroTime (`acquireTime`, `renewTime`) can carry it.

    Kubernetes wants exactly six digits behind the second; msgspec writes them only when they are not all zero.
    """
    utc = moment.astimezone(dt.UTC)
    return utc.replace(microsecond=utc.microsecond or 1)
