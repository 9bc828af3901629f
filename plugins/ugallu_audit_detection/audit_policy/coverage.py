"""Which rules can fire under an audit policy: all of what they look for, a part of it, or nothing.

Two witnesses: the rule's own tests, whose events are cut down to what the policy lets through and asked again; and the
requests that the rule is about, each held against the policy. A rule may also learn from requests that it is not about:
what an object was before, which Pod is entered, which rights are behind somebody.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from ugallu_audit_detection.arming import Armed
from ugallu_audit_detection.audit_policy.document import (
    AuditPolicy,
    Level,
    PolicyRule,
    Request,
    asks_for,
    conditional,
    decision,
    level_named,
    rank,
)
from ugallu_audit_detection.audit_policy.places import exists, homes, parts
from ugallu_audit_detection.audit_policy.sight import Event, hits, level_for, seen_under
from ugallu_audit_detection.sigma.questions import Of

Verdict = Literal["can", "partly", "cannot", "unseen"]
"""`unseen` is what a recording says of a rule when it shows nothing of the kind."""
VERBS: Final = ("create", "update", "patch", "delete", "deletecollection", "get", "list", "watch")
OTHERS: Final = "(others)"
"""Stands for resources that neither rule nor policy names."""
_LIVE: Final = frozenset({"exec", "attach", "portforward", "proxy"})
_MOST: Final = 20_000
"""Requests that are held against a policy for one rule: what a rule of many lists is cut to."""
LEARNS: Final[Level] = "Request"
"""The level at which a write tells what is remembered of its object."""
_WRITES: Final = ("create", "update", "patch")


class Sort(NamedTuple):
    """A sort of requests; an empty resource is a URL of no object."""

    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        if not self.resource:
            return f"{self.verb} other URLs"
        name = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        return f"{self.verb} {name}.{self.group}" if self.group else f"{self.verb} {name}"


class Gap(NamedTuple):
    """Something that a rule does not see: of which requests, at which level they are written, what it would take."""

    sort: str
    has: str
    needs: str
    who: str = ""
    """Whose requests alone; empty: everybody's."""
    learns: bool = False
    """Whether it is not about these requests, but knows from them what it asks beyond its event."""


class Coverage(NamedTuple):
    """What a policy leaves of a rule."""

    rule: str
    verdict: Verdict
    needs: str
    """The level at which it sees everything that it looks for."""
    gaps: tuple[Gap, ...]
    tests: tuple[str, ...]
    """Names of its own tests that it would miss."""


class Needed(NamedTuple):
    """The level that a rule needs, by what a request brings along."""

    body: Level
    """Of writes, which send the object."""
    bare: Level
    """Of what only reads or connects; above Metadata where somebody's API server records bodies there, too."""

    def of(self, sort: Sort) -> Level:
        """Return the level for one sort of requests."""
        return self.body if _sends(sort) else self.bare

    def deepest(self, sorts: Iterable[Sort]) -> Level:
        """Return the level that the most demanding of these sorts needs."""
        return max(map(self.of, sorts), key=rank, default="Metadata")


def needed(armed: Armed) -> Needed:
    """Return the levels at which all that the rule's tests expect is seen; without any, what its conditions look at."""
    found: dict[bool, list[Level]] = {True: [], False: []}
    for test in armed.spec.tests:
        level = level_for(armed, test.event, test.before) if test.expect == "hit" else None
        if level is not None:
            ref = test.event.get("objectRef") or {}
            verb, sub = str(test.event.get("verb") or ""), str(ref.get("subresource") or "")
            found[_sends(Sort(verb, subresource=sub))].append(level)
    looked = level_named(armed.compiled.needs.level)
    return Needed(max(found[True] or [looked], key=rank), max(found[False] or ["Metadata"], key=rank))


def _sends(sort: Sort) -> bool:
    return sort.verb in _WRITES and sort.subresource not in _LIVE


def coverage(armed: Armed, policy: AuditPolicy) -> Coverage:
    """Return what the rule can see under the policy."""
    need = needed(armed)
    tests = [test for test in armed.spec.tests if test.expect == "hit" and hits(armed, test.event, test.before)]
    missed = tuple(
        test.name
        for test in tests
        if not hits(armed, seen_under(policy, test.event), [*_remembered(armed, policy, test.before)])
    )
    asked = tuple(sorts(armed, policy.rules))
    gaps = list(dict.fromkeys(gap for sort in asked for gap in _gaps(armed, policy, sort, need)))
    blind = sum(1 for gap in gaps if not gap.who and gap.has == "None")
    gaps += (gap for sort in learned(armed) for gap in _unlearned(policy, sort))
    verdict: Verdict = "partly"
    if not gaps and not missed:
        verdict = "can"
    elif (tests and len(missed) == len(tests)) or (not tests and blind >= len(asked)):
        verdict = "cannot"
    return Coverage(armed.name, verdict, need.deepest(asked), tuple(gaps), missed)


def sorts(armed: Armed, policy: Sequence[PolicyRule] = ()) -> Iterator[Sort]:
    """Yield the sorts of requests that a rule is about; where it names no resource, those that the policy names."""
    asked = armed.compiled.dispatch
    verbs = sorted(asked.verbs) if asked.verbs is not None else VERBS
    if asked.resources is None:
        places = {(group, name, sub) for group, name, sub in _named(policy) if _fits(armed, group, sub)}
        places |= {(group, OTHERS, "") for group in asked.groups or (OTHERS,)}
        if asked.groups is None and not asked.subresources:
            places.add(("", "", ""))
    else:
        places = {
            (group, resource, sub)
            for resource in asked.resources
            for group in (asked.groups if asked.groups is not None else homes(resource) or _groups(armed))
            for sub in (asked.subresources if asked.subresources is not None else parts(resource))
        }
    made = (Sort(verb, *place) for verb in verbs for place in sorted(places) if exists(verb, *place))
    yield from itertools.islice(made, _MOST)


def learned(armed: Armed) -> Iterator[Sort]:
    """Yield the writes from which the rule knows what it asks beyond its event."""
    compiled = armed.compiled
    places = set(compiled.remembers)
    if any(asked.of is Of.OBJECT for asked in compiled.asks):
        places |= {(sort.group, sort.resource) for sort in sorts(armed)}
    yield from (Sort(verb, *place) for place in sorted(places) for verb in _WRITES if exists(verb, *place, ""))


def _remembered(armed: Armed, policy: AuditPolicy, before: Sequence[Event]) -> Iterator[Event]:
    """Yield what a policy leaves of the events before one. Pods and rights a live process reads from the cluster."""
    for event in before:
        ref = event.get("objectRef") or {}
        if (str(ref.get("apiGroup") or ""), str(ref.get("resource") or "")) in armed.compiled.remembers:
            yield event
        elif (shown := seen_under(policy, event)) is not None:
            yield shown


def _fits(armed: Armed, group: str, subresource: str) -> bool:
    asked = armed.compiled.dispatch
    return (asked.groups is None or group in asked.groups) and (
        asked.subresources is None or subresource in asked.subresources
    )


def _named(policy: Sequence[PolicyRule]) -> Iterator[tuple[str, str, str]]:
    for rule in policy:
        for entry in rule.resources:
            for name in entry.resources or (OTHERS,):
                resource, _, sub = name.partition("/")
                yield entry.group, OTHERS if resource == "*" else resource, "" if sub == "*" else sub


def _groups(armed: Armed) -> frozenset[str]:
    """Return the API groups of the rule's tests: a rule that names resources only means those."""
    refs = [test.event.get("objectRef") or {} for test in armed.spec.tests]
    return frozenset(str(ref.get("apiGroup") or "") for ref in refs) or frozenset({""})


def _gaps(armed: Armed, policy: AuditPolicy, sort: Sort, need: Needed) -> Iterator[Gap]:
    """Yield what the rule misses of one sort of requests: for some callers first, then for everybody else."""
    stages = armed.compiled.needs.stages or frozenset({"ResponseStarted" if _lives(sort) else "ResponseComplete"})
    return _missing(policy, sort, need.of(sort), stages, lambda rule: looked_at(rule, sort, armed))


def _unlearned(policy: AuditPolicy, sort: Sort) -> Iterator[Gap]:
    """Yield whose writes of this sort teach nothing: anybody's may make what is asked for later."""
    found = _missing(policy, sort, LEARNS, frozenset({"ResponseComplete"}), lambda _: True)
    return (gap._replace(learns=True) for gap in found)


def _missing(
    policy: AuditPolicy, sort: Sort, level: Level, stages: frozenset[str], matters: Callable[[PolicyRule], bool]
) -> Iterator[Gap]:
    """Yield where one sort of requests is written below a level; `matters`: whether what some rule hides counts."""
    request = Request(sort.verb, sort.group, sort.resource, sort.subresource)
    for number, rule in enumerate(policy.rules):
        some = conditional(rule)
        if not asks_for(_widened(rule) if some else rule, request):
            continue
        found = decision(policy, number)
        if some and rule.level == "None" and not matters(rule):
            continue
        who = _who(rule) if some else ""
        if rank(found.level) < rank(level):
            yield Gap(str(sort), found.level, level, who)
        elif not any(found.shows(stage) for stage in stages):
            yield Gap(str(sort), f"{found.level} without {', '.join(sorted(stages))}", level, who)
        if not some:
            return
    yield Gap(str(sort), "None", level)


def looked_at(rule: PolicyRule, sort: Sort, armed: Armed) -> bool:
    """Whether a request of this sort, by those whom a policy rule names, granted or refused, can be one for the rule.

    Asked without bodies and without impersonation; a rule of the policy that names nobody is always looked at.
    """
    if not (rule.users or rule.user_groups):
        return True
    for user in rule.users or ("system:node:worker",):
        for code in (200, 403):
            event = {
                "level": "Metadata",
                "stage": "ResponseStarted" if _lives(sort) else "ResponseComplete",
                "verb": sort.verb,
                "user": {"username": user, "groups": [*rule.user_groups, "system:authenticated"]},
                "objectRef": {
                    "apiGroup": sort.group, "resource": sort.resource, "subresource": sort.subresource, "name": "x",
                },
                "responseStatus": {"code": code},
            }  # fmt: skip
            if hits(armed, event):
                return True
    return False


def _lives(sort: Sort) -> bool:
    return sort.verb == "watch" or sort.subresource in _LIVE


def _widened(rule: PolicyRule) -> PolicyRule:
    """Return the rule for whoever calls, in whatever namespace, for objects of whatever name."""
    resources = tuple(msgspec.structs.replace(entry, resource_names=()) for entry in rule.resources)
    return msgspec.structs.replace(rule, users=(), user_groups=(), namespaces=(), resources=resources)


def _who(rule: PolicyRule) -> str:
    named = {
        "user": rule.users,
        "group": rule.user_groups,
        "namespace": rule.namespaces,
        "name": tuple(name for entry in rule.resources for name in entry.resource_names),
    }
    return "; ".join(f"{what} {', '.join(values)}" for what, values in named.items() if values)
