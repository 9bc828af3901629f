"""How everything in a cluster is called; people, policies and scripts depend on these names."""

from typing import Any, Final

from ugallu import __version__
from ugallu.operator.contract import Namespace

APP: Final = "ugallu"
IMAGE: Final = "ugallu"
"""The image's name inside the manifests; `components/image` says where it really comes from, once."""
PRIORITY: Final = "ugallu-critical"
WEBHOOK_TLS: Final = "ugallu-audit-webhook-tls"
WEBHOOK_TOKEN: Final = "ugallu-audit-webhook-token"  # noqa: S105 - the name of a Secret
BUS_TOKEN: Final = "ugallu-audit-bus-token"  # noqa: S105 - the name of a Secret
BUS_CLIENT: Final = "ugallu-audit-bus-client"
"""What a reader of the event bus has: `ca.crt` of the server, with cert-manager a certificate of its own."""
NATS: Final = "ugallu-nats"
BUS_SERVICE: Final = "ugallu-audit-detection-bus"
SYSTEM: Final = Namespace.SYSTEM.value
PRIVILEGED: Final = Namespace.PRIVILEGED.value


def labels(component: str) -> dict[str, str]:
    """Return the labels of everything we ship."""
    return {
        "app.kubernetes.io/name": APP,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": APP,
        "app.kubernetes.io/managed-by": "kustomize",
        "app.kubernetes.io/version": __version__,
    }


def selector(component: str) -> dict[str, str]:
    """Return the labels that select a role's Pods; they never change, since workloads cannot change theirs."""
    return {"app.kubernetes.io/name": APP, "app.kubernetes.io/component": component}


def metadata(name: str, component: str, namespace: str = "") -> dict[str, Any]:
    """Return the metadata of an object of ours."""
    place = {"namespace": namespace} if namespace else {}
    return {"name": name, **place, "labels": labels(component)}


def user_of(account: str, namespace: str) -> str:
    """Return the user name of a ServiceAccount, as admission policies and audit logs know it."""
    return f"system:serviceaccount:{namespace}:{account}"
