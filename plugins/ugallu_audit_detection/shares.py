"""Counts of one rule over all replicas. Each writes its own share and nobody else's; the sums follow from the shares.

Two replicas that write at once lose nothing: a merge patch of one share leaves the others alone, and whoever sees the
object next finds that the sums lag behind the shares, and mends them.
"""

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from ugallu.sdk import ReplicaShare, SigmaRuleStatus

EARLIER: Final = "earlier"
"""The share of replicas that are gone, and of the time before there were shares."""
MAX_REPLICAS: Final = 32
"""Shares that stay apart. Replicas with lasting names never get there; of others the one silent longest is folded."""


class Sums(NamedTuple):
    """What all replicas counted."""

    matched: int
    limited: int
    last: dt.datetime | None
    hidden: Mapping[str, int]


def shares(status: SigmaRuleStatus, instance: str, own: ReplicaShare) -> dict[str, ReplicaShare]:
    """Return every replica's share, with `own` as it is now."""
    known = dict(status.replicas)
    if not known and (status.match_count or status.dropped_rate_limit):
        known[EARLIER] = ReplicaShare(
            match_count=status.match_count,
            dropped_rate_limit=status.dropped_rate_limit,
            last_matched_at=status.last_matched_at,
        )
    known[instance] = own
    return known


def sums(known: Mapping[str, ReplicaShare]) -> Sums:
    """Add up."""
    hidden: dict[str, int] = {}
    for share in known.values():
        for name, count in share.hidden.items():
            hidden[name] = hidden.get(name, 0) + count
    return Sums(
        sum(share.match_count for share in known.values()),
        sum(share.dropped_rate_limit for share in known.values()),
        max((share.last_matched_at for share in known.values() if share.last_matched_at is not None), default=None),
        hidden,
    )


def folded(known: Mapping[str, ReplicaShare], instance: str) -> dict[str, ReplicaShare | None]:
    """Return what to write beside one's own share: nothing, or the oldest share folded into that of earlier ones.

    Such a write must hold the resourceVersion that it was decided on, else two replicas fold the same share twice.
    """
    apart = {name: share for name, share in known.items() if name not in (EARLIER, instance)}
    if len(apart) < MAX_REPLICAS:
        return {}
    oldest = min(apart, key=lambda name: (apart[name].last_matched_at or dt.datetime.min.replace(tzinfo=dt.UTC), name))
    both = sums({name: known[name] for name in (EARLIER, oldest) if name in known})
    return {
        oldest: None,
        EARLIER: ReplicaShare(
            match_count=both.matched,
            dropped_rate_limit=both.limited,
            last_matched_at=both.last,
            hidden=dict(both.hidden),
        ),
    }


def written(share: ReplicaShare | None, before: ReplicaShare | None) -> dict[str, Any] | None:
    """Return a share as a merge patch needs it: what it had and has no longer is null."""
    if share is None:
        return None
    full: dict[str, Any] = msgspec.to_builtins(share)
    gone = dict.fromkeys(name for name in (before.hidden if before else {}) if name not in share.hidden)
    full["hidden"] = {**gone, **share.hidden}
    return full
