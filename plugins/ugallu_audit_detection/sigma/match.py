"""Matcher: a set of compiled rules that finds, for one audit record, those it is about.

Two steps make it fast. The key of a record (verb, stage, API group, resource, subresource) selects rules by bit masks,
and what is left of each rule once its conditions on the key are settled is remembered per key: most keys leave no rule
at all, the others a few that look at a user, a name or a body. Bodies are decoded when such a rest asks, once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from ugallu.sdk import AuditObject, AuditRecord
from ugallu_audit_detection.sigma.compile import CompiledRule
from ugallu_audit_detection.sigma.expr import Const, Holds, Leaf, Part, built, simplified
from ugallu_audit_detection.sigma.view import Callers, RecordView

Key = tuple[str, ...]
Case = tuple[CompiledRule, Holds]
NONE: tuple[CompiledRule, ...] = ()
MAX_KEYS = 8192
"""Keys remembered. A cluster makes a few hundred; past this (a client that invents resources) rules run unreduced."""


class Matcher:
    """An immutable set of rules: build a new one when a rule changes, and swap it in. Disabled rules are left out."""

    def __init__(self, rules: Sequence[CompiledRule]) -> None:
        self.rules = tuple(rules)
        self._active = tuple(rule for rule in rules if rule.spec.enabled and not rule.never_matches)
        self._all = (1 << len(self._active)) - 1
        self._indexes = tuple(
            _Index([getattr(rule.dispatch, name) for rule in self._active])
            for name in ("verbs", "stages", "resources", "groups", "subresources")
        )
        self._cases: dict[Key, tuple[Case, ...]] = {}
        self._callers = Callers()

    def match(self, record: AuditRecord) -> Sequence[CompiledRule]:
        """Return the rules that the record matches, in the order they were given."""
        ref = record.object_ref
        if ref is None:
            key: Key = (record.verb, record.stage)
        else:
            key = (record.verb, record.stage, ref.resource, ref.api_group, ref.subresource)
        cases = self._cases.get(key)
        if cases is None:
            cases = self._open(key)
        if not cases:
            return NONE
        view = RecordView(record, self._callers)
        return [rule for rule, holds in cases if holds(view)]

    def match_batch(self, records: Iterable[AuditRecord]) -> Iterator[tuple[int, Sequence[CompiledRule]]]:
        """Yield the index of each record that matches some rule, and the rules."""
        match = self.match
        for index, record in enumerate(records):
            hits = match(record)
            if hits:
                yield index, hits

    def candidates(self, record: AuditRecord) -> Sequence[CompiledRule]:
        """Return the rules that are asked about the record: what the dispatch leaves."""
        ref = record.object_ref
        key: Key = (record.verb, record.stage)
        if ref is not None:
            key += (ref.resource, ref.api_group, ref.subresource)
        return [rule for rule, _ in self._open(key)]

    def _open(self, key: Key) -> tuple[Case, ...]:
        mask = self._all
        for index, text in zip(self._indexes, (*key, "", "", "")[:5], strict=True):
            mask &= index.mask(text)
        rules = [rule for number, rule in enumerate(self._active) if mask >> number & 1] if mask else []
        if len(self._cases) >= MAX_KEYS:
            return tuple((rule, rule.holds) for rule in rules)
        settled = _settled(key)
        cases: list[Case] = []
        for rule in rules:
            rest = simplified(rule.expr, settled)
            if rest != Const(False):
                cases.append((rule, built(rest) if rest != rule.expr else rule.holds))
        self._cases[key] = tuple(cases)
        return self._cases[key]


def match_one(rule: CompiledRule, record: AuditRecord) -> bool:
    """Ask one rule about one record, whether it is enabled or not: for the tests that rules carry."""
    return rule.matches(record)


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


def _settled(key: Key) -> Callable[[Leaf], bool | None]:
    """Return what decides conditions on the key: they are asked of a record that holds nothing else."""
    ref = AuditObject(resource=key[2], api_group=key[3], subresource=key[4]) if len(key) == 5 else None
    view = RecordView(AuditRecord(verb=key[0], stage=key[1], object_ref=ref))

    def decided(leaf: Leaf) -> bool | None:
        return built(leaf)(view) if leaf.part is Part.KEY else None

    return decided
