"""Snapshots of Kubernetes objects as an event keeps them: facts only, never a secret, an environment value or a CA.

Field for field the structures of `SecurityEvent.spec.subject`; `Subject` in `ugallu.api.subject` selects one by kind.
"""

import datetime as dt

import msgspec

from ugallu.api.k8s import (
    Capabilities,
    LabelSelector,
    NodeAffinity,
    PodAffinity,
    PodAntiAffinity,
    ResourceRequirements,
)
from ugallu.api.meta import OwnerReference, Wire, always
from ugallu.api.scalars import INT64_MAX, Int32, Int64, Quantity, clamped


class VolumeMount(Wire, frozen=True, kw_only=True):
    """A mount inside a container."""

    name: str
    """Volume name."""
    mount_path: str
    """Path in the container."""
    read_only: bool | None = None
    """Read-only mount."""
    sub_path: str = ""
    """Sub path."""
    mount_propagation: str = ""
    """Propagation mode."""


class EnvFromRef(Wire, frozen=True, kw_only=True):
    """A whole ConfigMap or Secret turned into environment variables."""

    config_map_ref_name: str = ""
    """ConfigMap name."""
    secret_ref_name: str = ""
    """Secret name."""
    optional: bool | None = None
    """Source may be missing."""
    prefix: str = ""
    """Variable prefix."""


class ContainerPort(Wire, frozen=True, kw_only=True):
    """A declared port."""

    name: str = ""
    """Port name."""
    host_port: Int32 | None = None
    """Host port."""
    container_port: Int32
    """Container port."""
    protocol: str = ""
    """Protocol."""
    host_ip: str = ""
    """Host IP."""


class SeccompProfile(Wire, frozen=True, kw_only=True):
    """Which seccomp profile applies."""

    type: str
    """Profile type."""
    localhost_profile: str = ""
    """Local profile file."""


class AppArmorProfile(Wire, frozen=True, kw_only=True):
    """Which AppArmor profile applies."""

    type: str
    """Profile type."""
    localhost_profile: str = ""
    """Local profile name."""


class SELinuxOptions(Wire, frozen=True, kw_only=True):
    """SELinux labels."""

    user: str = ""
    """SELinux user."""
    role: str = ""
    """SELinux role."""
    type: str = ""
    """SELinux type."""
    level: str = ""
    """SELinux level."""


class ContainerSecCtx(Wire, frozen=True, kw_only=True):
    """A container's security context."""

    privileged: bool | None = None
    """Privileged mode."""
    run_as_user: Int64 | None = None
    """UID."""
    run_as_group: Int64 | None = None
    """GID."""
    run_as_non_root: bool | None = None
    """Non-root required."""
    read_only_root_filesystem: bool | None = None
    """Read-only root."""
    allow_privilege_escalation: bool | None = None
    """Escalation allowed."""
    capabilities: Capabilities | None = None
    """Added and dropped capabilities."""
    seccomp_profile: SeccompProfile | None = None
    """Seccomp profile."""
    app_armor_profile: AppArmorProfile | None = None
    """AppArmor profile."""
    se_linux_options: SELinuxOptions | None = None
    """SELinux labels."""
    proc_mount: str = ""
    """Proc mount type."""


class HookInfo(Wire, frozen=True, kw_only=True):
    """One lifecycle hook."""

    type: str
    """exec, httpGet, tcpSocket or sleep."""
    command: tuple[str, ...] = ()
    """Exec command."""
    path: str = ""
    """HTTP path."""
    port: Int32 | None = None
    """Port."""


class LifecycleInfo(Wire, frozen=True, kw_only=True):
    """Hooks run after start and before stop."""

    post_start: HookInfo | None = None
    """Hook after start."""
    pre_stop: HookInfo | None = None
    """Hook before stop."""


class ProbeInfo(Wire, frozen=True, kw_only=True):
    """One probe."""

    type: str
    """exec, httpGet, tcpSocket or grpc."""
    command: tuple[str, ...] = ()
    """Exec command."""
    path: str = ""
    """HTTP path."""
    port: Int32 | None = None
    """Port."""


class ContainerInfo(Wire, frozen=True, kw_only=True):
    """One container of a pod; environment values are never kept, only names."""

    name: str
    """Container name."""
    image: str = ""
    """Image reference."""
    image_digest: str = ""
    """Resolved digest."""
    image_pull_policy: str = ""
    """Pull policy."""
    volume_mounts: tuple[VolumeMount, ...] = ()
    """Mounts."""
    env_names: tuple[str, ...] = ()
    """Variable names only, never values."""
    env_from: tuple[EnvFromRef, ...] = ()
    """Env sources by name."""
    ports: tuple[ContainerPort, ...] = ()
    """Ports."""
    resources: ResourceRequirements | None = None
    """Requests and limits."""
    security_context: ContainerSecCtx | None = None
    """Container security context."""
    lifecycle: LifecycleInfo | None = None
    """Lifecycle hooks."""
    liveness_probe: ProbeInfo | None = None
    """Liveness probe."""
    readiness_probe: ProbeInfo | None = None
    """Readiness probe."""
    startup_probe: ProbeInfo | None = None
    """Startup probe."""
    working_dir: str = ""
    """Working directory."""
    stdin: bool | None = None
    """Stdin open."""
    tty: bool | None = None
    """TTY allocated."""


class VolumeInfo(Wire, frozen=True, kw_only=True):
    """A volume and where it comes from."""

    name: str
    """Volume name."""
    type: str
    """Source kind (hostPath, secret, configMap, …)."""
    source: str = ""
    """Name of the referenced object."""
    host_path: str = ""
    """Host path when type is hostPath."""
    host_path_type: str = ""
    """Host path type."""


class SysctlInfo(Wire, frozen=True, kw_only=True):
    """A kernel parameter."""

    name: str
    """Parameter."""
    value: str
    """Value."""


class PodSecCtx(Wire, frozen=True, kw_only=True):
    """A pod's security context."""

    run_as_user: Int64 | None = None
    """UID."""
    run_as_group: Int64 | None = None
    """GID."""
    run_as_non_root: bool | None = None
    """Non-root required."""
    supplemental_groups: tuple[Int64, ...] = ()
    """Extra GIDs."""
    fs_group: Int64 | None = None
    """Volume group."""
    fs_group_change_policy: str = ""
    """fsGroup change policy."""
    sysctls: tuple[SysctlInfo, ...] = ()
    """Kernel parameters."""
    seccomp_profile: SeccompProfile | None = None
    """Seccomp profile."""
    se_linux_options: SELinuxOptions | None = None
    """SELinux labels."""
    app_armor_profile: AppArmorProfile | None = None
    """AppArmor profile."""


class TolerationInfo(Wire, frozen=True, kw_only=True):
    """A tolerated taint."""

    key: str = ""
    """Taint key."""
    operator: str = ""
    """Operator."""
    value: str = ""
    """Value."""
    effect: str = ""
    """Effect."""


class AffinityInfo(Wire, frozen=True, kw_only=True):
    """Affinity rules, as the API server stores them."""

    node_affinity: NodeAffinity | None = None
    """Node affinity, full core/v1 shape."""
    pod_affinity: PodAffinity | None = None
    """Pod affinity, full core/v1 shape."""
    pod_anti_affinity: PodAntiAffinity | None = None
    """Pod anti-affinity, full core/v1 shape."""


class DNSConfigInfo(Wire, frozen=True, kw_only=True):
    """Resolver settings."""

    nameservers: tuple[str, ...] = ()
    """Name servers."""
    searches: tuple[str, ...] = ()
    """Search domains."""
    options: tuple[str, ...] = ()
    """Options as "name:value"."""


class HostAlias(Wire, frozen=True, kw_only=True):
    """A static host entry."""

    ip: str
    """Address."""
    hostnames: tuple[str, ...] = msgspec.field(default_factory=always(()))
    """Names."""


class PodSubject(Wire, frozen=True, kw_only=True):
    """A Pod as it was: placement, containers, volumes, the settings that decide isolation."""

    node_name: str = ""
    """Node it runs on."""
    service_account_name: str = ""
    """ServiceAccount used."""
    host_network: bool | None = None
    """Shares the host network."""
    host_pid: bool | None = None
    """Shares host process ids."""
    host_ipc: bool | None = None
    """Shares host IPC."""
    containers: tuple[ContainerInfo, ...] = ()
    """Main containers."""
    init_containers: tuple[ContainerInfo, ...] = ()
    """Init containers."""
    ephemeral_containers: tuple[ContainerInfo, ...] = ()
    """Ephemeral containers."""
    volumes: tuple[VolumeInfo, ...] = ()
    """Volumes."""
    pod_security_context: PodSecCtx | None = None
    """Pod-level security context."""
    node_selector: dict[str, str] = {}
    """Node selector."""
    tolerations: tuple[TolerationInfo, ...] = ()
    """Tolerations."""
    affinity: AffinityInfo | None = None
    """Affinity rules."""
    priority_class_name: str = ""
    """Priority class."""
    priority: Int32 | None = None
    """Priority value."""
    runtime_class_name: str = ""
    """Runtime class."""
    overhead: dict[str, Quantity] = {}
    """Pod overhead."""
    dns_policy: str = ""
    """DNS policy."""
    dns_config: DNSConfigInfo | None = None
    """DNS settings."""
    subdomain: str = ""
    """Subdomain."""
    hostname: str = ""
    """Host name."""
    host_aliases: tuple[HostAlias, ...] = ()
    """Static host entries."""
    automount_service_account_token: bool | None = None
    """Token automount setting."""
    enable_service_links: bool | None = None
    """Service env links setting."""
    termination_grace_period_seconds: Int64 | None = None
    """Termination grace."""
    phase: str = ""
    """Pod phase."""
    qos_class: str = ""
    """QoS class."""


class PodRef(Wire, frozen=True, kw_only=True):
    """A pod by name and uid."""

    namespace: str
    """Pod namespace."""
    name: str
    """Pod name."""
    uid: str = ""
    """Pod UID."""
    resource_version: str = ""
    """Pod version."""


class ContainerSubject(Wire, frozen=True, kw_only=True):
    """One container, with the pod it belongs to."""

    pod_ref: PodRef
    """Parent pod."""
    container_name: str
    """Container name."""
    container_id: str = ""
    """Runtime id."""
    image: str = ""
    """Image reference."""
    image_digest: str = ""
    """Image digest."""
    pid: Int32 | None = None
    """Host process id."""
    cgroup_id: Int64 | None = None
    """Cgroup v2 inode id."""
    started_at: dt.datetime | None = None
    """Start time."""
    embedded: ContainerInfo | None = None
    """Full container snapshot."""

    def __post_init__(self) -> None:
        """Clamp the kernel's unsigned id: an API server refuses what is beyond 63 bits, and the event would be lost."""
        if self.cgroup_id is not None:
            msgspec.structs.force_setattr(self, "cgroup_id", clamped(self.cgroup_id, INT64_MAX))


class NodeSubject(Wire, frozen=True, kw_only=True):
    """A node as it was."""

    roles: tuple[str, ...] = ()
    """Roles from node-role labels."""
    kernel_version: str = ""
    """Kernel."""
    os_image: str = ""
    """OS image."""
    kubelet_version: str = ""
    """Kubelet."""
    container_runtime: str = ""
    """Runtime and version."""
    architecture: str = ""
    """CPU architecture."""
    operating_system: str = ""
    """OS."""
    taints: tuple[str, ...] = ()
    """Taints as text."""
    conditions: tuple[str, ...] = ()
    """True conditions as text."""
    capacity: dict[str, Quantity] = {}
    """Capacity."""
    allocatable: dict[str, Quantity] = {}
    """Allocatable."""
    internal_ip: str = ""
    """Internal address."""
    hostname: str = ""
    """Host name."""


class ServiceAccountSubject(Wire, frozen=True, kw_only=True):
    """A ServiceAccount as it was."""

    automount_token: bool | None = None
    """Automount setting."""
    image_pull_secrets: tuple[str, ...] = ()
    """Pull secret names."""
    secrets: tuple[str, ...] = ()
    """Secret names."""


class SecretSubject(Wire, frozen=True, kw_only=True):
    """A Secret: type and key names, never data."""

    type: str = ""
    """Secret type."""
    data_keys: tuple[str, ...] = ()
    """Key names only."""
    immutable: bool | None = None
    """Immutable flag."""
    size_bytes: int | None = None
    """Total data size."""


class ConfigMapSubject(Wire, frozen=True, kw_only=True):
    """A ConfigMap: key names, never data."""

    data_keys: tuple[str, ...] = ()
    """Key names only."""
    binary_data_keys: tuple[str, ...] = ()
    """Binary key names."""
    immutable: bool | None = None
    """Immutable flag."""
    size_bytes: int | None = None
    """Total data size."""


class PSAInfo(Wire, frozen=True, kw_only=True):
    """Pod Security admission levels."""

    enforce: str = ""
    """Enforce level."""
    enforce_version: str = ""
    """Enforce version."""
    audit: str = ""
    """Audit level."""
    warn: str = ""
    """Warn level."""


class NamespaceSubject(Wire, frozen=True, kw_only=True):
    """A Namespace with its Pod Security levels."""

    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""
    phase: str = ""
    """Phase."""
    psa_level: PSAInfo | None = None
    """Pod Security levels."""


class ServicePort(Wire, frozen=True, kw_only=True):
    """A port of a Service."""

    name: str = ""
    """Port name."""
    port: Int32
    """Service port."""
    target_port: str = ""
    """Target port as text."""
    protocol: str = ""
    """Protocol."""
    node_port: Int32 | None = None
    """Node port."""


class ServiceSubject(Wire, frozen=True, kw_only=True):
    """A Service as it was."""

    type: str = ""
    """Service type."""
    cluster_ip: str = ""
    """Cluster IP."""
    cluster_i_ps: tuple[str, ...] = ()
    """Cluster IPs."""
    external_i_ps: tuple[str, ...] = ()
    """External IPs."""
    load_balancer_ip: str = ""
    """Requested LB IP."""
    load_balancer_source_ranges: tuple[str, ...] = ()
    """Allowed source CIDRs."""
    external_name: str = ""
    """External name."""
    ports: tuple[ServicePort, ...] = ()
    """Ports."""
    selector: dict[str, str] = {}
    """Selector."""
    session_affinity: str = ""
    """Session affinity."""
    internal_traffic_policy: str = ""
    """Internal traffic policy."""
    external_traffic_policy: str = ""
    """External traffic policy."""
    publish_not_ready_addresses: bool | None = None
    """Publish unready addresses."""


class EndpointInfo(Wire, frozen=True, kw_only=True):
    """One endpoint."""

    addresses: tuple[str, ...] = ()
    """Addresses."""
    conditions: tuple[str, ...] = ()
    """True conditions as text."""
    hostname: str = ""
    """Host name."""
    node_name: str = ""
    """Node."""


class EndpointPort(Wire, frozen=True, kw_only=True):
    """One endpoint port."""

    name: str = ""
    """Port name."""
    port: Int32 | None = None
    """Port."""
    protocol: str = ""
    """Protocol."""
    app_protocol: str = ""
    """Application protocol."""


class EndpointSliceSubject(Wire, frozen=True, kw_only=True):
    """An EndpointSlice as it was."""

    address_type: str = ""
    """Address type."""
    endpoints: tuple[EndpointInfo, ...] = ()
    """Endpoints."""
    ports: tuple[EndpointPort, ...] = ()
    """Ports."""
    owner_service: str = ""
    """Owning Service."""


class WorkloadSubject(Wire, frozen=True, kw_only=True):
    """A Deployment, StatefulSet or DaemonSet with its pod template."""

    kind: str
    """Deployment, StatefulSet or DaemonSet."""
    replicas: Int32 | None = None
    """Desired replicas."""
    strategy: str = ""
    """Update strategy."""
    pod_template: PodSubject | None = None
    """Template as a pod snapshot."""
    selector: dict[str, str] = {}
    """Match labels."""
    owner_references: tuple[OwnerReference, ...] = ()
    """Owners."""


class JobSubject(Wire, frozen=True, kw_only=True):
    """A Job or CronJob with its pod template."""

    kind: str
    """Job or CronJob."""
    schedule: str = ""
    """Cron schedule."""
    backoff_limit: Int32 | None = None
    """Back-off limit."""
    completions: Int32 | None = None
    """Completions."""
    parallelism: Int32 | None = None
    """Parallelism."""
    pod_template: PodSubject | None = None
    """Template as a pod snapshot."""
    suspend: bool | None = None
    """Suspended."""
    last_schedule_time: dt.datetime | None = None
    """Last schedule."""


class PolicyRule(Wire, frozen=True, kw_only=True):
    """One rule of a role."""

    verbs: tuple[str, ...] = msgspec.field(default_factory=always(()))
    """Verbs."""
    api_groups: tuple[str, ...] = ()
    """API groups."""
    resources: tuple[str, ...] = ()
    """Resources."""
    resource_names: tuple[str, ...] = ()
    """Resource names."""
    non_resource_ur_ls: tuple[str, ...] = msgspec.field(default=(), name="nonResourceURLs")
    """Non-resource URLs."""


class RoleSubject(Wire, frozen=True, kw_only=True):
    """A Role or ClusterRole with its rules."""

    kind: str
    """Role or ClusterRole."""
    rules: tuple[PolicyRule, ...] = ()
    """Rules."""
    aggregation_label: LabelSelector | None = None
    """Aggregation selector."""


class RoleRef(Wire, frozen=True, kw_only=True):
    """The role that a binding grants."""

    api_group: str = ""
    """API group."""
    kind: str
    """Role or ClusterRole."""
    name: str
    """Role name."""


class BindingSubject(Wire, frozen=True, kw_only=True):
    """Who a binding grants it to."""

    kind: str
    """User, Group or ServiceAccount."""
    name: str
    """Grantee name."""
    namespace: str = ""
    """Namespace for ServiceAccounts."""
    api_group: str = ""
    """API group."""


class RoleBindingSubject(Wire, frozen=True, kw_only=True):
    """A RoleBinding or ClusterRoleBinding."""

    kind: str
    """RoleBinding or ClusterRoleBinding."""
    role_ref: RoleRef
    """Role granted."""
    subjects: tuple[BindingSubject, ...] = ()
    """Grantees."""


class NetworkPolicySubject(Wire, frozen=True, kw_only=True):
    """A NetworkPolicy or CiliumNetworkPolicy."""

    kind: str
    """NetworkPolicy or CiliumNetworkPolicy."""
    policy_types: tuple[str, ...] = ()
    """Ingress and/or Egress."""
    pod_selector: dict[str, str] = {}
    """Pod selector labels."""
    endpoint: str = ""
    """Cilium endpoint selector as text."""
    ingress_rules: int | None = None
    """Number of ingress rules."""
    egress_rules: int | None = None
    """Number of egress rules."""


class IngressSubject(Wire, frozen=True, kw_only=True):
    """An Ingress or Gateway."""

    kind: str
    """Ingress or Gateway."""
    ingress_class_name: str = ""
    """Class name."""
    hosts_count: int | None = None
    """Number of hosts."""
    tls_count: int | None = None
    """Number of TLS blocks."""
    backends_count: int | None = None
    """Number of backends."""


class ServiceRef(Wire, frozen=True, kw_only=True):
    """A Service as the target of a call."""

    namespace: str = ""
    """Service namespace."""
    name: str
    """Service name."""
    port: Int32 | None = None
    """Service port."""


class WebhookClientConfig(Wire, frozen=True, kw_only=True):
    """Where a webhook is called; the CA itself is never kept."""

    service: ServiceRef | None = None
    """Target service."""
    url: str = ""
    """Target URL."""
    ca_bundle_sha256: str = msgspec.field(default="", name="caBundleSHA256")
    """Digest of the CA bundle, never its body."""


class RuleInfo(Wire, frozen=True, kw_only=True):
    """Which requests a webhook sees."""

    operations: tuple[str, ...] = ()
    """Operations."""
    api_groups: tuple[str, ...] = ()
    """API groups."""
    api_versions: tuple[str, ...] = ()
    """API versions."""
    resources: tuple[str, ...] = ()
    """Resources."""
    scope: str = ""
    """Scope."""


class WebhookInfo(Wire, frozen=True, kw_only=True):
    """One webhook of a configuration."""

    name: str
    """Webhook name."""
    client_config: WebhookClientConfig
    """Where it is called."""
    rules: tuple[RuleInfo, ...] = ()
    """Match rules."""
    failure_policy: str = ""
    """Ignore or Fail."""
    match_policy: str = ""
    """Match policy."""
    side_effects: str = ""
    """Side effects."""
    timeout_seconds: Int32 | None = None
    """Timeout."""
    reinvocation_policy: str = ""
    """Reinvocation policy (mutating)."""
    admission_review_versions: tuple[str, ...] = ()
    """Review versions."""
    namespace_selector: LabelSelector | None = None
    """Namespace selector."""
    object_selector: LabelSelector | None = None
    """Object selector."""


class WebhookConfigSubject(Wire, frozen=True, kw_only=True):
    """An admission webhook configuration."""

    kind: str
    """Which webhook configuration kind."""
    webhooks: tuple[WebhookInfo, ...] = ()
    """Webhooks."""


class CRDNames(Wire, frozen=True, kw_only=True):
    """The names of a custom kind."""

    plural: str
    """Plural."""
    singular: str = ""
    """Singular."""
    kind: str
    """Kind."""
    list_kind: str = ""
    """List kind."""
    short_names: tuple[str, ...] = ()
    """Short names."""


class CRDSubject(Wire, frozen=True, kw_only=True):
    """A CustomResourceDefinition."""

    group: str
    """API group."""
    versions: tuple[str, ...] = ()
    """Versions."""
    scope: str = ""
    """Scope."""
    names: CRDNames
    """Names."""
    categories: tuple[str, ...] = ()
    """Categories."""
    conversion: str = ""
    """Conversion strategy."""


class APIServiceSubject(Wire, frozen=True, kw_only=True):
    """An aggregated API."""

    group: str
    """API group."""
    version: str
    """Version."""
    service: ServiceRef | None = None
    """Backing service."""
    insecure_skip_tls_verify: bool | None = msgspec.field(default=None, name="insecureSkipTLSVerify")
    """TLS checks skipped."""
    group_priority_minimum: Int32 | None = None
    """Group priority."""
    version_priority: Int32 | None = None
    """Version priority."""
    available: bool | None = None
    """Availability."""


class CSRSubject(Wire, frozen=True, kw_only=True):
    """A certificate signing request."""

    signer_name: str
    """Signer."""
    username: str = ""
    """Requester."""
    groups: tuple[str, ...] = ()
    """Requester groups."""
    uids: tuple[str, ...] = ()
    """Requester UIDs."""
    conditions: tuple[str, ...] = ()
    """Conditions as text."""
    expiration_seconds: Int32 | None = None
    """Requested lifetime."""


class ClusterSubject(Wire, frozen=True, kw_only=True):
    """The cluster itself."""

    cluster_id: str = ""
    """Cluster id."""
    cluster_name: str = ""
    """Cluster name."""
    kubernetes_version: str = ""
    """Server version."""
    distro_provider: str = ""
    """Distribution."""


class ExternalSubject(Wire, frozen=True, kw_only=True):
    """Something outside the cluster: a user, an address, an endpoint, a group."""

    kind: str
    """ExternalUser, ExternalIP, ExternalEndpoint or Group."""
    identity: str
    """User name, address or URL."""
    source: str = ""
    """Who reported it."""
