"""Cases of 7: the label that isolates a Pod, and the policies that it selects."""

from typing import Any, Final

from ugallu.api.meta import Kind
from ugallu.testing.contracts.policies.case import FORENSICS, Case, Document, changed

POD: Final = Kind("Pod", "pods", group="", version="v1", namespaced=True)
NETWORK_POLICY: Final = Kind(
    "NetworkPolicy", "networkpolicies", group="networking.k8s.io", version="v1", namespaced=True
)
CILIUM: Final = Kind("CiliumNetworkPolicy", "ciliumnetworkpolicies", group="cilium.io", version="v2", namespaced=True)

_POD: Final[Document] = {
    "spec": {"automountServiceAccountToken": False, "containers": [{"name": "c", "image": "test.local/nothing:1"}]}
}
_NETWORK: Final[Document] = {"spec": {"podSelector": {}}}
_LABEL: Final = "metadata.labels.ugallu~1io/frozen"
_UID: Final = "metadata.labels.ugallu~1io/frozen-pod-uid"


def _pods() -> list[Case]:
    reserved = "reserved for forensics; acknowledge the incident instead"
    frozen = changed(_POD, _LABEL, "uid-1")

    def case(says: str, old: Document | None, new: Document | None, **more: Any) -> Case:  # noqa: ANN401 - of Case
        return Case(policy="frozen-label-restricted", says=says, kind=POD, old=old, new=new, **more)

    return [
        case("a pod is made", None, _POD),
        case("a pod is labelled", _POD, changed(_POD, "metadata.labels.a", "b")),
        case("a frozen pod is labelled otherwise", frozen, changed(frozen, "metadata.labels.a", "b")),
        case("frozen by forensics", _POD, frozen, user=FORENSICS),
        case("frozen by anybody", _POD, frozen, refused=reserved),
        case("let go by forensics", frozen, _POD, user=FORENSICS),
        case("let go by anybody", frozen, changed(frozen, _LABEL, ...), refused=reserved),
        case("given to another by anybody", frozen, changed(frozen, _LABEL, "uid-2"), refused=reserved),
        case("emptied by anybody", frozen, changed(frozen, _LABEL, ""), refused=reserved),
        case("let go through the status by anybody", frozen, changed(frozen, _LABEL, ...), subresource="status",
             refused=reserved),
        case("frozen through the status by anybody", _POD, frozen, subresource="status", refused=reserved),
        case("its status written", frozen, changed(frozen, "status.message", "m"), subresource="status"),
        case("made frozen by anybody", None, frozen, refused=reserved),
        case("made frozen by forensics", None, frozen, user=FORENSICS),
        case("a frozen pod is deleted", frozen, None),
    ]  # fmt: skip


def _networks() -> list[Case]:
    reserved = "reserved for forensics"
    cases = []
    for kind, spec in ((NETWORK_POLICY, _NETWORK), (CILIUM, {"spec": {"endpointSelector": {}}})):
        ours = changed(spec, _UID, "uid-1")
        common: dict[str, Any] = {"policy": "frozen-label-restricted", "kind": kind}
        wider = (
            changed(ours, "spec.podSelector.matchLabels.a", "b")
            if kind is NETWORK_POLICY
            else changed(ours, "spec.endpointSelector.a", "b")
        )
        cases += [
            Case(
                says=f"{kind.name} of anybody changed", old=spec, new=changed(spec, "metadata.labels.a", "b"), **common
            ),
            Case(says=f"{kind.name} of anybody deleted", old=spec, **common),
            Case(says=f"{kind.name} of a freeze deleted by anybody", old=ours, refused=reserved, **common),
            Case(says=f"{kind.name} of a freeze deleted by forensics", old=ours, user=FORENSICS, **common),
            Case(says=f"{kind.name} of a freeze changed by anybody", old=ours, new=wider, refused=reserved, **common),
            Case(says=f"{kind.name} of a freeze changed by forensics", old=ours, new=wider, user=FORENSICS, **common),
            Case(
                says=f"{kind.name} loses the label", old=ours, new=changed(ours, _UID, ...), refused=reserved, **common
            ),
            Case(says=f"{kind.name} gets the label", old=spec, new=ours, refused=reserved, **common),
            Case(says=f"{kind.name} made with the label", new=ours, **common),
        ]
    return cases


POD_CASES: Final[tuple[Case, ...]] = (*_pods(), *_networks())
