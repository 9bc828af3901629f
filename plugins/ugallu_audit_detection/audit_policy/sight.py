"""What is left of an audit event at a level, and from which level on a rule sees what it looks for."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from ugallu.sdk import AuditRecord
from ugallu_audit_detection.arming import Armed
from ugallu_audit_detection.audit_policy.document import LEVELS, AuditPolicy, Decision, Level, decide, rank, request_of

_BODIES: Final = {"Metadata": ("requestObject", "responseObject"), "Request": ("responseObject",)}
_decode = msgspec.json.Decoder(AuditRecord).decode
Event = dict[str, Any]
"""An audit event as JSON has it."""


def record_of(event: Event) -> AuditRecord:
    """Return the event as detectors take it."""
    return _decode(msgspec.json.encode({key: value for key, value in event.items() if value is not None}))


def seen_at(event: Event, level: str) -> Event | None:
    """Return what an API server writes of the event at this level, at most as much as is there; None at level None."""
    if level == "None":
        return None
    lost = _BODIES.get(level, ())
    own = event.get("level")
    shown = level if own is None or rank(level) < rank(own) else own
    return {**{key: value for key, value in event.items() if key not in lost}, "level": shown}


def seen_under(policy: AuditPolicy, event: Event) -> Event | None:
    """Return what is left of an event under a policy; None when it is not written."""
    found = decide(policy, request_of(record_of(event)))
    return shown_by(found, event)


def shown_by(found: Decision, event: Event) -> Event | None:
    """Return what a decision leaves of an event."""
    if not found.shows(str(event.get("stage") or "ResponseComplete")):
        return None
    return seen_at(event, found.level)


def hits(armed: Armed, event: Event | None, before: Sequence[Event] = ()) -> bool:
    """Whether a rule reports the event, if there is one."""
    return event is not None and armed.says(record_of(event), [record_of(one) for one in before])


def level_for(armed: Armed, event: Event, before: Sequence[Event] = ()) -> Level | None:
    """Return the lowest level at which the rule still reports an event that it reports; None when it does not."""
    for level in LEVELS[1:]:
        if hits(armed, seen_at(event, level), before):
            return level
    return None
