"""Pods of 6-9 kB as an API server writes them: what `benchmarks/cache.py` creates, serves and reads."""

import json
from typing import Any

ENV = ("DATABASE_URL", "CACHE_URL", "QUEUE_URL", "LOG_LEVEL", "TENANT")


def pod(number: int, namespace: str = "bench") -> dict[str, Any]:
    """Return a Pod as somebody creates it: one or two containers, each with environment, probes and mounts."""
    names = ["app", "proxy"] if number % 2 else ["app"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{('shop', 'billing', 'search', 'mail')[number % 4]}-6d5b7c9f{number % 97:02x}-{number:05d}",
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/name": ("shop", "billing", "search", "mail")[number % 4],
                "app.kubernetes.io/instance": f"release-{number % 50}",
                "app.kubernetes.io/version": f"1.{number % 9}.{number % 30}",
                "pod-template-hash": f"6d5b7c9f{number % 97:02x}",
                "topology.example.org/cell": f"cell-{number % 12}",
            },
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "9090",
                "checksum/config": f"{number:064x}",
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "ReplicaSet",
                    "name": f"shop-6d5b7c9f{number % 97:02x}",
                    "uid": f"0c7d1f6e-3c5e-4b8a-9f10-{number % 400:012x}",
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": {
            "nodeName": f"node-{number % 100:03d}",
            "serviceAccountName": "default",
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 30,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "tolerations": [
                {
                    "key": f"node.kubernetes.io/{key}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
                for key in ("not-ready", "unreachable")
            ],
            "volumes": [
                {"name": "config", "configMap": {"name": "app-config", "defaultMode": 420}},
                {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            ],
            "containers": [_container(name, number) for name in names],
        },
    }


def status(number: int) -> dict[str, Any]:
    """Return the status of a Pod that runs."""
    spec = pod(number)["spec"]
    address = f"10.{number >> 14 & 255}.{number >> 7 & 127}.{number & 127}"
    at = "2026-01-01T00:00:00Z"
    return {
        "phase": "Running",
        "hostIP": f"192.0.2.{number % 100}",
        "hostIPs": [{"ip": f"192.0.2.{number % 100}"}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": at,
        "qosClass": "Burstable",
        "conditions": [
            {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": at}
            for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": f"{container['image'].partition(':')[0]}@sha256:{number % 40:064x}",
                "containerID": f"containerd://{number:032x}{place:032x}",
                "state": {"running": {"startedAt": at}},
                "lastState": {},
                "ready": True,
                "started": True,
                "restartCount": 0,
            }
            for place, container in enumerate(spec["containers"])
        ],
    }


def stored(number: int, version: int) -> bytes:
    """Return a running Pod as the API server writes it: with the fields it adds, `managedFields` among them."""
    document = pod(number)
    made = pod(number)["metadata"]
    document["metadata"] = {
        **made,
        "uid": f"5a1e0c8e-9d3f-4c3a-8a61-{number:012x}",
        "resourceVersion": str(version),
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [
            {
                "manager": manager,
                "operation": "Update",
                "apiVersion": "v1",
                "time": "2026-01-01T00:00:00Z",
                "fieldsType": "FieldsV1",
                "fieldsV1": fields,
                **extra,
            }
            for manager, fields, extra in (
                ("kube-controller-manager", _fields({"metadata": made, "spec": document["spec"]}), {}),
                ("kubelet", _fields({"status": status(number)}), {"subresource": "status"}),
            )
        ],
    }
    document["status"] = status(number)
    return json.dumps(document, separators=(",", ":")).encode()


def _container(name: str, number: int) -> dict[str, Any]:
    return {
        "name": name,
        "image": f"registry.example.org/team-{number % 7}/{name}:2.{number % 20}.{number % 9}",
        "imagePullPolicy": "IfNotPresent",
        "command": [f"/usr/bin/{name}", "--config", "/etc/app/config.yaml", f"--shard={number % 16}"],
        "env": [
            {"name": key, "value": f"{key.lower()}.cell-{number % 12}.svc.cluster.local:{5432 + place}"}
            for place, key in enumerate(ENV)
        ],
        "ports": [{"name": "metrics", "containerPort": 9090, "protocol": "TCP"}],
        "resources": {"limits": {"memory": "256Mi"}, "requests": {"cpu": "100m", "memory": "128Mi"}},
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 9090, "scheme": "HTTP"},
            "periodSeconds": 10,
            "timeoutSeconds": 1,
            "successThreshold": 1,
            "failureThreshold": 3,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}, {"name": "tmp", "mountPath": "/tmp"}],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }


def _fields(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return what a server notes about who owns which field."""
    if isinstance(value, dict):
        return {f"f:{key}": _fields(item) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
        return {f'k:{{"name":"{item["name"]}"}}': {".": {}, **_fields(item)} for item in value}
    return {}
