"""`Correlator`: what serves through other rules. It takes in their matches and tells which correlations that proves."""

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ugallu.sdk import Metrics
from ugallu_audit_detection.arming import Armed
from ugallu_audit_detection.correlation.groups import Groups, Kept, key_of
from ugallu_audit_detection.correlation.links import Links, Member, Trouble, linked
from ugallu_audit_detection.correlation.windows import Crossing, mark_of
from ugallu_audit_detection.seen import Seen
from ugallu_audit_detection.sigma.names import is_linked, names_of

if TYPE_CHECKING:
    from ugallu_audit_detection.correlation.plan import Plan
    from ugallu_audit_detection.filters import Filter

MAX_BYTES: Final = 4 << 20
"""Bytes of all windows together. They travel in every checkpoint, so room costs time too."""


class Correlated(NamedTuple):
    """A correlation that holds for a group, proven by the event at hand."""

    armed: Armed
    plan: "Plan"
    group: tuple[str, ...]
    crossing: Crossing


Trial = Callable[[Armed, "Correlator"], str]
"""Runs the tests of what is linked; returns the first that fails and how."""
TEST_FAILED: Final = "TestFailed"


class Correlator:
    """Kept by the engine: told of every rule that serves, and of every match."""

    def __init__(
        self,
        trial: Trial | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        excepted: Callable[[Armed, Seen], bool] | None = None,
    ) -> None:
        """Make one; `excepted` tells whether a correlation's exception hides an event from it, and keeps account."""
        self._trial = trial
        self._excepted = excepted or (lambda armed, case: armed.excepted(case, case.record.seen_at.timestamp()))
        self._max_bytes = max_bytes
        self._members: dict[str, Member] = {}
        self._groups: dict[str, Groups] = {}
        self._waiting: dict[str, Kept] = {}
        """What a checkpoint kept for correlations that are not here yet."""
        self._links: Links | None = None
        self._tried: dict[str, tuple[tuple[Armed, ...], str]] = {}
        self._published: dict[str, tuple[int, int]] = {}
        self.bytes = 0

    # Rules

    def arm(self, armed: Armed) -> None:
        """This version serves, as far as its rules do."""
        text = armed.spec.sigma
        member = _linked_member(armed) if is_linked(text) else Member(armed, names_of(text) if text else ())
        self._members[armed.name] = member
        self._links = None
        if member.plan is None:
            self._drop(armed.name)
        else:
            self._adopt(armed.name, member.plan)

    def disarm(self, name: str) -> None:
        """This rule does not serve; the windows of a correlation stay, in case it returns."""
        if self._members.pop(name, None) is not None:
            self._links = None

    def forget(self, name: str) -> None:
        """The rule is gone."""
        self.disarm(name)
        self._drop(name)
        self._waiting.pop(name, None)
        self._tried.pop(name, None)

    @property
    def links(self) -> Links:
        """How the rules that serve are linked."""
        if self._links is None:
            self._links = self._linked()
        return self._links

    def _linked(self) -> Links:
        if not any(member.plan or member.filter for member in self._members.values()):
            return Links()
        links = self._links = linked(self._members, {})
        if self._trial is None:
            return links
        barred = {}
        for name in links.bases:
            if wrong := self._tested(self._trial, name):
                barred[name] = Trouble(TEST_FAILED, wrong)
        return linked(self._members, barred) if barred else links

    def refuses(self, armed: Armed) -> str | None:
        """Return the first test that a correlation or filter fails beside the rules that serve, empty for none.

        None when that cannot be said: rules that it means do not serve, or it is a rule on events.
        """
        if self._trial is None or not is_linked(armed.spec.sigma):
            return None
        member = self._members.get(armed.name)
        if member is not None and member.armed is armed:
            trouble = self.links.troubles.get(armed.name)
            if trouble is None:
                return ""
            return trouble.message if trouble.reason == TEST_FAILED else None
        beside = Correlator(self._trial, excepted=self._excepted)
        beside._members = {**self._members, armed.name: _linked_member(armed)}
        beside._tried = dict(self._tried)
        return beside.refuses(armed)

    def _tested(self, trial: Trial, name: str) -> str:
        armed = self._members[name].armed
        if not armed.spec.tests:
            return ""
        asked = (armed, *self.rules_below(name))
        tried = self._tried.get(name)
        if tried is None or tried[0] != asked:
            tried = self._tried[name] = (asked, trial(armed, self))
        return tried[1]

    def rules_below(self, name: str) -> list[Armed]:
        """Return the rules that a correlation counts, and those that these count."""
        links = self.links
        found: dict[str, None] = {}
        pending = list(links.bases.get(name, ()))
        while pending:
            rule = pending.pop()
            if rule not in found:
                found[rule] = None
                pending += links.bases.get(rule, ())
        return [self._members[rule].armed for rule in sorted(found)]

    # Matches

    def hiding(self, rule: str, case: Seen) -> "Iterator[tuple[str, Filter]]":
        """Yield the filters that would take this match of the rule away, those that have ended too."""
        for name in self.links.filters.get(rule, ()):
            own = self._members[name].filter
            if own is not None and own.hides(case):
                yield name, own

    def feed(self, case: Seen, at: float, rules: Sequence[str]) -> Iterable[Correlated]:
        """Count an event that these rules match; return what that proves."""
        feeds = (self._links or self.links).feeds
        if len(rules) == 1 and len(only := feeds[rules[0]]) == 1:
            # The common case: one match counts in one correlation and proves nothing.
            name, reference = only[0]
            member = self._members[name]
            if member.plan is None or (member.armed.exempt and self._excepted(member.armed, case)):
                return ()
            proven = self._take_one(name, member.plan, case, at, (reference, rules[0]))
            return self._chained(case, at, {}, [(name, proven)]) if proven else ()
        matches: dict[str, list[tuple[int, str]]] = {}
        for rule in rules:
            for name, reference in feeds[rule]:
                matches.setdefault(name, []).append((reference, rule))
        return self._chained(case, at, matches, [])

    def _chained(
        self,
        case: Seen,
        at: float,
        matches: dict[str, list[tuple[int, str]]],
        proven: list[tuple[str, Sequence[tuple[tuple[str, ...], Crossing]]]],
    ) -> Iterator[Correlated]:
        """Yield what is proven, and what that and these matches prove; crossings count in other correlations."""
        feeds, rank = self.links.feeds, self.links.rank
        waiting = sorted(matches, key=rank)
        while proven or waiting:
            if not proven:
                name = waiting.pop(0)
                member = self._members[name]
                if member.plan is None or (member.armed.exempt and self._excepted(member.armed, case)):
                    continue
                proven.append((name, self._take(name, member.plan, case, at, matches[name])))
            name, crossings = proven.pop()
            member = self._members[name]
            for group, crossing in crossings:
                if member.plan is not None:
                    yield Correlated(member.armed, member.plan, group, crossing)
                for correlation, reference in feeds.get(name, ()):
                    if correlation not in matches:
                        insort(waiting, correlation, key=rank)
                    matches.setdefault(correlation, []).append((reference, name))

    def _take(
        self, name: str, plan: "Plan", case: Seen, at: float, matches: Sequence[tuple[int, str]]
    ) -> Sequence[tuple[tuple[str, ...], Crossing]]:
        """Take an event into the windows of one correlation; return the groups that cross."""
        if len(matches) == 1:
            return self._take_one(name, plan, case, at, matches[0])
        found: dict[tuple[str, ...], Sequence[int]] = {}
        for reference, rule in matches:
            group = plan.groups[reference](case, rule)
            if (group or not plan.group_by) and (tags := plan.tags[reference](case, rule)):
                found[group] = [*found[group], *tags] if group in found else tags
        taken = ((group, self._count(name, group, case, at, tags)) for group, tags in found.items())
        return [(group, crossing) for group, crossing in taken if crossing is not None]

    def _take_one(
        self, name: str, plan: "Plan", case: Seen, at: float, match: tuple[int, str]
    ) -> Sequence[tuple[tuple[str, ...], Crossing]]:
        reference, rule = match
        group = plan.groups[reference](case, rule)
        if (plan.group_by and not group) or not (tags := plan.tags[reference](case, rule)):
            return ()
        crossing = self._count(name, group, case, at, tags)
        return () if crossing is None else ((group, crossing),)

    def _count(self, name: str, group: tuple[str, ...], case: Seen, at: float, tags: Sequence[int]) -> Crossing | None:
        groups = self._groups[name]
        before = groups.bytes
        crossing = groups.take(key_of(group), at, tags, mark_of(case.record.audit_id))
        self.bytes += groups.bytes - before
        if self.bytes > self._max_bytes:
            self._make_room()
        return crossing

    def _make_room(self) -> None:
        """Forget groups of whichever correlation takes most room."""
        while self.bytes > self._max_bytes:
            groups = max(self._groups.items(), key=lambda item: (item[1].bytes, item[0]))[1]
            self.bytes -= groups.bytes
            groups.evict()
            self.bytes += groups.bytes

    # What a restart must not lose

    def snapshot(self) -> dict[str, Kept]:
        """Return the windows of all correlations."""
        kept = {**self._waiting, **{name: groups.snapshot() for name, groups in self._groups.items()}}
        return dict(sorted(kept.items()))

    def restore(self, kept: Mapping[str, Kept]) -> None:
        """Become what `snapshot` saw; correlations that are not here yet will find their windows when they come."""
        self._waiting = dict(kept)
        self._groups = {}
        self.bytes = 0
        for name, member in self._members.items():
            if member.plan is not None:
                self._adopt(name, member.plan)
        self._published = {name: (groups.late, groups.evicted) for name, groups in self._groups.items()}

    def _adopt(self, name: str, plan: "Plan") -> None:
        old = self._groups.get(name)
        if old is not None and old.fingerprint == plan.fingerprint:
            return
        self._drop(name)
        groups = self._groups[name] = Groups(plan.window, plan.span, plan.fingerprint)
        kept = self._waiting.pop(name, None)
        if kept is not None and groups.restore(kept):
            self.bytes += groups.bytes

    def _drop(self, name: str) -> None:
        if (groups := self._groups.pop(name, None)) is not None:
            self.bytes -= groups.bytes
            self._published.pop(name, None)

    # What there is to say

    def plan(self, name: str) -> "Plan | None":
        """Return what a correlation asks; None where none of this name is armed."""
        member = self._members.get(name)
        return member.plan if member else None

    def filter(self, name: str) -> "Filter | None":
        """Return what a filter asks; None where none of this name is armed."""
        member = self._members.get(name)
        return member.filter if member else None

    def groups(self, name: str) -> Groups | None:
        """Return the windows of a correlation."""
        return self._groups.get(name)

    def publish(self, metrics: Metrics) -> None:
        """Add what happened since the last call to the process's metrics."""
        for name, groups in self._groups.items():
            late, evicted = self._published.get(name, (0, 0))
            if groups.late > late:
                metrics.count("ugallu_audit_correlation_late_total", groups.late - late, rule=name)
            if groups.evicted > evicted:
                metrics.count("ugallu_audit_correlation_evicted_total", groups.evicted - evicted, rule=name)
            self._published[name] = (groups.late, groups.evicted)
            metrics.gauge("ugallu_audit_correlation_groups", len(groups), rule=name)


def _linked_member(armed: Armed) -> Member:
    from ugallu_audit_detection.correlation.plan import plan_of
    from ugallu_audit_detection.filters import filter_of
    from ugallu_audit_detection.sigma import parse as upstream
    from ugallu_audit_detection.sigma.upstream import document_of

    where = f"SigmaRule {armed.name}: spec.sigma"
    document = document_of(armed.spec.sigma, where=where, placeholders={})
    plan = plan_of(document, where=where) if isinstance(document, upstream.Correlation) else None
    filter_ = filter_of(document, where=where, name=armed.name) if isinstance(document, upstream.Filter) else None
    return Member(armed, names_of(armed.spec.sigma), plan, filter_)
