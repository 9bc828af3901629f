"""Which rules a correlation or a filter means, in whatever order they came. Pure."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from ugallu.sdk import EventClass, Severity
from ugallu_audit_detection.arming import Armed

if TYPE_CHECKING:
    from ugallu_audit_detection.correlation.plan import Plan
    from ugallu_audit_detection.filters import Filter

MISSING: Final = "RuleMissing"
AMBIGUOUS: Final = "RuleAmbiguous"
CYCLE: Final = "RuleCycle"
UNFIT: Final = "RuleUnfit"


@dataclass(frozen=True, slots=True)
class Member:
    """A rule that could serve: what it is called, and what it is beside a rule on events."""

    armed: Armed
    names: tuple[str, ...] = ()
    """What upstream calls it: id and name."""
    plan: "Plan | None" = None
    filter: "Filter | None" = None


class Feed(NamedTuple):
    """Matches of a rule count in this correlation, under this of its references."""

    correlation: str
    reference: int


class Trouble(NamedTuple):
    """Why a correlation or filter does not serve, or not in full: a reason and a sentence."""

    reason: str
    message: str


@dataclass
class Links:
    """What serves through other rules, and how."""

    feeds: dict[str, tuple[Feed, ...]] = field(default_factory=dict)
    """From a rule to the correlations that it counts in."""
    silent: dict[str, str] = field(default_factory=dict)
    """From a rule that only counts, and reports nothing itself, to the correlation that says so."""
    filters: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """From a rule to the filters that it is under."""
    order: tuple[str, ...] = ()
    """The correlations that serve; one that counts crossings of another comes after it."""
    bases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """From a correlation or filter to the rules that it means."""
    troubles: dict[str, Trouble] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._ranks: dict[str, int] = {}

    def rank(self, correlation: str) -> int:
        """Return the place in the order of a correlation that serves."""
        if not self._ranks:
            self._ranks = {name: place for place, name in enumerate(self.order)}
        return self._ranks[correlation]


def linked(members: Mapping[str, Member], barred: Mapping[str, Trouble]) -> Links:
    """Return the links among the rules that serve, by the names of their SigmaRules; those barred have a trouble."""
    links = Links(troubles=dict(barred))
    book = _Book(members)
    found: dict[str, list[tuple[str, ...]]] = {}
    for name in sorted(members):
        plan, own = members[name].plan, members[name].filter
        if plan is not None and name not in barred:
            meant = [book.rules(reference, name) for reference in plan.references]
            trouble = next((each for each in meant if isinstance(each, Trouble)), None)
            if trouble is not None:
                links.troubles[name] = trouble
            else:
                found[name] = [each for each in meant if not isinstance(each, Trouble)]
        elif own is not None and name not in barred:
            _filter(links, book, name, own)
    order = _ordered(links, found)
    feeds: dict[str, list[Feed]] = {}
    for name in order:
        plan = members[name].plan
        links.bases[name] = tuple(dict.fromkeys(rule for rules in found[name] for rule in rules))
        for reference, rules in enumerate(found[name]):
            for rule in rules:
                feeds.setdefault(rule, []).append(Feed(name, reference))
                if plan is not None and not plan.generate:
                    links.silent.setdefault(rule, name)
    links.order = order
    links.feeds = {rule: tuple(each) for rule, each in feeds.items()}
    return links


def _filter(links: Links, book: "_Book", name: str, own: "Filter") -> None:
    rules: list[str] = []
    if own.references is None:
        rules = book.filterable
    else:
        for reference in own.references:
            meant = book.rules(reference, name)
            if not isinstance(meant, Trouble) and any(book.members[rule].plan is not None for rule in meant):
                meant = Trouble(UNFIT, f"{reference} is a correlation: a filter takes matches from the rules it counts")
            if not isinstance(meant, Trouble):
                meant = _permitted(book, own, reference, meant)
            if isinstance(meant, Trouble):
                links.troubles.setdefault(name, meant)
            else:
                rules += meant
    links.bases[name] = tuple(dict.fromkeys(rules))
    for rule in links.bases[name]:
        links.filters[rule] = (*links.filters.get(rule, ()), name)


def _permitted(book: "_Book", own: "Filter", reference: str, meant: tuple[str, ...]) -> "tuple[str, ...] | Trouble":
    """Return the rules that the filter may take matches from: critical ones only if it says so."""
    if own.promise.include_critical:
        return meant
    tame = tuple(rule for rule in meant if book.members[rule].armed.spec.emit.severity is not Severity.CRITICAL)
    if tame:
        return tame
    text = f"{reference} is critical: a filter hides that only with owner, reason, expires and includeCritical: true"
    return Trouble(UNFIT, text)


def _ordered(links: Links, found: dict[str, list[tuple[str, ...]]]) -> tuple[str, ...]:
    """Return the correlations, those first whose crossings others count; what cannot serve becomes a trouble."""
    order: list[str] = []
    open_: list[str] = []

    def place(name: str) -> None:
        if name in order or name in links.troubles or name not in found:
            return
        if name in open_:
            links.troubles[name] = Trouble(CYCLE, f"{' counts '.join((*open_[open_.index(name) :], name))}")
            return
        open_.append(name)
        for rules in found[name]:
            for rule in rules:
                place(rule)
                if rule in links.troubles and name not in links.troubles:
                    links.troubles[name] = Trouble(MISSING, f"{rule} does not serve: {links.troubles[rule].message}")
        open_.pop()
        if name not in links.troubles:
            order.append(name)

    for name in sorted(found):
        place(name)
    return tuple(order)


class _Book:
    """The rules by all their names."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        self.members = members
        self._called: dict[str, set[str]] = {}
        for name, member in members.items():
            for other in {*member.names, name.replace("-", "_")}:
                self._called.setdefault(other, set()).add(name)

    @property
    def filterable(self) -> list[str]:
        """The rules that a filter for all is about."""
        return [
            name for name in self._detections() if self.members[name].armed.spec.emit.severity is not Severity.CRITICAL
        ]

    def rules(self, reference: str, asker: str) -> "tuple[str, ...] | Trouble":
        """Return the rules that a reference means, or why it means none."""
        if "*" in reference:
            fits = re.compile(fnmatch.translate(reference)).match
            meant = tuple(
                name
                for name in self._detections()
                if fits(name) and self.members[name].armed.spec.emit.class_ is EventClass.DETECTION
            )
            return meant or Trouble(MISSING, f"no rule of class Detection that serves is called {reference}")
        found = {reference} if reference in self.members else self._called.get(reference, set())
        if not found:
            return Trouble(MISSING, f"no rule that serves is called {reference}")
        if len(found) > 1:
            return Trouble(AMBIGUOUS, f"{reference} may be {' or '.join(sorted(found))}: name the SigmaRule")
        (name,) = found
        if name == asker:
            return Trouble(CYCLE, f"{asker} names itself")
        if self.members[name].filter is not None:
            return Trouble(UNFIT, f"{reference} is a filter")
        return (name,)

    def _detections(self) -> Iterable[str]:
        return [name for name, member in sorted(self.members.items()) if member.plan is None and member.filter is None]
