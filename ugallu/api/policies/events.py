"""Policies on what an event claims when it is created, and on who answers for an incident: 2, 5 and 8."""

from typing import Final

from ugallu.api.catalog import CATALOGUE, EventClass
from ugallu.api.event import LABEL_CLASS, LABEL_EXPERIMENTAL
from ugallu.api.meta import GROUP, VERSION
from ugallu.api.policies.expressions import USER, is_word, ours, texts, users, words
from ugallu.api.policies.policy import FORBIDDEN, Condition, Labelled, Parameter, Policy, Validation, Variable
from ugallu.api.policies.values import PRIVILEGED, SYSTEM, PolicyValues

DISCRIMINATORS: Final = {
    "Pod": "pod",
    "Container": "container",
    "Node": "node",
    "ServiceAccount": "serviceAccount",
    "Secret": "secret",
    "ConfigMap": "configMap",
    "Namespace": "namespaceData",
    "Service": "service",
    "EndpointSlice": "endpointSlice",
    "Deployment": "workload",
    "StatefulSet": "workload",
    "DaemonSet": "workload",
    "Job": "job",
    "CronJob": "job",
    "Role": "role",
    "ClusterRole": "role",
    "RoleBinding": "roleBinding",
    "ClusterRoleBinding": "roleBinding",
    "NetworkPolicy": "networkPolicy",
    "CiliumNetworkPolicy": "networkPolicy",
    "Ingress": "ingress",
    "Gateway": "ingress",
    "MutatingWebhookConfiguration": "webhookConfig",
    "ValidatingWebhookConfiguration": "webhookConfig",
    "CustomResourceDefinition": "crd",
    "APIService": "apiService",
    "CertificateSigningRequest": "csr",
    "Cluster": "cluster",
    "External": "external",
}
"""The field of the snapshot that a subject's kind selects."""

_REPEATING: Final = ("workload", "job", "role", "roleBinding", "networkPolicy", "ingress", "webhookConfig")
"""Snapshots that serve several kinds and repeat which one; `external.kind` is a word of its own."""

_ACK: Final = (
    "ugallu.io/incident-acknowledged",
    "ugallu.io/incident-unfreeze-applied",
    "ugallu.io/failure-unfreeze-policy",
)
_NOT_FORENSIC: Final = tuple(grade.value for grade in EventClass if grade is not EventClass.FORENSIC)


def subject_discriminator() -> Policy:
    """2: an event says what it is about in the one field that fits the kind, or that it does not know."""
    pairs = words(f"{kind}:{field}" for kind, field in DISCRIMINATORS.items())
    return Policy(
        name="ugallu.subject-discriminator",
        about="An event's subject has the one snapshot that fits its kind, or says that it is unresolved.",
        rules=(ours(("CREATE",), "securityevents"),),
        variables=(
            Variable("subject", "dyn(object).?spec.?subject.orValue({})"),
            Variable("kind", "variables.subject.?kind.orValue('')"),
            Variable("discriminators", pairs),
            Variable("fields", words(dict.fromkeys(DISCRIMINATORS.values()))),
            Variable("repeating", words(_REPEATING)),
        ),
        validations=(
            Validation(
                "variables.subject.?unresolved.orValue(false) || variables.subject.exists(k,"
                " variables.discriminators.contains(' ' + variables.kind + ':' + k + ' '))",
                "spec.subject.kind must match a populated discriminator, or spec.subject.unresolved be true",
            ),
            Validation(
                "variables.subject.all(k, !variables.fields.contains(' ' + k + ' ')"
                " || variables.discriminators.contains(' ' + variables.kind + ':' + k + ' '))",
                "spec.subject may have no discriminator but the one of its kind",
            ),
            Validation(
                "variables.subject.all(k, !variables.repeating.contains(' ' + k + ' ')"
                " || dyn(variables.subject[k]).?kind.orValue('') == variables.kind)",
                "the kind inside the discriminator must be spec.subject.kind",
            ),
        ),
    )


def type_validation(values: PolicyValues) -> Policy:
    """5: the catalogue is closed, Forensic is what forensics says, and nobody speaks for a component but itself."""
    name = "object.?spec.?source.?name.orValue('')"
    return Policy(
        name="ugallu.type-validation",
        about="Events have a type of the catalogue, and come from the component that they name as their source.",
        rules=(ours(("CREATE",), "securityevents"),),
        variables=(
            Variable("types", words(CATALOGUE)),
            users("emitterSAs", values.emitters),
            users("frozenLabelAuthorizedSAs", values.frozen_label_authorized),
            Variable("source", name),
        ),
        validations=(
            Validation(
                is_word("object.?spec.?type.orValue('')", "variables.types")
                + f" || object.metadata.?labels[?'{LABEL_EXPERIMENTAL}'].orValue('') == 'true'",
                f"spec.type is not in the curated catalog; label {LABEL_EXPERIMENTAL}=true allows others",
            ),
            Validation(
                f"object.?spec.?class.orValue('') != 'Forensic' || {USER} in variables.frozenLabelAuthorizedSAs",
                "spec.class Forensic is reserved for the forensics account",
            ),
            Validation(
                f"!variables.source.lowerAscii().startsWith('ugallu-') || {USER} in variables.emitterSAs"
                f" || {USER} == 'system:serviceaccount:{SYSTEM}:' + variables.source"
                f" || {USER} == 'system:serviceaccount:{PRIVILEGED}:' + variables.source",
                "spec.source.name: only the ServiceAccount of that name may speak for a component of ugallu",
            ),
        ),
    )


def forensic_ack_restricted(values: PolicyValues) -> tuple[Policy, Policy]:
    """8: who lets a frozen Pod go is on a list, which stands in the ForensicsConfig and in the policy.

    Two documents: while the config does not exist, whatever matches a policy with that parameter is denied, before any
    condition is asked. So only updates of Forensic events wait for the config, and no event is ever refused for it. An
    update is matched by the label before or after it, hence the label is guarded too.
    """
    listed = users("forensicsAckAuthorizedSAs", values.forensics_ack_authorized)
    forensics = users("frozenLabelAuthorizedSAs", values.frozen_label_authorized)
    may = f"{USER} in variables.frozenLabelAuthorizedSAs || {USER} in variables.forensicsAckAuthorizedSAs"
    updating = Policy(
        name="ugallu.forensic-ack-restricted",
        about="Only listed users acknowledge an incident or change how its capture ends.",
        reason=FORBIDDEN,
        rules=(ours(("UPDATE",), "securityevents"),),
        unless_labelled=Labelled(LABEL_CLASS, _NOT_FORENSIC),
        parameter=Parameter(GROUP, VERSION, "ForensicsConfig", "default"),
        conditions=(_FORENSIC,),
        variables=(
            listed,
            forensics,
            _GUARDED,
            Variable("before", "has(oldObject.metadata.annotations) ? oldObject.metadata.annotations : {}"),
            Variable("after", "has(object.metadata.annotations) ? object.metadata.annotations : {}"),
            Variable(
                "same",
                "variables.after.all(k, !(k.lowerAscii() in variables.guarded)"
                " || variables.before[?k] == variables.after[?k])"
                " && variables.before.all(k, !(k.lowerAscii() in variables.guarded) || k in variables.after)"
                f" && object.metadata.?labels[?'{LABEL_CLASS}'] == oldObject.metadata.?labels[?'{LABEL_CLASS}']",
            ),
        ),
        validations=(
            Validation(
                f"variables.same || {may} || {USER} in params.?spec.?cleanup.?acknowledgeAuthorizedSAs.orValue([])",
                _ACK_MESSAGE,
            ),
        ),
    )
    creating = Policy(
        name="ugallu.forensic-ack-restricted-create",
        about="Nobody but listed users creates an event that is already acknowledged as an incident.",
        reason=FORBIDDEN,
        rules=(ours(("CREATE",), "securityevents"),),
        conditions=(Condition("annotated", "has(object.metadata.annotations)"),),
        variables=(listed, forensics, _GUARDED),
        validations=(
            Validation(
                f"!object.metadata.annotations.exists(k, k.lowerAscii() in variables.guarded) || {may}", _ACK_MESSAGE
            ),
        ),
    )
    return updating, creating


_FORENSIC: Final = Condition("forensic", "object.?spec.?class.orValue('') == 'Forensic'")
_GUARDED: Final = Variable("guarded", texts(_ACK))
"""Keys of annotations keep their case; one that differs in case alone is nobody's honest spelling."""
_ACK_MESSAGE: Final = (
    "acknowledging an incident needs a listed account: see forensicsAckAuthorizedSAs, and"
    " spec.cleanup.acknowledgeAuthorizedSAs of the ForensicsConfig"
)
