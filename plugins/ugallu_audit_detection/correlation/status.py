"""What the status of a rule says about its links with others."""

from collections.abc import Sequence
from typing import Final

from ugallu.sdk import Condition
from ugallu_audit_detection.arming import Armed
from ugallu_audit_detection.correlation.correlator import TEST_FAILED, Correlator
from ugallu_audit_detection.correlation.groups import MAX_GROUPS
from ugallu_audit_detection.correlation.links import Trouble
from ugallu_audit_detection.sigma.names import is_linked

RECENTLY: Final = 3600.0
"""Seconds of event time that a forgotten group is talked about."""
_SHOWN: Final = 8


def with_links(
    said: Sequence[Condition], armed: Armed | None, correlator: Correlator, now: float = 0.0
) -> list[Condition]:
    """Return the conditions of a rule, with what its links change about them and add to them.

    `now` is in seconds since the epoch.
    """
    if armed is None:
        return list(said)
    links = correlator.links
    if not is_linked(armed.spec.sigma):
        correlation = links.silent.get(armed.name)
        if correlation is None:
            return list(said)
        message = f"it counts in {correlation}, which says generate: false, and reports nothing itself"
        return [*said, _condition("OnlyCounted", "True", "GenerateFalse", message)]
    trouble = links.troubles.get(armed.name) if armed.spec.enabled else None
    changed = []
    for one in said:
        if one.type == "Tested" and armed.spec.tests and one.status != "False":
            changed.append(_tested(armed, trouble))
        elif one.type == "Serving" and trouble is not None and armed.name not in links.bases:
            changed.append(_condition("Serving", "False", trouble.reason, trouble.message))
        elif one.type != "NeverMatches":  # no event matches it by itself
            changed.append(one)
    if armed.spec.enabled:
        changed.append(_linked(links.bases.get(armed.name, ()), trouble))
    return [*changed, *_windows(armed, correlator), *_promises(armed, correlator, now)]


def _linked(rules: Sequence[str], trouble: Trouble | None) -> Condition:
    if trouble is not None:
        return _condition("Linked", "False", trouble.reason, trouble.message)
    more = f" and {len(rules) - _SHOWN} more" if len(rules) > _SHOWN else ""
    return _condition("Linked", "True", "Linked", f"{', '.join(rules[:_SHOWN])}{more}")


def _tested(armed: Armed, trouble: Trouble | None) -> Condition:
    if trouble is None:
        count = len(armed.spec.tests)
        return _condition("Tested", "True", "Passed", f"{count} of {count} tests pass")
    if trouble.reason == TEST_FAILED:
        return _condition("Tested", "False", TEST_FAILED, trouble.message)
    return _condition("Tested", "Unknown", "NotLinked", "the tests wait for the rules that it counts")


def _promises(armed: Armed, correlator: Correlator, now: float) -> list[Condition]:
    """What is odd about a filter as a promise, told as of an exception."""
    own = correlator.filter(armed.name)
    if own is None:
        return []
    who = f"owner {own.promise.owner}" if own.promise.owner else "custom.ugallu names no owner"
    if own.promise.expires is None:
        return [_condition("ExceptionWithoutExpiry", "True", "NoExpiry", f"suppresses for ever: this filter ({who})")]
    if now >= own.until:
        return [_condition("ExceptionExpired", "True", "Expired", f"suppresses no more: this filter ({who})")]
    return []


def _windows(armed: Armed, correlator: Correlator) -> list[Condition]:
    found = []
    plan, groups = correlator.plan(armed.name), correlator.groups(armed.name)
    if plan is not None and plan.cut:
        found.append(_condition("WindowCut", "True", "TooLong", f"of {plan.timespan} it sees the last 24 hours"))
    if groups is not None and groups.newest - groups.evicted_at < RECENTLY:
        message = f"{groups.evicted} groups forgotten for want of room: at most {MAX_GROUPS}, and so many bytes for all"
        found.append(_condition("GroupsForgotten", "True", "NoRoom", message))
    return found


def _condition(kind: str, status: str, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message[:1024])
