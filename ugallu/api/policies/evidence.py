"""Policies that keep events, responses and bundles what they were when they were written: 1, 3 and 4."""

from typing import Final

from ugallu.api.policies.expressions import SUBRESOURCE, USER, duration, is_duration, ours, text, texts, users
from ugallu.api.policies.policy import FORBIDDEN, Policy, Validation, Variable
from ugallu.api.policies.values import PolicyValues, account

_EVIDENCE: Final = ("securityevents", "eventresponses", "attestationbundles")
_RUNS: Final = ("seccomptrainingruns", "backupverifyruns", "compliancescanruns", "confidentialattestationruns")

_COLLECTORS: Final = (account("kube-system", "generic-garbage-collector"), "system:kube-controller-manager")
"""Who deletes what hangs on an object that is gone."""

_TTL_FORCE: Final = "ugallu.io/ttl-force"
_TTL_FROZEN: Final = "ugallu.io/ttl-frozen"
_TTL_HELD: Final = "ugallu.io/ttl-store-held"
_TTL: Final = "ugallu.io/ttl"


_STATUS: Final = (
    Variable("oldStatus", "has(oldObject.status) ? dyn(oldObject.status) : dyn({})"),
    Variable("newStatus", "has(object.status) ? dyn(object.status) : dyn({})"),
)


def _ttl_account(values: PolicyValues) -> tuple[Variable, ...]:
    return (
        Variable("ttlControllerNamespace", text(values.ttl_namespace)),
        Variable("ttlControllerSAName", text(values.ttl_name)),
        Variable(
            "isTTL",
            f"{USER} == 'system:serviceaccount:' + variables.ttlControllerNamespace"
            " + ':' + variables.ttlControllerSAName",
        ),
    )


def spec_immutable(values: PolicyValues) -> Policy:
    """1: what was attested, or asked of a run, is not rewritten; bundles come from the attestor alone."""
    return Policy(
        name="ugallu.spec-immutable",
        about="The spec of an event, a response, a bundle or a run never changes; only the attestor creates bundles.",
        reason=FORBIDDEN,
        rules=(ours(("UPDATE",), *_EVIDENCE, *_RUNS), ours(("CREATE",), "attestationbundles")),
        variables=(Variable("attestorSA", text(values.attestor)),),
        validations=(
            Validation("request.operation != 'UPDATE' || object.?spec == oldObject.?spec", "Spec is immutable"),
            Validation(
                f"request.operation != 'CREATE' || {USER} == variables.attestorSA",
                "AttestationBundles are created by the attestor's account alone",
            ),
            Validation(
                "request.operation != 'CREATE' || dyn(object).?spec.?attestedFor.?kind.orValue('') != ''"
                " && dyn(object).?spec.?attestedFor.?name.orValue('') != ''",
                "spec.attestedFor: kind and name of what the bundle attests are required",
            ),
        ),
    )


def ttl_annotation_only(values: PolicyValues) -> Policy:
    """3: the account that deletes may mark and archive, nothing else; nobody else ends retention early."""
    others = "variables.isTTL || variables.mayOverride || variables.part != ''"
    return Policy(
        name="ugallu.ttl-annotation-only",
        about="The ttl account annotates and archives, and changes nothing else; retention is shortened by few.",
        reason=FORBIDDEN,
        rules=(
            ours(("UPDATE",), *_EVIDENCE, *(f"{name}/status" for name in _EVIDENCE)),
            ours(("DELETE",), *_EVIDENCE),
        ),
        variables=(
            *_ttl_account(values),
            users("ttlOverrideAuthorizedSAs", values.ttl_override_authorized),
            Variable("deleteProtection", "true" if values.delete_protection else "false"),
            users("collectors", _COLLECTORS),
            Variable("mayOverride", f"{USER} in variables.ttlOverrideAuthorizedSAs"),
            Variable("updates", "request.operation == 'UPDATE'"),
            Variable("part", SUBRESOURCE),
            Variable("archiving", "['phase', 'archivedAt', 'conditions']"),
            *_STATUS,
            Variable("oldNotes", "has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}"),
            Variable("newNotes", "has(object.metadata.annotations) ? object.metadata.annotations : {}"),
            Variable("oldOwners", "has(oldObject.metadata.ownerReferences) ? oldObject.metadata.ownerReferences : []"),
            Variable("newOwners", "has(object.metadata.ownerReferences) ? object.metadata.ownerReferences : []"),
            Variable("oldTTL", _ttl("variables.oldNotes")),
            Variable("newTTL", _ttl("variables.newNotes")),
        ),
        validations=(
            Validation(
                "!variables.updates || !variables.isTTL || variables.part != '' ||"
                " object.?spec == oldObject.?spec && object.?status == oldObject.?status"
                " && object.metadata.?labels == oldObject.metadata.?labels"
                " && object.metadata.?ownerReferences == oldObject.metadata.?ownerReferences",
                "ttl may change annotations only",
            ),
            Validation(
                "!variables.updates || !variables.isTTL || variables.part != 'status' ||"
                " variables.newStatus.all(k, k in variables.archiving ||"
                " k in variables.oldStatus && variables.newStatus[k] == variables.oldStatus[k])"
                " && variables.oldStatus.all(k, k in variables.archiving || k in variables.newStatus)"
                " && (variables.newStatus[?'phase'] == variables.oldStatus[?'phase']"
                " || variables.newStatus[?'phase'].orValue('') == 'Archived')",
                "ttl may change of the status only phase (to Archived), archivedAt and conditions",
            ),
            Validation(
                f"!variables.updates || {others} ||"
                f" variables.newNotes[?'{_TTL_FORCE}'].orValue('') == ''"
                f" || variables.newNotes[?'{_TTL_FORCE}'] == variables.oldNotes[?'{_TTL_FORCE}']",
                f"annotation {_TTL_FORCE} may be set only by those in ttlOverrideAuthorizedSAs",
            ),
            Validation(
                f"!variables.updates || {others} ||"
                f" variables.oldNotes[?'{_TTL_FROZEN}'].orValue('') != 'true'"
                f" || variables.newNotes[?'{_TTL_FROZEN}'].orValue('') == 'true'",
                f"annotation {_TTL_FROZEN} may be removed only by those in ttlOverrideAuthorizedSAs",
            ),
            Validation(
                f"!variables.updates || {others} ||"
                f" variables.newNotes[?'{_TTL_HELD}'] == variables.oldNotes[?'{_TTL_HELD}']",
                f"annotation {_TTL_HELD} is written by ttl, which asks the store",
            ),
            Validation(
                f"!variables.updates || {others} || variables.newTTL >= variables.oldTTL",
                f"annotation {_TTL} may be shortened only by those in ttlOverrideAuthorizedSAs"
                " (without it an object counts as kept for 168h)",
            ),
            Validation(
                # A collector deletes what hangs on an owner that does not exist, and is let through below.
                f"!variables.updates || {others} || variables.newOwners.all(o,"
                " variables.oldOwners.exists(known, known.uid == o.uid))",
                "metadata.ownerReferences: what gets an owner is collected with it; only those in"
                " ttlOverrideAuthorizedSAs may add one",
            ),
            Validation(
                "request.operation != 'DELETE' || !variables.deleteProtection || variables.isTTL"
                f" || variables.mayOverride || {USER} in variables.collectors",
                "deletion is reserved for the ttl account, which waits for the sealed bundle",
            ),
        ),
    )


def _ttl(notes: str) -> str:
    """Return the retention that an object asks for; 168h, the longest default, where it asks for none."""
    asked = f"{notes}[?'{_TTL}'].orValue('')"
    number = f"int({asked}.substring(0, {asked}.size() - 1))"
    hours = f"{number} * ({asked}.endsWith('d') ? 24 : {asked}.endsWith('w') ? 168 : 8760)"
    return (
        f"{is_duration(asked)} ? {duration(asked)}"
        f" : {asked}.matches('^([0-9]{{1,5}}d|[0-9]{{1,4}}w|[0-9]{{1,2}}y)$') ? duration(string({hours}) + 'h')"
        " : duration('168h')"
    )


def ack_restricted(values: PolicyValues) -> Policy:
    """4: an acknowledgement bears the name of the one who gave it, few may give it, and it is all that people write.

    RBAC knows no fields: whoever may acknowledge could else say as well that an event is attested.
    """
    part = "dyn({0}).?status.?{1}.orValue({2})"
    fields = (("acknowledged", "false"), ("acknowledgedBy", "''"), ("acknowledgedAt", "''"))
    same = " && ".join(
        f"{part.format('object', name, empty)} == {part.format('oldObject', name, empty)}" for name, empty in fields
    )
    return Policy(
        name="ugallu.ack-restricted",
        about="Only listed users acknowledge an event, take that back, or change who did it and when;"
        " the attestor and ttl say the rest of its status.",
        reason=FORBIDDEN,
        rules=(ours(("UPDATE",), "securityevents/status", "eventresponses/status"),),
        variables=(
            users("ackAuthorizedSAs", values.ack_authorized),
            Variable("attestorSA", text(values.attestor)),
            *_ttl_account(values),
            *_STATUS,
            Variable("acknowledging", texts(name for name, _ in fields)),
            Variable("same", same),
            Variable("acknowledged", part.format("object", "acknowledged", "false")),
        ),
        validations=(
            Validation(
                f"variables.same || {USER} in variables.ackAuthorizedSAs",
                "acknowledging requires an authorized ServiceAccount: see ackAuthorizedSAs",
            ),
            Validation(
                f"variables.same || !variables.acknowledged || {part.format('object', 'acknowledgedBy', chr(39) * 2)}"
                f" == {USER}",
                "status.acknowledgedBy must be the user who acknowledges",
            ),
            Validation(
                "variables.same || !variables.acknowledged || has(dyn(object).status.acknowledgedAt)",
                "status.acknowledgedAt must be set with status.acknowledged",
            ),
            Validation(
                f"request.resource.resource != 'securityevents' || {USER} == variables.attestorSA || variables.isTTL"
                " || variables.newStatus.all(k, k in variables.acknowledging ||"
                " k in variables.oldStatus && variables.newStatus[k] == variables.oldStatus[k])"
                " && variables.oldStatus.all(k, k in variables.acknowledging || k in variables.newStatus)",
                "status but for the acknowledgement belongs to the attestor's account and ttl's",
            ),
        ),
    )
