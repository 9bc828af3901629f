"""The smallest audit policy under which these rules see what they look for."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from ugallu_audit_detection.arming import RECEIVED, Armed
from ugallu_audit_detection.audit_policy.coverage import (
    LEARNS,
    OTHERS,
    VERBS,
    Sort,
    learned,
    looked_at,
    needed,
    sorts,
)
from ugallu_audit_detection.audit_policy.document import LEVELS, AuditPolicy, GroupResources, Level, PolicyRule, rank

CAPS: Final[dict[tuple[str, str, str], Level]] = {
    ("", "secrets", ""): "Metadata",
    ("", "configmaps", ""): "Metadata",
    ("authentication.k8s.io", "tokenreviews", ""): "Metadata",
    ("", "serviceaccounts", "token"): "Request",
}
"""Above these levels an API server writes secrets to its log, which no rule is worth."""

NOISE: Final = (
    PolicyRule("None", users=("system:kube-proxy",), verbs=("watch",), resources=(
        GroupResources("", ("endpoints", "services")), GroupResources("discovery.k8s.io", ("endpointslices",)))),
    PolicyRule("None", user_groups=("system:nodes",), verbs=("get",), resources=(
        GroupResources("", ("nodes", "nodes/status")),)),
    PolicyRule("None", user_groups=("system:nodes",), resources=(
        GroupResources("coordination.k8s.io", ("leases",)),)),
    PolicyRule("None", users=("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler"),
               resources=(GroupResources("coordination.k8s.io", ("leases",)),)),
    PolicyRule("None", verbs=("create", "patch"), resources=(
        GroupResources("", ("events",)), GroupResources("events.k8s.io", ("events",)))),
)  # fmt: skip
"""What every cluster does thousands of times an hour; left out unless one of the rules looks at it."""


DEEPEST_FIRST: Final = LEVELS[:0:-1]


class Wanted(NamedTuple):
    """The policy, and what the rules would like to see beyond it."""

    policy: AuditPolicy
    beyond: tuple[str, ...]


def smallest(rules: Sequence[Armed]) -> Wanted:
    """Return the policy for these rules; those that are off count as well: whoever asks has chosen them."""
    levels: dict[Sort, Level] = {}
    beyond: list[str] = []
    for armed in rules:
        need = needed(armed)
        asked = [(sort, need.of(sort)) for sort in sorts(armed)] + [(sort, LEARNS) for sort in learned(armed)]
        for sort, level in asked:
            cap = CAPS.get((sort.group, sort.resource, sort.subresource))
            if cap is not None and rank(cap) < rank(level):
                beyond.append(f"{armed.name}: {sort} at {level}, which would write secrets to the log; it gets {cap}")
            given = level if cap is None else min(level, cap, key=rank)
            if rank(given) > rank(levels.get(sort, "None")):
                levels[sort] = given
    named = {sort: level for sort, level in levels.items() if sort.resource != OTHERS and sort.resource}
    rest = {sort: level for sort, level in levels.items() if sort not in named}
    early = any(RECEIVED in (armed.compiled.needs.stages or ()) for armed in rules)
    made = [*_quiet(rules, named), *_rules(named, rest), *_catch_all(rest)]
    return Wanted(
        AuditPolicy(omit_stages=() if early else ("RequestReceived",), omit_managed_fields=True, rules=tuple(made)),
        tuple(dict.fromkeys(beyond)),
    )


def _quiet(rules: Sequence[Armed], named: Iterable[Sort]) -> Iterator[PolicyRule]:
    """Yield the noise that no rule looks at; only what would be written otherwise."""
    asked = {(sort.group, sort.resource) for sort in named}
    for noise in NOISE:
        about = {(entry.group, name.partition("/")[0]) for entry in noise.resources for name in entry.resources}
        if not about & asked and not any(looked_at(noise, sort, armed) for sort in _sorts(noise) for armed in rules):
            yield noise


def _sorts(noise: PolicyRule) -> Iterator[Sort]:
    for entry in noise.resources:
        for name in entry.resources:
            resource, _, sub = name.partition("/")
            yield from (Sort(verb, entry.group, resource, sub) for verb in noise.verbs or VERBS)


def _rules(named: dict[Sort, Level], rest: dict[Sort, Level]) -> Iterator[PolicyRule]:
    """Yield rules from the deepest level down: the first that matches decides."""
    floor = _floor(rest)
    by_level: dict[Level, dict[tuple[str, ...], set[tuple[str, str]]]] = {level: defaultdict(set) for level in LEVELS}
    verbs: dict[tuple[Level, str, str], set[str]] = defaultdict(set)
    for sort, level in named.items():
        if rank(level) > rank(floor.get(sort.verb, "None")) or _capped(sort, floor):
            verbs[level, sort.group, _whole(sort)].add(sort.verb)
    for (level, group, name), asked in verbs.items():
        known = [verb for verb in VERBS if verb in asked]
        by_level[level][*known, *sorted(asked - set(VERBS))].add((group, name))
    for level in DEEPEST_FIRST:
        for asked_verbs, places in sorted(by_level[level].items()):
            groups: dict[str, list[str]] = defaultdict(list)
            for group, name in sorted(places):
                groups[group].append(name)
            entries = tuple(GroupResources(group, tuple(names)) for group, names in groups.items())
            yield PolicyRule(level, verbs=() if asked_verbs == VERBS else asked_verbs, resources=entries)


def _capped(sort: Sort, floor: dict[str, Level]) -> bool:
    """Whether what stands below for everything would show more of it than it may."""
    cap = CAPS.get((sort.group, sort.resource, sort.subresource))
    return cap is not None and rank(floor.get(sort.verb, "None")) > rank(cap)


def _floor(rest: dict[Sort, Level]) -> dict[str, Level]:
    floor: dict[str, Level] = {}
    for sort, level in rest.items():
        if sort.resource == OTHERS and sort.group == OTHERS and rank(level) > rank(floor.get(sort.verb, "None")):
            floor[sort.verb] = level
    return floor


def _catch_all(rest: dict[Sort, Level]) -> Iterator[PolicyRule]:
    """Yield what is asked of a whole API group, then what is asked of requests whatever they are about."""
    floor = _floor(rest)
    for group in sorted({sort.group for sort in rest if sort.resource == OTHERS and sort.group != OTHERS}):
        verbs = {sort.verb for sort in rest if sort.group == group and floor.get(sort.verb, "None") == "None"}
        if verbs:
            yield PolicyRule("Metadata", verbs=tuple(sorted(verbs)), resources=(GroupResources(group),))
    for level in DEEPEST_FIRST:
        asked = tuple(verb for verb in (*VERBS, *sorted(set(floor) - set(VERBS))) if floor.get(verb) == level)
        if asked:
            if rank(level) > rank("Metadata"):
                yield from _kept_low()
            every = set(VERBS) <= set(asked) and any(not sort.resource for sort in rest)
            yield PolicyRule(level, verbs=() if every else asked)


def _kept_low() -> Iterator[PolicyRule]:
    for (group, resource, sub), level in CAPS.items():
        name = f"{resource}/{sub}" if sub else resource
        yield PolicyRule(level, resources=(GroupResources(group, (name,)),))


def _whole(sort: Sort) -> str:
    return f"{sort.resource}/{sort.subresource}" if sort.subresource else sort.resource
