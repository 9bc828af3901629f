"""Which fields of imported rules hold a value in this cluster's traffic: a rule may ask for what nobody ever sends.

A few events of every batch are looked at, those that the rule is about; a field that held a value once is not looked
for again. So what is said of a field is said with the number of events that it rests on.
"""

import datetime as dt
from collections.abc import Sequence
from typing import Final

import msgspec

from ugallu.sdk import AuditRecord
from ugallu_audit_detection.sigma.compile import CompiledRule, Dispatch
from ugallu_audit_detection.sigma.expr import Atom, Field, Part, leaves
from ugallu_audit_detection.sigma.view import RecordView

SPAN: Final = 3600.0
"""Seconds of event time without a value, after which a field counts as unknown."""
ENOUGH: Final = 50
"""Events that must have been looked at in that time."""
SAMPLES: Final = 8
"""Events of one batch."""
PARTS: Final = frozenset({Part.REQUEST, Part.RESPONSE, Part.EFFECTIVE, Part.ANNOTATIONS})
"""Where a field may be that some events have and others have not."""


class Unseen(msgspec.Struct, eq=False):
    """A field that has held no value yet."""

    rule: str
    field: Field
    dispatch: Dispatch
    looks: int = 0
    first: dt.datetime | None = None
    last: dt.datetime | None = None

    def concerns(self, record: AuditRecord) -> bool:
        """Whether the rule is about such an event, and the event has the part that the field is in."""
        verbs, stages, part = self.dispatch.verbs, self.dispatch.stages, self.field.part
        if (verbs is not None and record.verb.casefold() not in verbs) or (
            stages is not None and record.stage.casefold() not in stages
        ):
            return False
        if part is Part.ANNOTATIONS:
            return True
        return bool(record.response_object) or (part is not Part.RESPONSE and bool(record.request_object))

    @property
    def unknown(self) -> bool:
        """Whether it has been looked for in vain for long enough."""
        if self.first is None or self.last is None or self.looks < ENOUGH:
            return False
        return (self.last - self.first).total_seconds() >= SPAN


class Sightings:
    """The fields of imported rules that have held no value yet, by the resource that their rule is about."""

    def __init__(self) -> None:
        self._open: dict[str, list[Unseen]] = {}
        self._any: list[Unseen] = []

    def watch(self, rule: CompiledRule) -> None:
        """Look for the fields of this version, if it is an imported one."""
        self.forget(rule.name)
        if not rule.spec.sigma:
            return
        found = {leaf.field.name: leaf.field for leaf in leaves(rule.expr) if isinstance(leaf, Atom)}
        for field in found.values():
            if field.part not in PARTS:
                continue
            unseen = Unseen(rule.name, field, rule.dispatch)
            if rule.dispatch.resources is None:
                self._any.append(unseen)
            for plural in rule.dispatch.resources or ():
                self._open.setdefault(plural, []).append(unseen)

    def forget(self, rule: str) -> None:
        """The rule is gone, or another version of it serves."""
        self._any = [each for each in self._any if each.rule != rule]
        kept = {plural: [each for each in some if each.rule != rule] for plural, some in self._open.items()}
        self._open = {plural: some for plural, some in kept.items() if some}

    def note(self, records: Sequence[AuditRecord]) -> None:
        """Look at some events of a batch."""
        if not (self._open or self._any):
            return
        for record in records[:: max(1, len(records) // SAMPLES)]:
            plural = record.object_ref.resource.casefold() if record.object_ref is not None else ""
            some = [each for each in (*self._open.get(plural, ()), *self._any) if each.concerns(record)]
            if some:
                self._look(RecordView(record), some)

    def _look(self, view: RecordView, some: Sequence[Unseen]) -> None:
        now = view.record.seen_at
        seen = []
        for each in some:
            if each.field.read(view):
                seen.append(each)
                continue
            each.looks += 1
            each.first = each.first or now
            each.last = now
        for each in seen:
            self._close(each)

    def _close(self, seen: Unseen) -> None:
        self._any = [each for each in self._any if each is not seen]
        for plural in seen.dispatch.resources or ():
            left = [each for each in self._open.get(plural, ()) if each is not seen]
            if left:
                self._open[plural] = left
            else:
                self._open.pop(plural, None)

    def unknown(self, rule: str) -> dict[str, int]:
        """Return the fields of a rule that were looked for in vain for an hour, and in how many events."""
        everywhere = {id(each): each for some in (self._any, *self._open.values()) for each in some}
        return {each.field.name: each.looks for each in everywhere.values() if each.rule == rule and each.unknown}
