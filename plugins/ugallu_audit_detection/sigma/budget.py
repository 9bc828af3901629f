"""What one event may cost one rule, and what becomes of a rule that costs more, again and again.

A rule that is held back is not switched off. It goes on looking at every event lighter than the lightest one that was
too dear, and each event that it was not shown is counted and told. Whoever wants a rule held needs several identities,
because one caller's events count three times at most; and a rule of severity critical is never held, whatever it costs.
"""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from ugallu.sdk import AuditRecord, Severity
from ugallu_audit_detection.sigma.compile import CompiledRule
from ugallu_audit_detection.sigma.expr import Holds
from ugallu_audit_detection.sigma.view import RecordView

Case = tuple[CompiledRule, Holds]

SLOW: Final = 10
"""Events over the budget that make a rule a slow one."""
PER_CALLER: Final = 3
"""How many of one caller's count towards holding the rule back. ServiceAccounts of one namespace are one caller."""
MAX_CALLERS: Final = 16
PAUSE: Final = 600.0
"""Seconds of event time that a rule is held back; then it is tried again."""
TELL_EVERY: Final = 60.0
"""Seconds of event time between two words about one rule."""
MAX_STEP_BACK: Final = 60.0
"""Seconds. Time that goes back further is another recording or was wrong: nobody waits for it to come again."""


class Overruns(msgspec.Struct):
    """On which events a rule took too long, and what is held back from it for that."""

    events: int = 0
    callers: dict[str, int] = {}
    """Caller -> how many of the events were theirs."""
    weight: int = 0
    """Bytes of the lightest of them."""
    since: float | None = None
    """From when on heavier events are held back, in seconds of event time; None: they are not."""
    passed: int = 0
    """Events that it was not shown since then."""
    untold: int = 0
    told: float = float("-inf")

    def has_heard(self, caller: str) -> bool:
        """Whether another event of this caller would count for nothing."""
        return self.callers.get(caller, PER_CALLER if len(self.callers) >= MAX_CALLERS else 0) >= PER_CALLER


class Held(msgspec.Struct, frozen=True):
    """Word of a rule that is held back: from what weight on, how many events it was not shown since the last word."""

    rule: str
    weight: int
    passed: int
    record: AuditRecord
    """The event that brings it up."""


class Budget:
    """What one event may cost one rule, in seconds of `clock`. It outlives the matchers that it is given to.

    Events are timed whole; only one that takes longer than `limit` is asked again rule by rule, to name the spender.
    Decoding the bodies is nobody's expense: else whoever sends large ones could make any rule look slow. Without
    `holding` nothing is ever held back: a replay must not depend on how fast the machine is.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        exact: Callable[[], float] | None = None,
        limit: float = 0.005,
        holding: bool = False,
    ) -> None:
        self.clock = clock
        self.exact = exact or clock
        """The clock of the second look, which may be dearer: one that other processes do not make run."""
        self.limit = limit
        self.overruns: dict[str, Overruns] = {}
        self.words: list[Held] = []
        """What there is to tell; whoever tells it empties the list."""
        self._holding = holding
        self._held: set[str] = set()

    def forget(self, rule: str) -> None:
        """The rule is gone, or another version of it serves."""
        self.overruns.pop(rule, None)
        self._held.discard(rule)

    def slow(self, rule: str) -> Overruns | None:
        """Return what made the rule a slow one, if it is."""
        found = self.overruns.get(rule)
        return found if found is not None and found.events >= SLOW else None

    def spent(self, cases: Sequence[Case], view: RecordView) -> list[CompiledRule]:
        """Ask the rules, and note those that take too long."""
        if self._held:
            cases = self._shown(cases, view)
        start = self.clock()
        hits = [rule for rule, holds in cases if holds(view)]
        if self.clock() - start > self.limit:
            for rule, holds in cases:
                self._time(rule, holds, view)
        return hits

    def _time(self, rule: CompiledRule, holds: Holds, view: RecordView) -> None:
        known = self.overruns.get(rule.name)
        caller = _caller(view)
        if known is not None and known.events >= SLOW and known.has_heard(caller):
            return  # what is known is not asked for twice
        view.forget_searches()
        start = self.exact()
        holds(view)
        if self.exact() - start <= self.limit:
            return
        if known is None:
            known = self.overruns[rule.name] = Overruns(callers={}, weight=_weight(view.record))
        known.events += 1
        known.weight = min(known.weight, _weight(view.record))
        if caller in known.callers or len(known.callers) < MAX_CALLERS:
            known.callers[caller] = known.callers.get(caller, 0) + 1
        counted = sum(min(count, PER_CALLER) for count in known.callers.values())
        if (
            self._holding
            and known.since is None
            and counted >= SLOW
            and rule.spec.emit.severity is not Severity.CRITICAL
        ):
            known.since = view.record.seen_at.timestamp()
            self._held.add(rule.name)
            self._tell(rule.name, known, view.record, known.since)

    def _shown(self, cases: Sequence[Case], view: RecordView) -> Sequence[Case]:
        """Return the cases without those whose rule this event is held back from."""
        weight = _weight(view.record)
        return [case for case in cases if case[0].name not in self._held or self._may_see(case[0].name, weight, view)]

    def _may_see(self, rule: str, weight: int, view: RecordView) -> bool:
        known = self.overruns[rule]
        if weight < known.weight or known.since is None:
            return True
        now = view.record.seen_at.timestamp()
        if not known.since - MAX_STEP_BACK <= now < known.since + PAUSE:
            self.forget(rule)
            return True
        known.passed += 1
        known.untold += 1
        if abs(now - known.told) >= TELL_EVERY:
            self._tell(rule, known, view.record, now)
        return False

    def _tell(self, rule: str, known: Overruns, record: AuditRecord, now: float) -> None:
        self.words.append(Held(rule, known.weight, known.untold, record))
        known.told, known.untold = now, 0


def _weight(record: AuditRecord) -> int:
    """Bytes of an event that a rule may have to look through."""
    return (
        len(bytes(record.request_object))
        + len(bytes(record.response_object))
        + len(bytes(record.annotations))
        + len(record.request_uri)
        + len(record.user_agent)
    )


def _caller(view: RecordView) -> str:
    """Who sent the event. ServiceAccounts count by namespace: whoever rules one makes as many as they like."""
    name = view.user.username
    return name.rpartition(":")[0] if name.startswith("system:serviceaccount:") else name
