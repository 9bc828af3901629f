"""Filters: documents of their own that take expected matches away from other rules, as an exception does inside one.

As upstream writes them they have no owner and no end. Such a filter works, but never on a critical rule: that takes
`custom.ugallu` with owner, reason, expiry, and the word `includeCritical`.
"""

import datetime as dt
from dataclasses import dataclass
from typing import Any

import msgspec

from ugallu.sdk import RuleException, SigmaMatchLeaf
from ugallu_audit_detection.sigma import parse as upstream
from ugallu_audit_detection.sigma.compile import needs_of
from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
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
    promise: RuleException
    """Who answers for it, why, and until when; without an owner where the document names none."""

    @property
    def until(self) -> float:
        """When it ends, in seconds since the epoch."""
        return self.promise.expires.timestamp() if self.promise.expires else float("inf")


class _Ours(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """`custom.ugallu` of a filter."""

    owner: str = ""
    reason: str = ""
    expires: Any = None
    """A date or a moment, as YAML reads it or as text."""
    include_critical: bool = False


def filter_of(document: upstream.Filter, *, where: str, name: str = "") -> Filter:
    """Return what a filter document asks; `name` is that of its SigmaRule. Raises `RuleError`."""
    expr = simplified(filter_expr(document, where=where))
    promise = _promise(document.header.custom, name, where=f"{where}: custom.ugallu")
    return Filter(document.rules, built(expr), sentences(expr, level=needs_of(expr).level), promise)


def _promise(custom: dict[str, Any], name: str, *, where: str) -> RuleException:
    try:
        ours = msgspec.convert(custom, _Ours)
    except msgspec.ValidationError as error:
        fix = "of a filter owner, reason, expires and includeCritical are read"
        raise RuleError(Reason.COMPILE_ERROR, str(error), where=where, fix=fix) from error
    expires = _moment(ours.expires, where=where)
    missing = [what for what, said in (("owner", ours.owner), ("reason", ours.reason)) if not said.strip()]
    if ours.include_critical and expires is None:
        missing.append("expires")
    if custom and missing:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"no {' and no '.join(missing)}",
            where=where,
            fix="say who answers for the filter, why, and (with includeCritical) until when; or nothing at all",
        )
    return RuleException(
        name=name,
        owner=ours.owner,
        reason=ours.reason,
        match=SigmaMatchLeaf(),
        expires=expires,
        include_critical=ours.include_critical,
    )


def _moment(said: Any, *, where: str) -> dt.datetime | None:  # noqa: ANN401 - what YAML made of it
    """Return when a filter ends: a day ends where it begins, and what has no zone is UTC."""
    if said is None or isinstance(said, dt.datetime):
        at = said
    elif isinstance(said, dt.date):
        at = dt.datetime(said.year, said.month, said.day, tzinfo=dt.UTC)
    else:
        try:
            at = dt.datetime.fromisoformat(str(said))
        except ValueError as error:
            fix = "a date as 2027-01-31 or a moment as 2027-01-31T00:00:00Z"
            raise RuleError(Reason.COMPILE_ERROR, f"expires: {shown(said)}", where=where, fix=fix) from error
    return at.replace(tzinfo=dt.UTC) if at is not None and at.tzinfo is None else at
