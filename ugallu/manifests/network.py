"""Who may talk to whom: nobody, except for names, the API server, scrapes, and what a role serves.

An API server and a kubelet call from addresses that no selector knows, so what they call is open to every address and
guarded by its own credentials. Probes of the kubelet pass by definition.
"""

from collections.abc import Iterator
from typing import Any, Final

from ugallu.manifests.document import Document
from ugallu.manifests.names import APP, PRIVILEGED, SYSTEM, metadata, selector
from ugallu.manifests.pods import METRICS
from ugallu.manifests.roles import LOCAL, Role

API_PORTS: Final = (443, 6443, 8443, 16443)
"""The Service's, and behind it: kubeadm, kind and k3s; minikube; MicroK8s. Rules see one or the other."""
PRIVATE: Final = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
DNS_PODS: Final = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
OURS: Final = [
    {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": APP}},
    }
    for namespace in (SYSTEM, PRIVILEGED)
]
EGRESS: Final = "egress"
EVIDENCE: Final = ("attestor", "ttl", LOCAL)
"""The roles that call signers, logs, timestamp authorities and stores."""
EVIDENCE_PORTS: Final = (443, 8200, 8333, 9000)
"""HTTPS: public Sigstore, S3 of clouds; OpenBao; SeaweedFS; MinIO. A Service's Pods may listen on others."""
METADATA: Final = ("169.254.0.0/16", "fe80::/10")
"""What hands a cloud's credentials out to whoever runs on the node."""
MONITORING: Final = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def of_namespaces(*, strict: bool) -> Iterator[Document]:
    """Yield what holds for every Pod of ours.

    `strict`: names only from the cluster's own DNS, an API server only at a private address, scrapes only from the
    namespace `monitoring`.
    """
    for namespace in (SYSTEM, PRIVILEGED):
        yield _policy("ugallu-default-deny", namespace, "network", {"policyTypes": ["Ingress", "Egress"]})
        yield _policy(
            "ugallu-dns", namespace, "network", _out([DNS_PODS] if strict else [], _ports("UDP", "TCP", number=53))
        )
        servers = [{"ipBlock": {"cidr": cidr}} for cidr in PRIVATE] if strict else []
        yield _policy(
            "ugallu-api-server", namespace, "network", _out(servers, [_port("TCP", each) for each in API_PORTS])
        )
        scrapers = [MONITORING] if strict else [{"namespaceSelector": {}}]
        yield _policy("ugallu-metrics", namespace, "network", _in(scrapers, [_port("TCP", METRICS)]))


def of_role(role: Role) -> Iterator[Document]:
    """Yield what opens the ports that a role serves: to everybody, or to our own Pods, which then may call it."""
    served = [port for port in role.workload.ports if port.service]
    pods = {"podSelector": {"matchLabels": selector(role.name)}}
    rules = [
        {"ports": [_port("TCP", port.number) for port in ports], **({"from": OURS} if own else {})}
        for own in (False, True)
        if (ports := [port for port in served if port.headless is own])
    ]
    if rules:
        spec = {"policyTypes": ["Ingress"], "ingress": rules, **pods}
        yield _policy(f"{role.account}-serves", role.namespace, role.name, spec)
    own = [_port("TCP", port.number) for port in served if port.headless]
    if own:
        place = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": role.namespace}}}
        for namespace in (SYSTEM, PRIVILEGED):
            yield _policy(f"{APP}-{role.name}-is-read", namespace, role.name, _out([{**place, **pods}], own))
    if role.workload.reaches:
        reached = _out([], [_port("TCP", number) for number in role.workload.reaches])
        yield _policy(f"{role.account}-reaches", role.namespace, role.name, {**reached, **pods})


def of_evidence() -> Document:
    """Return what lets the roles that seal and collect call the services that hold evidence, wherever they are.

    It adds to what every Pod may reach, in the strict kind as well; no address of a node is in it.
    """
    v4, v6 = METADATA
    anywhere = [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [v4]}}, {"ipBlock": {"cidr": "::/0", "except": [v6]}}]
    chosen = {"key": "app.kubernetes.io/component", "operator": "In", "values": [*EVIDENCE]}
    pods = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": APP}, "matchExpressions": [chosen]}}
    rules = _out(anywhere, [_port("TCP", each) for each in EVIDENCE_PORTS])
    return _policy("ugallu-evidence", SYSTEM, "network", {**rules, **pods})


def _policy(name: str, namespace: str, component: str, spec: dict[str, Any]) -> Document:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(name, component, namespace),
        "spec": {"podSelector": {}, **spec},
    }


def _out(peers: list[Any], ports: list[Any]) -> dict[str, Any]:
    """No peers: every address."""
    return {"policyTypes": ["Egress"], "egress": [{**({"to": peers} if peers else {}), "ports": ports}]}


def _in(peers: list[Any], ports: list[Any]) -> dict[str, Any]:
    return {"policyTypes": ["Ingress"], "ingress": [{**({"from": peers} if peers else {}), "ports": ports}]}


def _ports(*protocols: str, number: int) -> list[Any]:
    return [_port(protocol, number) for protocol in protocols]


def _port(protocol: str, number: int) -> dict[str, Any]:
    return {"protocol": protocol, "port": number}
