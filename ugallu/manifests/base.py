"""What every installation shares: the two namespaces, and the priority of our Pods."""

from collections.abc import Iterator
from typing import Final

from ugallu.manifests.document import Document
from ugallu.manifests.names import PRIORITY, PRIVILEGED, SYSTEM, metadata

PRIORITY_VALUE: Final = 900_000_000
"""Above all ordinary work, so that a full node does not lose its watcher first; below `system-cluster-critical`, so
that we never push out DNS. That class is not ours to use either: some providers ration it outside kube-system."""
LEVELS: Final = {
    SYSTEM: {"enforce": "restricted", "audit": "restricted", "warn": "restricted"},
    PRIVILEGED: {"enforce": "privileged", "audit": "baseline", "warn": "baseline"},
}


def namespaces() -> Iterator[Document]:
    """Yield the namespaces with what Pod Security asks of their Pods."""
    for name, levels in LEVELS.items():
        data = metadata(name, "base")
        modes = {f"pod-security.kubernetes.io/{mode}": level for mode, level in levels.items()}
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {**data, "labels": {**data["labels"], **modes}}}


def priority() -> Document:
    """Return the PriorityClass of all our Pods."""
    return {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": metadata(PRIORITY, "base"),
        "description": "Pods of ugallu: before ordinary work, after what the cluster itself stands on.",
        "globalDefault": False,
        "preemptionPolicy": "PreemptLowerPriority",
        "value": PRIORITY_VALUE,
    }
