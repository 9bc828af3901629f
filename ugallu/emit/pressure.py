"""How hard the store is pressed, as one component says it to all: a ConfigMap, and who believes what of it.

    level                    Green, Yellow or Red
    effectiveRateMultiplier  1.0, 0.5, 0.0: the pace of what is neither high nor critical
    minSeverityAccepted      info, info, high: what becomes an object at all
    ratio  usedBytes         what it was judged by
    updatedAt                RFC 3339; a word that is not renewed is no word
    stale                    true: nothing could be measured, the level is the one before

Critical and high pass at every level, whatever the ConfigMap says.
"""

import datetime as dt
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Final

import anyio
import msgspec

from ugallu.api.catalog import Severity
from ugallu.api.meta import Kind, Resource
from ugallu.clock import Clock
from ugallu.cluster.port import View
from ugallu.emit.gate import Level
from ugallu.logs import Logger

NAME: Final = "ugallu-backpressure"
POLL: Final = 30.0
"""Seconds between two words of the controller."""
STALE: Final = 3 * POLL
"""Seconds after which a word that was not renewed counts no more."""

_TERMS: Final = {
    Level.GREEN: ("1.0", Severity.INFO),
    Level.YELLOW: ("0.5", Severity.INFO),
    Level.RED: ("0.0", Severity.HIGH),
}


class PressureMap(Resource, frozen=True, kw_only=True):
    """The ConfigMap."""

    kind_info: ClassVar[Kind] = Kind("ConfigMap", "configmaps", group="", version="v1", namespaced=True)
    data: dict[str, str] = {}


class Word(msgspec.Struct, frozen=True):
    """What the controller says."""

    level: Level
    ratio: float
    used_bytes: int
    updated_at: dt.datetime
    stale: bool = False

    def data(self) -> dict[str, str]:
        """Return the keys of the ConfigMap."""
        multiplier, severity = _TERMS[self.level]
        return {
            "level": self.level.value.capitalize(),
            "effectiveRateMultiplier": multiplier,
            "minSeverityAccepted": severity.value,
            "ratio": f"{self.ratio:.4f}",
            "usedBytes": str(self.used_bytes),
            "updatedAt": f"{self.updated_at.astimezone(dt.UTC):%Y-%m-%dT%H:%M:%SZ}",
            "stale": "true" if self.stale else "false",
        }


def read(data: Mapping[str, str]) -> Word | None:
    """Return what a ConfigMap says, None unless every part of it is within its bounds and fits the others."""
    try:
        level = Level(data.get("level", "").lower())
        severity = Severity(data.get("minSeverityAccepted", ""))
        multiplier, ratio = float(data.get("effectiveRateMultiplier", "")), float(data.get("ratio", ""))
        used = int(data.get("usedBytes", ""))
        updated = msgspec.convert(data.get("updatedAt", ""), dt.datetime)
    except (ValueError, OverflowError, msgspec.ValidationError):
        return None
    if level not in _TERMS or updated.tzinfo is None or not math.isfinite(ratio) or ratio < 0 or used < 0:
        return None
    # Another writer than ours might mean something by other terms; we know only these.
    if (multiplier, severity) != (float(_TERMS[level][0]), _TERMS[level][1]):
        return None
    return Word(level, ratio, used, updated, data.get("stale") == "true")


def obeyed(word: Word | None) -> Level:
    """Return the level to act by: what nobody measured costs no event, it only slows the pace."""
    if word is None:
        return Level.UNKNOWN
    return Level.YELLOW if word.stale and word.level is Level.RED else word.level


class Follower:
    """Reads the ConfigMap and hands each new level on; `run` beside the outbox.

    Clocks of machines differ, so a word is as old as it has been seen unchanged here. Only one that is there at the
    start is judged by its date as well: its writer may be long gone.
    """

    def __init__(
        self,
        view: View[PressureMap],
        press: Callable[[Level], Awaitable[None]],
        current: Callable[[], Level],
        clock: Clock,
        log: Logger,
    ) -> None:
        self._view = view
        self._press = press
        self._current = current
        self._clock = clock
        self._log = log
        self._seen: tuple[tuple[str, str], ...] = ()
        self._seen_at = clock.monotonic()
        self._first = True
        self._news = anyio.Event()

    async def run(self) -> None:
        """Follow until cancelled."""
        stop = self._view.listen(lambda _, __: self._news.set())
        try:
            while True:
                self._news = anyio.Event()
                level = self.level()
                if level is not None and level is not self._current():
                    self._log.warning("backpressure", now=level.value, before=self._current().value)
                    await self._press(level)
                await self._wait()
        finally:
            stop()

    def level(self) -> Level | None:
        """Return the level that is asked for now, None as long as nobody can know: what was, goes on."""
        now = self._clock.monotonic()
        found = next(iter(self._view.items()), None)
        if found is None:
            return Level.UNKNOWN if now - self._seen_at >= STALE else None
        said = tuple(sorted(found.data.items()))
        word = read(found.data)
        if said != self._seen:
            self._seen, self._seen_at = said, now
            if self._first and word is not None:
                age = (self._clock.now() - word.updated_at).total_seconds()
                self._seen_at -= min(max(age, 0.0), STALE)
            self._first = False
        return Level.UNKNOWN if now - self._seen_at >= STALE else obeyed(word)

    async def _wait(self) -> None:
        """Until something is said, or what was said is too old."""
        left = max(1.0, self._seen_at + STALE - self._clock.monotonic())
        if self._current() is Level.UNKNOWN and self._seen_at + STALE <= self._clock.monotonic():
            await self._news.wait()
            return
        async with anyio.create_task_group() as tasks:

            async def nap() -> None:
                await self._clock.sleep(left)
                tasks.cancel_scope.cancel()

            tasks.start_soon(nap)
            await self._news.wait()
            tasks.cancel_scope.cancel()
