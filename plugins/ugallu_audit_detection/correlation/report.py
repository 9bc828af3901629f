"""What the event of a correlation says: the group, how much was seen of it, and where to begin reading the log."""

import datetime as dt
from typing import Final

import msgspec

from ugallu_audit_detection.correlation.correlator import Correlated
from ugallu_audit_detection.correlation.windows import audit_id_of
from ugallu_audit_detection.memory import digest
from ugallu_audit_detection.signals import shown

MAX_TEXT: Final = 384
_MAX_PART: Final = 256


def signals_of(proven: Correlated) -> dict[str, str]:
    """Return the signals beside those of the event that completed it."""
    plan, crossing = proven.plan, proven.crossing
    # Value by value, or an alias called `token` would have them all redacted.
    group = ", ".join(
        f"{name}={shown(value, MAX_TEXT)}" for name, value in zip(plan.group_by, proven.group, strict=True)
    )
    since = dt.datetime.fromtimestamp(crossing.since, dt.UTC)
    return {
        "correlation.count": f"{crossing.size}{'+' if crossing.more else ''}",
        "correlation.first": audit_id_of(crossing.first),
        "correlation.group": _cut(group) or "all",
        "correlation.last": audit_id_of(crossing.last),
        "correlation.since": since.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "correlation.timespan": plan.timespan,
    }


def _cut(text: str) -> str:
    return text.encode()[:MAX_TEXT].decode(errors="ignore")


def group_key(proven: Correlated) -> str:
    """Return what makes this fact this fact: the correlation and the group that it holds for."""
    parts = (value if len(value) <= _MAX_PART else digest(value).hex() for value in proven.group)
    return msgspec.json.encode((proven.armed.name, *parts)).decode()
