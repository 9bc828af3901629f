"""From pressure to a level, with hysteresis: up at once, down in steps, and never to and fro at one threshold. Pure.

Green ──≥ yellow──> Yellow ──≥ red──> Red
  <──< recover, or falling well below yellow── <──< red exit──
"""

from collections import deque
from typing import Final

import msgspec

from ugallu.emit.gate import Level
from ugallu.errors import PermanentError

ALPHA: Final = 0.5
"""Weight of the newest sample: each scrape may reach another API server."""
STAY: Final = 10
"""Samples for which yellow stays at least, unless there is room: what swings around yellow is no recovery."""
TREND: Final = 2 * STAY
"""Samples over which a fall counts as one: a database that was defragmented is smaller, and may never be small."""
FALL: Final = 0.01
MARGIN: Final = 0.05
"""How far below yellow a fall has to lead."""


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Pressures, 1 is full."""

    yellow_at: float = 0.70
    red_at: float = 0.90
    recover_at: float = 0.50
    red_exit: float = 0.85

    def __post_init__(self) -> None:
        if not 0 < self.recover_at < self.yellow_at < self.red_exit < self.red_at:
            raise PermanentError(
                "0 < recover < yellow < red - 0.05 must hold",
                where="settings backpressure",
                fix="see `ugallu run --help`",
            )


class Levels:
    """The level of one controller."""

    def __init__(self, thresholds: Thresholds, level: Level = Level.GREEN) -> None:
        """`level` is what the last controller said, whatever came of it."""
        self.level: Level = level if level is not Level.UNKNOWN else Level.GREEN
        self._at = thresholds
        self._recent: deque[float] = deque(maxlen=TREND)
        self._stayed = 0

    def take(self, pressure: float) -> Level:
        """Take a sample and return the level that follows; Red becomes Yellow first, never Green at once."""
        before = self.level
        self.level = self._next(pressure)
        self._stayed = self._stayed + 1 if self.level is before else 0
        self._recent.append(pressure)
        return self.level

    def _next(self, pressure: float) -> Level:
        at = self._at
        if pressure >= at.red_at:
            return Level.RED
        if self.level is Level.RED:
            return Level.YELLOW if pressure < at.red_exit else Level.RED
        if pressure >= at.yellow_at:
            return Level.YELLOW
        if self.level is Level.YELLOW and (pressure < at.recover_at or self._making_room(pressure)):
            return Level.GREEN
        return self.level

    def _making_room(self, pressure: float) -> bool:
        if self._stayed < STAY or pressure >= self._at.yellow_at - MARGIN:
            return False
        return self._recent[0] - pressure >= FALL


class Smooth:
    """Smooths each signal by itself; the first sample counts as it is."""

    def __init__(self) -> None:
        self._held: dict[str, float] = {}

    def take(self, signals: dict[str, float]) -> dict[str, float]:
        """Return the smoothed signals; one that is missing this time is forgotten."""
        held = {name: value + (1 - ALPHA) * (self._held.get(name, value) - value) for name, value in signals.items()}
        self._held = held
        return dict(held)
