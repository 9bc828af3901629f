"""Who or what an audit event is about: its `objectRef` as a Subject, with a snapshot where a body tells one.

The API group is part of the key: a custom resource called `secrets` is not a Secret. What has no kind of its own here
(ReplicaSets, custom resources, URLs outside the API) is External, its identity saying what it is.
"""

import urllib.parse
from typing import Any, Final

import msgspec

from ugallu.sdk import AuditObject, ExternalKind, OwnerReference, Subject, encode, external
from ugallu_audit_detection.body import Cuts, Part
from ugallu_audit_detection.redact import scrubbed
from ugallu_audit_detection.seen import Seen
from ugallu_audit_detection.snapshots import BUILDERS

SOURCE: Final = "audit"
MAX_NAME: Final = 512
MAX_SUBJECT_BYTES: Final = 128 << 10
"""A larger snapshot is dropped, its subject kept: an event must fit into etcd several times over."""

_RESOURCES: Final = {
    "": {
        "pods": "Pod",
        "nodes": "Node",
        "namespaces": "Namespace",
        "services": "Service",
        "secrets": "Secret",
        "configmaps": "ConfigMap",
        "serviceaccounts": "ServiceAccount",
    },
    "apps": {"deployments": "Deployment", "statefulsets": "StatefulSet", "daemonsets": "DaemonSet"},
    "batch": {"jobs": "Job", "cronjobs": "CronJob"},
    "rbac.authorization.k8s.io": {
        "roles": "Role",
        "clusterroles": "ClusterRole",
        "rolebindings": "RoleBinding",
        "clusterrolebindings": "ClusterRoleBinding",
    },
    "networking.k8s.io": {"networkpolicies": "NetworkPolicy", "ingresses": "Ingress"},
    "cilium.io": {"ciliumnetworkpolicies": "CiliumNetworkPolicy"},
    "gateway.networking.k8s.io": {"gateways": "Gateway"},
    "admissionregistration.k8s.io": {
        "mutatingwebhookconfigurations": "MutatingWebhookConfiguration",
        "validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
    },
    "apiextensions.k8s.io": {"customresourcedefinitions": "CustomResourceDefinition"},
    "apiregistration.k8s.io": {"apiservices": "APIService"},
    "certificates.k8s.io": {"certificatesigningrequests": "CertificateSigningRequest"},
    "discovery.k8s.io": {"endpointslices": "EndpointSlice"},
}
KINDS: Final = {(group, plural): kind for group, plurals in _RESOURCES.items() for plural, kind in plurals.items()}
"""From (API group, resource) to subject kind."""

_WHOLE: Final = frozenset({"", "status", "ephemeralcontainers"})
"""Subresources whose patch is one of the object itself."""

_UNGROUPED: Final = {plural: kind for (_, plural), kind in KINDS.items()}
"""Trimmed records lack the group; the core group has none of these other plurals, and a custom resource has a group."""


def kind_of(group: str, resource: str) -> str:
    """Return the subject kind of a resource, `External` for one without a kind of its own."""
    kind = KINDS.get((group, resource))
    if kind is None and not group:
        kind = _UNGROUPED.get(resource)
    return kind or "External"


def subject_of(seen: Seen) -> Subject:
    """Return the subject of an audit event."""
    ref = seen.record.object_ref
    if ref is None or not ref.resource:
        path = _path(seen.record.request_uri) or "<unknown>"
        return external(ExternalKind.ENDPOINT, path, source=SOURCE)
    kind = kind_of(ref.api_group, ref.resource)
    body, whole = _body(seen, kind)
    cuts = Cuts()
    item = Part(body, cuts)
    name = _name(seen, ref)
    meta = item.part("metadata")
    bare = Subject(
        api_version=_api_version(ref),
        kind=kind,
        name=name,
        namespace="" if kind == "Namespace" else ref.namespace[:MAX_NAME],  # audit repeats its name there
        uid=(ref.uid or meta.text("uid"))[:MAX_NAME],
        unresolved=True,
    )
    if kind == "External":
        return msgspec.structs.replace(bare, external=_outsider(ref, name), unresolved=False)
    snapshot = BUILDERS[kind](item, kind, name) if item else None
    if snapshot is None:
        return bare
    full = msgspec.structs.replace(
        bare,
        unresolved=False,
        resource_version=meta.text("resourceVersion"),
        labels=meta.table("labels"),
        owner_references=_owners(meta),
        **{Subject.DISCRIMINATORS[kind]: snapshot},
    )
    if len(encode(full)) > MAX_SUBJECT_BYTES:
        return msgspec.structs.replace(bare, partial=True)
    return msgspec.structs.replace(full, partial=cuts.made or not whole)


def identity_of(subject: Subject) -> str:
    """Return what tells apart subjects that share kind, namespace and name: what sort of thing is outside."""
    return subject.external.identity if subject.external is not None else ""


def _body(seen: Seen, kind: str) -> tuple[Any, bool]:
    """The object itself, stored or asked for, and whether that is the whole of it; a patch holds a part."""
    body, whole = seen.effective
    if body is None and seen.record.verb.startswith("delete"):
        body = seen.response_object
    if not isinstance(body, dict):
        return None, False
    if "kind" not in body:
        return (body, False) if seen.ref.subresource in _WHOLE and seen.record.verb == "patch" else (None, False)
    return (body, whole) if body["kind"] == kind else (None, False)


def _name(seen: Seen, ref: AuditObject) -> str:
    if ref.name:
        return ref.name[:MAX_NAME]
    for body in (seen.response_object, seen.request_object):
        meta = Part(body, Cuts()).part("metadata")
        if meta.text("name"):
            return meta.text("name")[:MAX_NAME]
    prefix = Part(seen.request_object, Cuts()).part("metadata").text("generateName")
    if prefix:
        return f"{prefix[:MAX_NAME]}*"
    return _path(seen.record.request_uri).rstrip("/").rpartition("/")[2] or ref.resource[:MAX_NAME]


def _path(uri: str) -> str:
    """The path of a request URI without its query, decoded, without anything that looks like a token."""
    path = urllib.parse.unquote(uri.partition("?")[0][: 4 * MAX_NAME], errors="replace")
    return "".join(c if c.isprintable() else "\ufffd" for c in scrubbed(path))[:MAX_NAME]


def _api_version(ref: AuditObject) -> str:
    group, version = ref.api_group[:MAX_NAME], ref.api_version[:MAX_NAME]
    return f"{group}/{version}" if group and version else group or version


def _outsider(ref: AuditObject, name: str) -> Any:  # noqa: ANN401 - an ExternalSubject
    resource = f"{ref.resource}.{ref.api_group}" if ref.api_group else ref.resource
    where = f"{ref.namespace}/{name}" if ref.namespace else name
    return external(ExternalKind.ENDPOINT, f"{resource[:MAX_NAME]}/{where[: 2 * MAX_NAME]}", source=SOURCE).external


def _owners(meta: Part) -> tuple[OwnerReference, ...]:
    return tuple(
        OwnerReference(
            api_version=owner.text("apiVersion"),
            kind=owner.text("kind"),
            name=owner.text("name"),
            uid=owner.text("uid"),
            controller=owner.flag("controller") or False,
            block_owner_deletion=owner.flag("blockOwnerDeletion") or False,
        )
        for owner in meta.parts("ownerReferences")
    )
