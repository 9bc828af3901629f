"""Policy 7: what isolates a suspect Pod is taken off by forensics alone."""

from typing import Final

from ugallu.api.policies.expressions import USER, users
from ugallu.api.policies.policy import FORBIDDEN, Policy, Rule, Validation, Variable
from ugallu.api.policies.values import PolicyValues

FROZEN: Final = "ugallu.io/frozen"
FROZEN_POD_UID: Final = "ugallu.io/frozen-pod-uid"


def frozen_label_restricted(values: PolicyValues) -> Policy:
    """7: the label that isolates a Pod, and the network policy that it selects."""
    return Policy(
        name="ugallu.frozen-label-restricted",
        about="Only forensics freezes and unfreezes Pods, and touches the network policies that isolate them.",
        reason=FORBIDDEN,
        rules=(
            Rule(("CREATE", "UPDATE"), ("pods", "pods/status"), "", "v1"),
            Rule(("UPDATE", "DELETE"), ("networkpolicies",), "networking.k8s.io", "v1"),
            Rule(("UPDATE", "DELETE"), ("ciliumnetworkpolicies",), "cilium.io", "v2"),
        ),
        variables=(
            users("frozenLabelAuthorizedSAs", values.frozen_label_authorized),
            Variable("isPod", "request.resource.resource == 'pods'"),
            Variable("before", _label("oldObject", "CREATE", FROZEN)),
            Variable("after", _label("object", "DELETE", FROZEN)),
            Variable("podBefore", _label("oldObject", "CREATE", FROZEN_POD_UID)),
            Variable("podAfter", _label("object", "DELETE", FROZEN_POD_UID)),
        ),
        validations=(
            Validation(
                "!variables.isPod || variables.before == variables.after"
                f" || {USER} in variables.frozenLabelAuthorizedSAs",
                f"label {FROZEN} is reserved for forensics; acknowledge the incident instead",
            ),
            Validation(
                "variables.isPod || variables.podBefore == '' && variables.podAfter == ''"
                f" || {USER} in variables.frozenLabelAuthorizedSAs",
                f"network policies with label {FROZEN_POD_UID} are reserved for forensics;"
                " acknowledge the incident instead",
            ),
        ),
    )


def _label(holder: str, unless: str, key: str) -> str:
    """Return the label's value, empty where it is absent or the holder is null."""
    return f"request.operation == '{unless}' ? '' : {holder}.metadata.?labels[?'{key}'].orValue('')"
