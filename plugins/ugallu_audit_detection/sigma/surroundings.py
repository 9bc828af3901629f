"""Conditions on what surrounds an event. Each is true, false or unknown; the rule says what unknown counts as."""

from collections.abc import Callable, Iterator
from typing import Any, Final

from ugallu.sdk import GlobMatch, RightsMatch, SigmaMatchLeaf, WhenUnknown
from ugallu_audit_detection.sigma.errors import Reason, RuleError
from ugallu_audit_detection.sigma.expr import Check, Part, Test, value_test
from ugallu_audit_detection.sigma.objects import POD_SPECS
from ugallu_audit_detection.sigma.path import json_path, walk
from ugallu_audit_detection.sigma.questions import (
    ACCOUNT,
    BINDINGS,
    RBAC,
    ROLES,
    Asked,
    Of,
    Question,
    RoleRef,
    content,
    hit,
    rights,
)
from ugallu_audit_detection.sigma.view import RecordView

Ask = Callable[[RecordView], bool | None]
MAX_RIGHTS: Final = 64
_REMARK: Final = {
    None: "",
    WhenUnknown.HOLDS: ", or nobody knows",
    WhenUnknown.FAILS: ", as far as is known",
}
_account_name = walk(("metadata", "annotations", "kubernetes.io/service-account.name"))


def checks(leaf: SigmaMatchLeaf, where: str, test_of: Callable[[GlobMatch, str], Test]) -> Iterator[Check]:
    """Yield the conditions of a leaf. Raises `RuleError` that names the field."""
    when = leaf.when_unknown
    for i, entry in enumerate(leaf.previous or ()):
        question = _question(entry, f"{where}.previous[{i}]", test_of)
        sentence = f"before the request, object {entry.json_path} {test_of(entry, where)}"
        yield _check(sentence, _before(question), when, Asked(Of.OBJECT, question))
    if leaf.changed:
        paths = [json_path(text, where=f"{where}.changed[{i}]") for i, text in enumerate(leaf.changed)]
        contents = [content(path) for path in paths]
        yield _check(
            f"the request changes object {' or '.join(leaf.changed)}",
            _any([_changes(question) for question in contents]),
            when,
            *(Asked(Of.OBJECT, question) for question in contents),
        )
    for i, entry in enumerate(leaf.target_pod or ()):
        question = _question(entry, f"{where}.targetPod[{i}]", test_of)
        sentence = f"the Pod has {entry.json_path} that {test_of(entry, where)}"
        yield _check(sentence, _of_pod(question), when, Asked(Of.POD, question), part=Part.CONTEXT)
    if leaf.role_grants:
        granted = [rights(one) for one in _rights(leaf.role_grants, f"{where}.roleGrants")]
        yield _check(
            f"the role grants {_listed(leaf.role_grants)}",
            _any([_of_role(question) for question in granted]),
            when,
            Asked(Of.BINDING),
            *(Asked(Of.ROLE, question) for question in granted),
        )
    if leaf.service_account_grants:
        held = [(rights(one), one.cluster_wide) for one in _rights(leaf.service_account_grants, where)]
        yield _check(
            f"the ServiceAccount holds {_listed(leaf.service_account_grants)}",
            _any([_of_account(question, cluster_wide=wide) for question, wide in held]),
            when,
            Asked(Of.BINDING),
            Asked(Of.POD, ACCOUNT),
            *(Asked(Of.ROLE, question) for question, _ in held),
            part=Part.CONTEXT,
        )


def _check(sentence: str, ask: Ask, when: WhenUnknown | None, *asks: Asked, part: Part = Part.EFFECTIVE) -> Check:
    unknown = {None: None, WhenUnknown.HOLDS: True, WhenUnknown.FAILS: False}[when]

    def told(view: RecordView) -> bool | None:
        answer = ask(view)
        if answer is not None:
            return answer
        view.unsure = True
        return unknown

    return Check(
        sentence + _REMARK[when],
        part,
        lambda view: told(view) is True,
        lambda view: told(view) is False,
        asks,
    )


def _question(entry: GlobMatch, where: str, test_of: Callable[[GlobMatch, str], Test]) -> Question:
    path = json_path(entry.json_path, where=f"{where}.jsonPath")
    test = test_of(entry, where)
    return hit(path, value_test(test), str(test))


def _rights(wanted: tuple[RightsMatch, ...], where: str) -> tuple[RightsMatch, ...]:
    if len(wanted) > MAX_RIGHTS:
        raise RuleError(Reason.COMPILE_ERROR, f"{len(wanted)} entries", where=where, fix=f"at most {MAX_RIGHTS}")
    for i, one in enumerate(wanted):
        if not (one.verbs or one.api_groups or one.resources or one.non_resource_urls):
            raise RuleError(
                Reason.COMPILE_ERROR,
                "asks for no right",
                where=f"{where}[{i}]",
                fix="give verbs, apiGroups, resources or nonResourceURLs",
            )
    return wanted


def _listed(wanted: tuple[RightsMatch, ...]) -> str:
    return " or ".join(
        " ".join(
            part
            for part in (
                "/".join(one.verbs),
                "on " + "/".join((*one.resources, *one.non_resource_urls))
                if one.resources or one.non_resource_urls
                else "",
                "of API group " + "/".join(group or '""' for group in one.api_groups) if one.api_groups else "",
                "in the whole cluster" if one.cluster_wide else "",
            )
            if part
        )
        for one in wanted
    )


# --------------------------------------------------------------------------------------------------------- answering


def _any(asks: list[Ask]) -> Ask:
    if len(asks) == 1:
        return asks[0]

    def ask(view: RecordView) -> bool | None:
        answers = [one(view) for one in asks]
        return True if True in answers else None if None in answers else False

    return ask


def creates(view: RecordView) -> bool:
    """Whether the request makes an object, so that nothing stood there: PUT and apply can as well."""
    record = view.record
    if view.ref.subresource:
        return False
    return record.verb == "create" or (record.verb in ("update", "patch") and view.response.code == 201)


def name_of(view: RecordView) -> str:
    """Return the name of the object; one that is created may get it from the server."""
    if view.ref.name:
        return view.ref.name
    body = view.effective[0]
    metadata = body.get("metadata") if isinstance(body, dict) else None
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _kept(view: RecordView, question: Question) -> Any:  # noqa: ANN401 - an answer
    ref, around = view.ref, view.around
    answers = around.object(ref.api_group, ref.resource, ref.namespace, name_of(view)) if around is not None else None
    return None if answers is None else answers.get(question.id)


def _before(question: Question) -> Ask:
    def ask(view: RecordView) -> bool | None:
        answer: bool | None = False if creates(view) else _kept(view, question)
        return answer

    return ask


def _changes(question: Question) -> Ask:
    def ask(view: RecordView) -> bool | None:
        body, whole = view.effective
        if body is None:
            return None
        ref = view.ref
        now = question.of(ref.api_group, ref.resource, body)
        if creates(view):
            return now != question.answer([])
        if not whole and not question.touched(ref.api_group, ref.resource, body):
            return False
        before = _kept(view, question)
        return None if before is None else bool(now != before)

    return ask


def _of_pod(question: Question) -> Ask:
    def ask(view: RecordView) -> bool | None:
        ref, around = view.ref, view.around
        if ref.resource != "pods" or ref.api_group:
            return False
        body, whole = _pod_in(view)
        if body is not None and (whole or question.of("", "pods", body)):
            return bool(question.of("", "pods", body))
        answer = around.pod(ref.namespace, name_of(view), question) if around is not None else None
        return None if answer is None else bool(answer)

    return ask


def _pod_in(view: RecordView) -> tuple[Any, bool]:
    """Return the Pod that the event itself shows; what exec and others are sent is none."""
    body, whole = view.effective
    if view.ref.subresource and not (isinstance(body, dict) and body.get("kind") == "Pod"):
        return None, True
    return body, whole


def _of_role(question: Question) -> Ask:
    def ask(view: RecordView) -> bool | None:
        ref, around = view.ref, view.around
        if ref.api_group != RBAC or ref.subresource:
            return False
        body, whole = view.effective
        if ref.resource in ROLES:
            return _of_written_role(view, question)
        if ref.resource not in BINDINGS:
            return False
        role = role_of(body, ref.namespace)
        if role is None and not whole and around is not None:
            role = around.bound(ref.resource, ref.namespace, ref.name)
        return None if role is None or around is None else around.role(role, question)

    return ask


def _of_written_role(view: RecordView, question: Question) -> bool | None:
    ref, around = view.ref, view.around
    body, whole = view.effective
    if body is not None and (whole or question.touched(RBAC, ref.resource, body)):
        granted = bool(question.of(RBAC, ref.resource, body))
        # Of a list a JSON Patch tells only what it adds; every other patch replaces it.
        return granted or (None if not whole and isinstance(view.request_object, list) else False)
    kind = "Role" if ref.resource == "roles" else "ClusterRole"
    return around.role(RoleRef(kind, ref.name, ref.namespace), question) if around is not None else None


def role_of(binding: Any, namespace: str) -> RoleRef | None:  # noqa: ANN401 - any JSON
    """Return the role that a binding refers to."""
    ref = binding.get("roleRef") if isinstance(binding, dict) else None
    if not isinstance(ref, dict) or not isinstance(ref.get("name"), str):
        return None
    kind = "Role" if ref.get("kind") == "Role" else "ClusterRole"
    return RoleRef(kind, ref["name"], namespace if kind == "Role" else "")


def _of_account(question: Question, *, cluster_wide: bool) -> Ask:
    def ask(view: RecordView) -> bool | None:
        concerned = account_of(view)
        if not isinstance(concerned, tuple):
            return concerned
        around = view.around
        return around.account(*concerned, question, cluster_wide=cluster_wide) if around is not None else None

    return ask


def account_of(view: RecordView) -> tuple[str, str] | bool | None:
    """Return namespace and name of the ServiceAccount at stake: False when there is none, None when it is unknown."""
    ref = view.ref
    key = (ref.api_group, ref.resource)
    if key == ("", "serviceaccounts"):
        name = name_of(view)
        return (ref.namespace, name) if name else None
    if key in POD_SPECS:
        return _account_of_pod(view)
    if key == ("", "secrets"):
        body, whole = view.effective
        named = _account_name(body)
        if named and isinstance(named[0], str):
            return ref.namespace, named[0]
        return None if body is None or not whole else False
    return False


def _account_of_pod(view: RecordView) -> tuple[str, str] | None:
    ref, around = view.ref, view.around
    body, whole = _pod_in(view)
    resource = (ref.api_group, ref.resource)
    if body is not None and (whole or ACCOUNT.touched(*resource, body)):
        return ref.namespace, str(ACCOUNT.of(*resource, body))
    if resource != ("", "pods") or around is None:
        return None
    name = around.pod(ref.namespace, name_of(view), ACCOUNT)
    return (ref.namespace, name) if isinstance(name, str) else None
