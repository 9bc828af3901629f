"""Looks, judges, and says it: every half minute, whatever happens."""

from collections.abc import Awaitable, Callable
from typing import Final

from ugallu.api.catalog import CATALOGUE, Severity
from ugallu.api.meta import Metadata
from ugallu.api.observation import Finding
from ugallu.api.subject import ExternalKind, external
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, NotFoundError
from ugallu.emit.gate import Level
from ugallu.emit.pressure import NAME, PressureMap, Word, read
from ugallu.errors import UgalluError
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.runtime.backpressure.level import Levels, Smooth, Thresholds
from ugallu.runtime.backpressure.sampler import Sampler

MANAGER: Final = "ugallu-backpressure"
LABELS: Final = {"app.kubernetes.io/name": "ugallu", "app.kubernetes.io/component": "backpressure"}
PATIENCE: Final = 3
"""Samples in a row that may fail before the level is called stale."""
HIGH: Final = CATALOGUE["EtcdBackpressureHigh"]
_STORE: Final = external(ExternalKind.ENDPOINT, "etcd", source="ugallu-backpressure")
_RANK: Final = {Level.GREEN: 0.0, Level.YELLOW: 1.0, Level.RED: 2.0}


class Controller:
    """A Service."""

    name = "backpressure"

    def __init__(
        self,
        cluster: Cluster,
        sampler: Sampler,
        backlog: Callable[[], float],
        thresholds: Thresholds,
        *,
        namespace: str,
        poll: float,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        submit: Callable[[Finding], Awaitable[None]],
    ) -> None:
        self._cluster = cluster
        self._sampler = sampler
        self._backlog = backlog
        self._thresholds = thresholds
        self._namespace = namespace
        self._poll = poll
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._submit = submit
        self._levels: Levels | None = None
        self._smooth = Smooth()
        self._failed = 0
        self._word: Word | None = None
        self.trouble = ""
        """Why the level may be wrong; empty when it is not."""

    async def run(self) -> None:
        """Look and say until cancelled."""
        while True:
            await self.turn()
            await self._clock.sleep(self._poll)

    async def turn(self) -> None:
        """Look once, and say what follows; what the cluster does not take is said again next time."""
        try:
            if self._levels is None:
                self._levels = Levels(self._thresholds, await self._last())
            word = await self._judge(self._levels)
            await self._cluster.apply(
                PressureMap(
                    metadata=Metadata(name=NAME, namespace=self._namespace, labels=dict(LABELS)), data=word.data()
                ),
                manager=MANAGER,
            )
            self._word = word
        except UgalluError as error:
            self.trouble = f"cannot say the level: {error}"
            self._log.error("the backpressure level cannot be said", error=str(error))

    async def _last(self) -> Level:
        """Return the level that was said last: a controller that starts anew does not call all clear."""
        try:
            found = await self._cluster.get(PressureMap, NAME, self._namespace)
        except NotFoundError:
            return Level.GREEN
        self._word = read(found.data)
        return Level.GREEN if self._word is None else self._word.level

    async def _judge(self, levels: Levels) -> Word:
        before, now = levels.level, self._clock.now()
        try:
            reading = await self._sampler.look()
        except UgalluError as error:
            self._failed += 1
            self._metrics.count("ugallu_backpressure_sample_errors_total", signal="etcd")
            self._log.warning("no sample", error=str(error), in_row=self._failed)
            self.trouble = f"cannot measure: {error}" if self._failed >= PATIENCE else ""
            known = self._word
            self._metrics.gauge("ugallu_backpressure_level", _RANK[before])
            ratio, used = (0.0, 0) if known is None else (known.ratio, known.used_bytes)
            return Word(before, ratio, used, now, stale=self._failed >= PATIENCE)
        self._failed, self.trouble = 0, ""
        signals = self._smooth.take({**reading.signals, "backlog": self._backlog()})
        for name, value in signals.items():
            self._metrics.gauge("ugallu_backpressure_ratio", value, signal=name)
        pressure = max(signals.values())
        level = levels.take(pressure)
        self._metrics.gauge("ugallu_backpressure_level", _RANK[level])
        if level is not before:
            self._metrics.count(
                "ugallu_backpressure_transitions_total", 1.0, **{"from": before.value, "to": level.value}
            )
            self._log.warning("backpressure", now=level.value, before=before.value, signals=signals)
            if _RANK[level] > _RANK[before]:
                await self._report(level, signals)
        return Word(level, pressure, reading.used_bytes, now)

    async def _report(self, level: Level, signals: dict[str, float]) -> None:
        now = self._clock.now()
        await self._submit(
            Finding(
                HIGH,
                _STORE,
                key=level.value,
                severity=Severity.CRITICAL if level is Level.RED else Severity.HIGH,
                signals={
                    "level": level.value,
                    "signal": max(signals, key=lambda name: signals[name]),
                    **{f"ratio.{name}": f"{value:.4f}" for name, value in signals.items()},
                },
                detected_at=now,
                correlation=f"backpressure-{now:%Y%m%dT%H%M%SZ}",
            )
        )
