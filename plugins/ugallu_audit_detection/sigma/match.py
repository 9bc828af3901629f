"""Matcher: a set of compiled rules that finds, for one audit record, those it is about.

Two steps make it fast. What a record asks for (verb, stage, API group, resource, subresource) selects rules by bit
masks, and conditions on that are settled once. Who asks repeats as well, because few callers make all requests, so
conditions on the caller are settled once per caller and kind of request. What is left of most rules is nothing, and of
the others a look at a name, a status or a body. Bodies are decoded when such a rest asks, once.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from ugallu.sdk import AuditObject, AuditRecord
from ugallu_audit_detection.sigma import fields
from ugallu_audit_detection.sigma.budget import Budget, Case
from ugallu_audit_detection.sigma.compile import CompiledRule
from ugallu_audit_detection.sigma.expr import Atom, Const, Expr, Holds, Leaf, Part, Texts, built, leaves, simplified
from ugallu_audit_detection.sigma.questions import Surroundings
from ugallu_audit_detection.sigma.view import MAX_KEY, Callers, RecordView

Request = tuple[str, ...]
Rest = tuple[CompiledRule, Expr, Holds]
Known = tuple[tuple[Case, ...], bool]
"""What is left to ask of a caller's request, and whether what is remembered must hear of it."""
NONE: tuple[CompiledRule, ...] = ()
_KEY = (fields.VERB, fields.STAGE, fields.RESOURCE, fields.API_GROUP, fields.SUBRESOURCE)
MAX_REQUESTS = 4096
"""Kinds of request remembered. A cluster makes a few hundred; a client can invent any number of resources."""
MAX_CASES = 16384
"""Callers times kinds of request remembered; about a kilobyte each. Then they are forgotten and learned anew."""
MAX_CASE_BYTES = 8 << 20
"""Bytes of what they are remembered by, which clients choose."""
OTHER = "\0"
"""Stands for every value that no rule names."""


class Remembers(Surroundings, Protocol):
    """What is known around events, kept from the events themselves."""

    def concerns(self, verb: str, ref: AuditObject | None) -> bool:
        """Whether an event of this kind may change what is known."""
        ...

    def note(self, view: RecordView) -> None:
        """Take in what an event that it concerns changed."""
        ...


class Matcher:
    """An immutable set of rules: build a new one when a rule changes, and swap it in. Disabled rules are left out."""

    def __init__(
        self, rules: Sequence[CompiledRule], *, budget: Budget | None = None, context: Remembers | None = None
    ) -> None:
        self.rules = tuple(rules)
        self._budget = budget
        self.context = context
        self._active = tuple(rule for rule in rules if rule.spec.enabled and not rule.never_matches)
        self._all = (1 << len(self._active)) - 1
        self._indexes = tuple(
            _Index([getattr(rule.dispatch, name) for rule in self._active])
            for name in ("verbs", "stages", "resources", "groups", "subresources")
        )
        self._named = _named(self._active)
        self._requests: dict[Request, tuple[Rest, ...]] = {}
        self._cases: dict[tuple[str | bytes, ...], Known | None] = {}
        self._bytes = 0
        self.callers = Callers()

    def match(self, record: AuditRecord) -> Sequence[CompiledRule]:
        """Return the rules that the record matches, in the order they were given."""
        cases, _ = self._known(record)
        return self._asked(cases, RecordView(record, self.callers, self.context)) if cases else NONE

    def match_batch(self, records: Iterable[AuditRecord]) -> Iterator[tuple[int, Sequence[CompiledRule]]]:
        """Yield the index of each record that matches some rule, and the rules; what it changes is noted after that."""
        known, context = self._known, self.context
        for index, record in enumerate(records):
            cases, noted = known(record)
            if not cases and not noted:
                continue
            view = RecordView(record, self.callers, context)
            if cases and (hits := self._asked(cases, view)):
                yield index, hits
            if noted and context is not None:
                context.note(view)

    def _known(self, record: AuditRecord) -> Known:
        ref = record.object_ref
        who = bytes(record.user)
        if record.impersonated_user:
            who += b"\0" + bytes(record.impersonated_user)
        if ref is None:
            key: tuple[str | bytes, ...] = (record.verb, record.stage, who)
        else:
            key = (record.verb, record.stage, ref.resource, ref.api_group, ref.subresource, who)
        return self._cases.get(key) or self._opened(key, record)

    def _asked(self, cases: Sequence[Case], view: RecordView) -> Sequence[CompiledRule]:
        if self._budget is not None:
            return self._budget.spent(cases, view)
        return [rule for rule, holds in cases if holds(view)]

    def candidates(self, record: AuditRecord) -> Sequence[CompiledRule]:
        """Return the rules that are left once the request and the caller are known."""
        rests = self._of_request(_request(record))
        return [rule for rule, _ in _settled_by_caller(rests, record)]

    def _opened(self, key: tuple[str | bytes, ...], record: AuditRecord) -> Known:
        """Settle the caller at the second sight; at the first it may be one that never comes back."""
        rests = self._of_request(_request(record))
        noted = self.context is not None and self.context.concerns(record.verb, record.object_ref)
        if rests and key not in self._cases:
            self._remember(key, None)
            return tuple((rule, holds) for rule, _, holds in rests), noted
        known = _settled_by_caller(rests, record) if rests else (), noted
        self._remember(key, known)
        return known

    def _remember(self, key: tuple[str | bytes, ...], known: Known | None) -> None:
        size = sum(map(len, key))
        if size > MAX_KEY:
            return  # a URL may be a megabyte long, and all of it the name of a resource
        if key not in self._cases:
            self._bytes += size
            if len(self._cases) >= MAX_CASES or self._bytes > MAX_CASE_BYTES:
                self._cases.clear()
                self._bytes = size
        self._cases[key] = known

    def _of_request(self, request: Request) -> tuple[Rest, ...]:
        # To the rules all values that none of them names are one: a client that invents resources meets what is known.
        request = tuple(
            value if not value or named is None or value.casefold() in named else OTHER
            for value, named in zip(request, self._named, strict=False)
        )
        rests = self._requests.get(request)
        if rests is not None:
            return rests
        mask = self._all
        for index, text in zip(self._indexes, (*request, "", "", "")[:5], strict=True):
            mask &= index.mask(text)
        rules = [rule for number, rule in enumerate(self._active) if mask >> number & 1] if mask else []
        rests = _rests([(rule, rule.expr, rule.holds) for rule in rules], Part.KEY, _bare(request))
        if sum(map(len, request)) <= MAX_KEY:
            if len(self._requests) >= MAX_REQUESTS:
                self._requests.clear()
            self._requests[request] = rests
        return rests


def _request(record: AuditRecord) -> Request:
    ref = record.object_ref
    if ref is None:
        return (record.verb, record.stage)
    return (record.verb, record.stage, ref.resource, ref.api_group, ref.subresource)


def _named(rules: Sequence[CompiledRule]) -> tuple[frozenset[str] | None, ...]:
    """Return for each part of a request the values that rules name, without case; None where one has a pattern."""
    named: dict[str, set[str] | None] = {field.name: set() for field in _KEY}
    for rule in rules:
        for leaf in leaves(rule.expr):
            if not isinstance(leaf, Atom) or (values := named.get(leaf.field.name)) is None:
                continue
            literals = [each.literal for each in leaf.test.patterns] if isinstance(leaf.test, Texts) else [None]
            if any(text is None for text in literals):
                named[leaf.field.name] = None
            else:
                values.update(text.casefold() for text in literals if text is not None)
    return tuple(None if values is None else frozenset(values) for values in named.values())


def _bare(request: Request) -> AuditRecord:
    """Return a record of which only the kind of request is known."""
    ref = AuditObject(resource=request[2], api_group=request[3], subresource=request[4]) if len(request) == 5 else None
    return AuditRecord(verb=request[0], stage=request[1], object_ref=ref)


def _settled_by_caller(rests: Sequence[Rest], record: AuditRecord) -> tuple[Case, ...]:
    caller = AuditRecord(user=record.user, impersonated_user=record.impersonated_user)
    return tuple((rule, holds) for rule, _, holds in _rests(rests, Part.USER, caller))


def _rests(rests: Sequence[Rest], part: Part, known: AuditRecord) -> tuple[Rest, ...]:
    """Return what is left of rules once their conditions on `part` are settled, all that `known` holds."""
    view = RecordView(known)

    def decided(leaf: Leaf) -> bool | None:
        return built(leaf)(view) if leaf.part is part else None

    left: list[Rest] = []
    for rule, expr, holds in rests:
        rest = simplified(expr, decided)
        if rest != Const(False):
            left.append((rule, rest, holds if rest == expr else built(rest)))
    return tuple(left)


class _Index:
    """Which rules a value of one part of the key can concern, as bit masks."""

    def __init__(self, wanted: Sequence[frozenset[str] | None]) -> None:
        self.rest = 0
        self.by_value: dict[str, int] = {}
        for number, values in enumerate(wanted):
            if values is None:
                self.rest |= 1 << number
            else:
                for value in values:
                    self.by_value[value] = self.by_value.get(value, 0) | 1 << number

    def mask(self, value: str) -> int:
        return self.by_value.get(value.casefold(), 0) | self.rest
