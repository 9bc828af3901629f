"""Upstream Sigma: a parsed rule becomes an expression over audit records.

Text compares without regard to case unless the rule says `cased`. A field that crosses arrays matches if any element
does, and its negation if none does. An empty field is an absent field: the API server never writes one.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from ugallu_audit_detection.sigma import fields
from ugallu_audit_detection.sigma import parse as upstream
from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
from ugallu_audit_detection.sigma.expr import (
    NEVER,
    Atom,
    Check,
    Expr,
    Field,
    Given,
    Networks,
    Not,
    Numbers,
    Part,
    Regexes,
    Shape,
    Texts,
    TimePart,
    all_of,
    any_of,
)
from ugallu_audit_detection.sigma.keywords import haystack
from ugallu_audit_detection.sigma.path import EACH, Step, dotted
from ugallu_audit_detection.sigma.pattern import Pattern, Wild, any_regex, exactly, network
from ugallu_audit_detection.sigma.values import text_of
from ugallu_audit_detection.sigma.view import RecordView

_TEXTS = {
    "verb": fields.VERB,
    "stage": fields.STAGE,
    "level": fields.LEVEL,
    "requestURI": fields.REQUEST_URI,
    "userAgent": fields.USER_AGENT,
    "auditID": fields.AUDIT_ID,
    "requestReceivedTimestamp": fields.RECEIVED,
    "stageTimestamp": fields.STAGE_TIME,
    "user.username": fields.USERNAME,
    "user.uid": fields.USER_UID,
    "user.groups": fields.GROUPS,
    "impersonatedUser.username": fields.IMPERSONATED_NAME,
    "impersonatedUser.uid": fields.IMPERSONATED_UID,
    "impersonatedUser.groups": fields.IMPERSONATED_GROUPS,
    "responseStatus.code": fields.CODE,
    "responseStatus.status": fields.STATUS,
    "responseStatus.reason": fields.REASON,
    "responseStatus.message": fields.MESSAGE,
    "sourceIPs": fields.LAST_HOP,
    "sourceIPs[]": fields.ALL_HOPS,
}
_REF = {
    "apiGroup": fields.API_GROUP,
    "apiVersion": fields.API_VERSION,
    "resource": fields.RESOURCE,
    "subresource": fields.SUBRESOURCE,
    "namespace": fields.NAMESPACE,
    "name": fields.NAME,
    "uid": fields.OBJECT_UID,
    "resourceVersion": fields.RESOURCE_VERSION,
}
_BARE = ("apiGroup", "resource", "subresource", "namespace", "name")
_POD: dict[str, tuple[str, tuple[Step, ...]]] = {
    "hostPath": ("$pod", ("volumes", EACH, "hostPath")),
    "hostNetwork": ("$pod", ("hostNetwork",)),
    "hostPID": ("$pod", ("hostPID",)),
    "hostIPC": ("$pod", ("hostIPC",)),
    "capabilities": ("$ctr", (EACH, "securityContext", "capabilities", "add", EACH)),
    "privileged": ("$ctr", (EACH, "securityContext", "privileged")),
    "image": ("$ctr", (EACH, "image")),
}
_WHOLE: dict[str, tuple[Part, Callable[[RecordView], object]]] = {
    "objectRef": (Part.ENVELOPE, lambda view: view.record.object_ref),
    "user": (Part.USER, lambda view: view.user if view.record.user else None),
    "impersonatedUser": (Part.USER, lambda view: view.impersonated),
    "responseStatus": (Part.STATUS, lambda view: view.response if view.record.response_status else None),
    "annotations": (Part.ANNOTATIONS, lambda view: view.annotations or None),
}
_BODIES = {"requestObject": Part.REQUEST, "responseObject": Part.RESPONSE}
_BODY_NAME = re.compile(r"(requestObject|responseObject)(?=$|[.\[])").match


@dataclass(frozen=True, slots=True)
class _Target:
    """A field to compare with, and the one that tells whether it is there at all."""

    values: Field
    itself: Field


def sigma_expr(text: str, *, where: str, placeholders: Mapping[str, Sequence[str]]) -> tuple[Expr, tuple[str, ...]]:
    """Return the expression of the one document in `text`, and the fields that no audit record has.

    No event matches a correlation or a filter: they are about what other rules match. Raises `RuleError`; with reason
    LogSource for a rule on another log, Unsupported for what is understood and not served.
    """
    document = document_of(text, where=where, placeholders=placeholders)
    if isinstance(document, upstream.Detection):
        return detection_expr(document, where=where)
    check_linked(document, where=where)
    return NEVER, ()


def check_linked(document: upstream.Correlation | upstream.Filter, *, where: str) -> None:
    """Raise `RuleError` for a correlation or a filter that could not serve, whatever rules there are."""
    if isinstance(document, upstream.Filter):
        from ugallu_audit_detection.filters import filter_of  # as below

        filter_of(document, where=where)
        return
    from ugallu_audit_detection.correlation.plan import plan_of  # which reads fields by what stands here

    plan_of(document, where=where)


def document_of(
    text: str, *, where: str, placeholders: Mapping[str, Sequence[str]]
) -> upstream.Detection | upstream.Correlation | upstream.Filter:
    """Parse the one document in `text`; filters beside a detection rule are part of it. Raises `RuleError`."""
    if len(text) > upstream.MAX_RULE:
        raise RuleError(
            Reason.COMPILE_ERROR, f"{len(text)} characters", where=where, fix=f"at most {upstream.MAX_RULE}"
        )
    found = upstream.parse(upstream.documents(text, where=where), where=where, placeholders=placeholders)
    if len(found) != 1:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{len(found)} documents",
            where=where,
            fix="one SigmaRule holds one rule with its filters, one correlation, or one filter: make one of each",
        )
    return found[0]


def check_logsource(source: upstream.LogSource, *, where: str) -> None:
    """Raise `RuleError` for a document on another log than the audit log."""
    if (source.product.lower(), source.service.lower()) != ("kubernetes", "audit"):
        raise RuleError(
            Reason.LOG_SOURCE,
            f"the rule is for product {shown(source.product)}, service {shown(source.service)}",
            where=where,
            fix="only product: kubernetes, service: audit can be evaluated here",
        )


def field_named(name: str) -> Field | None:
    """Return the field of an audit record by its name in upstream Sigma; None where no record has one."""
    target = _Translation("").target(name)
    return target.values if target else None


def filter_expr(document: upstream.Filter, *, where: str) -> Expr:
    """Return what a filter takes away: what its condition does not hold for. Raises `RuleError`."""
    check_logsource(document.logsource, where=where)
    return Not(_Translation(where).node(document.condition))


def detection_expr(detection: upstream.Detection, *, where: str) -> tuple[Expr, tuple[str, ...]]:
    """Return the expression of a parsed rule, and the fields that no audit record has. Raises `RuleError`."""
    check_logsource(detection.logsource, where=where)
    translation = _Translation(where)
    expr = any_of(translation.node(condition) for condition in detection.conditions)
    return expr, tuple(sorted(translation.unknown))


class _Translation:
    """One rule on its way: collects the fields that are unknown."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.unknown: set[str] = set()

    def node(self, node: upstream.Node) -> Expr:
        match node:
            case upstream.And(parts):
                return all_of(self.node(part) for part in parts)
            case upstream.Or(parts):
                return any_of(self.node(part) for part in parts)
            case upstream.Negation(part):
                return Not(self.node(part))
            case upstream.Item("", value):
                return self.keyword(value)
            case upstream.Item(name, value):
                return self.item(name, value)

    def item(self, name: str, value: upstream.Value) -> Expr:
        if isinstance(value, upstream.OneOf):
            return any_of(self.item(name, each) for each in value.values)
        target = self.target(name)
        if target is None:
            missing = isinstance(value, upstream.Null) or (isinstance(value, upstream.Exists) and not value.wanted)
            return Not(NEVER) if missing else NEVER
        match value:
            case upstream.Null():
                return Not(Atom(target.values, Given()))
            case upstream.Exists(wanted):
                there = Atom(target.itself, Given())
                return there if wanted else Not(there)
            case upstream.FieldRef(other, how):
                reference = self.target(other)
                return NEVER if reference is None else _compared(target.values, reference.values, how)
            case upstream.Text():
                return self.text(target.values, value)
            case _:
                return Atom(target.values, self.test(name, value), present=True)

    def text(self, field: Field, value: upstream.Text) -> Expr:
        pattern = Pattern(value.parts)
        literal = pattern.literal
        if literal == "" and field.shape is Shape.TEXT:
            return Not(Atom(field, Given()))
        if literal is not None and field is fields.VERB and literal.casefold() == "replace":
            pattern = exactly("update")  # `replace` is what kubectl calls it; the audit log says update
        if literal is not None and field is fields.CODE and literal.upper() in ("ALLOW", "DENY"):
            # A cloud provider's words for what the authorizer noted.
            noted = exactly("allow" if literal.upper() == "ALLOW" else "forbid")
            return Atom(fields.DECISION_NOTED, Texts((noted,), fold=True), present=True)
        return Atom(field, Texts((pattern,), fold=not value.cased), present=True)

    def test(self, name: str, value: upstream.Value) -> Texts | Regexes | Networks | Numbers | TimePart:
        match value:
            case upstream.Truth(truth):
                return Texts((exactly("true" if truth else "false"),), fold=True)
            case upstream.Number(number, op, part):
                numbers = _numbers(number, op)
                return TimePart(part, numbers) if part else numbers
            case upstream.Regex(source, flags):
                any_regex((source,), flags=flags, where=f"{self.where}: {name}")
                return Regexes((source,), flags)
            case upstream.Cidr(text):
                return Networks((network(text, where=f"{self.where}: {name}"),))
            case _:
                raise RuleError(
                    Reason.UNSUPPORTED, f"a value of the kind {type(value).__name__}", where=f"{self.where}: {name}"
                )

    def keyword(self, value: upstream.Value) -> Expr:
        match value:
            case upstream.OneOf(values):
                return any_of(self.keyword(each) for each in values)
            case upstream.Text(parts, cased):
                inner: list[str | Wild] = list(parts)
                if not inner or inner[0] is not Wild.ANY:
                    inner.insert(0, Wild.ANY)
                if inner[-1] is not Wild.ANY:
                    inner.append(Wild.ANY)
                return Atom(ANY_TEXT, Texts((Pattern(tuple(inner)),), fold=not cased))
            case upstream.Number(number, "eq", ""):
                return Atom(ANY_TEXT, Texts((Pattern((Wild.ANY, text_of(number), Wild.ANY)),)))
            case upstream.Truth(truth):
                return Atom(ANY_TEXT, Texts((Pattern((Wild.ANY, text_of(truth), Wild.ANY)),), fold=True))
            case upstream.Regex() | upstream.Cidr():
                return Atom(ANY_TEXT, self.test("keyword", value))
            case _:
                raise RuleError(
                    Reason.UNSUPPORTED,
                    f"a value of the kind {type(value).__name__} without a field",
                    where=f"{self.where}: keyword",
                    fix="name the field",
                )

    def target(self, name: str) -> _Target | None:
        """Return where a field of an upstream rule is found in an audit record; None where none has it."""
        if name in _TEXTS:
            return _same(_TEXTS[name])
        head, _, rest = name.partition(".")
        if head == "objectRef" and rest in _REF:
            return _same(_REF[rest])
        if name in _BARE:
            return _same(_REF[name])
        if name in _POD:
            root, steps = _POD[name]
            whole = steps[:-1] if steps[-1] == EACH else steps
            return _Target(fields.pod_path(root, steps, name), fields.pod_path(root, whole, f"{name} itself"))
        if name in _WHOLE:
            return _same(_whole(name))
        if body := _BODY_NAME(name):
            segments, part = dotted(name[body.end() :], where=f"{self.where}: {name}"), _BODIES[body[0]]
            return _Target(fields.dotted_path(part, segments), fields.dotted_path(part, segments, leaves=False))
        if head == "authenticationMetadata" and rest:
            segments = dotted(rest, where=f"{self.where}: {name}")
            return _Target(fields.authentication(segments), fields.authentication(segments, leaves=False))
        for prefix, make in (
            ("annotations", fields.annotation),
            ("user.extra", fields.user_extra),
            ("impersonatedUser.extra", fields.impersonated_extra),
        ):
            key = _key_below(name, prefix)
            if key:
                return _same(make(key))
        self.unknown.add(name)
        return None


def _same(field: Field) -> _Target:
    return _Target(field, field)


def _key_below(name: str, prefix: str) -> str:
    """Return the key after `prefix.` (with all its dots) or inside `prefix['...']`; else nothing."""
    if name.startswith(f"{prefix}['") and name.endswith("']"):
        return name[len(prefix) + 2 : -2]
    return name[len(prefix) + 1 :] if name.startswith(f"{prefix}.") else ""


def _whole(name: str) -> Field:
    part, read = _WHOLE[name]

    def values(view: RecordView) -> Sequence[object]:
        found = read(view)
        return () if found is None else (msgspec.to_builtins(found),)

    return Field(name, part, Shape.VALUES, values)


def _numbers(number: float, op: str) -> Numbers:
    match op:
        case "gt":
            return Numbers(gt=number)
        case "gte":
            return Numbers(ge=number)
        case "lt":
            return Numbers(lt=number)
        case "lte":
            return Numbers(le=number)
        case _:
            return Numbers(equals=number)


MAX_COMPARED = 1000
"""Values of a field that are compared with those of another."""


def _compared(left: Field, right: Field, how: str) -> Expr:
    """Any value of one field and any of the other, as text, without regard to case."""
    hit = _COMPARISONS[how]

    def holds(view: RecordView) -> bool:
        others = _folded_texts(right, view)
        return bool(others) and hit(_folded_texts(left, view), others)

    # Conditions that look at two parts are never settled by one of them: they count as no cheaper than a status.
    # Nor are they by the kind of request, which the matcher tells apart only as far as rules name its values.
    same = left.part is right.part and left.part is not Part.KEY
    part = left.part if same else max(left.part, right.part, Part.STATUS)
    return Check(f"{left.name} {how} the value of {right.name}", part, holds)


def _contains(texts: tuple[str, ...], others: tuple[str, ...]) -> bool:
    joined = "\n".join(texts)  # what is not in here is in none of them
    return any(other in joined and any(other in text for text in texts) for other in others)


_COMPARISONS: dict[str, Callable[[tuple[str, ...], tuple[str, ...]], bool]] = {
    "equals": lambda texts, others: not set(texts).isdisjoint(others),
    "startswith": lambda texts, others: any(text.startswith(others) for text in texts),
    "endswith": lambda texts, others: any(text.endswith(others) for text in texts),
    "contains": _contains,
}
"""Whether any of some texts is so with any of others."""


def _folded_texts(field: Field, view: RecordView) -> tuple[str, ...]:
    found = field.read(view)
    values: Iterable[Any] = (found,) if field.shape is Shape.TEXT else found
    texts = dict.fromkeys(text_of(value).casefold() for value in values if value != "")
    return tuple(itertools.islice(texts, MAX_COMPARED))


ANY_TEXT = Field("some text of the event", Part.EVERYTHING, Shape.TEXTS, lambda view: haystack(view).texts)
