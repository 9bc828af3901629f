"""Snapshots of Kubernetes objects as an event keeps them: facts only, never a secret, an environment value or a CA.

Field for field the structures of `SecurityEvent.spec.subject`; `Subject` in `ugallu.api.subject` selects one by kind.
"""

import datetime as dt
from typing import Any

import msgspec

from ugallu.api.meta import OwnerReference, Wire, always


class VolumeMount(Wire, frozen=True, kw_only=True):
    """A mount inside a container."""

    name: str
    mount_path: str
    read_only: bool | None = None
    sub_path: str = ""
    mount_propagation: str = ""


class EnvFromRef(Wire, frozen=True, kw_only=True):
    """A whole ConfigMap or Secret turned into environment variables."""

    config_map_ref_name: str = ""
    secret_ref_name: str = ""
    optional: bool | None = None
    prefix: str = ""


class ContainerPort(Wire, frozen=True, kw_only=True):
    """A declared port."""

    name: str = ""
    host_port: int | None = None
    container_port: int
    protocol: str = ""
    host_ip: str = ""


class SeccompProfile(Wire, frozen=True, kw_only=True):
    """Which seccomp profile applies."""

    type: str
    localhost_profile: str = ""


class AppArmorProfile(Wire, frozen=True, kw_only=True):
    """Which AppArmor profile applies."""

    type: str
    localhost_profile: str = ""


class SELinuxOptions(Wire, frozen=True, kw_only=True):
    """SELinux labels."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class ContainerSecCtx(Wire, frozen=True, kw_only=True):
    """A container's security context."""

    privileged: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    capabilities: dict[str, Any] = {}
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None
    se_linux_options: SELinuxOptions | None = None
    proc_mount: str = ""


class HookInfo(Wire, frozen=True, kw_only=True):
    """One lifecycle hook."""

    type: str
    command: tuple[str, ...] = ()
    path: str = ""
    port: int | None = None


class LifecycleInfo(Wire, frozen=True, kw_only=True):
    """Hooks run after start and before stop."""

    post_start: HookInfo | None = None
    pre_stop: HookInfo | None = None


class ProbeInfo(Wire, frozen=True, kw_only=True):
    """One probe."""

    type: str
    command: tuple[str, ...] = ()
    path: str = ""
    port: int | None = None


class ContainerInfo(Wire, frozen=True, kw_only=True):
    """One container of a pod; environment values are never kept, only names."""

    name: str
    image: str = ""
    image_digest: str = ""
    image_pull_policy: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    env_names: tuple[str, ...] = ()
    env_from: tuple[EnvFromRef, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    resources: dict[str, Any] = {}
    security_context: ContainerSecCtx | None = None
    lifecycle: LifecycleInfo | None = None
    liveness_probe: ProbeInfo | None = None
    readiness_probe: ProbeInfo | None = None
    startup_probe: ProbeInfo | None = None
    working_dir: str = ""
    stdin: bool | None = None
    tty: bool | None = None


class VolumeInfo(Wire, frozen=True, kw_only=True):
    """A volume and where it comes from."""

    name: str
    type: str
    source: str = ""
    host_path: str = ""
    host_path_type: str = ""


class SysctlInfo(Wire, frozen=True, kw_only=True):
    """A kernel parameter."""

    name: str
    value: str


class PodSecCtx(Wire, frozen=True, kw_only=True):
    """A pod's security context."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: tuple[int, ...] = ()
    fs_group: int | None = None
    fs_group_change_policy: str = ""
    sysctls: tuple[SysctlInfo, ...] = ()
    seccomp_profile: SeccompProfile | None = None
    se_linux_options: SELinuxOptions | None = None
    app_armor_profile: AppArmorProfile | None = None


class TolerationInfo(Wire, frozen=True, kw_only=True):
    """A tolerated taint."""

    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""


class AffinityInfo(Wire, frozen=True, kw_only=True):
    """Affinity rules, as the API server stores them."""

    node_affinity: dict[str, Any] = {}
    pod_affinity: dict[str, Any] = {}
    pod_anti_affinity: dict[str, Any] = {}


class DNSConfigInfo(Wire, frozen=True, kw_only=True):
    """Resolver settings."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class HostAlias(Wire, frozen=True, kw_only=True):
    """A static host entry."""

    ip: str
    hostnames: tuple[str, ...] = msgspec.field(default_factory=always(()))


class PodSubject(Wire, frozen=True, kw_only=True):
    """A Pod as it was: placement, containers, volumes, the settings that decide isolation."""

    node_name: str = ""
    service_account_name: str = ""
    host_network: bool | None = None
    host_pid: bool | None = None
    host_ipc: bool | None = None
    containers: tuple[ContainerInfo, ...] = ()
    init_containers: tuple[ContainerInfo, ...] = ()
    ephemeral_containers: tuple[ContainerInfo, ...] = ()
    volumes: tuple[VolumeInfo, ...] = ()
    pod_security_context: PodSecCtx | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[TolerationInfo, ...] = ()
    affinity: AffinityInfo | None = None
    priority_class_name: str = ""
    priority: int | None = None
    runtime_class_name: str = ""
    overhead: dict[str, str | int] = {}
    dns_policy: str = ""
    dns_config: DNSConfigInfo | None = None
    subdomain: str = ""
    hostname: str = ""
    host_aliases: tuple[HostAlias, ...] = ()
    automount_service_account_token: bool | None = None
    enable_service_links: bool | None = None
    termination_grace_period_seconds: int | None = None
    phase: str = ""
    qos_class: str = ""


class PodRef(Wire, frozen=True, kw_only=True):
    """A pod by name and uid."""

    namespace: str
    name: str
    uid: str = ""
    resource_version: str = ""


class ContainerSubject(Wire, frozen=True, kw_only=True):
    """One container, with the pod it belongs to."""

    pod_ref: PodRef
    container_name: str
    container_id: str = ""
    image: str = ""
    image_digest: str = ""
    pid: int | None = None
    cgroup_id: int | None = None
    started_at: dt.datetime | None = None
    embedded: ContainerInfo | None = None


class NodeSubject(Wire, frozen=True, kw_only=True):
    """A node as it was."""

    roles: tuple[str, ...] = ()
    kernel_version: str = ""
    os_image: str = ""
    kubelet_version: str = ""
    container_runtime: str = ""
    architecture: str = ""
    operating_system: str = ""
    taints: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    capacity: dict[str, str | int] = {}
    allocatable: dict[str, str | int] = {}
    internal_ip: str = ""
    hostname: str = ""


class ServiceAccountSubject(Wire, frozen=True, kw_only=True):
    """A ServiceAccount as it was."""

    automount_token: bool | None = None
    image_pull_secrets: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()


class SecretSubject(Wire, frozen=True, kw_only=True):
    """A Secret: type and key names, never data."""

    type: str = ""
    data_keys: tuple[str, ...] = ()
    immutable: bool | None = None
    size_bytes: int | None = None


class ConfigMapSubject(Wire, frozen=True, kw_only=True):
    """A ConfigMap: key names, never data."""

    data_keys: tuple[str, ...] = ()
    binary_data_keys: tuple[str, ...] = ()
    immutable: bool | None = None
    size_bytes: int | None = None


class PSAInfo(Wire, frozen=True, kw_only=True):
    """Pod Security admission levels."""

    enforce: str = ""
    enforce_version: str = ""
    audit: str = ""
    warn: str = ""


class NamespaceSubject(Wire, frozen=True, kw_only=True):
    """A Namespace with its Pod Security levels."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    phase: str = ""
    psa_level: PSAInfo | None = None


class ServicePort(Wire, frozen=True, kw_only=True):
    """A port of a Service."""

    name: str = ""
    port: int
    target_port: str = ""
    protocol: str = ""
    node_port: int | None = None


class ServiceSubject(Wire, frozen=True, kw_only=True):
    """A Service as it was."""

    type: str = ""
    cluster_ip: str = ""
    cluster_i_ps: tuple[str, ...] = ()
    external_i_ps: tuple[str, ...] = ()
    load_balancer_ip: str = ""
    load_balancer_source_ranges: tuple[str, ...] = ()
    external_name: str = ""
    ports: tuple[ServicePort, ...] = ()
    selector: dict[str, str] = {}
    session_affinity: str = ""
    internal_traffic_policy: str = ""
    external_traffic_policy: str = ""
    publish_not_ready_addresses: bool | None = None


class EndpointInfo(Wire, frozen=True, kw_only=True):
    """One endpoint."""

    addresses: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    hostname: str = ""
    node_name: str = ""


class EndpointPort(Wire, frozen=True, kw_only=True):
    """One endpoint port."""

    name: str = ""
    port: int | None = None
    protocol: str = ""
    app_protocol: str = ""


class EndpointSliceSubject(Wire, frozen=True, kw_only=True):
    """An EndpointSlice as it was."""

    address_type: str = ""
    endpoints: tuple[EndpointInfo, ...] = ()
    ports: tuple[EndpointPort, ...] = ()
    owner_service: str = ""


class WorkloadSubject(Wire, frozen=True, kw_only=True):
    """A Deployment, StatefulSet or DaemonSet with its pod template."""

    kind: str
    replicas: int | None = None
    strategy: str = ""
    pod_template: PodSubject | None = None
    selector: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class JobSubject(Wire, frozen=True, kw_only=True):
    """A Job or CronJob with its pod template."""

    kind: str
    schedule: str = ""
    backoff_limit: int | None = None
    completions: int | None = None
    parallelism: int | None = None
    pod_template: PodSubject | None = None
    suspend: bool | None = None
    last_schedule_time: dt.datetime | None = None


class PolicyRule(Wire, frozen=True, kw_only=True):
    """One rule of a role."""

    verbs: tuple[str, ...] = msgspec.field(default_factory=always(()))
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    non_resource_ur_ls: tuple[str, ...] = msgspec.field(default=(), name="nonResourceURLs")


class RoleSubject(Wire, frozen=True, kw_only=True):
    """A Role or ClusterRole with its rules."""

    kind: str
    rules: tuple[PolicyRule, ...] = ()
    aggregation_label: dict[str, Any] = {}


class RoleRef(Wire, frozen=True, kw_only=True):
    """The role that a binding grants."""

    api_group: str = ""
    kind: str
    name: str


class BindingSubject(Wire, frozen=True, kw_only=True):
    """Who a binding grants it to."""

    kind: str
    name: str
    namespace: str = ""
    api_group: str = ""


class RoleBindingSubject(Wire, frozen=True, kw_only=True):
    """A RoleBinding or ClusterRoleBinding."""

    kind: str
    role_ref: RoleRef
    subjects: tuple[BindingSubject, ...] = ()


class NetworkPolicySubject(Wire, frozen=True, kw_only=True):
    """A NetworkPolicy or CiliumNetworkPolicy."""

    kind: str
    policy_types: tuple[str, ...] = ()
    pod_selector: dict[str, str] = {}
    endpoint: str = ""
    ingress_rules: int | None = None
    egress_rules: int | None = None


class IngressSubject(Wire, frozen=True, kw_only=True):
    """An Ingress or Gateway."""

    kind: str
    ingress_class_name: str = ""
    hosts_count: int | None = None
    tls_count: int | None = None
    backends_count: int | None = None


class ServiceRef(Wire, frozen=True, kw_only=True):
    """A Service as the target of a call."""

    namespace: str = ""
    name: str
    port: int | None = None


class WebhookClientConfig(Wire, frozen=True, kw_only=True):
    """Where a webhook is called; the CA itself is never kept."""

    service: ServiceRef | None = None
    url: str = ""
    ca_bundle_sha256: str = msgspec.field(default="", name="caBundleSHA256")


class RuleInfo(Wire, frozen=True, kw_only=True):
    """Which requests a webhook sees."""

    operations: tuple[str, ...] = ()
    api_groups: tuple[str, ...] = ()
    api_versions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    scope: str = ""


class WebhookInfo(Wire, frozen=True, kw_only=True):
    """One webhook of a configuration."""

    name: str
    client_config: WebhookClientConfig
    rules: tuple[RuleInfo, ...] = ()
    failure_policy: str = ""
    match_policy: str = ""
    side_effects: str = ""
    timeout_seconds: int | None = None
    reinvocation_policy: str = ""
    admission_review_versions: tuple[str, ...] = ()
    namespace_selector: dict[str, Any] = {}
    object_selector: dict[str, Any] = {}


class WebhookConfigSubject(Wire, frozen=True, kw_only=True):
    """An admission webhook configuration."""

    kind: str
    webhooks: tuple[WebhookInfo, ...] = ()


class CRDNames(Wire, frozen=True, kw_only=True):
    """The names of a custom kind."""

    plural: str
    singular: str = ""
    kind: str
    list_kind: str = ""
    short_names: tuple[str, ...] = ()


class CRDSubject(Wire, frozen=True, kw_only=True):
    """A CustomResourceDefinition."""

    group: str
    versions: tuple[str, ...] = ()
    scope: str = ""
    names: CRDNames
    categories: tuple[str, ...] = ()
    conversion: str = ""


class APIServiceSubject(Wire, frozen=True, kw_only=True):
    """An aggregated API."""

    group: str
    version: str
    service: ServiceRef | None = None
    insecure_skip_tls_verify: bool | None = msgspec.field(default=None, name="insecureSkipTLSVerify")
    group_priority_minimum: int | None = None
    version_priority: int | None = None
    available: bool | None = None


class CSRSubject(Wire, frozen=True, kw_only=True):
    """A certificate signing request."""

    signer_name: str
    username: str = ""
    groups: tuple[str, ...] = ()
    uids: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    expiration_seconds: int | None = None


class ClusterSubject(Wire, frozen=True, kw_only=True):
    """The cluster itself."""

    cluster_id: str = ""
    cluster_name: str = ""
    kubernetes_version: str = ""
    distro_provider: str = ""


class ExternalSubject(Wire, frozen=True, kw_only=True):
    """Something outside the cluster: a user, an address, an endpoint, a group."""

    kind: str
    identity: str
    source: str = ""
