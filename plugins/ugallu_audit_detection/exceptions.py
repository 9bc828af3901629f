"""Exceptions that are evidence: what each has hidden, and what is odd about it. All by the events' own time.

An exception is a promise that something is expected. It is held to that: one that suddenly hides what it never hid
before, one that lapsed while its matches go on, and one that nothing needs any more are told, each once a day.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from ugallu.sdk import RuleException
from ugallu_audit_detection.memory import Recent, digest
from ugallu_audit_detection.redact import scrubbed

DAY: Final = 86400.0
LEARNING: Final = DAY
"""Seconds from the first match that it hides: what it hides until then is what it was made for."""
WIDER: Final = 3
"""Subjects it never hid before, within `WITHIN` seconds, that make an exception suddenly wider."""
WITHIN: Final = 3600.0
UNUSED: Final = 30 * DAY
LOOK_EVERY: Final = 3600.0
MAX_KNOWN: Final = 128
"""Subjects that are remembered of one exception. One that hides more is too wide to be called wider any more."""
MAX_KEPT: Final = 1024
"""Exceptions that are remembered; the one that hid something longest ago goes first."""
MAX_TEXT: Final = 256
MAX_AUDIT_ID: Final = 64

EXPIRED: Final = "exception_expired"
IDLE: Final = "exception_unused"
GROWN: Final = "exception_wider"

_GENERATED: Final = re.compile(r"(-[bcdfghjklmnpqrstvwxz2456789]{5,10}){1,2}$|-\d+$")
"""What controllers put behind a name: the next Pod of a workload is no other subject."""
_PRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


class Event(NamedTuple):
    """The event that an exception hides or would have hidden, as far as evidence goes."""

    at: float
    """Seconds since the epoch."""
    audit_id: str
    caller: str
    kind: str
    namespace: str
    name: str

    @property
    def subject(self) -> str:
        """What it is about, to be shown."""
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return _shown(f"{self.kind} {place} by {self.caller}", MAX_TEXT)

    @property
    def reference(self) -> str:
        """Its audit id, to be shown: a client may have chosen it."""
        return _shown(self.audit_id, MAX_AUDIT_ID)

    @property
    def identity(self) -> bytes:
        """What makes another event one about the same subject."""
        return digest(self.caller, self.kind, self.namespace, _GENERATED.sub("", self.name))


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """What a checkpoint keeps of one exception."""

    rule: str
    name: str
    hidden: int
    first: float | None
    last: float | None
    audit_id: str
    subject: str
    known: tuple[bytes, list[float]]
    fresh: list[tuple[float, str]]
    since: float | None
    told: dict[str, float]


class Hidden:
    """What one exception of one rule has hidden."""

    __slots__ = ("audit_id", "first", "fresh", "hidden", "known", "last", "since", "subject", "told")

    def __init__(self) -> None:
        self.hidden = 0
        self.first: float | None = None
        self.last: float | None = None
        self.audit_id = ""
        self.subject = ""
        self.known = Recent(MAX_KNOWN)
        self.fresh: list[tuple[float, str]] = []
        """The last subjects that it had not hidden before, and when."""
        self.since: float | None = None
        """When it was first looked at."""
        self.told: dict[str, float] = {}
        """When what was told last."""

    @property
    def last_at(self) -> dt.datetime | None:
        """When it last hid something."""
        return None if self.last is None else dt.datetime.fromtimestamp(int(self.last), dt.UTC)

    def take(self, event: Event) -> bool:
        """Note what is hidden now; tell whether that makes it suddenly wider."""
        self.hidden += 1
        if self.first is None:
            self.first = event.at
        if self.last is None or event.at >= self.last:
            self.last, self.audit_id, self.subject = event.at, event.reference, event.subject
        new = not self.known.knows(event.identity) and len(self.known) < MAX_KNOWN
        self.known.note(event.identity, event.at)
        if not new or event.at - self.first < LEARNING:
            return False
        self.fresh = [*self.fresh, (event.at, event.subject)][-WIDER:]
        return len(self.fresh) == WIDER and abs(event.at - self.fresh[0][0]) <= WITHIN and self.tells(GROWN, event.at)

    def tells(self, what: str, now: float) -> bool:
        """Whether this is to be told now: once a day."""
        told = self.told.get(what)
        if told is not None and abs(now - told) < DAY:
            return False
        self.told[what] = now
        return True

    def idle_for(self, now: float) -> float:
        """Return for how long it has hidden nothing, in seconds."""
        started = max((moment for moment in (self.last, self.since) if moment is not None), default=now)
        return max(0.0, now - started)

    def wider(self, now: float) -> bool:
        """Whether it was told to be wider within the last day."""
        told = self.told.get(GROWN)
        return told is not None and abs(now - told) < DAY


class Report(NamedTuple):
    """Something to be told about an exception."""

    reason: str
    rule: str
    exception: str
    signals: dict[str, str]


class Exceptions:
    """What the exceptions of all rules have hidden; the engine asks nothing else of them."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Hidden] = {}
        self._looked: float | None = None

    def hide(self, rule: str, exception: str, owner: str, event: Event) -> Report | None:
        """The exception hides this event from the rule. Return what is to be told of that."""
        kept = self._of(rule, exception)
        if not kept.take(event):
            return None
        signals = {"subjects": "; ".join(subject for _, subject in kept.fresh), "hidden": str(kept.hidden)}
        return _report(GROWN, rule, exception, owner, signals)

    def lapsed(self, rule: str, exception: RuleException, event: Event) -> Report | None:
        """The exception would have hidden this event, were it not expired. Return what is to be told of that."""
        if not self._of(rule, exception.name).tells(EXPIRED, event.at):
            return None
        expired = exception.expires.isoformat(timespec="seconds") if exception.expires else ""
        signals = {"expired.at": expired, "subjects": event.subject, "audit.id": event.reference}
        return _report(EXPIRED, rule, exception.name, exception.owner, signals)

    def due(self, now: float) -> bool:
        """Whether it is time to `look` again."""
        return self._looked is None or abs(now - self._looked) >= LOOK_EVERY

    def look(self, now: float, in_force: Iterable[tuple[str, str, str]]) -> list[Report]:
        """Return those in force (rule, name, owner) that nothing has needed for a long time."""
        self._looked = now
        reports = []
        for rule, name, owner in in_force:
            kept = self._of(rule, name)
            if kept.since is None:
                kept.since = now
            idle = kept.idle_for(now)
            if idle >= UNUSED and kept.tells(IDLE, now):
                signals = {"unused.days": str(int(idle // DAY)), "hidden": str(kept.hidden)}
                reports.append(_report(IDLE, rule, name, owner, signals))
        return reports

    def of(self, rule: str) -> Mapping[str, Hidden]:
        """Return what the exceptions of a rule have hidden, by name."""
        return {name: kept for (of, name), kept in self._kept.items() if of == rule}

    def forget(self, rule: str) -> None:
        """The rule is gone."""
        for key in [key for key in self._kept if key[0] == rule]:
            del self._kept[key]

    def _of(self, rule: str, exception: str) -> Hidden:
        key = (rule, exception)
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                del self._kept[min(self._kept, key=lambda each: (self._kept[each].last or 0.0, each))]
            kept = self._kept[key] = Hidden()
        return kept

    def snapshot(self) -> tuple[float | None, list[Kept]]:
        """Return everything that is known."""
        return self._looked, [
            Kept(
                rule=rule,
                name=name,
                hidden=kept.hidden,
                first=kept.first,
                last=kept.last,
                audit_id=kept.audit_id,
                subject=kept.subject,
                known=kept.known.snapshot(),
                fresh=list(kept.fresh),
                since=kept.since,
                told=dict(kept.told),
            )
            for (rule, name), kept in sorted(self._kept.items())
        ]

    def restore(self, state: tuple[float | None, list[Kept]]) -> None:
        """Become what `snapshot` saw."""
        self._looked, kept = state
        self._kept = {}
        for one in kept:
            hidden = self._kept[one.rule, one.name] = Hidden()
            hidden.hidden, hidden.first, hidden.last = one.hidden, one.first, one.last
            hidden.audit_id, hidden.subject = one.audit_id, one.subject
            hidden.known.restore(one.known)
            hidden.fresh, hidden.since, hidden.told = list(one.fresh), one.since, dict(one.told)


def _shown(text: str, most: int) -> str:
    return _PRINTABLE.sub("?", scrubbed(text))[:most]


def _report(reason: str, rule: str, exception: str, owner: str, signals: dict[str, str]) -> Report:
    told = {"reason": reason, "exception.rule": rule, "exception.name": exception, "exception.owner": owner}
    return Report(reason, rule, exception, {name: text[: MAX_TEXT * 4] for name, text in {**told, **signals}.items()})
