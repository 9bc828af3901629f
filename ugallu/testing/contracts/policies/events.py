"""Cases of 2 (subject-discriminator), 5 (type-validation) and 8 (forensic-ack-restricted)."""

from typing import Any, Final

from ugallu.api.event import SecurityEvent
from ugallu.testing.contracts.policies.case import (
    BOB,
    BRIDGE,
    DETECT,
    DETECT_ON_NODES,
    DORA,
    FORENSICS,
    Case,
    Document,
    changed,
)
from ugallu.testing.contracts.policies.evidence import EVENT

_EVENT: Final = SecurityEvent.kind_info
_SNAPSHOTS: Final[dict[str, tuple[str, Document]]] = {
    "Pod": ("pod", {}),
    "Container": ("container", {"containerName": "c", "podRef": {"namespace": "shop", "name": "web"}}),
    "Node": ("node", {}),
    "ServiceAccount": ("serviceAccount", {}),
    "Secret": ("secret", {}),
    "ConfigMap": ("configMap", {}),
    "Namespace": ("namespaceData", {}),
    "Service": ("service", {}),
    "EndpointSlice": ("endpointSlice", {}),
    "Deployment": ("workload", {"kind": "Deployment"}),
    "StatefulSet": ("workload", {"kind": "StatefulSet"}),
    "DaemonSet": ("workload", {"kind": "DaemonSet"}),
    "Job": ("job", {"kind": "Job"}),
    "CronJob": ("job", {"kind": "CronJob"}),
    "Role": ("role", {"kind": "Role"}),
    "ClusterRole": ("role", {"kind": "ClusterRole"}),
    "RoleBinding": ("roleBinding", {"kind": "RoleBinding", "roleRef": {"apiGroup": "g", "kind": "Role", "name": "r"}}),
    "ClusterRoleBinding": (
        "roleBinding",
        {"kind": "ClusterRoleBinding", "roleRef": {"apiGroup": "g", "kind": "ClusterRole", "name": "r"}},
    ),
    "NetworkPolicy": ("networkPolicy", {"kind": "NetworkPolicy"}),
    "CiliumNetworkPolicy": ("networkPolicy", {"kind": "CiliumNetworkPolicy"}),
    "Ingress": ("ingress", {"kind": "Ingress"}),
    "Gateway": ("ingress", {"kind": "Gateway"}),
    "MutatingWebhookConfiguration": ("webhookConfig", {"kind": "MutatingWebhookConfiguration"}),
    "ValidatingWebhookConfiguration": ("webhookConfig", {"kind": "ValidatingWebhookConfiguration"}),
    "CustomResourceDefinition": ("crd", {"group": "g", "names": {"kind": "K", "plural": "ks"}}),
    "APIService": ("apiService", {"group": "g", "version": "v1"}),
    "CertificateSigningRequest": ("csr", {"signerName": "s"}),
    "Cluster": ("cluster", {}),
    "External": ("external", {"kind": "ExternalUser", "identity": "i"}),
}


def _event(path: str, value: object, base: Document = EVENT) -> Document:
    return changed(base, path, value)


def _subjects() -> list[Case]:
    def case(says: str, subject: Document, **more: Any) -> Case:  # noqa: ANN401 - of Case
        document = _event("spec.subject", {"name": "n", **subject})
        return Case(policy="subject-discriminator", says=says, kind=_EVENT, new=document, user=DETECT, **more)

    populated = "must match a populated discriminator"
    cases = [
        case(f"{kind} with its snapshot", {"kind": kind, field: snapshot})
        for kind, (field, snapshot) in _SNAPSHOTS.items()
    ]
    cases += [
        case(f"{kind} without a snapshot", {"kind": kind}, refused=populated) for kind in _SNAPSHOTS if kind != "Pod"
    ]
    return [
        *cases,
        case("Pod without a snapshot", {"kind": "Pod", "partial": True}, refused=populated),
        case("unresolved without a snapshot", {"kind": "Pod", "unresolved": True}),
        case("unresolved with its snapshot", {"kind": "Pod", "pod": {}, "unresolved": True}),
        case("the snapshot of another kind", {"kind": "Pod", "node": {}}, refused="discriminator"),
        case("a second snapshot", {"kind": "Pod", "pod": {}, "node": {}}, refused="no discriminator but the one"),
        case("unresolved with another's snapshot", {"kind": "Pod", "node": {}, "unresolved": True},
             refused="no discriminator but the one"),
        case("another kind inside", {"kind": "Role", "role": {"kind": "ClusterRole"}},
             refused="the kind inside the discriminator"),
        case("another workload inside", {"kind": "DaemonSet", "workload": {"kind": "Deployment"}},
             refused="the kind inside the discriminator"),
    ]  # fmt: skip


def _types() -> list[Case]:
    def case(says: str, new: Document, **more: Any) -> Case:  # noqa: ANN401 - of Case
        return Case(policy="type-validation", says=says, kind=_EVENT, new=new, **more)

    strange = _event("spec.type", "MyOwnType")
    forensic = _event("spec.class", "Forensic", _event("spec.type", "IncidentCaptureCompleted"))
    theirs = _event("spec.source", {"kind": "Tool", "name": "other-tool"})
    name = "only the ServiceAccount of that name"
    unlisted = "not in the curated catalog"
    return [
        case("a type of the catalogue by its source", EVENT, user=DETECT),
        case("by its source in the privileged namespace", EVENT, user=DETECT_ON_NODES),
        case("a type of no catalogue", strange, user=DETECT, refused=unlisted),
        case("no type", _event("spec.type", ""), user=DETECT, refused=unlisted),
        case("two types", _event("spec.type", "ExecIntoPod HostPathMount"), user=DETECT, refused=unlisted),
        case("a part of a type", _event("spec.type", "ExecInto"), user=DETECT, refused=unlisted),
        case("a type in other letters", _event("spec.type", "execintopod"), user=DETECT, refused=unlisted),
        case("an experimental type", _event("metadata.labels.ugallu~1io/type-experimental", "true", strange),
             user=DETECT),
        case("an experimental type, said wrongly",
             _event("metadata.labels.ugallu~1io/type-experimental", "yes", strange), user=DETECT, refused=unlisted),
        case("a source's name by anybody", EVENT, refused=name),
        case("a source's name from another namespace", EVENT,
             user="system:serviceaccount:elsewhere:ugallu-audit-detection", refused=name),
        case("a source's name in capitals", _event("spec.source.name", "Ugallu-audit-detection"), refused=name),
        case("a source's name in capitals by that source", _event("spec.source.name", "Ugallu-audit-detection"),
             user=DETECT, refused=name),
        case("a source's name by another component", EVENT, user=FORENSICS, refused=name),
        case("a source's name by a listed emitter", EVENT, user=BRIDGE),
        case("another tool's event", theirs),
        case("Forensic by anybody", _event("spec.class", "Forensic", theirs), refused="reserved for the forensics"),
        case("Forensic by another component", forensic, user=DETECT, refused="reserved for the forensics"),
        case("Forensic by forensics", _event("spec.source.name", "ugallu-forensics", forensic), user=FORENSICS),
    ]  # fmt: skip


def _acks() -> list[Case]:
    ack = "metadata.annotations.ugallu~1io/incident-acknowledged"
    applied = "metadata.annotations.ugallu~1io/incident-unfreeze-applied"
    policy = "metadata.annotations.ugallu~1io/failure-unfreeze-policy"
    base = _event("spec.class", "Forensic", _event("spec.type", "IncidentCaptureCompleted"))
    base = _event("spec.source.name", "ugallu-forensics", base)
    base = _event("metadata.labels.ugallu~1io/class", "Forensic", base)
    bare = changed(base, "metadata.labels", ...)
    done = changed(base, ack, "true")
    listed = "acknowledging an incident needs a listed account"

    def case(says: str, old: Document, path: str, value: object, **more: Any) -> Case:  # noqa: ANN401 - of Case
        new = changed(old, path, value)
        return Case(policy="forensic-ack-restricted", says=says, kind=_EVENT, old=old, new=new, **more)

    def create(says: str, new: Document, **more: Any) -> Case:  # noqa: ANN401 - of Case
        return Case(policy="forensic-ack-restricted-create", says=says, kind=_EVENT, new=new, **more)

    theirs = _event("spec.source", {"kind": "Tool", "name": "other-tool"})
    return [
        case("acknowledged by one of the policy's list", base, ack, "true", user=BOB),
        case("acknowledged by one of the config's list", base, ack, "true", user=DORA),
        case("acknowledged by forensics", base, ack, "true", user=FORENSICS),
        case("acknowledged by anybody", base, ack, "true", refused=listed),
        case("acknowledged where no label is", bare, ack, "true", refused=listed),
        case("acknowledged in capitals", base, ack, "TRUE", refused=listed),
        case("acknowledged under a key in capitals", base, "metadata.annotations.ugallu~1io/Incident-Acknowledged",
             "true", refused=listed),
        case("taken back by anybody", done, ack, ..., refused=listed),
        case("changed by anybody", done, ack, "false", refused=listed),
        case("unfreezing marked by anybody", base, applied, "true", refused=listed),
        case("unfreezing marked by forensics", base, applied, "true", user=FORENSICS),
        case("the policy of failures by anybody", base, policy, "manual", refused=listed),
        case("the policy of failures by one of the list", base, policy, "manual", user=BOB),
        case("another annotation by anybody", base, "metadata.annotations.note", "x"),
        case("another annotation once acknowledged", done, "metadata.annotations.note", "x"),
        case("the label of the class by anybody", base, "metadata.labels.ugallu~1io/class", "Detection",
             refused=listed),
        case("the label of the class taken off", base, "metadata.labels", ..., refused=listed),
        case("an event of another class", EVENT, ack, "true"),
        case("an event of another class without label", changed(EVENT, "metadata.labels", ...), ack, "true"),
        create("created acknowledged by anybody", changed(theirs, ack, "true"), refused=listed),
        create("created acknowledged in capitals",
               changed(theirs, "metadata.annotations.ugallu~1io/INCIDENT-acknowledged", "x"), refused=listed),
        create("created as unfrozen", changed(theirs, applied, "true"), refused=listed),
        create("created with a policy", changed(theirs, policy, "auto"), refused=listed),
        create("created acknowledged by one of the list", changed(theirs, ack, "true"), user=BOB),
        create("created acknowledged by forensics", done, user=FORENSICS),
        create("created with no annotation", theirs),
        create("created with other annotations", changed(theirs, "metadata.annotations.note", "x")),
    ]  # fmt: skip


EVENT_CASES: Final[tuple[Case, ...]] = (*_subjects(), *_types(), *_acks())
