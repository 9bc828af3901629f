"""Whether the attestor does its work: three signs, each judged by itself. Pure.

A Lease that is renewed says that a process is there, not that anything is sealed; so the age of the oldest bundle and
the share of failures count as well.
"""

import datetime as dt
import enum
from typing import Final

import msgspec

STALE: Final = 300.0
"""Seconds without a change of the Lease."""
OLDEST: Final = 900.0
"""Age in seconds of a bundle that is not sealed."""
FAILED_SHARE: Final = 0.5
FEW: Final = 5
"""So many failed bundles are needed before a share of them says anything."""
REMINDER: Final = 3600.0
"""Seconds after which an outage that lasts is told of again."""


class Sign(enum.StrEnum):
    """What shows that the attestor is not at work."""

    LEASE = "lease"
    BACKLOG = "backlog"
    FAILURES = "failures"


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What can be seen of the attestor."""

    lease: str
    """What the Lease said last, in words that change with each renewal; empty: there is none."""
    lease_age: float
    """For how many seconds it has said so, by our own clock."""
    oldest: dt.datetime | None
    """When the oldest bundle that is not sealed was created."""
    pending: int
    failed: int


class Outage(msgspec.Struct, frozen=True):
    """Why the attestor counts as unavailable. `since` is what it is told by: equal after a restart of ours."""

    sign: Sign
    since: dt.datetime
    message: str


def outage(seen: Seen, now: dt.datetime, lease_renewed: dt.datetime | None, *, contends: bool) -> Outage | None:
    """Return the first sign of an outage; without a Lease to contend for (`contends`), bundles alone count."""
    if contends and seen.lease_age > STALE:
        since = lease_renewed or now - dt.timedelta(seconds=seen.lease_age)
        what = "has not been renewed" if seen.lease else "does not exist, or nobody ever held it"
        return Outage(Sign.LEASE, since.replace(microsecond=0), f"Lease ugallu-attestor-leader {what}")
    if seen.oldest is not None and (now - seen.oldest).total_seconds() > OLDEST:
        return Outage(Sign.BACKLOG, seen.oldest.replace(microsecond=0), "bundles wait too long for being sealed")
    if seen.failed >= FEW and seen.failed > FAILED_SHARE * seen.pending:
        since = (seen.oldest or now).replace(microsecond=0)
        return Outage(Sign.FAILURES, since, "most of the bundles under way have failed")
    return None


def reminder(found: Outage, now: dt.datetime) -> int:
    """Return which telling of this outage is due: 0 at its beginning, one more each hour."""
    return max(0, int((now - found.since).total_seconds() // REMINDER))
