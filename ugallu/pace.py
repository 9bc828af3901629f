"""Two ways to go slower: `Backoff` between tries, `TokenBucket` between acts. Pure: time is an argument."""

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """Delays that grow by `factor` from `first` to `ceiling` seconds, each spread by ±`jitter` of itself."""

    first: float = 0.5
    ceiling: float = 30.0
    factor: float = 2.0
    jitter: float = 0.2
    attempts: int = 0
    _random: random.Random = field(default_factory=random.Random, repr=False)

    def next(self, *, at_least: float = 0.0) -> float:
        """Return the delay before the next try, in seconds; `at_least` is spread as well, upwards."""
        plain = min(self.ceiling, self.first * self.factor**self.attempts)
        # The exponent would overflow a float after a few hundred failures; the ceiling was reached long before.
        self.attempts = min(self.attempts + 1, 64)
        spread = self._random.uniform(-self.jitter, self.jitter)
        return max(plain * (1 + spread), at_least * (1 + abs(spread)))

    def reset(self) -> None:
        """Start again at `first`: the last try succeeded."""
        self.attempts = 0


@dataclass(slots=True)
class TokenBucket:
    """`burst` tokens at most, `rate` new ones a second; `now` is any clock that the caller sticks to, in seconds.

    A clock that goes back adds nothing and takes nothing.
    """

    rate: float
    burst: float
    tokens: float = -1.0
    stamp: float = float("-inf")

    def __post_init__(self) -> None:
        if self.tokens < 0:
            self.tokens = self.burst

    def refill(self, now: float) -> None:
        """Add what has come in since the last call."""
        if now > self.stamp:
            if self.stamp != float("-inf"):
                self.tokens = min(self.burst, self.tokens + (now - self.stamp) * self.rate)
            self.stamp = now

    def take(self, now: float, cost: float = 1.0, *, reserve: float = 0.0) -> bool:
        """Take `cost` tokens if that leaves at least `reserve`; tell whether it did."""
        self.refill(now)
        if self.tokens - cost < reserve:
            return False
        self.tokens -= cost
        return True

    def wait(self, now: float, cost: float = 1.0, *, reserve: float = 0.0) -> float:
        """Return seconds until `take` with the same arguments can succeed; infinite if it never can."""
        self.refill(now)
        missing = cost + reserve - self.tokens
        if missing <= 0:
            return 0.0
        if self.rate <= 0 or cost + reserve > self.burst:
            return float("inf")
        return missing / self.rate
