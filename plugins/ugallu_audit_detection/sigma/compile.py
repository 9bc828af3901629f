"""One rule, compiled: from a SigmaRuleSpec to a predicate, and what is known about it before any event comes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from ugallu.sdk import AuditRecord, SigmaMatch, SigmaRuleSpec
from ugallu_audit_detection.sigma import fields
from ugallu_audit_detection.sigma.errors import Reason, RuleError
from ugallu_audit_detection.sigma.explain import sentences
from ugallu_audit_detection.sigma.expr import (
    All,
    Any_,
    Atom,
    Check,
    Const,
    Expr,
    Field,
    Holds,
    Not,
    Part,
    Texts,
    built,
    leaves,
    simplified,
    size,
)
from ugallu_audit_detection.sigma.native import match_expr
from ugallu_audit_detection.sigma.questions import OTHERS, Asked, Of
from ugallu_audit_detection.sigma.view import RecordView

MAX_NODES = 2000


class Dispatch(msgspec.Struct, frozen=True):
    """The requests that a rule can fire for; None is any. Case is folded, so that it never leaves out too much."""

    verbs: frozenset[str] | None = None
    groups: frozenset[str] | None = None
    resources: frozenset[str] | None = None
    subresources: frozenset[str] | None = None
    stages: frozenset[str] | None = None


class Needs(msgspec.Struct, frozen=True):
    """What a record must hold for the rule to have a chance: where it looks, and when it is asked."""

    request: bool = False
    response: bool = False
    either: bool = False
    annotations: bool = False
    stages: frozenset[str] | None = None
    levels: frozenset[str] | None = None

    @property
    def level(self) -> str:
        """The audit level from which on the rule can see what it looks at."""
        if self.response:
            return "RequestResponse"
        return "Request" if self.request or self.either else "Metadata"


@dataclass(frozen=True, slots=True, eq=False)
class CompiledRule:
    """A rule ready to be asked. Two compilations of one spec are two rules: identity, not value."""

    name: str
    spec: SigmaRuleSpec
    expr: Expr = field(repr=False)
    holds: Holds = field(repr=False)
    dispatch: Dispatch
    needs: Needs
    unknown_fields: tuple[str, ...] = ()
    """Names in an upstream rule that no audit record has: conditions on them see nothing."""
    asks: tuple[Asked, ...] = ()
    """What must be remembered from earlier events for it."""

    @property
    def remembers(self) -> tuple[tuple[str, str], ...]:
        """API group and plural of the other resources whose writes tell it what it asks of the past."""
        return tuple(dict.fromkeys(each for asked in self.asks for each in OTHERS.get(asked.of, ())))

    @property
    def matches_everything(self) -> bool:
        """Whether every event matches."""
        return self.expr == Const(True)

    @property
    def never_matches(self) -> bool:
        """Whether the conditions contradict each other."""
        return self.expr == Const(False)

    def matches(self, record: AuditRecord, view: RecordView | None = None) -> bool:
        """Whether the record is one that this rule is about. `view` saves decoding when several rules are asked."""
        return self.holds(view if view is not None else RecordView(record))

    def explain(self) -> list[str]:
        """Say in sentences what an event must have."""
        lines = sentences(self.expr, level=self.needs.level, unknown=self.unknown_fields)
        if self.remembers:
            others = ", ".join(f"{plural}.{group}".rstrip(".") for group, plural in self.remembers)
            lines.append(f"learns what surrounds an event from writes of {others}, audited at Request or higher")
        return lines


def compile_rule(
    name: str, spec: SigmaRuleSpec, *, placeholders: Mapping[str, Sequence[str]] | None = None
) -> CompiledRule:
    """Compile one rule. Raises `RuleError` whose `reason` is that of the condition `Compiled`.

    `placeholders` are the values for Sigma's `|expand`; without them a rule that needs some does not compile.
    """
    unknown: tuple[str, ...] = ()
    if spec.sigma:
        if spec.match != SigmaMatch():
            raise RuleError(
                Reason.COMPILE_ERROR,
                "both `match` and `sigma` are given",
                where=f"SigmaRule {name}: spec.sigma",
                fix="leave `match: {}` beside an upstream rule",
            )
        from ugallu_audit_detection.sigma.upstream import sigma_expr

        expr, unknown = sigma_expr(spec.sigma, where=f"SigmaRule {name}: spec.sigma", placeholders=placeholders or {})
    else:
        try:
            expr = match_expr(spec.match)
        except RuleError as error:
            raise RuleError(
                error.reason, error.what, where=f"SigmaRule {name}: spec.{error.where}", fix=error.fix
            ) from error
    nodes = size(expr)
    if nodes > MAX_NODES:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{nodes} conditions",
            where=f"SigmaRule {name}",
            fix=f"at most {MAX_NODES}: split the rule",
        )
    expr = simplified(expr)
    dispatch = dispatch_of(expr)
    asks = tuple(dict.fromkeys(asked for leaf in leaves(expr) if isinstance(leaf, Check) for asked in leaf.asks))
    if dispatch.resources is None and any(asked.of is Of.OBJECT for asked in asks):
        raise RuleError(
            Reason.COMPILE_ERROR,
            "what stood before a write is kept for resources that a rule names, and this one names none",
            where=f"SigmaRule {name}: spec.match",
            fix="add objectRef.resource beside previous and changed",
        )
    return CompiledRule(name, spec, expr, built(expr), dispatch, needs_of(expr), unknown, asks)


def dispatch_of(expr: Expr) -> Dispatch:
    """Return for which requests the tree can hold at all."""
    return Dispatch(
        verbs=_reach(expr, fields.VERB),
        groups=_reach(expr, fields.API_GROUP),
        resources=_reach(expr, fields.RESOURCE),
        subresources=_reach(expr, fields.SUBRESOURCE),
        stages=_reach(expr, fields.STAGE),
    )


def needs_of(expr: Expr) -> Needs:
    """Return what the tree looks at."""
    parts = {leaf.part for leaf in leaves(expr)}
    return Needs(
        request=Part.REQUEST in parts,
        response=Part.RESPONSE in parts,
        either=Part.EFFECTIVE in parts,
        annotations=Part.ANNOTATIONS in parts,
        stages=_reach(expr, fields.STAGE, fold=False),
        levels=_reach(expr, fields.LEVEL, fold=False),
    )


def _reach(expr: Expr, wanted: Field, *, fold: bool = True) -> frozenset[str] | None:
    """Return the values of a text field with which the tree can hold; None when any can do."""
    match expr:
        case Const(value):
            return None if value else frozenset()
        case Atom(found, Texts(patterns)) if found == wanted:
            texts = [pattern.literal for pattern in patterns]
            if any(text is None for text in texts):
                return None
            return frozenset(text.casefold() if fold else text for text in texts if text is not None)
        case All(parts):
            reached = [reach for part in parts if (reach := _reach(part, wanted, fold=fold)) is not None]
            return frozenset.intersection(*reached) if reached else None
        case Any_(parts):
            each = [_reach(part, wanted, fold=fold) for part in parts]
            known = [reach for reach in each if reach is not None]
            return frozenset.union(*known) if known and len(known) == len(each) else None
        case Not():
            return None
        case _:
            return None
