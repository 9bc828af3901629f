"""What a rule may ask beyond its event: the object as it was, the Pod that it names, the rights behind it.

Nobody keeps whole objects for that. A condition is a `Question`, and its answer is read off every object that passes
by: what has to be remembered of one is a short answer to each question, however large it is and whoever wrote it.
"""

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from ugallu.sdk import RightsMatch
from ugallu_audit_detection.memory import digest
from ugallu_audit_detection.sigma.objects import CONTAINERS, POD_SPECS
from ugallu_audit_detection.sigma.path import EACH, Path, Step, Walk, walk
from ugallu_audit_detection.sigma.peek import peek_all
from ugallu_audit_detection.sigma.values import text_of

RBAC = "rbac.authorization.k8s.io"
ROLES = ("roles", "clusterroles")
BINDINGS = ("rolebindings", "clusterrolebindings")

Answer = bool | str


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the values at a path; `id` is its identity, over restarts and edits of the rule too."""

    id: bytes
    path: Path = field(compare=False)
    answer: Callable[[list[Any]], Answer] = field(compare=False, repr=False)

    def of(self, group: str, plural: str, body: Any) -> Answer:  # noqa: ANN401 - any JSON
        """Answer for a whole object of this resource."""
        return self.answer([value for look in _walks(self.path, group, plural) for value in look(body)])

    def touched(self, group: str, plural: str, patch: Any) -> bool:  # noqa: ANN401 - any JSON
        """Whether a partial object writes anything at the path; where it does not, the old answer stands."""
        return any(_touches(patch, steps) for steps in ways(self.path, group, plural))


class Glance:
    """What an object is called and what it answers to several questions, in one pass over its bytes."""

    def __init__(self, questions: Iterable[Question], group: str, plural: str) -> None:
        paths: list[tuple[Step, ...]] = [("kind",), ("metadata", "name")]
        self._asked: list[tuple[Question, int, int]] = []
        for question in questions:
            some = ways(question.path, group, plural)
            self._asked.append((question, len(paths), len(paths) + len(some)))
            paths += some
        self._look = peek_all(paths)

    def at(self, body: bytes) -> tuple[str, str, dict[bytes, Answer]]:
        """Return kind, name and answers. Raises one of `BROKEN` where the object must be decoded for that."""
        found = self._look(body)
        answers: dict[bytes, Answer] = {}
        for question, first, last in self._asked:
            values = found[first] if last - first == 1 else [value for some in found[first:last] for value in some]
            answers[question.id] = question.answer(values)
        return _text(found[0]), _text(found[1]), answers


def _text(values: list[Any]) -> str:
    return values[0] if values and type(values[0]) is str else ""


def hit(path: Path, wanted: Callable[[Any], bool], sentence: str) -> Question:
    """Whether some value at the path is as `wanted`; `sentence` tells it from every other."""
    return Question(digest("hit", path.text, sentence), path, lambda values: any(map(wanted, values)))


def content(path: Path) -> Question:
    """What stands at the path: a digest that changes with it."""
    return Question(digest("content", path.text), path, lambda values: digest(*map(text_of, values)).hex())


def rights(wanted: RightsMatch) -> Question:
    """Whether a role grants this."""
    sentence = msgspec.json.encode((wanted.verbs, wanted.api_groups, wanted.resources, wanted.non_resource_urls))
    return Question(
        digest("rights", sentence.decode()),
        Path("$", ("rules",), "$.rules"),
        lambda values: any(grants(rules, wanted) for rules in values),
    )


def _account(values: list[Any]) -> str:
    return next((value for value in values if isinstance(value, str) and value), "default")


ACCOUNT = Question(digest("account"), Path("$pod", ("serviceAccountName",), "$pod.serviceAccountName"), _account)
"""The ServiceAccount that a Pod runs as."""


def grants(rules: Any, wanted: RightsMatch) -> bool:  # noqa: ANN401 - any JSON
    """Whether one rule of a role allows all that is wanted. Rules for named objects allow nothing like `*`."""
    return isinstance(rules, list) and any(
        _allows(rule.get("verbs"), wanted.verbs, _same)
        and _allows(rule.get("apiGroups"), wanted.api_groups, _same)
        and _allows(rule.get("resources"), wanted.resources, _resource)
        and _allows(rule.get("nonResourceURLs"), wanted.non_resource_urls, _url)
        and not ("*" in wanted.resources and rule.get("resourceNames"))
        for rule in rules
        if isinstance(rule, dict)
    )


def _allows(given: Any, wanted: tuple[str, ...], covers: Callable[[str, str], bool]) -> bool:  # noqa: ANN401 - any JSON
    if not wanted:
        return True
    return isinstance(given, list) and any(
        one == "*" or any(covers(one, each) for each in wanted) for one in given if isinstance(one, str)
    )


def _same(given: str, wanted: str) -> bool:
    return given == wanted


def _resource(given: str, wanted: str) -> bool:
    """`*/exec` is that subresource of everything."""
    return given == wanted or (given.startswith("*/") and wanted.endswith(given[1:]))


def _url(given: str, wanted: str) -> bool:
    return given == wanted or (given.endswith("*") and wanted.startswith(given[:-1]))


@lru_cache(maxsize=1024)
def ways(path: Path, group: str, plural: str) -> tuple[tuple[Step, ...], ...]:
    """Return the ways from an object of this resource to what a path names, its aliases resolved."""
    if path.root == "$":
        return (path.steps,)
    spec = POD_SPECS.get((group, plural))
    if spec is None or path.root == "$csr":
        return ()
    if path.root == "$pod":
        return ((*spec, *path.steps),)
    first, *rest = path.steps
    return tuple((*spec, name, first, *rest) for name in CONTAINERS)


@lru_cache(maxsize=1024)
def _walks(path: Path, group: str, plural: str) -> tuple[Walk, ...]:
    return tuple(walk(steps) for steps in ways(path, group, plural))


def _touches(node: Any, steps: tuple[Step, ...], at: int = 0) -> bool:  # noqa: ANN401 - any JSON
    """Whether a partial object says anything at the steps: a value, a null on the way, or a directive (`$patch`)."""
    if at == len(steps) or not isinstance(node, dict | list):
        return True
    step = steps[at]
    if isinstance(node, list):
        return any(_touches(item, steps, at + 1) for item in node) if step == EACH else True
    if any(key.startswith("$") for key in node):
        return True
    if isinstance(step, str):
        return step in node and _touches(node[step], steps, at + 1)
    return any(_touches(item, steps, at + 1) for item in node.values())


def grantee(kind: str, name: str, namespace: str) -> str:
    """Spell a subject of a binding, a ServiceAccount as the user that it is; `namespace` is its own."""
    if kind == "ServiceAccount":
        return f"u:system:serviceaccount:{namespace}:{name}"
    return f"{'g' if kind == 'Group' else 'u'}:{name}"


def grantees(namespace: str, account: str) -> tuple[str, ...]:
    """Return the subjects that mean a ServiceAccount: itself, and the groups that it is in."""
    return (
        f"u:system:serviceaccount:{namespace}:{account}",
        "g:system:serviceaccounts",
        f"g:system:serviceaccounts:{namespace}",
        "g:system:authenticated",
    )


class Of(enum.Enum):
    """What a question is asked of."""

    OBJECT = enum.auto()
    """The object that the request names."""
    POD = enum.auto()
    ROLE = enum.auto()
    BINDING = enum.auto()
    """To whom a binding gives which role; it needs no question."""


OTHERS: Final[dict[Of, tuple[tuple[str, str], ...]]] = {
    Of.POD: (("", "pods"),),
    Of.ROLE: tuple((RBAC, plural) for plural in ROLES),
    Of.BINDING: tuple((RBAC, plural) for plural in BINDINGS),
}
"""Whose writes answer what is asked, besides those of the resource itself."""


class Asked(NamedTuple):
    """One thing that must be remembered for a rule to be decided."""

    of: Of
    question: Question | None = None


class RoleRef(NamedTuple):
    """A role: `kind` is Role or ClusterRole, `namespace` that of the binding."""

    kind: str
    name: str
    namespace: str = ""


class Known(Protocol):
    """Pods, roles and bindings, as far as they are known. Every answer may be None: unknown."""

    def pod(self, namespace: str, name: str, question: Question) -> Answer | None:
        """Return the answer for a Pod."""
        ...

    def role(self, role: RoleRef, question: Question) -> bool | None:
        """Whether the role grants what is asked."""
        ...

    def bound(self, plural: str, namespace: str, name: str) -> RoleRef | None:
        """Return the role that a binding gives."""
        ...

    def account(self, namespace: str, name: str, question: Question, *, cluster_wide: bool) -> bool | None:
        """Whether a ServiceAccount holds what is asked."""
        ...


class Surroundings(Known, Protocol):
    """What is known around an event, before it."""

    def object(self, group: str, plural: str, namespace: str, name: str) -> Mapping[bytes, Answer] | None:
        """Return the answers for an object as it was before the event."""
        ...
