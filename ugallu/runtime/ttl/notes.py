"""What is written on an object about its end: the annotations that people set, and those that ttl leaves. Pure."""

import datetime as dt
from collections.abc import Mapping
from typing import Final

import msgspec

from ugallu.api.duration import seconds_of
from ugallu.errors import PermanentError

TTL: Final = "ugallu.io/ttl"
"""Replaces the window (of a bundle: its grace)."""
FROZEN: Final = "ugallu.io/ttl-frozen"
"""`true`: a legal hold, on the whole family."""
POSTPONE: Final = "ugallu.io/ttl-postpone-until"
"""RFC 3339; nothing happens before. Set by people, and after a try in vain."""
FORCE: Final = "ugallu.io/ttl-force"
"""`true`: goes without sealed evidence; an admission policy says who may set it."""
ATTEMPTS: Final = "ugallu.io/ttl-archive-attempts"
"""Tries in vain so far."""
REASON: Final = "ugallu.io/ttl-reason"
"""Why an object that has had its time is still there."""
ARCHIVED_AT: Final = "ugallu.io/ttl-archived-at"
SNAPSHOT: Final = "ugallu.io/ttl-snapshot"
"""The key of the object's copy in the evidence store."""
PARENT_SEVERITY: Final = "ugallu.io/ttl-parent-severity"
PARENT_CLUSTER: Final = "ugallu.io/cluster-id"
PARENT_ENDED: Final = "ugallu.io/ttl-parent-ended-at"
"""On a bundle: when what it attests went; its grace counts from then."""
PARENT_SNAPSHOT: Final = "ugallu.io/ttl-parent-snapshot"
STORE_HELD: Final = "ugallu.io/ttl-store-held"
"""On a bundle, `true`: its family's blobs are under legal hold in the store."""

BOOKKEEPING: Final = frozenset({
    ATTEMPTS, REASON, ARCHIVED_AT, SNAPSHOT, PARENT_SEVERITY, PARENT_CLUSTER, PARENT_ENDED, PARENT_SNAPSHOT, STORE_HELD,
})  # fmt: skip
"""What ttl alone writes, and a snapshot leaves out: it changes while the snapshot is being taken."""


class Notes(msgspec.Struct, frozen=True):
    """The annotations of one object, as far as they can be read; one that cannot says nothing."""

    ttl: float | None = None
    frozen: bool = False
    postponed: dt.datetime | None = None
    force: bool = False
    attempts: int = 0
    reason: str = ""
    archived_at: dt.datetime | None = None
    snapshot: str = ""


def read(annotations: Mapping[str, str]) -> Notes:
    """Read what an object says; a value that makes no sense is as if it were not there."""
    if not annotations:
        return Notes()
    attempts = annotations.get(ATTEMPTS, "")
    return Notes(
        ttl=_seconds(annotations.get(TTL, "")),
        frozen=annotations.get(FROZEN) == "true",
        postponed=moment(annotations.get(POSTPONE, "")),
        force=annotations.get(FORCE) == "true",
        attempts=int(attempts) if attempts.isascii() and attempts.isdigit() and len(attempts) < 10 else 0,
        reason=annotations.get(REASON, ""),
        archived_at=moment(annotations.get(ARCHIVED_AT, "")),
        snapshot=annotations.get(SNAPSHOT, ""),
    )


def moment(text: str) -> dt.datetime | None:
    """Return a time of RFC 3339 with its zone, None for what is none."""
    try:
        found = msgspec.convert(text, dt.datetime)
        return found.astimezone(dt.UTC) if found.tzinfo is not None else None
    except (msgspec.ValidationError, OverflowError, ValueError):
        return None


def written(moment: dt.datetime) -> str:
    """Return a time as annotations carry it: RFC 3339, UTC, seconds."""
    return f"{moment.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _seconds(text: str) -> float | None:
    try:
        return seconds_of(text) or None
    except PermanentError:
        return None
