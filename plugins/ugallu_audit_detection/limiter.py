"""How often one rule may speak: a token bucket by the events' own time, so that a replay decides as the first run."""

from ugallu.sdk import SigmaRateLimit, TokenBucket

DEFAULT = SigmaRateLimit()
MAX_STEP_BACK = 60.0
"""Seconds. Time that goes back further is no late event but another recording, or the last one's clock was wrong: the
bucket follows it. Else one event from the future would leave a rule without tokens until that future has come."""


class Limiter:
    """The buckets of all rules, by name. They outlive every recompilation, unless the budget itself changes."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def adopt(self, rule: str, limit: SigmaRateLimit | None) -> None:
        """Give the rule a full bucket, or leave the one it has when its budget is the same."""
        asked = limit or DEFAULT
        burst = float(asked.burst if asked.burst > 0 else DEFAULT.burst)
        rate = float(asked.sustained_per_sec if asked.sustained_per_sec > 0 else DEFAULT.sustained_per_sec)
        old = self._buckets.get(rule)
        if old is None or (old.burst, old.rate) != (burst, rate):
            self._buckets[rule] = TokenBucket(rate=rate, burst=burst)

    def allows(self, rule: str, now: float) -> bool:
        """Whether a token is there; `take` spends it."""
        bucket = self._buckets[rule]
        if now < bucket.stamp - MAX_STEP_BACK:
            bucket.stamp = now
        return bucket.wait(now) == 0.0

    def take(self, rule: str) -> None:
        """Spend the token that `allows` saw."""
        self._buckets[rule].tokens -= 1.0

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

    def restore(self, kept: dict[str, tuple[float, float, float, float]]) -> None:
        """Become what `snapshot` saw; a bucket it left out is as new."""
        for bucket in self._buckets.values():
            bucket.tokens, bucket.stamp = bucket.burst, float("-inf")
        for rule, (burst, rate, tokens, stamp) in kept.items():
            old = self._buckets.get(rule)
            if old is None or (old.burst, old.rate) == (burst, rate):
                self._buckets[rule] = TokenBucket(rate=rate, burst=burst, tokens=tokens, stamp=stamp)
