"""What each rule has seen in its life: kept through every edit of the rule, in checkpoints, and in its status."""

import datetime as dt
from typing import Final

import msgspec

from ugallu.sdk import Metrics, ReplicaShare, utc_seconds

REPORT_EVERY: Final = 60.0
"""Seconds of event time between two reports about one rule's limiter."""
MAX_NAMED: Final = 8
"""Actors that such a report names."""


class Tally(msgspec.Struct, array_like=True):
    """What this replica counted of one rule. `base_*` is its share in the status before; None until that was read."""

    matched: int = 0
    limited: int = 0
    last: dt.datetime | None = None
    base_matched: int | None = None
    base_limited: int = 0
    base_last: dt.datetime | None = None
    uid: str = ""
    """Of the rule: another one of the same name begins anew."""
    told: float | None = None
    """When drops by the limiter were last reported, in seconds of event time."""
    untold: int = 0
    """Drops since then."""
    wrote: bool = False
    """Whether the status ever held our share."""
    actors: dict[str, int] = {}
    """Whose drops were not told yet, and how many of each."""

    def hit(self, when: dt.datetime) -> None:
        """Count a match that became a finding."""
        self.matched += 1
        if self.last is None or when > self.last:
            self.last = when

    def limit(self, now: float, actor: str) -> tuple[int, dict[str, int]]:
        """Count a match that the limiter drops; return how many to report now, at most once a minute, and of whom."""
        self.limited += 1
        self.untold += 1
        if actor in self.actors or len(self.actors) < MAX_NAMED:
            self.actors[actor] = self.actors.get(actor, 0) + 1
        if self.told is not None and abs(now - self.told) < REPORT_EVERY:
            return 0, {}
        count, self.told, self.untold = self.untold, now, 0
        actors, self.actors = self.actors, {}
        return count, actors

    def adopt(self, uid: str, share: ReplicaShare | None, *, folded: bool = False) -> None:
        """Count on from our share in the status, unless we already do.

        `folded`: the status has no share of ours because it was added to that of replicas that are gone.
        """
        if self.uid not in ("", uid):
            self.matched, self.limited, self.last, self.base_matched, self.wrote = 0, 0, None, None, False
        self.uid = uid
        if self.wrote and folded:
            self.base_matched, self.base_limited, self.wrote = -self.matched, -self.limited, False
        if self.base_matched is None:
            share = share or ReplicaShare()
            self.base_matched = share.match_count
            self.base_limited = share.dropped_rate_limit
            self.base_last = share.last_matched_at

    def share(self) -> tuple[int, int, dt.datetime | None]:
        """Return our matches and drops of the rule's whole life, and the time of the last match, in whole seconds."""
        last = max((when for when in (self.last, self.base_last) if when is not None), default=None)
        return (
            (self.base_matched or 0) + self.matched,
            self.base_limited + self.limited,
            utc_seconds(last) if last else None,
        )


class Tallies:
    """The tallies of all rules, by name; one object per rule, whichever version of it counts."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}
        self._published: dict[str, tuple[int, int]] = {}

    def of(self, rule: str) -> Tally:
        """Return the rule's tally."""
        tally = self._tallies.get(rule)
        if tally is None:
            tally = self._tallies[rule] = Tally()
        return tally

    def forget(self, rule: str) -> None:
        """The rule is gone."""
        self._tallies.pop(rule, None)
        self._published.pop(rule, None)

    def publish(self, metrics: Metrics) -> None:
        """Add what was counted since the last call to the process's metrics."""
        for rule, tally in self._tallies.items():
            matched, limited = self._published.get(rule, (0, 0))
            if tally.matched > matched:
                metrics.count("ugallu_audit_rule_matches_total", tally.matched - matched, rule=rule)
            if tally.limited > limited:
                metrics.count("ugallu_audit_rule_dropped_total", tally.limited - limited, rule=rule)
            if (tally.matched, tally.limited) != (matched, limited):
                self._published[rule] = (tally.matched, tally.limited)

    def snapshot(self) -> dict[str, Tally]:
        """Return the tallies that differ from a rule never seen to match."""
        return {rule: tally for rule, tally in sorted(self._tallies.items()) if tally.matched or tally.limited}

    def restore(self, kept: dict[str, Tally]) -> None:
        """Become what `snapshot` saw. A base that was read since stays where the snapshot has none."""
        for rule, tally in self._tallies.items():
            then = kept.get(rule)
            if then is None or (tally.uid and then.uid and then.uid != tally.uid):
                tally.matched, tally.limited, tally.last, tally.told, tally.untold = 0, 0, None, None, 0
                tally.actors = {}
                continue
            tally.matched, tally.limited, tally.last = then.matched, then.limited, then.last
            tally.told, tally.untold, tally.wrote = then.told, then.untold, then.wrote
            tally.actors = dict(then.actors)
            if then.base_matched is not None:
                tally.base_matched, tally.base_limited, tally.base_last = (
                    then.base_matched,
                    then.base_limited,
                    then.base_last,
                )
        for rule, tally in kept.items():
            self._tallies.setdefault(rule, tally)
        self._published = {rule: (tally.matched, tally.limited) for rule, tally in self._tallies.items()}
