"""Which resources of Kubernetes itself lie in which API group, and which subresources they have.

A rule names groups, resources and subresources apart from each other; most of their combinations do not exist. Source:
the discovery documents of Kubernetes 1.34. What is not listed here is a custom resource and may be anywhere.
"""

from typing import Final

_GROUPS: Final = {
    "": "bindings configmaps endpoints events limitranges namespaces nodes persistentvolumeclaims persistentvolumes "
    "pods podtemplates replicationcontrollers resourcequotas secrets serviceaccounts services",
    "apps": "controllerrevisions daemonsets deployments replicasets statefulsets",
    "batch": "cronjobs jobs",
    "autoscaling": "horizontalpodautoscalers",
    "policy": "poddisruptionbudgets",
    "rbac.authorization.k8s.io": "clusterrolebindings clusterroles rolebindings roles",
    "admissionregistration.k8s.io": "mutatingwebhookconfigurations validatingwebhookconfigurations "
    "validatingadmissionpolicies validatingadmissionpolicybindings",
    "apiextensions.k8s.io": "customresourcedefinitions",
    "apiregistration.k8s.io": "apiservices",
    "authentication.k8s.io": "selfsubjectreviews tokenreviews",
    "authorization.k8s.io": "localsubjectaccessreviews selfsubjectaccessreviews selfsubjectrulesreviews "
    "subjectaccessreviews",
    "certificates.k8s.io": "certificatesigningrequests",
    "coordination.k8s.io": "leases",
    "discovery.k8s.io": "endpointslices",
    "events.k8s.io": "events",
    "networking.k8s.io": "ingressclasses ingresses networkpolicies",
    "node.k8s.io": "runtimeclasses",
    "scheduling.k8s.io": "priorityclasses",
    "storage.k8s.io": "csidrivers csinodes storageclasses volumeattachments",
}
_PARTS: Final = {
    "attach": "pods",
    "binding": "pods",
    "ephemeralcontainers": "pods",
    "eviction": "pods",
    "exec": "pods",
    "log": "pods",
    "portforward": "pods",
    "resize": "pods",
    "proxy": "nodes pods services",
    "token": "serviceaccounts",
    "finalize": "namespaces",
    "approval": "certificatesigningrequests",
    "scale": "deployments replicasets replicationcontrollers statefulsets",
}
_HOMES: Final[dict[str, set[str]]] = {}
for _group, _names in _GROUPS.items():
    for _name in _names.split():
        _HOMES.setdefault(_name, set()).add(_group)
_OWNERS: Final = {part: frozenset(names.split()) for part, names in _PARTS.items()}


_CHANGED: Final = frozenset({"status", "scale", "finalize", "approval", "ephemeralcontainers", "resize"})
"""Subresources that are a part of the object: there is nothing to create, list or delete."""


def exists(verb: str, group: str, resource: str, subresource: str) -> bool:
    """Whether an API server may serve this; what is not Kubernetes' own may exist."""
    if subresource in _CHANGED and verb not in ("get", "update", "patch"):
        return False
    homes = _HOMES.get(resource)
    if homes is not None and group not in homes:
        return False
    owners = _OWNERS.get(subresource)
    return owners is None or resource in owners or homes is None


def parts(resource: str) -> tuple[str, ...]:
    """Return the subresources of a resource, the empty one for itself first."""
    own = tuple(sorted(part for part, owners in _OWNERS.items() if resource in owners))
    return ("", "status", *own)


def homes(resource: str) -> frozenset[str]:
    """Return the API groups that have the resource, none for one that is not Kubernetes' own."""
    return frozenset(_HOMES.get(resource, ()))
