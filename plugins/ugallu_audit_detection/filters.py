"""Filters: documents of their own that take expected matches away from other rules, as an exception does inside one."""

from dataclasses import dataclass

from ugallu_audit_detection.sigma import parse as upstream
from ugallu_audit_detection.sigma.compile import needs_of
from ugallu_audit_detection.sigma.explain import sentences
from ugallu_audit_detection.sigma.expr import Holds, built, simplified
from ugallu_audit_detection.sigma.upstream import filter_expr


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter, ready to be linked with the rules that it is about."""

    references: tuple[str, ...] | None
    """What it calls the rules; None is all, except those whose severity is critical: such a one must be named."""
    hides: Holds
    """Whether it takes this match away."""
    says: list[str]
    """What it takes away, in sentences."""


def filter_of(document: upstream.Filter, *, where: str) -> Filter:
    """Return what a filter document asks. Raises `RuleError`."""
    expr = simplified(filter_expr(document, where=where))
    return Filter(document.rules, built(expr), sentences(expr, level=needs_of(expr).level))
