"""Correlations once more, slowly: the reference that windows are compared with.

Every accepted match is kept for ever and every window is looked at afresh, over plain lists. Only what is documented as
forgotten is forgotten. Shares no code with the plug-in and reads Sigma's document itself.
"""

import ast
import datetime as dt
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ugallu.testing.rules_reference import native_matches

Event = dict[str, Any]
LATE = 60.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "M": 2629746, "y": 31556952}


@dataclass
class Match:
    """One event that counts: when, in which place of the stream, for which rules, and the values that are counted."""

    at: float
    place: int
    rules: set[str]
    values: set[str]


@dataclass
class Group:
    """What is known of one group."""

    matches: list[Match] = field(default_factory=list)
    crossed: float = float("-inf")


class Reference:
    """One correlation over native rules: `rules` are their matches by name."""

    def __init__(self, document: dict[str, Any], rules: dict[str, dict[str, Any]], *, thin: bool = True) -> None:
        self.correlation = document["correlation"]
        self.rules = rules
        self.thin = thin
        span = self.correlation["timespan"]
        self.span = float(min(int(span[:-1]) * UNITS[span[-1]], 86400))
        self.names: list[str] = self.correlation["rules"]
        self.groups: dict[tuple[str, ...], Group] = {}
        self.newest = float("-inf")

    def feed(self, event: Event, place: int) -> list[tuple[tuple[str, ...], float]]:
        """Take in an event; return the groups that cross, and where their windows end."""
        at = dt.datetime.fromisoformat(event["stageTimestamp"]).timestamp()
        found: dict[tuple[str, ...], Match] = {}
        for name in dict.fromkeys(self.names):
            group = self.group(name, event)
            values = self.values(name, event)
            if native_matches(self.rules[name], event) and group is not None and values:
                match = found.setdefault(group, Match(at, place, set(), set()))
                match.rules.add(name)
                match.values |= values
        crossed = []
        for group, match in found.items():
            end = self.take(group, match)
            if end is not None:
                crossed.append((group, end))
        return crossed

    def take(self, name: tuple[str, ...], match: Match) -> float | None:
        """Take in a match that is not too late; return where the window ends that it makes cross."""
        behind = self.newest - match.at
        if behind > LATE:
            if behind <= max(600.0, self.span):
                return None
            self.groups.clear()
            self.newest = match.at
        self.newest = max(self.newest, match.at)
        group = self.groups.setdefault(name, Group())
        if match.at <= group.crossed:
            return None
        group.matches.append(match)
        group.matches.sort(key=lambda each: (each.at, each.place))
        self.forget(group)
        for end in sorted({each.at for each in group.matches if match.at <= each.at <= match.at + self.span}):
            if end <= group.crossed + self.span:
                continue
            window = [each for each in group.matches if end - self.span <= each.at <= end]
            if window and self.holds(window, match):
                group.crossed = end
                group.matches = [each for each in group.matches if each.at > end]
                return end
        return None

    def forget(self, group: Group) -> None:
        """Leave out what is documented as forgotten."""
        kind = self.correlation["type"]
        if kind == "event_count":
            group.matches = group.matches[-self.wanted() - 2 :]
        elif kind in ("value_count", "temporal") and self.thin:
            for tag in {tag for match in group.matches for tag in self.tags(match)}:
                same = [match for match in group.matches if tag in self.tags(match)]
                for middle in range(len(same) - 2, 0, -1):
                    if same[middle + 1].at - same[middle - 1].at <= self.span:
                        self.untag(same.pop(middle), tag)
            group.matches = [match for match in group.matches if self.tags(match)]

    def tags(self, match: Match) -> set[str]:
        """Return what tells matches apart."""
        return match.values if self.correlation["type"] == "value_count" else match.rules

    def untag(self, match: Match, tag: str) -> None:
        """Forget one of the things that a match tells."""
        self.tags(match).discard(tag)

    def wanted(self) -> int:
        """Return the number of a plain condition."""
        condition = self.correlation.get("condition") or {"gte": len(self.names)}
        return int(next(value for key, value in condition.items() if key != "field"))

    def compare(self, count: int) -> bool:
        """Ask a plain condition."""
        condition = self.correlation.get("condition") or {"gte": len(self.names)}
        sign = next(key for key in condition if key != "field")
        wanted = self.wanted()
        answers = {
            "gte": count >= wanted,
            "gt": count > wanted,
            "lte": count <= wanted,
            "lt": count < wanted,
            "eq": count == wanted,
            "neq": count != wanted,
        }
        return answers[sign]

    def holds(self, window: list[Match], new: Match) -> bool:
        """Whether the condition holds for this window, which the new match is in."""
        kind, condition = self.correlation["type"], self.correlation.get("condition")
        if kind == "event_count":
            return self.compare(len(window))
        if kind == "value_count":
            return self.compare(len({value for match in window for value in match.values}))
        seen = {rule for match in window for rule in match.rules}
        if kind == "temporal":
            if isinstance(condition, str):
                return kleene(condition, seen, set(self.names) - seen) is True
            return self.compare(len(seen))
        return any(self.chained(window, last) for last in window if last.at == window[-1].at and not before(last, new))

    def chained(self, window: list[Match], last: Match) -> bool:
        """Whether rules follow one another in the window up to its last match, in the order of the list."""
        condition = self.correlation.get("condition")
        absent = set(self.names) - {rule for match in window for rule in match.rules}
        for count in range(1, len(self.names) + 1):
            for steps in itertools.combinations(self.names, count):
                if isinstance(condition, str):
                    asked = kleene(condition, set(steps), absent) is True
                else:
                    asked = count == self.wanted()
                if asked and any(chain[-1] is last for chain in chains(window, steps)):
                    return True
        return False

    def group(self, rule: str, event: Event) -> tuple[str, ...] | None:
        """Return the group of an event, None where a part of it is missing."""
        parts = [self.field(name, rule, event) for name in self.correlation.get("group-by", ())]
        return tuple(",".join(part) for part in parts) if all(parts) else None

    def values(self, rule: str, event: Event) -> set[str]:
        """Return the values that are counted; something where none are."""
        if self.correlation["type"] != "value_count":
            return {"one"}
        return set(self.field(self.correlation["condition"]["field"], rule, event))

    def field(self, name: str, rule: str, event: Event) -> list[str]:
        """Return the texts of a field, through its alias where it has one."""
        aliases = self.correlation.get("aliases", {})
        name = aliases[name].get(rule, "") if name in aliases else name
        value: Any = event
        for part in name.split("."):
            value = value.get(part, "") if isinstance(value, dict) else ""
        if isinstance(value, list):
            return [text for text in (value[-1:] if name == "sourceIPs" else value) if text]
        return [value] if value else []


def before(one: Match, other: Match) -> bool:
    """Whether a match stands before another one."""
    return (one.at, one.place) < (other.at, other.place)


def chains(window: list[Match], steps: tuple[str, ...]) -> Iterator[tuple[Match, ...]]:
    """Yield matches one after the other that take these steps; of those that end alike perhaps only one."""
    if not steps:
        yield ()
        return
    for index, match in enumerate(window):
        if steps[-1] in match.rules:
            for begun in itertools.islice(chains(window[:index], steps[:-1]), 1):
                yield (*begun, match)


def kleene(condition: str, true: set[str], false: set[str]) -> bool | None:
    """Evaluate a condition over rules of which some are known to have matched, some not to have."""

    def value(node: ast.expr) -> bool | None:
        match node:
            case ast.Name(name):
                return True if name in true else False if name in false else None
            case ast.UnaryOp(ast.Not(), part):
                known = value(part)
                return None if known is None else not known
            case ast.BoolOp(operation, parts):
                found = [value(part) for part in parts]
                decisive = isinstance(operation, ast.Or)
                return decisive if decisive in found else None if None in found else not decisive
            case _:
                raise ValueError(condition)

    return value(ast.parse(condition, mode="eval").body)
