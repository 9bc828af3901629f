"""How long each class of evidence is kept: what WORMConfig says, never under a floor, never over its cap. Pure."""

import datetime as dt
import enum
from typing import Final

import msgspec

from ugallu.api.duration import seconds_of
from ugallu.api.platform import RetentionConfig
from ugallu.errors import PermanentError


class Class(enum.StrEnum):
    """What is kept, by how long it is needed."""

    BUNDLE = "bundle"
    """Bundles, the bytes they attest, bare envelopes, and copies of collected objects."""
    FORENSICS_FS = "forensicsFs"
    FORENSICS_MEM = "forensicsMem"
    SUBJECT = "subjectTier2"
    AUDIT_CAPTURE = "auditCapture"
    APPLIED_POLICY = "appliedPolicy"
    TRUST = "trust"
    """Keys and roots: needed as long as anything that they verify."""


_DAY: Final = dt.timedelta(days=1)
YEAR: Final = 365 * _DAY
CAP: Final = 7 * YEAR
FLOOR: Final = 14 * _DAY
"""The longest window that events have by default, a week, and the grace of their bundles, another."""

_DEFAULTS: Final = {
    Class.BUNDLE: YEAR,
    Class.FORENSICS_FS: YEAR,
    Class.FORENSICS_MEM: YEAR,
    Class.SUBJECT: 90 * _DAY,
    Class.AUDIT_CAPTURE: YEAR,
    Class.APPLIED_POLICY: YEAR,
}


class Retention(msgspec.Struct, frozen=True):
    """The table. `notes` says in words where the config was not followed, for a condition."""

    spans: dict[Class, dt.timedelta]
    notes: tuple[str, ...] = ()

    def until(self, kind: Class, now: dt.datetime) -> dt.datetime:
        """Return the date to keep something to that is stored now; ttl renews it while what it belongs to stays."""
        return now + self.spans[kind]


def table(config: RetentionConfig) -> Retention:
    """Return the table for a config; raises `PermanentError` for what is no duration, or a cap below the floor."""
    notes: list[str] = []
    cap = _span(config.hard_cap_max, "hardCapMax", CAP)
    if cap < FLOOR:
        raise PermanentError(
            f"evidence is kept for {FLOOR.days} days at least",
            where="spec.retention.hardCapMax",
            fix="raise it, or leave it out for 7 years",
        )
    spans = {Class.TRUST: cap}
    for kind, default in _DEFAULTS.items():
        asked = _span(getattr(config, _field(kind)), kind, default)
        spans[kind] = min(max(asked, FLOOR), cap)
        if spans[kind] != asked and getattr(config, _field(kind)):
            bound = "at least" if asked < FLOOR else "at most"
            notes.append(f"spec.retention.{kind}: {bound} {spans[kind].days} days")
    return Retention(spans, tuple(notes))


def _span(text: str, name: str, default: dt.timedelta) -> dt.timedelta:
    # Zero once meant that nothing was locked; it means the default, as an absent one does.
    seconds = seconds_of(text, where=f"spec.retention.{name}") if text else 0.0
    try:
        return dt.timedelta(seconds=seconds) if seconds else default
    except OverflowError as error:
        raise PermanentError("too long", where=f"spec.retention.{name}") from error


def _field(kind: Class) -> str:
    return {
        Class.FORENSICS_FS: "forensics_fs",
        Class.FORENSICS_MEM: "forensics_mem",
        Class.SUBJECT: "subject_tier2",
        Class.AUDIT_CAPTURE: "audit_capture",
        Class.APPLIED_POLICY: "applied_policy",
    }.get(kind, str(kind))


DEFAULT_RETENTION: Final = table(RetentionConfig())
"""Where no config says otherwise."""
