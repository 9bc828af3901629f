"""Turns the body of a request or response into the snapshot that an event keeps of its subject.

A builder returns None where a field that its snapshot cannot do without is missing. Data of Secrets and ConfigMaps,
values of variables and CA bundles are never read, only named, measured or hashed.
"""

import base64
import hashlib
from collections.abc import Callable
from typing import Final

from ugallu.sdk import k8s
from ugallu.sdk import snapshots as snap
from ugallu_audit_detection.body import Part
from ugallu_audit_detection.redact import scrubbed

Snapshot = Callable[[Part, str, str], "object | None"]
"""From (object, its kind, its name) to the snapshot."""


def _pod_at(spec: Part, status: Part) -> snap.PodSubject:
    affinity = spec.part("affinity")
    return snap.PodSubject(
        node_name=spec.text("nodeName"),
        service_account_name=spec.text("serviceAccountName"),
        host_network=spec.flag("hostNetwork"),
        host_pid=spec.flag("hostPID"),
        host_ipc=spec.flag("hostIPC"),
        containers=tuple(map(_container, spec.parts("containers"))),
        init_containers=tuple(map(_container, spec.parts("initContainers"))),
        ephemeral_containers=tuple(map(_container, spec.parts("ephemeralContainers"))),
        volumes=tuple(map(_volume, spec.parts("volumes"))),
        pod_security_context=_pod_security(spec.part("securityContext")),
        node_selector=spec.table("nodeSelector"),
        tolerations=tuple(
            snap.TolerationInfo(
                key=item.text("key"),
                operator=item.text("operator"),
                value=item.text("value"),
                effect=item.text("effect"),
            )
            for item in spec.parts("tolerations")
        ),
        affinity=snap.AffinityInfo(
            node_affinity=affinity.part("nodeAffinity").shaped(k8s.NodeAffinity),
            pod_affinity=affinity.part("podAffinity").shaped(k8s.PodAffinity),
            pod_anti_affinity=affinity.part("podAntiAffinity").shaped(k8s.PodAntiAffinity),
        )
        if affinity
        else None,
        priority_class_name=spec.text("priorityClassName"),
        priority=spec.small("priority"),
        runtime_class_name=spec.text("runtimeClassName"),
        overhead=spec.quantities("overhead"),
        dns_policy=spec.text("dnsPolicy"),
        dns_config=_dns(spec.part("dnsConfig")),
        subdomain=spec.text("subdomain"),
        hostname=spec.text("hostname"),
        host_aliases=tuple(
            snap.HostAlias(ip=item.text("ip"), hostnames=item.texts("hostnames")) for item in spec.parts("hostAliases")
        ),
        automount_service_account_token=spec.flag("automountServiceAccountToken"),
        enable_service_links=spec.flag("enableServiceLinks"),
        termination_grace_period_seconds=spec.number("terminationGracePeriodSeconds"),
        phase=status.text("phase"),
        qos_class=status.text("qosClass"),
    )


def _container(item: Part) -> snap.ContainerInfo:
    lifecycle = item.part("lifecycle")
    return snap.ContainerInfo(
        name=item.text("name"),
        image=item.text("image"),
        image_digest=item.text("image").partition("@")[2],
        image_pull_policy=item.text("imagePullPolicy"),
        volume_mounts=tuple(
            snap.VolumeMount(
                name=mount.text("name"),
                mount_path=mount.text("mountPath"),
                read_only=mount.flag("readOnly"),
                sub_path=mount.text("subPath"),
                mount_propagation=mount.text("mountPropagation"),
            )
            for mount in item.parts("volumeMounts")
        ),
        env_names=tuple(variable.text("name") for variable in item.parts("env")),
        env_from=tuple(
            snap.EnvFromRef(
                config_map_ref_name=source.part("configMapRef").text("name"),
                secret_ref_name=source.part("secretRef").text("name"),
                optional=source.part("secretRef").flag("optional"),
                prefix=source.text("prefix"),
            )
            for source in item.parts("envFrom")
        ),
        ports=tuple(
            snap.ContainerPort(
                name=port.text("name"),
                host_port=port.small("hostPort"),
                container_port=port.small("containerPort") or 0,
                protocol=port.text("protocol"),
                host_ip=port.text("hostIP"),
            )
            for port in item.parts("ports")
        ),
        resources=item.part("resources").shaped(k8s.ResourceRequirements),
        security_context=_container_security(item.part("securityContext")),
        lifecycle=snap.LifecycleInfo(
            post_start=_hook(lifecycle.part("postStart")), pre_stop=_hook(lifecycle.part("preStop"))
        )
        if lifecycle
        else None,
        liveness_probe=_probe(item.part("livenessProbe")),
        readiness_probe=_probe(item.part("readinessProbe")),
        startup_probe=_probe(item.part("startupProbe")),
        working_dir=item.text("workingDir"),
        stdin=item.flag("stdin"),
        tty=item.flag("tty"),
    )


def _container_security(item: Part) -> snap.ContainerSecCtx | None:
    if not item:
        return None
    return snap.ContainerSecCtx(
        privileged=item.flag("privileged"),
        run_as_user=item.number("runAsUser"),
        run_as_group=item.number("runAsGroup"),
        run_as_non_root=item.flag("runAsNonRoot"),
        read_only_root_filesystem=item.flag("readOnlyRootFilesystem"),
        allow_privilege_escalation=item.flag("allowPrivilegeEscalation"),
        capabilities=item.part("capabilities").shaped(k8s.Capabilities),
        seccomp_profile=_seccomp(item.part("seccompProfile")),
        app_armor_profile=_app_armor(item.part("appArmorProfile")),
        se_linux_options=_se_linux(item.part("seLinuxOptions")),
        proc_mount=item.text("procMount"),
    )


def _pod_security(item: Part) -> snap.PodSecCtx | None:
    if not item:
        return None
    return snap.PodSecCtx(
        run_as_user=item.number("runAsUser"),
        run_as_group=item.number("runAsGroup"),
        run_as_non_root=item.flag("runAsNonRoot"),
        supplemental_groups=item.numbers("supplementalGroups"),
        fs_group=item.number("fsGroup"),
        fs_group_change_policy=item.text("fsGroupChangePolicy"),
        sysctls=tuple(
            snap.SysctlInfo(name=setting.text("name"), value=setting.text("value")) for setting in item.parts("sysctls")
        ),
        seccomp_profile=_seccomp(item.part("seccompProfile")),
        se_linux_options=_se_linux(item.part("seLinuxOptions")),
        app_armor_profile=_app_armor(item.part("appArmorProfile")),
    )


def _seccomp(item: Part) -> snap.SeccompProfile | None:
    return (
        snap.SeccompProfile(type=item.text("type"), localhost_profile=item.text("localhostProfile")) if item else None
    )


def _app_armor(item: Part) -> snap.AppArmorProfile | None:
    return (
        snap.AppArmorProfile(type=item.text("type"), localhost_profile=item.text("localhostProfile")) if item else None
    )


def _se_linux(item: Part) -> snap.SELinuxOptions | None:
    if not item:
        return None
    return snap.SELinuxOptions(
        user=item.text("user"), role=item.text("role"), type=item.text("type"), level=item.text("level")
    )


def _hook(item: Part) -> snap.HookInfo | None:
    if not item:
        return None
    kind, command, path, port = _call(item)
    return snap.HookInfo(type=kind, command=command, path=path, port=port)


def _probe(item: Part) -> snap.ProbeInfo | None:
    if not item:
        return None
    kind, command, path, port = _call(item)
    return snap.ProbeInfo(type=kind, command=command, path=path, port=port)


def _call(item: Part) -> tuple[str, tuple[str, ...], str, int | None]:
    """How a hook or probe asks: kind, command, path and port. Its arguments may carry a credential."""
    kind = next((name for name in ("exec", "httpGet", "tcpSocket", "grpc", "sleep") if item.has(name)), "")
    call = item.part(kind)
    return kind, tuple(map(scrubbed, call.texts("command"))), scrubbed(call.text("path")), call.small("port")


_VOLUME_SOURCES: Final = {
    # The source of a volume maps to the field that names what is mounted, where that is not `name`.
    "hostPath": "path",
    "secret": "secretName",
    "persistentVolumeClaim": "claimName",
    "csi": "driver",
    "nfs": "server",
    "emptyDir": "medium",
    "image": "reference",
}


def _volume(item: Part) -> snap.VolumeInfo:
    kind = next((name for name in item.names() if name != "name" and item.has(name)), "")
    path = item.part("hostPath")
    return snap.VolumeInfo(
        name=item.text("name"),
        type=kind or "emptyDir",  # a volume without a source is one
        source=item.part(kind).text(_VOLUME_SOURCES.get(kind, "name")),
        host_path=path.text("path"),
        host_path_type=path.text("type"),
    )


def _dns(item: Part) -> snap.DNSConfigInfo | None:
    if not item:
        return None
    options = tuple(
        f"{option.text('name')}:{option.text('value')}" if option.has("value") else option.text("name")
        for option in item.parts("options")
    )
    return snap.DNSConfigInfo(nameservers=item.texts("nameservers"), searches=item.texts("searches"), options=options)


def _pod(item: Part, _: str, __: str) -> snap.PodSubject | None:
    return _pod_at(item.part("spec"), item.part("status")) if item.has("spec") else None


def _node(item: Part, _: str, __: str) -> snap.NodeSubject:
    spec, status = item.part("spec"), item.part("status")
    info = status.part("nodeInfo")
    addresses = {address.text("type"): address.text("address") for address in status.parts("addresses")}
    prefix = "node-role.kubernetes.io/"
    return snap.NodeSubject(
        roles=tuple(
            label.removeprefix(prefix) for label in item.part("metadata").keys("labels") if label.startswith(prefix)
        ),
        kernel_version=info.text("kernelVersion"),
        os_image=info.text("osImage"),
        kubelet_version=info.text("kubeletVersion"),
        container_runtime=info.text("containerRuntimeVersion"),
        architecture=info.text("architecture"),
        operating_system=info.text("operatingSystem"),
        taints=tuple(
            f"{taint.text('key')}={taint.text('value')}:{taint.text('effect')}" for taint in spec.parts("taints")
        ),
        conditions=_conditions(status),
        capacity=status.quantities("capacity"),
        allocatable=status.quantities("allocatable"),
        internal_ip=addresses.get("InternalIP", ""),
        hostname=addresses.get("Hostname", ""),
    )


def _conditions(status: Part) -> tuple[str, ...]:
    return tuple(
        f"{condition.text('type')}={condition.text('status') or 'True'}" for condition in status.parts("conditions")
    )


def _service_account(item: Part, _: str, __: str) -> snap.ServiceAccountSubject:
    return snap.ServiceAccountSubject(
        automount_token=item.flag("automountServiceAccountToken"),
        image_pull_secrets=tuple(secret.text("name") for secret in item.parts("imagePullSecrets")),
        secrets=tuple(secret.text("name") for secret in item.parts("secrets")),
    )


def _secret(item: Part, _: str, __: str) -> snap.SecretSubject:
    return snap.SecretSubject(
        type=item.text("type"),
        data_keys=tuple(sorted({*item.keys("data"), *item.keys("stringData")})),
        immutable=item.flag("immutable"),
        size_bytes=item.bytes_in("data", base64=True) + item.bytes_in("stringData", base64=False) or None,
    )


def _config_map(item: Part, _: str, __: str) -> snap.ConfigMapSubject:
    return snap.ConfigMapSubject(
        data_keys=item.keys("data"),
        binary_data_keys=item.keys("binaryData"),
        immutable=item.flag("immutable"),
        size_bytes=item.bytes_in("data", base64=False) + item.bytes_in("binaryData", base64=True) or None,
    )


def _namespace(item: Part, _: str, __: str) -> snap.NamespaceSubject:
    labels = item.part("metadata").table("labels")
    level = {name: labels.get(f"pod-security.kubernetes.io/{name}", "") for name in ("enforce", "audit", "warn")}
    level["enforce_version"] = labels.get("pod-security.kubernetes.io/enforce-version", "")
    return snap.NamespaceSubject(
        labels=labels,
        phase=item.part("status").text("phase"),
        psa_level=snap.PSAInfo(**level) if any(level.values()) else None,
    )


def _service(item: Part, _: str, __: str) -> snap.ServiceSubject:
    spec = item.part("spec")
    return snap.ServiceSubject(
        type=spec.text("type"),
        cluster_ip=spec.text("clusterIP"),
        cluster_i_ps=spec.texts("clusterIPs"),
        external_i_ps=spec.texts("externalIPs"),
        load_balancer_ip=spec.text("loadBalancerIP"),
        load_balancer_source_ranges=spec.texts("loadBalancerSourceRanges"),
        external_name=spec.text("externalName"),
        ports=tuple(
            snap.ServicePort(
                name=port.text("name"),
                port=port.small("port") or 0,
                target_port=port.text("targetPort"),
                protocol=port.text("protocol"),
                node_port=port.small("nodePort"),
            )
            for port in spec.parts("ports")
        ),
        selector=spec.table("selector"),
        session_affinity=spec.text("sessionAffinity"),
        internal_traffic_policy=spec.text("internalTrafficPolicy"),
        external_traffic_policy=spec.text("externalTrafficPolicy"),
        publish_not_ready_addresses=spec.flag("publishNotReadyAddresses"),
    )


def _endpoint_slice(item: Part, _: str, __: str) -> snap.EndpointSliceSubject:
    return snap.EndpointSliceSubject(
        address_type=item.text("addressType"),
        endpoints=tuple(
            snap.EndpointInfo(
                addresses=end.texts("addresses"),
                conditions=tuple(
                    name for name in ("ready", "serving", "terminating") if end.part("conditions").flag(name)
                ),
                hostname=end.text("hostname"),
                node_name=end.text("nodeName"),
            )
            for end in item.parts("endpoints")
        ),
        ports=tuple(
            snap.EndpointPort(
                name=port.text("name"),
                port=port.small("port"),
                protocol=port.text("protocol"),
                app_protocol=port.text("appProtocol"),
            )
            for port in item.parts("ports")
        ),
        owner_service=item.part("metadata").table("labels").get("kubernetes.io/service-name", ""),
    )


def _workload(item: Part, kind: str, _: str) -> snap.WorkloadSubject:
    spec = item.part("spec")
    template = spec.part("template", "spec")
    return snap.WorkloadSubject(
        kind=kind,
        replicas=spec.small("replicas"),
        strategy=spec.part("strategy").text("type") or spec.part("updateStrategy").text("type"),
        pod_template=_pod_at(template, spec.part("template", "status")) if template else None,
        selector=spec.part("selector").table("matchLabels"),
    )


def _job(item: Part, kind: str, _: str) -> snap.JobSubject:
    spec = item.part("spec")
    job = spec.part("jobTemplate", "spec") if kind == "CronJob" else spec
    template = job.part("template", "spec")
    return snap.JobSubject(
        kind=kind,
        schedule=spec.text("schedule"),
        backoff_limit=job.small("backoffLimit"),
        completions=job.small("completions"),
        parallelism=job.small("parallelism"),
        pod_template=_pod_at(template, job.part("template", "status")) if template else None,
        suspend=spec.flag("suspend"),
    )


def _role(item: Part, kind: str, _: str) -> snap.RoleSubject:
    return snap.RoleSubject(
        kind=kind,
        rules=tuple(
            snap.PolicyRule(
                verbs=rule.texts("verbs"),
                api_groups=rule.texts("apiGroups"),
                resources=rule.texts("resources"),
                resource_names=rule.texts("resourceNames"),
                non_resource_ur_ls=rule.texts("nonResourceURLs"),
            )
            for rule in item.parts("rules")
        ),
        aggregation_label=_aggregation(item.part("aggregationRule")),
    )


def _aggregation(rule: Part) -> k8s.LabelSelector | None:
    """The first selector: an event has room for one, and one is what roles have."""
    selectors = rule.parts("clusterRoleSelectors")
    return selectors[0].shaped(k8s.LabelSelector) if selectors else None


def _role_binding(item: Part, kind: str, _: str) -> snap.RoleBindingSubject | None:
    role = item.part("roleRef")
    if not role.text("name"):
        return None
    return snap.RoleBindingSubject(
        kind=kind,
        role_ref=snap.RoleRef(api_group=role.text("apiGroup"), kind=role.text("kind"), name=role.text("name")),
        subjects=tuple(
            snap.BindingSubject(
                kind=who.text("kind"),
                name=who.text("name"),
                namespace=who.text("namespace"),
                api_group=who.text("apiGroup"),
            )
            for who in item.parts("subjects")
        ),
    )


def _network_policy(item: Part, kind: str, _: str) -> snap.NetworkPolicySubject:
    spec = item.part("spec")
    selector = spec.part("podSelector") or spec.part("endpointSelector")
    return snap.NetworkPolicySubject(
        kind=kind,
        policy_types=spec.texts("policyTypes"),
        pod_selector=selector.table("matchLabels"),
        ingress_rules=spec.count("ingress"),
        egress_rules=spec.count("egress"),
    )


def _ingress(item: Part, kind: str, _: str) -> snap.IngressSubject:
    spec = item.part("spec")
    if kind == "Gateway":
        listeners = spec.parts("listeners")
        return snap.IngressSubject(
            kind=kind,
            ingress_class_name=spec.text("gatewayClassName"),
            hosts_count=len({one.text("hostname") for one in listeners if one.text("hostname")}),
            tls_count=sum(one.has("tls") for one in listeners),
        )
    rules = spec.parts("rules")
    backends = sum(len(rule.part("http").parts("paths")) for rule in rules) + spec.has("defaultBackend")
    return snap.IngressSubject(
        kind=kind,
        ingress_class_name=spec.text("ingressClassName"),
        hosts_count=len({rule.text("host") for rule in rules if rule.text("host")}),
        tls_count=spec.count("tls") or 0,
        backends_count=backends,
    )


def _webhooks(item: Part, kind: str, _: str) -> snap.WebhookConfigSubject:
    return snap.WebhookConfigSubject(kind=kind, webhooks=tuple(map(_webhook, item.parts("webhooks"))))


def _webhook(item: Part) -> snap.WebhookInfo:
    client = item.part("clientConfig")
    return snap.WebhookInfo(
        name=item.text("name"),
        client_config=snap.WebhookClientConfig(
            service=_service_ref(client.part("service")),
            url=scrubbed(client.text("url")),
            ca_bundle_sha256=_digest(client.raw("caBundle")),
        ),
        rules=tuple(
            snap.RuleInfo(
                operations=rule.texts("operations"),
                api_groups=rule.texts("apiGroups"),
                api_versions=rule.texts("apiVersions"),
                resources=rule.texts("resources"),
                scope=rule.text("scope"),
            )
            for rule in item.parts("rules")
        ),
        failure_policy=item.text("failurePolicy"),
        match_policy=item.text("matchPolicy"),
        side_effects=item.text("sideEffects"),
        timeout_seconds=item.small("timeoutSeconds"),
        reinvocation_policy=item.text("reinvocationPolicy"),
        admission_review_versions=item.texts("admissionReviewVersions"),
        namespace_selector=item.part("namespaceSelector").shaped(k8s.LabelSelector),
        object_selector=item.part("objectSelector").shaped(k8s.LabelSelector),
    )


def _digest(bundle: object) -> str:
    if not isinstance(bundle, str) or not bundle:
        return ""
    try:
        certificates = base64.b64decode(bundle, validate=True)
    except ValueError:
        certificates = bundle.encode()
    return hashlib.sha256(certificates).hexdigest()


def _service_ref(item: Part) -> snap.ServiceRef | None:
    if not item.text("name"):
        return None
    return snap.ServiceRef(namespace=item.text("namespace"), name=item.text("name"), port=item.small("port"))


def _crd(item: Part, _: str, __: str) -> snap.CRDSubject | None:
    spec = item.part("spec")
    names = spec.part("names")
    if not (spec.text("group") and names.text("plural")):
        return None
    return snap.CRDSubject(
        group=spec.text("group"),
        versions=tuple(version.text("name") for version in spec.parts("versions")),
        scope=spec.text("scope"),
        names=snap.CRDNames(
            plural=names.text("plural"),
            singular=names.text("singular"),
            kind=names.text("kind"),
            list_kind=names.text("listKind"),
            short_names=names.texts("shortNames"),
        ),
        categories=names.texts("categories"),
        conversion=spec.part("conversion").text("strategy"),
    )


def _api_service(item: Part, _: str, name: str) -> snap.APIServiceSubject | None:
    spec = item.part("spec")
    version, _, group = name.partition(".")  # an APIService is called <version>.<group>, the API server insists
    available = next((one for one in item.part("status").parts("conditions") if one.text("type") == "Available"), None)
    if not (version and (group or spec.has("group"))):
        return None
    return snap.APIServiceSubject(
        group=spec.text("group") or group,
        version=spec.text("version") or version,
        service=_service_ref(spec.part("service")),
        insecure_skip_tls_verify=spec.flag("insecureSkipTLSVerify"),
        group_priority_minimum=spec.small("groupPriorityMinimum"),
        version_priority=spec.small("versionPriority"),
        available=available.text("status") == "True" if available is not None else None,
    )


def _csr(item: Part, _: str, __: str) -> snap.CSRSubject | None:
    spec = item.part("spec")
    if not spec.text("signerName"):
        return None
    return snap.CSRSubject(
        signer_name=spec.text("signerName"),
        username=spec.text("username"),
        groups=spec.texts("groups"),
        uids=(spec.text("uid"),) if spec.text("uid") else (),
        conditions=_conditions(item.part("status")),
        expiration_seconds=spec.small("expirationSeconds"),
    )


BUILDERS: Final[dict[str, Snapshot]] = {
    "Pod": _pod,
    "Node": _node,
    "ServiceAccount": _service_account,
    "Secret": _secret,
    "ConfigMap": _config_map,
    "Namespace": _namespace,
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
    "Deployment": _workload,
    "StatefulSet": _workload,
    "DaemonSet": _workload,
    "Job": _job,
    "CronJob": _job,
    "Role": _role,
    "ClusterRole": _role,
    "RoleBinding": _role_binding,
    "ClusterRoleBinding": _role_binding,
    "NetworkPolicy": _network_policy,
    "CiliumNetworkPolicy": _network_policy,
    "Ingress": _ingress,
    "Gateway": _ingress,
    "MutatingWebhookConfiguration": _webhooks,
    "ValidatingWebhookConfiguration": _webhooks,
    "CustomResourceDefinition": _crd,
    "APIService": _api_service,
    "CertificateSigningRequest": _csr,
}
"""One builder for each kind that the audit log names by a resource of its own."""
