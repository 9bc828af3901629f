"""A ValidatingAdmissionPolicy as data, and the two documents of `admissionregistration.k8s.io/v1` it becomes.

Expressions keep to what Kubernetes 1.30 and the embedded cluster's engine have in common. Three habits of the API
server shape them: an evaluation error denies (`failurePolicy: Fail`), so what may be absent is reached with `.?`; what
is empty is absent from `request`; and objects are checked against the type of every kind that a policy matches, so
fields that only some of them have are reached through `dyn()`.
"""

from typing import Any, Final

import msgspec

API_VERSION: Final = "admissionregistration.k8s.io/v1"
LABELS: Final = {"app.kubernetes.io/part-of": "ugallu", "app.kubernetes.io/component": "admission"}

INVALID: Final = "Invalid"
FORBIDDEN: Final = "Forbidden"


class Rule(msgspec.Struct, frozen=True):
    """Requests that a policy looks at; `resources` may name subresources (`pods/status`)."""

    operations: tuple[str, ...]
    resources: tuple[str, ...]
    group: str
    version: str


class Variable(msgspec.Struct, frozen=True):
    """A named expression, evaluated at most once and only when it is asked for: `variables.<name>`."""

    name: str
    expression: str


class Condition(msgspec.Struct, frozen=True):
    """What must hold of a request for the policy to look at it; it cannot see variables."""

    name: str
    expression: str


class Validation(msgspec.Struct, frozen=True):
    """What must hold of an object, and what its writer is told otherwise."""

    expression: str
    message: str


class Labelled(msgspec.Struct, frozen=True):
    """Narrows a policy to objects whose label, before or after the write, has none of the values or is absent."""

    key: str
    values: tuple[str, ...]


class Parameter(msgspec.Struct, frozen=True):
    """The object that expressions know as `params`; while it does not exist, every request that matches is denied."""

    group: str
    version: str
    kind: str
    name: str


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """One admission policy: whatever passes every validation may be stored."""

    name: str
    about: str
    """What it is for, one sentence."""
    rules: tuple[Rule, ...]
    validations: tuple[Validation, ...]
    variables: tuple[Variable, ...] = ()
    conditions: tuple[Condition, ...] = ()
    reason: str = INVALID
    """Invalid answers 422, Forbidden 403."""
    unless_labelled: Labelled | None = None
    parameter: Parameter | None = None

    def documents(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the policy and its binding, which share the name."""
        return self._policy(), self._binding()

    def _policy(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"failurePolicy": "Fail"}
        if self.parameter is not None:
            parameter = self.parameter
            spec["paramKind"] = {"apiVersion": f"{parameter.group}/{parameter.version}", "kind": parameter.kind}
        spec["matchConstraints"] = self._match()
        if self.conditions:
            spec["matchConditions"] = [{"name": c.name, "expression": c.expression} for c in self.conditions]
        if self.variables:
            spec["variables"] = [{"name": v.name, "expression": v.expression} for v in self.variables]
        spec["validations"] = [
            {"expression": v.expression, "message": v.message, "reason": self.reason} for v in self.validations
        ]
        return {
            "apiVersion": API_VERSION,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": self.name, "labels": dict(LABELS), "annotations": {"ugallu.io/about": self.about}},
            "spec": spec,
        }

    def _binding(self) -> dict[str, Any]:
        spec: dict[str, Any] = {"policyName": self.name, "validationActions": ["Deny"]}
        if self.parameter is not None:
            spec["paramRef"] = {"name": self.parameter.name, "parameterNotFoundAction": "Deny"}
        spec["matchResources"] = self._match()
        return {
            "apiVersion": API_VERSION,
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": self.name, "labels": dict(LABELS)},
            "spec": spec,
        }

    def _match(self) -> dict[str, Any]:
        match: dict[str, Any] = {
            "resourceRules": [
                {
                    "apiGroups": [rule.group],
                    "apiVersions": [rule.version],
                    "operations": list(rule.operations),
                    "resources": list(rule.resources),
                }
                for rule in self.rules
            ]
        }
        if self.unless_labelled is not None:
            label = self.unless_labelled
            match["objectSelector"] = {
                "matchExpressions": [{"key": label.key, "operator": "NotIn", "values": list(label.values)}]
            }
        return match
