"""Role -> Pod template: as little as a process needs, and bounded in all that it takes."""

import re
from typing import Any, Final

from ugallu.manifests.names import IMAGE, PRIORITY, labels, selector
from ugallu.manifests.roles import SECRETS, Role, Shape, mebibytes
from ugallu.operator.contract import TokenVolume
from ugallu.settings import Settings

USER: Final = 65532
"""The image's user; also the group of its volumes."""
HEALTH: Final = 8081
METRICS: Final = 9090
STATE: Final = "/var/lib/ugallu"
NODE_STATE: Final = "/var/lib/ugallu"
STATE_SIZE: Final = "4Gi"
"""Journal and webhook spool hold 1 GiB each by default; the rest is evidence and air."""
TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a directory
TOKENS: Final = "/var/run/secrets/ugallu"
TOKEN_SECONDS: Final = 1800
"""The kubelet renews it after four fifths; what is stolen is worth little for long."""

Part = dict[str, Any]


def template(role: Role) -> Part:
    """Return the Pod template of a role, without the state volume that a StatefulSet brings itself."""
    # Annotated, because `kubectl logs` and `exec` ask for a container where there are several, some day.
    return {
        "metadata": {
            "labels": labels(role.name),
            "annotations": {"kubectl.kubernetes.io/default-container": "ugallu"},
        },
        "spec": {
            "serviceAccountName": role.account,
            "automountServiceAccountToken": False,
            # Services put variables named UGALLU_..._PORT into Pods beside them, where our settings are.
            "enableServiceLinks": False,
            "priorityClassName": PRIORITY,
            "terminationGracePeriodSeconds": int(Settings(instance="").grace_seconds) + 10,
            "securityContext": _pod_security(role),
            **_placement(role),
            "containers": [_container(role)],
            "volumes": _volumes(role),
        },
    }


def _pod_security(role: Role) -> Part:
    seccomp = {"seccompProfile": {"type": "RuntimeDefault"}}
    if role.root:
        return {"runAsNonRoot": False, "runAsUser": 0, "runAsGroup": 0, **seccomp}
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        # Always would open our keys to the group at each mount, and who signs refuses a key that others may read.
        "fsGroupChangePolicy": "OnRootMismatch",
        **seccomp,
    }


def _placement(role: Role) -> Part:
    if role.control_plane:
        label = "node-role.kubernetes.io/control-plane"
        # By existence: its value is empty with kubeadm and "true" with k3s.
        term = {"matchExpressions": [{"key": label, "operator": "Exists"}]}
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        taints = (label, "node-role.kubernetes.io/etcd", "CriticalAddonsOnly")
        return {
            "affinity": {"nodeAffinity": required},
            "tolerations": [{"key": key, "operator": "Exists"} for key in taints],
        }
    if role.daemon:
        return {"tolerations": [{"operator": "Exists"}]}
    if role.workload.replicas > 1:
        # A wish, not a condition: with one node left, two replicas on it are better than one.
        spread = {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(role.name)},
        }
        return {"topologySpreadConstraints": [spread]}
    return {}


def _container(role: Role) -> Part:
    memory = mebibytes(role.workload.memory)
    names = ",".join(operator.name for operator in role.operators)
    return {
        "name": "ugallu",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["run", "--enable", names, *role.workload.arguments],
        "env": _environment(role),
        "ports": [
            {"name": "health", "containerPort": HEALTH},
            {"name": "metrics", "containerPort": METRICS},
            *({"name": port.name, "containerPort": port.number} for port in role.workload.ports),
        ],
        "startupProbe": _probe("/healthz", periodSeconds=2, failureThreshold=60),
        "livenessProbe": _probe("/healthz", periodSeconds=20, failureThreshold=3),
        "readinessProbe": _probe("/readyz", periodSeconds=5, failureThreshold=3),
        # No limit on the CPU: a receiver that is throttled slows API servers down.
        "resources": {
            "requests": {"cpu": "50m", "memory": f"{memory // 2}Mi"},
            "limits": {"memory": f"{memory}Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "privileged": False,
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": _mounts(role),
    }


def _environment(role: Role) -> list[Part]:
    fixed = {
        "state": f"{STATE}/state",
        "listen.health": f":{HEALTH}",
        "listen.metrics": f":{METRICS}",
        "log.format": "json",
        **role.settings,
    }
    fields = {"instance": "metadata.name", "kubernetes.namespace": "metadata.namespace"}
    return [
        *(
            {"name": _variable(setting), "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}
            for setting, path in fields.items()
        ),
        *({"name": _variable(setting), "value": value} for setting, value in fixed.items()),
    ]


def _variable(setting: str) -> str:
    return f"UGALLU_{setting.replace('.', '_').upper()}"


def _probe(path: str, **times: int) -> Part:
    return {"httpGet": {"path": path, "port": "health"}, "timeoutSeconds": 5, **times}


def _mounts(role: Role) -> list[Part]:
    return [
        {"name": "state", "mountPath": STATE},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the Pod's own
        {"name": "token", "mountPath": TOKEN, "readOnly": True},
        *(
            {"name": f"token-{token.name}", "mountPath": f"{TOKENS}/{token.name}", "readOnly": True}
            for token in role.workload.tokens
        ),
        *({"name": name, "mountPath": f"{SECRETS}/{name}", "readOnly": True} for name in role.workload.secrets),
        *({"name": _host(host.path), "mountPath": host.path, "readOnly": True} for host in role.workload.host_paths),
    ]


def _volumes(role: Role) -> list[Part]:
    # A Pod may come before its Secret; the kubelet brings it once it is there.
    secrets = [
        {"name": name, "secret": {"secretName": name, "optional": True, "defaultMode": 0o440}}
        for name in role.workload.secrets
    ]
    # `Directory`: a node without it says so in an event, instead of getting an empty one that looks like silence.
    hosts = [
        {"name": _host(host.path), "hostPath": {"path": host.path, "type": "Directory"}}
        for host in role.workload.host_paths
    ]
    return [
        *_state(role),
        {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "token", "projected": {"defaultMode": 0o440, "sources": _token()}},
        *({"name": f"token-{token.name}", "projected": _token_for(token)} for token in role.workload.tokens),
        *secrets,
        *hosts,
    ]


def _host(path: str) -> str:
    """Return a volume's name that says what it is, for whoever patches where it comes from."""
    return f"host-{re.sub('[^a-z0-9]+', '-', path.lower()).strip('-')}"[:63]


def _state(role: Role) -> list[Part]:
    if not role.workload.durable:
        return [{"name": "state", "emptyDir": {"sizeLimit": STATE_SIZE}}]
    if role.shape is Shape.DAEMON_SET:
        path = f"{NODE_STATE}/{role.name}"
        return [{"name": "state", "hostPath": {"path": path, "type": "DirectoryOrCreate"}}]
    if role.shape is Shape.DEPLOYMENT:
        return [{"name": "state", "persistentVolumeClaim": {"claimName": claim(role)}}]
    return []


def claim(role: Role) -> str:
    """Return the name of the claim that a Deployment's state lies in."""
    return f"{role.account}-state"


def _token_for(token: TokenVolume) -> Part:
    source = {"path": "token", "audience": token.audience, "expirationSeconds": TOKEN_SECONDS}
    return {"defaultMode": 0o440, "sources": [{"serviceAccountToken": source}]}


def _token() -> list[Part]:
    """What Kubernetes would mount by itself, with a life of our choice."""
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
