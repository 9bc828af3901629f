"""What becomes of every journal record, decided in the journal's order. Pure: the same journal, the same events.

Nothing here knows the cluster or a clock; `outbox` reads the records, creates what is returned, and journals back
(`Settled`) what it could not create.
"""

import msgspec

from ugallu.api.event import (
    LABEL_CLASS,
    LABEL_CORRELATION,
    LABEL_EXPERIMENTAL,
    LABEL_MANAGED_BY,
    LABEL_SEVERITY,
    LABEL_SUBJECT_KIND,
    LABEL_SUBJECT_NAMESPACE,
    LABEL_TYPE,
    SecurityEvent,
    SecurityEventSpec,
)
from ugallu.api.meta import Metadata
from ugallu.emit.fold import Fold, Verdict, Window, closing
from ugallu.emit.gate import Gate, Level, Report
from ugallu.emit.identity import correlation_label, derived_name, label_value, traceparent
from ugallu.emit.ledger import Ledger
from ugallu.emit.records import Closed, Entry, Mark, Pressed, Refused, Settled, Submitted

ANNOTATION_EMISSION = "ugallu.io/emission"
"""`<journal id>/<item id>`: which decision created the event. Tells our own earlier try from another's equal event."""

_SHIFT = 16
_RISEN = (1 << _SHIFT) - 1


class Item(msgspec.Struct, frozen=True):
    """An event to be created. `id` is its record's number and its place among that record's events."""

    id: int
    name: str
    component: str
    spec: SecurityEventSpec
    at: float
    """Wall time of the finding, Unix seconds: what the age limit counts from."""
    experimental: bool = False
    summary: bool = False
    report: bool = False
    after: int = 0
    """Id of the item that this one's parent will be: only once that one is created is it known under which name."""

    @property
    def rank(self) -> int:
        """The severity's rank: what is created first."""
        return self.spec.severity.rank

    def event(self, name: str, emission: str) -> SecurityEvent:
        """Return the object to create under a name."""
        spec = self.spec
        labels = {
            LABEL_CORRELATION: correlation_label(spec.correlation_id),
            LABEL_MANAGED_BY: label_value(self.component),
            LABEL_CLASS: spec.class_.value,
            LABEL_TYPE: label_value(spec.type),
            LABEL_SEVERITY: spec.severity.value,
            LABEL_SUBJECT_KIND: label_value(spec.subject.kind),
        }
        if spec.subject.namespace:
            labels[LABEL_SUBJECT_NAMESPACE] = label_value(spec.subject.namespace)
        if self.experimental:
            labels[LABEL_EXPERIMENTAL] = "true"
        metadata = Metadata(name=name, labels=labels, annotations={ANNOTATION_EMISSION: emission})
        return SecurityEvent(metadata=metadata, spec=spec)


def record_of(item_id: int) -> int:
    """Return the number of the record that an item comes from."""
    return item_id >> _SHIFT


def place_of(item_id: int) -> int:
    """Return the item's place among the events of its record."""
    return item_id & _RISEN


def from_record(item_id: int) -> bool:
    """Whether the item is a finding: its record is all that it takes to make it again."""
    return item_id & _RISEN in (0, _RISEN)


def ids_of(seq: int) -> tuple[int, int]:
    """Return the ids that the finding of a record can have."""
    return seq << _SHIFT, seq << _SHIFT | _RISEN


def item_of(item_id: int, found: Submitted) -> Item:
    """Return the item of a finding: its first event, or the one for a rise of severity."""
    name = found.name
    if item_id & _RISEN == _RISEN:
        # Its own name even where it shares the first event's correlation: emitters may not read back what they created.
        name = derived_name(found.spec, f"rise:{found.spec.severity.value}", found.name)
    return Item(item_id, name, found.component, _traced(found.spec, name), found.at, experimental=found.experimental)


def _traced(spec: SecurityEventSpec, name: str) -> SecurityEventSpec:
    return msgspec.structs.replace(spec, traceparent=traceparent(spec.traceparent, spec.correlation_id, name))


class Decisions:
    """Fold, gate and ledger, moved along by one record after another."""

    def __init__(self, fold: Fold, gate: Gate, ledger: Ledger) -> None:
        self.fold = fold
        self.gate = gate
        self.ledger = ledger
        self.folded: dict[str, int] = {}
        """Folds by type and drops by reason since they were last taken: for the metrics."""
        self.refused: dict[str, int] = {}

    @property
    def open(self) -> bool:
        """Whether the end of a stream would bring more events."""
        return bool(len(self.fold)) or self.gate.reporting

    def take(self, seq: int, entry: Entry, at: float) -> list[Item]:
        """Decide on record `seq`; `at` is the wall time that its summaries bear, which no decision looks at."""
        if isinstance(entry, Submitted):
            return self._submitted(seq, entry)
        if isinstance(entry, Refused):
            return self._refused(seq, entry, at)
        if isinstance(entry, Settled):
            return self._settled(seq, entry, at)
        if isinstance(entry, Closed):
            windows = self.fold.close(entry.upto)
            reports = self.gate.flush() if entry.reports else []
            return self._closings(seq, 1, windows, at) + self._reports(seq, 1 + len(windows), reports, at)
        if isinstance(entry, Mark):
            self.ledger.mark(entry.checkpoint, entry.findings)
        elif isinstance(entry, Pressed):
            self.gate.level = Level(entry.level)
        return []

    def _submitted(self, seq: int, found: Submitted) -> list[Item]:
        spec = found.spec
        self.ledger.findings += 1
        verdict, window, closed = self.fold.take(seq, found)
        items = self._closings(seq, 1, closed, found.at)
        items += self._reports(seq, 1 + len(closed), self.gate.due(spec.detected_at), found.at)
        if verdict is Verdict.FOLDED:
            self.ledger.folded += 1
            self.folded[spec.type] = self.folded.get(spec.type, 0) + 1
            return items
        reason = self.gate.admit(spec.severity, spec.detected_at)
        if reason:
            if verdict is Verdict.FIRST:
                window.present = False
            self._drop(reason, 1)
            self.gate.refuse(
                found.component,
                reason,
                {spec.type: 1},
                at=spec.detected_at,
                source=spec.source,
                cluster=spec.cluster_identity,
            )
            return items
        items.append(item_of(seq << _SHIFT | (_RISEN if verdict is Verdict.RISEN else 0), found))
        return items

    def _refused(self, seq: int, entry: Refused, at: float) -> list[Item]:
        items = self._reports(seq, 1, self.gate.due(entry.at), at)
        total = sum(entry.counts.values())
        if entry.observations:
            self.ledger.lose(entry.reason, total)
        else:
            self.ledger.findings += total
            self._drop(entry.reason, total)
        self.gate.refuse(
            entry.component, entry.reason, entry.counts, at=entry.at, source=entry.source, cluster=entry.cluster
        )
        return items

    def _settled(self, seq: int, entry: Settled, at: float) -> list[Item]:
        items = self._reports(seq, 1, self.gate.due(entry.at), at)
        if entry.summary:
            self.ledger.drop_summary(entry.reason)
            self.refused[entry.reason] = self.refused.get(entry.reason, 0) + 1
        else:
            self._drop(entry.reason, 1)
        if not entry.report:
            # A report that fails is counted and no more: reports about reports would never end.
            self.gate.refuse(
                entry.component, entry.reason, {entry.type: 1}, at=entry.at, source=entry.source, cluster=entry.cluster
            )
        return items

    def _drop(self, reason: str, count: int) -> None:
        self.ledger.drop(reason, count)
        self.refused[reason] = self.refused.get(reason, 0) + count

    def _closings(self, seq: int, place: int, windows: list[Window], at: float) -> list[Item]:
        items = []
        for offset, window in enumerate(windows):
            event = closing(window)
            if event is None:
                continue
            reason = self.gate.admit(event.spec.severity, event.spec.detected_at)
            if reason:
                self.ledger.drop_summary(reason)
                continue
            items.append(
                Item(
                    seq << _SHIFT | (place + offset),
                    event.name,
                    window.component,
                    _traced(event.spec, event.name),
                    at,
                    experimental=window.experimental,
                    summary=True,
                    after=window.begun << _SHIFT if window.present else 0,
                )
            )
        return items

    def _reports(self, seq: int, place: int, reports: list[Report], at: float) -> list[Item]:
        return [
            Item(
                seq << _SHIFT | (place + offset),
                report.name,
                report.component,
                _traced(report.spec, report.name),
                at,
                summary=True,
                report=True,
            )
            for offset, report in enumerate(reports)
        ]
