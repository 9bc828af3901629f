"""From a SigmaRule to something that can serve: compiled, its type known, its templates read, its own tests passed."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from ugallu.sdk import (
    CATALOGUE,
    LABEL_EXPERIMENTAL,
    AuditRecord,
    EventType,
    PermanentError,
    RuleException,
    RuleTest,
    Severity,
    SigmaMatch,
    SigmaMatchLeaf,
    SigmaRuleSpec,
    Suppress,
    duration,
)
from ugallu_audit_detection.context import Context
from ugallu_audit_detection.sigma.compile import CompiledRule, compile_rule
from ugallu_audit_detection.sigma.errors import Reason, RuleError, shown
from ugallu_audit_detection.sigma.names import is_linked
from ugallu_audit_detection.sigma.view import RecordView
from ugallu_audit_detection.signals import Getter, Signals, getter

Says = Callable[[AuditRecord, Sequence[AuditRecord]], bool]
"""Whether an event, after those before it, would be reported."""
MAX_WINDOW = 24 * 3600.0
MAX_EXCEPTIONS = 256
RECEIVED = "RequestReceived"


@dataclass(frozen=True, slots=True)
class Exempt:
    """One exception of a rule, compiled; `until` is in seconds since the epoch, infinite without an expiry."""

    exception: RuleException
    compiled: CompiledRule
    until: float


@dataclass(frozen=True, slots=True)
class Armed:
    """One version of a rule, ready to serve."""

    name: str
    spec: SigmaRuleSpec
    compiled: CompiledRule
    type: EventType
    experimental: bool
    signals: Signals
    exempt: tuple[Exempt, ...]
    window: float
    """Seconds in which a repeat is silent; 0 when every match speaks."""
    same: tuple[Getter, ...]
    """What makes a repeat a repeat; empty means actor and object."""
    early: bool
    """Whether it asks for events of requests that were only received, their outcome unknown."""

    def exempted(self, view: RecordView, now: float) -> Exempt | None:
        """Return the exception that is in force at `now` and covers this match."""
        return next(
            (one for one in self.exempt if self.applies(one) and now < one.until and one.compiled.holds(view)), None
        )

    def lapsed(self, view: RecordView, now: float) -> list[Exempt]:
        """Return the exceptions that would cover this match, were they not expired."""
        return [one for one in self.exempt if self.applies(one) and now >= one.until and one.compiled.holds(view)]

    def excepted(self, view: RecordView, now: float) -> bool:
        """Whether an exception that is in force at `now` covers this match."""
        return self.exempted(view, now) is not None

    def applies(self, one: Exempt) -> bool:
        """Whether the exception may hide anything: a critical finding only if it says so."""
        return self.spec.emit.severity is not Severity.CRITICAL or one.exception.include_critical

    @property
    def asking(self) -> tuple[CompiledRule, ...]:
        """What asks for something to be remembered: the rule, and its exceptions."""
        return tuple(one for one in (self.compiled, *(exempt.compiled for exempt in self.exempt)) if one.asks)

    def says(self, record: AuditRecord, before: Sequence[AuditRecord] = ()) -> bool:
        """Whether this event, after those before it, would be reported: what a rule's tests ask."""
        view = RecordView(record, around=_context(self.asking, before))
        if not self.compiled.holds(view) or (record.stage == RECEIVED and not self.early):
            return False
        return not self.excepted(view, record.seen_at.timestamp())


def arm(name: str, spec: SigmaRuleSpec, labels: Mapping[str, str]) -> Armed:
    """Compile a rule with all that belongs to it. Raises `RuleError` that names the field."""
    compiled = compile_rule(name, spec)
    here = f"SigmaRule {name}: spec."
    kind, experimental = _type(spec, labels, here)
    suppress = spec.suppress or Suppress()
    window = _window(suppress, f"{here}suppress.window")
    return Armed(
        name=name,
        spec=spec,
        compiled=compiled,
        type=kind,
        experimental=experimental,
        signals=Signals(name, spec.tags, spec.emit.signals),
        exempt=_exempt(spec, suppress, f"{here}suppress.exceptions"),
        window=window,
        same=tuple(_same(key, f"{here}suppress.dedupeBy[{index}]") for index, key in enumerate(suppress.dedupe_by)),
        early=RECEIVED in (compiled.needs.stages or ()),
    )


def failure(armed: Armed) -> str:
    """Run the rule's own tests; return the first that fails and how, empty when all pass.

    Those of a correlation wait for the rules that it counts: they are run when it is linked with them.
    """
    if is_linked(armed.spec.sigma):
        return ""
    return next((wrong for _, wrong in outcomes(armed) if wrong), "")


def outcomes(armed: Armed, says: Says | None = None) -> list[tuple[RuleTest, str]]:
    """Run all tests; return each with what is wrong, empty for one that passes."""
    return [(test, _wrong(test, says or armed.says)) for test in armed.spec.tests]


def _wrong(test: RuleTest, says: Says) -> str:
    if test.expect not in ("hit", "miss"):
        return f"test {shown(test.name)}: expect must be hit or miss, not {shown(test.expect)}"
    try:
        before = [msgspec.convert(_raw_parts(event), AuditRecord) for event in test.before]
        record = msgspec.convert(_raw_parts(test.event), AuditRecord)
    except msgspec.ValidationError as error:
        return f"test {shown(test.name)}: the event is no audit event: {error}"
    said = "hit" if says(record, before) else "miss"
    return "" if said == test.expect else f"test {shown(test.name)} expects a {test.expect} and got a {said}"


def _context(asking: Sequence[CompiledRule], before: Sequence[AuditRecord]) -> Context | None:
    if not asking:
        return None
    context = Context()
    context.ask(asking)
    for record in before:
        if context.concerns(record.verb, record.object_ref):
            context.note(RecordView(record))
    return context


def _raw_parts(event: Mapping[str, object]) -> dict[str, object]:
    raw = {field.encode_name for field in msgspec.structs.fields(AuditRecord) if field.type is msgspec.Raw}
    return {
        key: msgspec.Raw(msgspec.json.encode(value)) if key in raw else value
        for key, value in event.items()
        if value is not None
    }


def _type(spec: SigmaRuleSpec, labels: Mapping[str, str], here: str) -> tuple[EventType, bool]:
    name = spec.emit.security_event_type
    known = CATALOGUE.get(name)
    if known is not None:
        return known, False
    if name and labels.get(LABEL_EXPERIMENTAL) == "true":
        return EventType(name, spec.emit.class_, spec.emit.severity), True
    near = _near(name)
    raise RuleError(
        Reason.COMPILE_ERROR,
        f"{shown(name)} is no event type of the catalogue" if name else "no event type given",
        where=f"{here}emit.securityEventType",
        fix=f"did you mean {near}?" if near else f'or label the rule {LABEL_EXPERIMENTAL}: "true"',
    )


def _near(name: str) -> str:
    from difflib import get_close_matches

    return next(iter(get_close_matches(name, CATALOGUE, n=1)), "")


def _window(suppress: Suppress, where: str) -> float:
    try:
        window = duration.seconds_of(suppress.window, where=where)
    except PermanentError as error:
        raise RuleError(Reason.COMPILE_ERROR, error.what, where=error.where, fix=error.fix) from error
    if window > MAX_WINDOW:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{shown(suppress.window)} is longer than a day",
            where=where,
            fix="at most 24h",
        )
    if suppress.dedupe_by and not window:
        raise RuleError(Reason.COMPILE_ERROR, "dedupeBy without a window", where=where, fix="say how long, as in 10m")
    return window


def _same(key: str, where: str) -> Getter:
    read = getter(key.removeprefix("${").removesuffix("}"))
    if read is None:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{shown(key)} is no field of an event",
            where=where,
            fix="as in signals: user.username, objectRef.namespace, sourceIPs[-1], requestObject:$.spec.x ...",
        )
    return read


def _exempt(spec: SigmaRuleSpec, suppress: Suppress, where: str) -> tuple[Exempt, ...]:
    if len(suppress.exceptions) > MAX_EXCEPTIONS:
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"{len(suppress.exceptions)} exceptions",
            where=where,
            fix=f"at most {MAX_EXCEPTIONS}; one exception may list many values",
        )
    names = [one.name for one in suppress.exceptions]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise RuleError(
                Reason.COMPILE_ERROR,
                f"two exceptions are called {shown(name)}",
                where=f"{where}[{index}].name",
                fix="give each a name of its own: what it hides is counted under it",
            )
    return tuple(_one_exempt(spec, one, f"{where}[{index}]") for index, one in enumerate(suppress.exceptions))


def _one_exempt(spec: SigmaRuleSpec, exception: RuleException, where: str) -> Exempt:
    for field in ("name", "owner", "reason"):
        if not getattr(exception, field).strip():
            raise RuleError(Reason.COMPILE_ERROR, f"an exception without {field}", where=where, fix="say who and why")
    if exception.match == SigmaMatchLeaf():
        raise RuleError(
            Reason.COMPILE_ERROR,
            f"the exception {shown(exception.name)} covers everything",
            where=f"{where}.match",
            fix="name what is expected, or set enabled: false",
        )
    leaf = SigmaMatch(**{field: getattr(exception.match, field) for field in exception.match.__struct_fields__})
    try:
        compiled = compile_rule(exception.name, SigmaRuleSpec(match=leaf, emit=spec.emit))
    except RuleError as error:
        inside = error.where.partition("spec.")[2] or "match"
        raise RuleError(error.reason, error.what, where=f"{where}.{inside}", fix=error.fix) from error
    expires = exception.expires
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=dt.UTC)
    return Exempt(exception, compiled, expires.timestamp() if expires else float("inf"))
