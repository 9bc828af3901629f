"""`Intake`: the running sources. One that fails starts again from the slowest subscriber's checkpoint."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import structlog

from ugallu.api.observation import Batch
from ugallu.bus.port import Bus
from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.operator.contract import Source
from ugallu.pace import Backoff
from ugallu.supervisor.guard import attempt
from ugallu.supervisor.positions import Positions

HEALTHY_SECONDS = 60.0
"""A source that ran this long before it failed begins its backoff anew."""


class Intake:
    """Runs sources until cancelled; `over` is set once every one has come to its end."""

    def __init__(
        self,
        bus: Bus,
        positions: Positions,
        *,
        clock: Clock,
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.over = anyio.Event()
        self.counts: dict[str, dict[str, int]] = {}
        """The books of each source as last published."""
        self.reasons: dict[str, str] = {}
        """Why a source is not running, by source name: from its failure until it publishes again."""
        self._bus = bus
        self._positions = positions
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._finite = False
        self._subscribers: Callable[[type[Any]], Iterable[str]] = lambda _: ()
        self._tg: anyio.abc.TaskGroup | None = None
        self._sources: dict[str, tuple[Source, str]] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}

    @property
    def running(self) -> list[str]:
        """Names of the sources that have not ended."""
        return sorted(self._scopes)

    def serves(self, observes: type[Any]) -> bool:
        """Tell whether a source of this type was added and has not ended."""
        return any(source.observes is observes for source, _ in self._sources.values())

    def open(
        self, tg: anyio.abc.TaskGroup, subscribers: Callable[[type[Any]], Iterable[str]], *, finite: bool = False
    ) -> None:
        """Start what was added, in this group; what is added later starts at once.

        `subscribers` names who reads a type. `finite`: an input that cannot be read ends the run with its error.
        """
        self._tg, self._subscribers, self._finite = tg, subscribers, finite
        for source, owner in list(self._sources.values()):
            self._launch(tg, source, owner)
        self._check_over()

    def add(self, source: Source, owner: str) -> None:
        """Run this source; `owner` is the operator that its restarts are counted for."""
        if source.name in self._sources:
            raise PermanentError(f"two sources are called {source.name}", where=f"operator {owner}")
        self._sources[source.name] = (source, owner)
        if self._tg is not None:
            self._launch(self._tg, source, owner)

    def remove(self, name: str) -> None:
        """Stop a source, if it runs."""
        self._sources.pop(name, None)
        self.reasons.pop(name, None)
        scope = self._scopes.pop(name, None)
        if scope is not None:
            scope.cancel()

    def rewind(self, observes: type[Any]) -> None:
        """Start the sources of this type again where the slowest subscriber stands: it came late and missed some."""
        for source, owner in list(self._sources.values()):
            if source.observes is observes and source.name in self._scopes:
                self.remove(source.name)
                self.add(source, owner)

    def _launch(self, tg: anyio.abc.TaskGroup, source: Source, owner: str) -> None:
        scope = self._scopes[source.name] = anyio.CancelScope()
        tg.start_soon(self._run, source, owner, scope)

    async def _run(self, source: Source, owner: str, scope: anyio.CancelScope) -> None:
        name = source.name
        log = self._log.bind(source=name)
        backoff = Backoff(first=0.2)
        with scope:
            while True:
                start = self._positions.start(name, self._subscribers(source.observes))
                log.info("source starts", next=start.next if start else 0)
                began = self._clock.monotonic()
                error = await attempt(partial(source.run, partial(self._publish, source.observes), start))
                if error is None:
                    log.info("source ended")
                    break
                if self._finite and isinstance(error, PermanentError):
                    raise error
                self.reasons[name] = f"source {name}: {error}"
                self._metrics.count("ugallu_operator_restarts_total", operator=owner, part=name)
                if self._clock.monotonic() - began > HEALTHY_SECONDS:
                    backoff.reset()
                wait = backoff.next()
                expected = isinstance(error, PermanentError | OSError) or hasattr(error, "category")
                log.error(
                    "source failed; starting it again",
                    seconds=round(wait, 2),
                    **({"error": str(error)} if expected else {"exc_info": error}),
                )
                await self._clock.sleep(wait)
        if self._scopes.get(name) is scope:
            del self._scopes[name]
            self._sources.pop(name, None)
        self._check_over()

    async def _publish(self, observes: type[Any], batch: Batch[Any]) -> None:
        await self._bus.publish(observes, batch)
        self.reasons.pop(batch.source, None)
        if batch.counts:
            self.counts[batch.source] = batch.counts

    def _check_over(self) -> None:
        if self._tg is not None and not self._sources:
            self.over.set()
