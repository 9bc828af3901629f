"""Make N comparable rules twice: native SigmaRule objects, and upstream Sigma as one YAML stream. Deterministic.

The mix follows what real packs look like: two thirds ask for verb and resource (and a user or name pattern), one third
also looks into the request body. `python -m benchmarks.make_rules N OUT_DIR` writes `native.json` and `sigma.yml`.
"""

import json
import random
import sys
from pathlib import Path
from typing import Any

GROUPS = {
    "": [
        "pods",
        "secrets",
        "configmaps",
        "serviceaccounts",
        "services",
        "namespaces",
        "nodes",
        "persistentvolumes",
        "events",
    ],
    "apps": ["deployments", "daemonsets", "statefulsets", "replicasets"],
    "batch": ["jobs", "cronjobs"],
    "rbac.authorization.k8s.io": ["roles", "clusterroles", "rolebindings", "clusterrolebindings"],
    "admissionregistration.k8s.io": ["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
    "networking.k8s.io": ["networkpolicies", "ingresses"],
}
VERBS = [
    ["create"],
    ["update", "patch"],
    ["create", "update", "patch"],
    ["delete"],
    ["list"],
    ["get"],
    ["deletecollection", "delete"],
]
BODY = [
    ("$.spec.containers[*].image", "spec.containers.image", ["*miner*", "*xmrig*", "*/evil/*", "*:latest"]),
    (
        "$.spec.containers[*].securityContext.privileged",
        "spec.containers.securityContext.privileged",
        ["true"],
    ),
    ("$.spec.template.spec.containers[*].image", "spec.template.spec.containers.image", ["*miner*", "*nightly*"]),
    ("$.spec.volumes[*].hostPath.path", "spec.volumes.hostPath.path", ["/", "/etc*", "/var/lib/kubelet*", "/root*"]),
    ("$.metadata.labels.team", "metadata.labels.team", ["red*", "*-test"]),
    ("$.roleRef.name", "roleRef.name", ["cluster-admin", "system:*", "*-admin"]),
]


def make(count: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rules as native objects and as Sigma documents, in the same order."""
    rnd = random.Random(7)
    native: list[dict[str, Any]] = []
    sigma: list[dict[str, Any]] = []
    pairs = [(group, resource) for group, resources in GROUPS.items() for resource in resources]
    for i in range(count):
        group, resource = rnd.choice(pairs)
        verbs = rnd.choice(VERBS)
        match: dict[str, Any] = {"verb": verbs, "objectRef": {"apiGroup": [group], "resource": [resource]}}
        selection: dict[str, Any] = {"verb": verbs, "objectRef.resource": resource}
        if group:
            selection["objectRef.apiGroup"] = group
        kind = rnd.random()
        if kind < 0.25:
            own = f"system:serviceaccount:team-{i}:*"
            glob = rnd.choice(["system:serviceaccount:ci:*", "oidc:*", "*@example.com", "system:anonymous", own])
            match["user"] = {"usernameGlob": [glob]}
            selection["user.username"] = glob
        elif kind < 0.45:
            glob = rnd.choice([f"*-{i}", "kube-*", "*admin*", "prod-*"])
            match["objectRef"]["nameGlob"] = [glob]
            selection["objectRef.name"] = glob
        elif kind < 0.8 and any(verb in ("create", "update", "patch") for verb in verbs):
            path, dotted, patterns = rnd.choice(BODY)
            match["requestObjectGlob"] = [{"jsonPath": path, "patterns": patterns}]
            selection["requestObject." + dotted] = patterns
        emit = {"securityEventType": "KubernetesAPICall", "severity": "low", "class": "Audit"}
        native.append(
            {
                "apiVersion": "security.ugallu.io/v1alpha1",
                "kind": "SigmaRule",
                "metadata": {"name": f"bench-{i:04d}"},
                "spec": {"enabled": True, "match": match, "emit": emit},
            }
        )
        sigma.append(
            {
                "title": f"bench {i}",
                "id": f"00000000-0000-4000-8000-{i:012d}",
                "status": "test",
                "level": "low",
                "logsource": {"product": "kubernetes", "service": "audit"},
                "detection": {"selection": selection, "condition": "selection"},
            }
        )
    return native, sigma


def sigma_stream(sigma: list[dict[str, Any]]) -> str:
    """Return the documents as one YAML stream."""
    return "\n---\n".join(json.dumps(each, indent=1) for each in sigma) + "\n"


if __name__ == "__main__":
    out = Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    objects, documents = make(int(sys.argv[1]))
    (out / "native.json").write_text(json.dumps(objects, indent=1))
    (out / "sigma.yml").write_text(sigma_stream(documents))
