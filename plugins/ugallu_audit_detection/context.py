"""What stood there before: answers about objects, remembered from the audit stream itself.

Every write that passes by is read for the questions that rules ask (`sigma.questions`), and no more is kept: a few
bytes an object. So it travels in every checkpoint, a replay knows what the first run knew, and a huge object costs
nothing. What was never seen, or was forgotten for the sake of the bound, is unknown; so is what a write without a body
left.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ugallu.sdk import AuditObject
from ugallu_audit_detection.memory import digest
from ugallu_audit_detection.sigma.compile import CompiledRule
from ugallu_audit_detection.sigma.questions import (
    BINDINGS,
    RBAC,
    ROLES,
    Answer,
    Glance,
    Known,
    Of,
    Question,
    RoleRef,
    grantee,
    grantees,
)
from ugallu_audit_detection.sigma.surroundings import name_of, role_of
from ugallu_audit_detection.sigma.values import BROKEN
from ugallu_audit_detection.sigma.view import RecordView

MAX_OBJECTS: Final = 4096
"""Objects of all kinds, and as many bindings. Forgetting the one that was written longest ago makes it unknown."""
MAX_SUBJECTS: Final = 64
"""Subjects of a binding; those of a larger one are unknown."""
MAX_NAME: Final = 512

CHANGES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
OF_THE_OBJECT: Final = frozenset({"", "ephemeralcontainers"})
"""Subresources whose body is the object."""
CLUSTER_ADMIN: Final = RoleRef("ClusterRole", "cluster-admin")
_EVERYTHING: Final = {
    "rules": [
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
        {"nonResourceURLs": ["*"], "verbs": ["*"]},
    ]
}
"""What cluster-admin grants, in every cluster."""

Answers = dict[bytes, Answer]


class Binding(msgspec.Struct, frozen=True, array_like=True):
    """To whom a binding gives which role; subjects as `_subject` spells them, None when there are too many."""

    plural: str
    namespace: str
    name: str
    role: tuple[str, str, str]
    subjects: tuple[str, ...] | None


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What a checkpoint keeps of the context."""

    objects: dict[bytes, Answers]
    bindings: list[Binding]


class Context:
    """Answers by object. A rule set says what to ask; `note` reads a write, after the rules were asked about it."""

    def __init__(self) -> None:
        self.inventory: Known | None = None
        """The live cluster, for what the stream does not know; none in a replay."""
        self._asked: dict[str, dict[bytes, Question]] = {}
        self._groups: dict[str, frozenset[str] | None] = {}
        self._binds = False
        self._glances: dict[tuple[str, str], Glance] = {}
        self._objects: OrderedDict[bytes, Answers] = OrderedDict()
        self._bindings: OrderedDict[tuple[str, str, str], Binding] = OrderedDict()
        self._given: dict[str, dict[tuple[str, str, str], Binding]] = {}
        self._encoded: bytes | None = None

    def ask(self, rules: Iterable[CompiledRule]) -> None:
        """Remember from now on what these rules ask."""
        self._asked, self._groups, self._glances, self._binds = {}, {}, {}, False
        for rule in rules:
            for asked in rule.asks:
                question = asked.question
                if asked.of is Of.BINDING or question is None:
                    self._binds = True
                    for plural in BINDINGS:
                        self._watch(plural, frozenset((RBAC,)), None)
                elif asked.of is Of.OBJECT:
                    for plural in rule.dispatch.resources or ():
                        self._watch(plural, rule.dispatch.groups, question)
                elif asked.of is Of.POD:
                    self._watch("pods", frozenset(("",)), question)
                else:
                    for plural in ROLES:
                        self._watch(plural, frozenset((RBAC,)), question)

    @property
    def idle(self) -> bool:
        """Whether nothing is asked."""
        return not self._asked

    def _watch(self, plural: str, groups: frozenset[str] | None, question: Question | None) -> None:
        asked = self._asked.setdefault(plural, {})
        if question is not None:
            asked[question.id] = question
        known = self._groups.get(plural, frozenset())
        self._groups[plural] = None if groups is None or known is None else known | groups

    # What a write leaves

    def concerns(self, verb: str, ref: AuditObject | None) -> bool:
        """Whether `note` is to hear of such an event: a write of an object that rules ask about."""
        if verb not in CHANGES or ref is None or ref.resource not in self._asked:
            return False
        groups = self._groups[ref.resource]
        return ref.subresource in OF_THE_OBJECT and (groups is None or ref.api_group.casefold() in groups)

    def note(self, view: RecordView) -> None:
        """Take in what an event that it concerns says of an object."""
        record, ref = view.record, view.ref
        if record.stage not in ("ResponseComplete", "") or view.response.code >= 400 or view.dry_run:
            return
        self._encoded = None
        binding = self._binds and ref.api_group == RBAC and ref.resource in BINDINGS
        if record.verb == "deletecollection":
            if binding:
                self._forget_bindings(ref.resource, ref.namespace)
            return
        if record.verb != "delete" and not binding and self._glanced(view, ref):
            return
        name = name_of(view)
        if not name or len(name) + len(ref.namespace) > MAX_NAME:
            return
        if binding:
            self._bind(view, ref, name)
        key = _key(ref.api_group, ref.resource, ref.namespace, name)
        before = self._objects.pop(key, None)
        if record.verb == "delete":
            return  # without a look at the body
        body, whole = view.effective
        if body is None or (ref.subresource and not (isinstance(body, dict) and body.get("kind") == "Pod")):
            return
        answers = self._answers(view, ref, before or {})
        if answers or whole:
            self._keep(key, answers)

    def _glanced(self, view: RecordView, ref: AuditObject) -> bool:
        """Take in an object that the response holds whole without decoding all of it; tell whether that was possible.

        Most writes of a cluster are those of Pods, and most of a Pod nobody asks for.
        """
        if not view.record.response_object:
            return False
        resource = (ref.api_group, ref.resource)
        glance = self._glances.get(resource)
        if glance is None:
            glance = self._glances[resource] = Glance(self._asked[ref.resource].values(), *resource)
        try:
            kind, name, answers = glance.at(bytes(view.record.response_object))
        except BROKEN:
            return False
        name = ref.name or name
        if not name or len(name) + len(ref.namespace) > MAX_NAME or not _is_object(kind, ref):
            return False
        self._keep(_key(*resource, ref.namespace, name), answers)
        return True

    def _keep(self, key: bytes, answers: Answers) -> None:
        self._objects.pop(key, None)
        self._objects[key] = answers
        if len(self._objects) > MAX_OBJECTS:
            self._objects.popitem(last=False)

    def _answers(self, view: RecordView, ref: AuditObject, before: Answers) -> Answers:
        body, whole = view.effective
        group, plural = ref.api_group, ref.resource
        answers: Answers = {}
        for question in self._asked[plural].values():
            if whole or (plural in ROLES and not isinstance(view.request_object, list) and "rules" in body):
                answers[question.id] = question.of(group, plural, body)
            elif not question.touched(group, plural, body):
                if question.id in before:
                    answers[question.id] = before[question.id]
            elif question.of(group, plural, body) is True:
                # Of a list a patch may name one element alone: what it writes is there, and what it does not, unknown.
                answers[question.id] = True
        return answers

    def _bind(self, view: RecordView, ref: AuditObject, name: str) -> None:
        key = (ref.resource, ref.namespace, name)
        old = self._unbind(key)
        if view.record.verb == "delete":
            return
        body, whole = view.effective
        role = role_of(body, ref.namespace) or (RoleRef(*old.role) if old is not None and not whole else None)
        if role is None or len(role.name) > MAX_NAME:
            return
        subjects = _subjects(body, ref.namespace)
        if not whole and not (isinstance(body, dict) and "subjects" in body):
            subjects = old.subjects if old is not None else None
        elif not whole and isinstance(view.request_object, list):
            # Of a list a JSON Patch tells only what it adds.
            subjects = None if old is None or old.subjects is None or subjects is None else (*old.subjects, *subjects)
        self._put(Binding(*key, role=(role.kind, role.name, role.namespace), subjects=subjects))
        if len(self._bindings) > MAX_OBJECTS:
            self._unbind(next(iter(self._bindings)))

    def _put(self, binding: Binding) -> None:
        key = (binding.plural, binding.namespace, binding.name)
        self._bindings[key] = binding
        for subject in binding.subjects or ():
            self._given.setdefault(subject, {})[key] = binding

    def _unbind(self, key: tuple[str, str, str]) -> Binding | None:
        old = self._bindings.pop(key, None)
        for subject in (old.subjects or ()) if old is not None else ():
            given = self._given.get(subject, {})
            given.pop(key, None)
            if not given:
                self._given.pop(subject, None)
        return old

    def _forget_bindings(self, plural: str, namespace: str) -> None:
        for key in [key for key in self._bindings if key[0] == plural and namespace in ("", key[1])]:
            self._unbind(key)

    # What is known

    def object(self, group: str, plural: str, namespace: str, name: str) -> Mapping[bytes, Answer] | None:
        """Return the answers for an object."""
        return self._objects.get(_key(group, plural, namespace, name))

    def pod(self, namespace: str, name: str, question: Question) -> Answer | None:
        """Return the answer for a Pod."""
        answers = self.object("", "pods", namespace, name)
        answer = answers.get(question.id) if answers is not None else None
        if answer is None and self.inventory is not None:
            return self.inventory.pod(namespace, name, question)
        return answer

    def role(self, role: RoleRef, question: Question) -> bool | None:
        """Whether the role grants what is asked."""
        if role == CLUSTER_ADMIN:
            return bool(question.of(RBAC, "clusterroles", _EVERYTHING))
        plural = "roles" if role.kind == "Role" else "clusterroles"
        answers = self.object(RBAC, plural, role.namespace, role.name)
        answer = answers.get(question.id) if answers is not None else None
        if answer is None:
            return self.inventory.role(role, question) if self.inventory is not None else None
        return bool(answer)

    def bound(self, plural: str, namespace: str, name: str) -> RoleRef | None:
        """Return the role that a binding gives."""
        binding = self._bindings.get((plural, namespace, name))
        if binding is None:
            return self.inventory.bound(plural, namespace, name) if self.inventory is not None else None
        return RoleRef(*binding.role)

    def account(self, namespace: str, name: str, question: Question, *, cluster_wide: bool) -> bool | None:
        """Whether a ServiceAccount holds what is asked. That it does not, only a live cluster can tell."""
        for subject in grantees(namespace, name):
            for binding in self._given.get(subject, {}).values():
                if cluster_wide and binding.plural != "clusterrolebindings":
                    continue
                if self.role(RoleRef(*binding.role), question):
                    return True
        if self.inventory is None:
            return None
        return self.inventory.account(namespace, name, question, cluster_wide=cluster_wide)

    # What a restart must not lose

    def snapshot(self) -> bytes:
        """Return everything known."""
        if self._encoded is None:
            self._encoded = msgspec.msgpack.encode(Kept(dict(self._objects), list(self._bindings.values())))
        return self._encoded

    def restore(self, state: bytes) -> None:
        """Become what `snapshot` saw; from nothing: know nothing. Raises what msgspec does for another format."""
        kept = msgspec.msgpack.decode(state, type=Kept) if state else Kept({}, [])
        self._objects = OrderedDict(kept.objects)
        self._bindings, self._given = OrderedDict(), {}
        for binding in kept.bindings:
            self._put(binding)
        self._encoded = state or None


def _is_object(kind: str, ref: AuditObject) -> bool:
    """Whether a response of this kind is surely the object of the request; where not, a closer look must tell."""
    if ref.subresource:
        return kind == "Pod"
    return kind not in ("", "Status", "Table", "PartialObjectMetadata") and not kind.endswith("List")


def _key(group: str, plural: str, namespace: str, name: str) -> bytes:
    return digest(group, plural, namespace, name)


def _subjects(body: object, namespace: str) -> tuple[str, ...] | None:
    """Return the subjects of a binding, ServiceAccounts as the users that they are; None when there are too many."""
    subjects = body.get("subjects") if isinstance(body, dict) else None
    if not isinstance(subjects, list):
        return ()
    if len(subjects) > MAX_SUBJECTS:
        return None
    return tuple(spelt for one in subjects if isinstance(one, dict) and (spelt := _subject(one, namespace)))


def _subject(one: dict[str, object], namespace: str) -> str:
    kind, name, own = one.get("kind"), one.get("name"), one.get("namespace")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        return ""
    return grantee(kind if isinstance(kind, str) else "", name, own if isinstance(own, str) and own else namespace)
