"""An intruder in a namespace: what the journeys on real clusters look for."""

import json
from typing import Final

from tests.rig.cluster import ApiServer

EXPECTED: Final = {"ClusterAdminGranted", "PrivilegedPodChange", "HostPathMount", "KubernetesAPICall"}
"""Types of events that the example rules make of it."""


def attack(api: ApiServer, namespace: str) -> None:
    """Make a workload's account admin, look at every Secret with it, and start a way to the node."""
    api.kubectl("create", "serviceaccount", "web", "-n", namespace)
    api.kubectl(
        "create", "clusterrolebinding", "web", "--clusterrole=cluster-admin", f"--serviceaccount={namespace}:web"
    )
    web = api.kubeconfig_with(api.token(namespace, "web"))
    api.wait("the binding", lambda: api.kubectl("auth", "can-i", "*", "*", kubeconfig=web).strip() == "yes")
    api.kubectl("get", "secrets", "-A", kubeconfig=web)
    privileged = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "way-out", "namespace": namespace},
        "spec": {
            "hostPID": True,
            "automountServiceAccountToken": False,
            "containers": [{"name": "c", "image": "busybox:1", "securityContext": {"privileged": True}}],
            "volumes": [{"name": "node", "hostPath": {"path": "/"}}],
        },
    }
    api.kubectl("create", "-f", "-", stdin=json.dumps(privileged), kubeconfig=web)
