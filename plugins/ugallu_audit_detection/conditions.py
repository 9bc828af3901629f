"""What the status of a SigmaRule says: a condition for each thing that a person should know, and none for the rest."""

import datetime as dt
from collections.abc import Mapping

from ugallu.sdk import Condition, RuleException, SigmaRuleSpec
from ugallu_audit_detection.arming import Armed
from ugallu_audit_detection.exceptions import DAY, UNUSED, WIDER, Hidden
from ugallu_audit_detection.levels import WRITES, Levels
from ugallu_audit_detection.sigma.budget import PAUSE, SLOW, Overruns
from ugallu_audit_detection.sigma.errors import RuleError

MAX_MESSAGE = 1024


def compiled(error: RuleError | None, serving: str) -> Condition:
    """Whether this version of the rule compiles."""
    if error is None:
        return _condition("Compiled", holds=True, reason="Compiled", message="")
    return _condition("Compiled", holds=False, reason=str(error.reason), message=f"{error}; {serving}")


def tested(armed: Armed | None, wrong: str) -> Condition:
    """Whether the rule's own tests pass."""
    if armed is None:
        return _condition("Tested", holds=None, reason="NotCompiled", message="the tests did not run")
    count = len(armed.spec.tests)
    if wrong:
        return _condition("Tested", holds=False, reason="TestFailed", message=wrong)
    if not count:
        return _condition("Tested", holds=None, reason="NoTests", message="the rule carries no tests")
    return _condition("Tested", holds=True, reason="Passed", message=f"{count} of {count} tests pass")


def serving(spec: SigmaRuleSpec, *, good: bool, last_good: bool) -> Condition:
    """Whether some version of the rule looks at events."""
    if not spec.enabled:
        return _condition("Serving", holds=False, reason="Disabled", message="enabled is false")
    if good:
        return _condition("Serving", holds=True, reason="Armed", message="")
    if last_good:
        return _condition(
            "Serving",
            holds=True,
            reason="LastGoodVersion",
            message="an earlier version serves until this is mended",
        )
    return _condition("Serving", holds=False, reason="NotArmed", message="no version of this rule serves")


def remarks(
    armed: Armed,
    levels: Levels,
    now: dt.datetime,
    *,
    slow: Overruns | None = None,
    hidden: Mapping[str, Hidden] | None = None,
    event_time: float | None = None,
    unseen: Mapping[str, int] | None = None,
) -> list[Condition]:
    """What is odd about a rule that compiles: each condition stands here only while it is true."""
    found = []
    rule = armed.compiled
    if rule.matches_everything:
        found.append(_remark("MatchesEverything", "NoCondition", "every audit event matches this rule"))
    if rule.never_matches:
        found.append(
            _remark("NeverMatches", "Contradiction", "the conditions contradict each other: no event can match")
        )
    if unknown := _unknown(rule.unknown_fields, unseen or {}):
        found.append(unknown)
    if slow is not None:
        found.append(_too_slow(slow))
    blind = _blind(armed, levels)
    if blind:
        needed = rule.needs.level if rule.needs.level != "Metadata" else "Request"
        found.append(
            _remark(
                "NeedsLevel",
                "OnlyMetadataSeen",
                f"the rule looks into bodies, but an hour of {', '.join(blind)} had none: audit them at {needed}",
            )
        )
    expired = [one.exception for one in armed.exempt if now.timestamp() >= one.until]
    if expired:
        found.append(_remark("ExceptionExpired", "Expired", f"suppresses no more: {_names(expired)}"))
    endless = [one.exception for one in armed.exempt if one.exception.expires is None]
    if endless:
        found.append(_remark("ExceptionWithoutExpiry", "NoExpiry", f"suppresses for ever: {_names(endless)}"))
    return found + _exceptions(armed, hidden or {}, event_time)


def _exceptions(armed: Armed, hidden: Mapping[str, Hidden], now: float | None) -> list[Condition]:
    """What is odd about exceptions in force; `now` is the newest event's time, None before there was one."""
    found = []
    ignored = [one.exception for one in armed.exempt if not armed.applies(one)]
    if ignored:
        text = f"hides no critical finding without includeCritical: {_names(ignored)}"
        found.append(_remark("ExceptionIgnored", "Critical", text))
    if now is None:
        return found
    in_force = [
        (_named(one.exception), kept)
        for one in armed.exempt
        if now < one.until and (kept := hidden.get(one.exception.name))
    ]
    if armed.name in hidden:
        in_force.append((f"this filter, {armed.name}", hidden[armed.name]))
    unused = [name for name, kept in in_force if kept.idle_for(now) >= UNUSED]
    if unused:
        text = f"has hidden nothing for {int(UNUSED // DAY)} days: {'; '.join(unused)}"
        found.append(_remark("ExceptionUnused", "Unused", text))
    wider = [name for name, kept in in_force if kept.wider(now)]
    if wider:
        text = f"suddenly hides {WIDER} subjects or more that it never hid before: {'; '.join(wider)}"
        found.append(_remark("ExceptionWider", "NewSubjects", text))
    return found


def _unknown(never: tuple[str, ...], unseen: Mapping[str, int]) -> Condition | None:
    """Fields that no audit event has, and those that had no value in an hour of this cluster's events."""
    texts = [f"no audit event has: {', '.join(never)}"] if never else []
    if unseen:
        told = ", ".join(f"{name} ({looks} events)" for name, looks in sorted(unseen.items()))
        texts.append(f"looked for in vain for an hour: {told}")
    if not texts:
        return None
    return _remark("UnknownField", "NotAnAuditField" if never else "NeverSeen", "; ".join(texts))


def _too_slow(slow: Overruns) -> Condition:
    cost = f"{SLOW} events or more took it 5 ms each"
    if slow.since is None:
        return _remark("TooSlow", "OverBudget", f"{cost}; it goes on serving")
    until = dt.datetime.fromtimestamp(slow.since + PAUSE, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return _remark(
        "TooSlow",
        "HeldBack",
        f"{cost}: until {until} it is not shown events of {slow.weight} bytes and more, {slow.passed} so far",
    )


def _blind(armed: Armed, levels: Levels) -> list[str]:
    """Name the resources whose writes come without the bodies that the rule looks into or learns from."""
    needs, dispatch = armed.compiled.needs, armed.compiled.dispatch
    found: set[tuple[str, str]] = set()
    if needs.level != "Metadata" and (dispatch.verbs is None or dispatch.verbs & WRITES):
        found |= set(levels.bodiless(dispatch.groups, dispatch.resources))
    for group, plural in armed.compiled.remembers:
        found |= set(levels.bodiless(frozenset((group,)), frozenset((plural,))))
    return [f"{plural}.{group}".rstrip(".") for group, plural in sorted(found)]


def _names(exceptions: list[RuleException]) -> str:
    return "; ".join(map(_named, exceptions))


def _named(exception: RuleException) -> str:
    return f"{exception.name} (owner {exception.owner})"


def _remark(kind: str, reason: str, message: str) -> Condition:
    return _condition(kind, holds=True, reason=reason, message=message)


def _condition(kind: str, *, holds: bool | None, reason: str, message: str) -> Condition:
    status = "Unknown" if holds is None else "True" if holds else "False"
    return Condition(type=kind, status=status, reason=reason, message=message[:MAX_MESSAGE])
