"""What a Prometheus operator and a Grafana take from us: rules, a PodMonitor, dashboards. Optional, and pure."""

from collections.abc import Mapping
from typing import Any

from ugallu.manifests.document import Document
from ugallu.manifests.monitoring import alerts, dashboards
from ugallu.manifests.names import APP, PRIVILEGED, SYSTEM, metadata

COMPONENT = "monitoring"


def documents() -> Mapping[str, list[Document]]:
    """Return the objects of the component, by the name of their file."""
    return {
        "podmonitor.yaml": [pod_monitor()],
        "prometheusrule.yaml": [prometheus_rule()],
        **{f"dashboard-{each.uid.removeprefix(f'{APP}-')}.yaml": [config_map(each)] for each in dashboards.DASHBOARDS},
    }


def prometheus_rule() -> dict[str, Any]:
    """Return the alerts as the operator takes them (monitoring.coreos.com/v1)."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata(APP, COMPONENT, SYSTEM),
        "spec": alerts.rules(),
    }


def pod_monitor() -> dict[str, Any]:
    """Return what makes every Pod of ours a target, wherever it runs.

    Samples carry `namespace` and `pod` by the operator's own relabelling; alerts and dashboards count on them.
    """
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(APP, COMPONENT, SYSTEM),
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": APP}},
            "namespaceSelector": {"matchNames": [SYSTEM, PRIVILEGED]},
            "podTargetLabels": ["app.kubernetes.io/component"],
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": alerts.EVERY}],
        },
    }


def config_map(dashboard: dashboards.Dashboard) -> dict[str, Any]:
    """Return a dashboard under the label that Grafana's sidecar looks for."""
    data = metadata(dashboard.uid, COMPONENT, SYSTEM)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**data, "labels": {**data["labels"], "grafana_dashboard": "1"}},
        "data": {f"{dashboard.uid}.json": dashboards.text(dashboard)},
    }
