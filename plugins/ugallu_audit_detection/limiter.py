"""How often one rule may speak: token buckets by the events' own time, so that a replay decides as the first run.

A rule has one bucket for everybody, and each actor a small one of its own beside it: whoever empties the first has
emptied its own as well, and nobody else's. Of a critical rule the own one is as large as the common one.
"""

from collections import OrderedDict
from typing import Final

from ugallu.sdk import SigmaRateLimit, TokenBucket
from ugallu_audit_detection.memory import digest

DEFAULT = SigmaRateLimit()
MAX_STEP_BACK = 60.0
"""Seconds. Time that goes back further is no late event but another recording, or the last one's clock was wrong: the
bucket follows it. Else one event from the future would leave a rule without tokens until that future has come."""
OWN: Final = 0.1
"""An actor's own bucket, as a part of the common one. A rule that may say less than ten things at once has none."""
MAX_ACTORS: Final = 2048
"""Buckets of actors that are remembered. One that is forgotten is full again, so forgetting drops nothing."""

Owned = tuple[bytes, list[float]]
"""What a checkpoint keeps of the actors' buckets: digests one behind the other, and when each will be full again."""


class Limiter:
    """The buckets of all rules, by name. They outlive every recompilation, unless the budget itself changes."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}
        self._full: OrderedDict[bytes, float] = OrderedDict()
        """When an actor's bucket for a rule will be full again; the one used longest ago first."""

    def adopt(self, rule: str, limit: SigmaRateLimit | None) -> None:
        """Give the rule a full bucket, or leave the one it has when its budget is the same."""
        asked = limit or DEFAULT
        burst = float(asked.burst if asked.burst > 0 else DEFAULT.burst)
        rate = float(asked.sustained_per_sec if asked.sustained_per_sec > 0 else DEFAULT.sustained_per_sec)
        old = self._buckets.get(rule)
        if old is None or (old.burst, old.rate) != (burst, rate):
            self._buckets[rule] = TokenBucket(rate=rate, burst=burst)

    def allows(self, rule: str, actor: str, now: float, *, critical: bool = False) -> bool:
        """Whether a token is there, the rule's or the actor's own; `take` spends it."""
        bucket = self._buckets[rule]
        if now < bucket.stamp - MAX_STEP_BACK:
            bucket.stamp = now
        if bucket.wait(now) == 0.0:
            return True
        burst, rate = _own(bucket, critical)
        return burst - self._missing(digest(rule, actor), now, burst, rate) >= 1.0

    def take(self, rule: str, actor: str, now: float, *, critical: bool = False) -> None:
        """Spend the token that `allows` saw: of the rule's bucket and of the actor's, as far as each has one."""
        bucket = self._buckets[rule]
        bucket.tokens = max(0.0, bucket.tokens - 1.0)
        burst, rate = _own(bucket, critical)
        key = digest(rule, actor)
        self._full[key] = now + min(burst, self._missing(key, now, burst, rate) + 1.0) / rate
        self._full.move_to_end(key)
        for _ in range(2):
            oldest = next(iter(self._full))
            if self._full[oldest] > now and len(self._full) <= MAX_ACTORS:
                break
            del self._full[oldest]
            if not self._full:
                break

    def _missing(self, key: bytes, now: float, burst: float, rate: float) -> float:
        """Return how many tokens the actor's bucket lacks now."""
        missing = (self._full.get(key, now) - now) * rate
        return 0.0 if missing > burst + MAX_STEP_BACK * rate else max(0.0, missing)

    def forget(self, rule: str) -> None:
        """The rule is gone."""
        self._buckets.pop(rule, None)

    def snapshot(self) -> dict[str, tuple[float, float, float, float]]:
        """Return burst, rate, tokens and stamp of every bucket that was ever asked."""
        return {
            rule: (bucket.burst, bucket.rate, bucket.tokens, bucket.stamp)
            for rule, bucket in sorted(self._buckets.items())
            if bucket.stamp != float("-inf")
        }

    def owned(self) -> Owned:
        """Return the buckets of actors."""
        return b"".join(self._full), list(self._full.values())

    def restore(self, kept: dict[str, tuple[float, float, float, float]], owned: Owned = (b"", [])) -> None:
        """Become what `snapshot` and `owned` saw; a bucket they left out is as new."""
        for bucket in self._buckets.values():
            bucket.tokens, bucket.stamp = bucket.burst, float("-inf")
        for rule, (burst, rate, tokens, stamp) in kept.items():
            old = self._buckets.get(rule)
            if old is None or (old.burst, old.rate) == (burst, rate):
                self._buckets[rule] = TokenBucket(rate=rate, burst=burst, tokens=tokens, stamp=stamp)
        keys, full = owned
        self._full = OrderedDict((keys[8 * index : 8 * index + 8], at) for index, at in enumerate(full))


def _own(bucket: TokenBucket, critical: bool) -> tuple[float, float]:
    """Return size and rate of an actor's own bucket beside this one."""
    part = 1.0 if critical else OWN
    return bucket.burst * part, bucket.rate * part
