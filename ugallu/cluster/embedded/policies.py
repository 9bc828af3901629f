"""The admission policies as a check of the embedded cluster: what an API server denies is denied here.

Every policy that matches a kind of request goes into one program, and only when that is not true, or has no value, are
they asked one by one who objects. The engine is imported, and a program compiled, when the first request needs it.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ugallu.api.meta import Kind
from ugallu.api.policies import Policy, PolicyValues, policies
from ugallu.api.policies.policy import FORBIDDEN
from ugallu.cluster.embedded.document import Document, place
from ugallu.cluster.port import ForbiddenError, InvalidError

if TYPE_CHECKING:
    from ugallu.cel import Environment, Json, Program

NAMES: Final = ("object", "oldObject", "request", "params")

_OPERATIONS: Final = {"create": "CREATE", "update": "UPDATE", "delete": "DELETE"}
_VARIABLE: Final = re.compile(r"\bvariables\.([A-Za-z]\w*)")


class User(msgspec.Struct, frozen=True):
    """Who writes."""

    name: str
    groups: tuple[str, ...] = ()


EMBEDDED: Final = User("ugallu:embedded", ("system:authenticated",))
"""This process, in which every component runs."""

EMBEDDED_VALUES: Final = PolicyValues(
    frozen_label_authorized=(EMBEDDED.name,),
    attestor=EMBEDDED.name,
    emitters=(EMBEDDED.name,),
    ack_authorized=(EMBEDDED.name,),
    forensics_ack_authorized=(EMBEDDED.name,),
    ttl_override_authorized=(EMBEDDED.name,),
)
"""The values under which the process may do what its components do on Kubernetes under accounts of their own."""


class UnjudgedError(InvalidError):
    """A policy could not be evaluated, which denies: a mistake of the policy, or an object beyond its budget."""


class Request(NamedTuple):
    """One write as policies see it; `old` is None on create, `new` on delete."""

    verb: str
    kind: Kind
    subresource: str
    user: User
    namespace: str
    name: str
    new: Document | None
    old: Document | None

    @property
    def where(self) -> str:
        """The object's name in messages."""
        return place(self.kind, self.namespace, self.name)


Lookup = Callable[[str, str], Document | None]
"""From `group/Kind` and a name to the object of a kind without namespaces, None when there is none."""


class Policies:
    """Judges writes by policies; keeps the programs it compiled."""

    def __init__(self, rules: Iterable[Policy] | None = None) -> None:
        self._policies = tuple(policies(EMBEDDED_VALUES) if rules is None else rules)
        self._gates: dict[tuple[Kind, str, str], _Gate] = {}
        self._narrowed: dict[tuple[str, ...], _Gate] = {}
        self._environment: Environment | None = None

    def judge(self, request: Request, lookup: Lookup) -> None:
        """Raise `InvalidError` or `ForbiddenError` with the message of the first policy that denies."""
        gate = self._gate(request)
        if not gate.policies:
            return
        params: Document | None = None
        if gate.parameter is not None:
            params = _parameter(gate.parameter, request, lookup)
        gate.judge(request, params, self._engine)

    def _gate(self, request: Request) -> "_Gate":
        key = (request.kind, request.subresource, request.verb)
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = _Gate(tuple(policy for policy in self._policies if _covers(policy, *key)))
        if not gate.selective:
            return gate
        kept = tuple(policy for policy in gate.policies if _selects(policy, request))
        return self._narrowed.setdefault(tuple(policy.name for policy in kept), _Gate(kept))

    def _engine(self) -> "Environment":
        if self._environment is None:
            from ugallu.cel import Environment

            self._environment = Environment(*NAMES)
        return self._environment


class _Gate:
    """The policies that apply together to some requests; at most one of them has a parameter."""

    def __init__(self, applying: Sequence[Policy]) -> None:
        self.policies = applying
        self.selective = any(policy.unless_labelled is not None for policy in applying)
        self.parameter = next((policy for policy in applying if policy.parameter is not None), None)
        self._all: Program | None = None
        self._single: dict[tuple[str, str], Program] = {}

    def judge(self, request: Request, params: Document | None, engine: Callable[[], "Environment"]) -> None:
        """Raise what the first policy that denies says."""
        if self._all is None:
            self._all = engine().compile(" && ".join(f"({_whole(policy)})" for policy in self.policies))
        values: dict[str, Json] = {
            "object": request.new,
            "oldObject": request.old,
            "request": _facts(request),
            "params": params,
        }
        if self._all.evaluate(values) is True:
            return
        for policy in self.policies:
            self._judge(policy, engine(), values, request.where)

    def _judge(self, policy: Policy, engine: "Environment", values: "Mapping[str, Json]", where: str) -> None:
        """Ask one policy as an API server does: any false condition skips it, any fault denies."""
        asked = [self._ask(policy, condition.expression, engine, values) for condition in policy.conditions]
        if any(answer is False for answer in asked):
            return
        for answer in asked:
            _require(policy, answer, "a condition does not hold", where)
        for validation in policy.validations:
            answer = self._ask(policy, validation.expression, engine, values)
            _require(policy, answer, validation.message, where)

    def _ask(self, policy: Policy, expression: str, engine: "Environment", values: "Mapping[str, Json]") -> object:
        key = (policy.name, expression)
        program = self._single.get(key)
        if program is None:
            program = self._single[key] = engine.compile(_closed(policy, expression))
        return program.evaluate(values)


def _require(policy: Policy, answer: object, message: str, where: str) -> None:
    from ugallu.cel import Fault

    if answer is True:
        return
    if isinstance(answer, Fault):
        raise UnjudgedError(f"policy {policy.name} cannot be evaluated: {answer.reason}", where=where)
    error = ForbiddenError if policy.reason == FORBIDDEN else InvalidError
    raise error(f"policy {policy.name}: {message}", where=where)


def _whole(policy: Policy) -> str:
    """Return what the policy asks as one expression; not true where a condition has no value."""
    asked = " && ".join(f"({validation.expression})" for validation in policy.validations)
    if policy.conditions:
        conditions = " && ".join(f"({condition.expression})" for condition in policy.conditions)
        asked = f"({conditions}) ? ({asked}) : true"
    return _closed(policy, asked)


def _closed(policy: Policy, expression: str) -> str:
    """Return the expression with the variables it uses bound around it; a binding is evaluated when it is used."""
    wanted = set(_VARIABLE.findall(expression))
    text = _VARIABLE.sub(r"v_\1", expression)
    for variable in reversed(policy.variables):
        if variable.name in wanted:
            wanted |= set(_VARIABLE.findall(variable.expression))
            bound = _VARIABLE.sub(r"v_\1", variable.expression)
            text = f"cel.bind(v_{variable.name}, {bound}, {text})"
    return text


def _covers(policy: Policy, kind: Kind, subresource: str, verb: str) -> bool:
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    return any(
        rule.group == kind.group
        and rule.version == kind.version
        and resource in rule.resources
        and _OPERATIONS[verb] in rule.operations
        for rule in policy.rules
    )


def _selects(policy: Policy, request: Request) -> bool:
    """Tell whether the labels before or after the write are among those that the policy looks at."""
    if policy.unless_labelled is None:
        return True
    key, values = policy.unless_labelled.key, policy.unless_labelled.values
    return any(
        document is not None and document["metadata"].get("labels", {}).get(key) not in values
        for document in (request.new, request.old)
    )


def _parameter(policy: Policy, request: Request, lookup: Lookup) -> Document:
    parameter = policy.parameter
    assert parameter is not None
    found = lookup(f"{parameter.group}/{parameter.kind}", parameter.name)
    if found is None:
        raise InvalidError(
            f"policy {policy.name}: no params found: {parameter.kind} {parameter.name} does not exist",
            where=request.where,
            fix=f"create it: an empty {parameter.kind} called {parameter.name} will do",
        )
    return found


def _facts(request: Request) -> "Json":
    """Return `request`; what is empty is absent, as on an API server."""
    kind = request.kind
    facts: dict[str, Json] = {
        "operation": _OPERATIONS[request.verb],
        "userInfo": {"username": request.user.name, "groups": list(request.user.groups)},
        "kind": {"group": kind.group, "version": kind.version, "kind": kind.name},
        "resource": {"group": kind.group, "version": kind.version, "resource": kind.plural},
    }
    optional = (("namespace", request.namespace), ("name", request.name), ("subResource", request.subresource))
    return facts | {name: value for name, value in optional if value}
