"""What the programs of a node read: their configuration, and the objects they need in the API. Pure data.

Each departure from a program's defaults is there because the node shares a machine, often a small one, with whatever else runs on it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.rig import images

Document = dict[str, Any]
DOMAIN = "cluster.local"


def containerd() -> str:
    """Return containerd's configuration (version 2 of its format)."""
    return f"""# Written by tests/rig/documents.py.
version = 2
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  disable_apparmor = true
  # Root may lack CAP_SYS_RESOURCE; without this no sandbox starts, with a message about a pipe.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


def kubelet(ca: Path, certificate: Path, key: Path, dns: str, cgroup: str, resolver: Path) -> Document:
    """Return the KubeletConfiguration; Pods go below this cgroup, `resolver` is an empty file."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(ca)},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "clusterDomain": DOMAIN,
        "clusterDNS": [dns],
        "resolvConf": str(resolver),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # A full disk is not this node's business, and an image that is collected cannot be pulled again.
        "evictionHard": {"memory.available": "1%", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # Pods are told of changed tokens, secrets and config maps soon.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "2s",
    }


def kube_proxy(kubeconfig: Path, name: str, pods: str) -> Document:
    """Return the KubeProxyConfiguration; limits of connection tracking cannot be written in a network namespace."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": name,
        "clusterCIDR": pods,
        "oomScoreAdj": 0,
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "100ms"},
    }


def network(pods: str) -> Document:
    """Return the CNI configuration: a bridge without masquerade, and host ports."""
    return {
        "cniVersion": "0.4.0",
        "name": "rig",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": pods}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def write(folder: Path, files: Mapping[str, str | Document]) -> None:
    """Write each file below the folder; documents as JSON, which is YAML too."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))


def routing() -> list[Document]:
    """Return what kube-router may read to keep network policies."""
    resources = ["namespaces", "pods", "services", "nodes", "endpoints"]
    rules = [
        _reader("", *resources),
        _reader("networking.k8s.io", "networkpolicies"),
        _reader("discovery.k8s.io", "endpointslices"),
    ]
    subject = {"kind": "User", "name": "system:kube-router", "apiGroup": "rbac.authorization.k8s.io"}
    return _grant("rig:kube-router", rules, subject)


def dns(address: str) -> list[Document]:
    """Return CoreDNS as a Deployment with its Service at this address."""
    namespace, labels = "kube-system", {"k8s-app": "kube-dns"}
    corefile = f""".:53 {{
    errors
    log
    health
    ready
    kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{
        pods verified
        ttl 5
    }}
    cache 5
    reload 2s
}}
"""
    container = {
        "name": "coredns",
        "image": images.COREDNS,
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"name": "dns", "containerPort": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "containerPort": 53, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    rules = [
        _reader("", "endpoints", "services", "pods", "namespaces"),
        _reader("discovery.k8s.io", "endpointslices"),
    ]
    subject = {"kind": "ServiceAccount", "name": "coredns", "namespace": namespace}
    ports = [
        {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
    ]
    return [
        *_grant("system:coredns", rules, subject),
        _object("v1", "ServiceAccount", "coredns", namespace),
        _object("v1", "ConfigMap", "coredns", namespace, data={"Corefile": corefile}),
        _object(
            "apps/v1",
            "Deployment",
            "coredns",
            namespace,
            spec={"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": pod}},
        ),
        _object(
            "v1",
            "Service",
            "kube-dns",
            namespace,
            spec={"clusterIP": address, "selector": labels, "ports": ports},
        ),
    ]


def _object(version: str, kind: str, name: str, namespace: str = "", **rest: Any) -> Document:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}


def _grant(name: str, rules: list[Document], subject: Document) -> list[Document]:
    group, version = "rbac.authorization.k8s.io", "rbac.authorization.k8s.io/v1"
    reference = {"apiGroup": group, "kind": "ClusterRole", "name": name}
    return [
        _object(version, "ClusterRole", name, rules=rules),
        _object(version, "ClusterRoleBinding", name, roleRef=reference, subjects=[subject]),
    ]


def _reader(group: str, *resources: str) -> Document:
    return {"apiGroups": [group], "resources": list(resources), "verbs": ["get", "list", "watch"]}
