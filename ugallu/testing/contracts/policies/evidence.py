"""Cases of 1 (spec-immutable), 3 (ttl-annotation-only) and 4 (ack-restricted)."""

from typing import Any, Final

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Kind
from ugallu.api.response import EventResponse
from ugallu.testing.contracts.policies.case import (
    ALICE,
    ATTESTOR,
    CAROL,
    COLLECTOR,
    MALLORY,
    TTL,
    Case,
    Document,
    changed,
)
from ugallu.testing.contracts.policies.runs import BACKUP, COMPLIANCE, CONFIDENTIAL, SECCOMP

_EVENT: Final = SecurityEvent.kind_info
_RESPONSE: Final = EventResponse.kind_info
_BUNDLE: Final = AttestationBundle.kind_info

EVENT: Final[Document] = {
    "metadata": {"labels": {"ugallu.io/class": "Detection"}},
    "spec": {
        "class": "Detection",
        "type": "ExecIntoPod",
        "severity": "high",
        "clusterIdentity": {"clusterID": "c"},
        "source": {"kind": "ugallu-audit-detection", "name": "ugallu-audit-detection"},
        "subject": {"kind": "Pod", "name": "web", "namespace": "shop", "pod": {"nodeName": "n"}},
        "detectedAt": "2026-01-01T12:00:00Z",
    },
}
RESPONSE: Final[Document] = {
    "spec": {
        "securityEventRef": {"name": "se-1"},
        "responder": {"kind": "Operator", "name": "ugallu-forensics"},
        "action": {"type": "PodFreeze"},
    }
}
BUNDLE: Final[Document] = {"spec": {"attestedFor": {"kind": "SecurityEvent", "name": "se-1"}}}
NOTES: Final = "metadata.annotations.ugallu~1io/"


def _immutable() -> list[Case]:
    cases = []
    edits: tuple[tuple[Kind, Document, str, object], ...] = (
        (_EVENT, EVENT, "spec.severity", "low"),
        (_RESPONSE, RESPONSE, "spec.action.type", "NodeIsolate"),
        (_BUNDLE, BUNDLE, "spec.attestedFor.name", "se-2"),
        (*SECCOMP, "spec.duration", "1h"),
        (*BACKUP, "spec.timeout", "30m"),
        (*COMPLIANCE, "spec.profile", "cis-1.9"),
        (*CONFIDENTIAL, "spec.targetNodeName", "other"),
    )
    for kind, document, path, value in edits:
        common: dict[str, Any] = {"policy": "spec-immutable", "kind": kind, "old": document}
        cases += [
            Case(says=f"{kind.name} spec changes", new=changed(document, path, value), refused="Spec is immutable",
                 **common),
            Case(says=f"{kind.name} labels change", new=changed(document, "metadata.labels.a", "b"), **common),
            Case(says=f"{kind.name} status changes", new=changed(document, "status.conditions", []),
                 subresource="status", user=ATTESTOR, **common),
        ]  # fmt: skip
    creating: dict[str, Any] = {"policy": "spec-immutable", "kind": _BUNDLE}
    return [
        *cases,
        Case(says="a bundle by the attestor", new=BUNDLE, user=ATTESTOR, **creating),
        Case(says="a bundle by anybody", new=BUNDLE, refused="created by the attestor's account alone", **creating),
        Case(
            says="a bundle without spec",
            new={},
            user=ATTESTOR,
            refused="spec",
            by_schema=True,
            **creating,
        ),
        Case(
            says="a bundle for nothing",
            new={"spec": {"attestedFor": {"kind": "SecurityEvent"}}},
            user=ATTESTOR,
            refused="spec.attestedFor",
            **creating,
        ),
        Case(
            says="a bundle for no kind",
            new={"spec": {"attestedFor": {"name": "se-1"}}},
            user=ATTESTOR,
            refused="spec.attestedFor",
            **creating,
        ),
    ]


def _ttl() -> list[Case]:
    full = EVENT | {"status": {"phase": "Attested", "attestationDigest": "sha256:00"}}
    owner = [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "u"}]
    only, archive = "ttl may change annotations only", "ttl may change of the status only"
    cases = [
        _ttl_case("ttl annotates an event that has nothing else", EVENT, f"{NOTES}ttl-archive-attempts", "1", user=TTL),
        _ttl_case("ttl annotates a bundle", BUNDLE, f"{NOTES}ttl-postpone-until", "x", user=TTL, kind=_BUNDLE),
        _ttl_case("ttl annotates a response", RESPONSE, f"{NOTES}ttl-postpone-until", "x", user=TTL, kind=_RESPONSE),
        _ttl_case("ttl labels", EVENT, "metadata.labels.a", "b", user=TTL, refused=only),
        _ttl_case("ttl labels what has no label", BUNDLE, "metadata.labels.a", "b", user=TTL, kind=_BUNDLE,
                  refused=only),
        _ttl_case("ttl gives an owner", EVENT, "metadata.ownerReferences", owner, user=TTL, refused=only),
        _ttl_case("ttl archives", full, "status.phase", "Archived", user=TTL, subresource="status"),
        _ttl_case("ttl archives what had no status", EVENT, "status", {"phase": "Archived"}, user=TTL,
                  subresource="status"),
        _ttl_case("ttl says when it archived", full, "status.archivedAt", "2026-01-02T12:00:00Z", user=TTL,
                  subresource="status"),
        _ttl_case("ttl gives an event back", full, "status.phase", "Active", user=TTL, subresource="status",
                  refused=archive),
        _ttl_case("ttl adds to the status", full, "status.attestationBundleRef", {"name": "x"}, user=TTL,
                  subresource="status", refused=archive),
        _ttl_case("ttl takes from the status", full, "status.attestationDigest", ..., user=TTL, subresource="status",
                  refused=archive),
        _ttl_case("ttl rewrites the status", full, "status.attestationDigest", "sha256:01", user=TTL,
                  subresource="status", refused=archive),
        _ttl_case("ttl gives a bundle another phase", BUNDLE | {"status": {"phase": "Signed"}}, "status.phase",
                  "Sealed", user=TTL, subresource="status", kind=_BUNDLE, refused=archive),
        _ttl_case("the attestor writes what ttl may not", full, "status.attestationDigest", "sha256:01",
                  subresource="status", user=ATTESTOR),
        _ttl_case("force by anybody", EVENT, f"{NOTES}ttl-force", "true", refused="ttl-force"),
        _ttl_case("force by one of the list", EVENT, f"{NOTES}ttl-force", "true", user=CAROL),
        _ttl_case("force by ttl", EVENT, f"{NOTES}ttl-force", "true", user=TTL),
        _ttl_case("force taken back", changed(EVENT, f"{NOTES}ttl-force", "true"), f"{NOTES}ttl-force", ...),
        _ttl_case("forced already", changed(EVENT, f"{NOTES}ttl-force", "true"), f"{NOTES}x", "y"),
    ]  # fmt: skip
    cases += [
        _ttl_case("an owner given by anybody", EVENT, "metadata.ownerReferences", owner,
                  refused="is collected with it"),
        _ttl_case("an owner given to a bundle", BUNDLE, "metadata.ownerReferences", owner, kind=_BUNDLE,
                  refused="is collected with it"),
        _ttl_case("an owner given by one of the list", EVENT, "metadata.ownerReferences", owner, user=CAROL),
    ]  # fmt: skip
    frozen = changed(EVENT, f"{NOTES}ttl-frozen", "true")
    cases += [
        _ttl_case("frozen by anybody", EVENT, f"{NOTES}ttl-frozen", "true"),
        _ttl_case("thawed by anybody", frozen, f"{NOTES}ttl-frozen", ..., refused="ttl-frozen"),
        _ttl_case("thawed by another word", frozen, f"{NOTES}ttl-frozen", "false", refused="ttl-frozen"),
        _ttl_case("thawed by one of the list", frozen, f"{NOTES}ttl-frozen", ..., user=CAROL),
    ]
    held = changed(BUNDLE, f"{NOTES}ttl-store-held", "true")
    cases += [
        _ttl_case("held in the store, says anybody", BUNDLE, f"{NOTES}ttl-store-held", "true", kind=_BUNDLE,
                  refused="ttl-store-held"),
        _ttl_case("not held in the store, says anybody", held, f"{NOTES}ttl-store-held", ..., kind=_BUNDLE,
                  refused="ttl-store-held"),
        _ttl_case("held in the store, says ttl", BUNDLE, f"{NOTES}ttl-store-held", "true", kind=_BUNDLE, user=TTL),
        _ttl_case("held already", held, f"{NOTES}x", "y", kind=_BUNDLE),
    ]  # fmt: skip
    for says, before, after, shorter in (
        ("longer than any default", "", "200h", False),
        ("shorter than the default", "", "1h", True),
        ("days that are longer", "", "30d", False),
        ("weeks that are longer", "", "2w", False),
        ("years that are longer", "", "1y", False),
        ("days that are shorter", "", "6d", True),
        ("longer than before", "200h", "300h", False),
        ("shorter than before", "300h", "200h", True),
        ("removed though longer", "300h", "", True),
        ("removed though shorter", "1h", "", False),
        ("hours and minutes", "200h30m", "200h29m", True),
        ("no duration at all", "", "soon", False),
        ("no duration any more", "300h", "soon", True),
    ):
        old = changed(EVENT, f"{NOTES}ttl", before) if before else EVENT
        cases.append(
            _ttl_case(
                f"ttl annotation {says}", old, f"{NOTES}ttl", after or ..., refused="shortened" if shorter else ""
            )
        )
    cases += [
        _ttl_case("ttl annotation shorter by one of the list", EVENT, f"{NOTES}ttl", "1h", user=CAROL),
        _ttl_case("ttl annotation shorter on a bundle", BUNDLE, f"{NOTES}ttl", "1h", kind=_BUNDLE, refused="shortened"),
    ]
    for kind, document in ((_EVENT, EVENT), (_RESPONSE, RESPONSE), (_BUNDLE, BUNDLE)):
        common: dict[str, Any] = {"policy": "ttl-annotation-only", "kind": kind, "old": document}
        cases += [
            Case(says=f"{kind.name} deleted by anybody", refused="deletion is reserved for the ttl account", **common),
            Case(says=f"{kind.name} deleted by ttl", user=TTL, **common),
            Case(says=f"{kind.name} deleted by one of the list", user=CAROL, **common),
            Case(says=f"{kind.name} collected", user=COLLECTOR, **common),
        ]
    return cases


def _ttl_case(says: str, old: Document, path: str, value: object, *, kind: Kind = _EVENT, **more: Any) -> Case:  # noqa: ANN401
    return Case(policy="ttl-annotation-only", says=says, kind=kind, old=old, new=changed(old, path, value), **more)


def _ack() -> list[Case]:
    def case(says: str, old: Document, new: Document, **more: Any) -> Case:  # noqa: ANN401 - of Case
        return Case(
            policy="ack-restricted",
            says=says,
            kind=_EVENT,
            old=EVENT | {"status": old},
            new=EVENT | {"status": new},
            subresource="status",
            **more,
        )

    when = "2026-01-01T13:00:00Z"
    done = {"acknowledged": True, "acknowledgedBy": ALICE, "acknowledgedAt": when}
    listed = "requires an authorized ServiceAccount"
    owners = "belongs to the attestor"
    return [
        case("acknowledged by one of the list", {}, done, user=ALICE),
        case("acknowledged by anybody", {}, {**done, "acknowledgedBy": MALLORY}, refused=listed),
        case("acknowledged for another", {}, {**done, "acknowledgedBy": MALLORY}, user=ALICE,
             refused="status.acknowledgedBy"),
        case("acknowledged by nobody", {}, {"acknowledged": True, "acknowledgedAt": when}, user=ALICE,
             refused="status.acknowledgedBy"),
        case("acknowledged at no time", {}, {"acknowledged": True, "acknowledgedBy": ALICE}, user=ALICE,
             refused="status.acknowledgedAt"),
        case("taken back by one of the list", done, {}, user=ALICE),
        case("taken back by anybody", done, {}, refused=listed),
        case("the name changed by anybody", done, {**done, "acknowledgedBy": MALLORY}, refused=listed),
        case("the time changed by anybody", done, {**done, "acknowledgedAt": "2026-01-01T14:00:00Z"}, refused=listed),
        case("attested by anybody", done, {**done, "phase": "Attested"}, refused=owners),
        case("attested by who may acknowledge", {}, {"attestationDigest": "sha256:00"}, user=ALICE, refused=owners),
        case("attested and acknowledged at once", {}, {**done, "phase": "Attested"}, user=ALICE, refused=owners),
        case("no longer attested", {"attestationDigest": "sha256:00"}, {}, refused=owners),
        case("attested by the attestor", done, {**done, "phase": "Attested", "attestationDigest": "sha256:00"},
             user=ATTESTOR),
        case("acknowledged by the attestor", {}, {**done, "acknowledgedBy": ATTESTOR}, user=ATTESTOR, refused=listed),
        case("archived by ttl", done, {**done, "phase": "Archived"}, user=TTL),
        case("acknowledged though attested", {"phase": "Attested"}, {"phase": "Attested", **done}, user=ALICE),
        case("false is as good as absent", {}, {"acknowledged": False}),
        Case(policy="ack-restricted", says="a response has nothing to acknowledge", kind=_RESPONSE, old=RESPONSE,
             new=RESPONSE | {"status": {"phase": "Running"}}, subresource="status"),
    ]  # fmt: skip


EVIDENCE_CASES: Final[tuple[Case, ...]] = (*_immutable(), *_ttl(), *_ack())
