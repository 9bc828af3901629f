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
    """Runs sources until cancelled or closed."""

    def __init__(
        self,
        bus: Bus,
        positions: Positions,
        *,
        clock: Clock,
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.ends: dict[tuple[type[Any], str], int] = {}
        """By type and source, the number of the first observation that was not yet published."""
        self.counts: dict[str, dict[str, int]] = {}
        """The books of each source as last published."""
        self.reasons: dict[str, str] = {}
        """Why a source is not running, by source name: from its failure until it publishes again."""
        self._bus = bus
        self._positions = positions
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._changed: Callable[[], None] = lambda: None
        self._finite = False
        self._closed = False
        self._subscribers: Callable[[type[Any]], Iterable[str]] = lambda _: ()
        self._tg: anyio.abc.TaskGroup | None = None
        self._sources: dict[str, tuple[Source, str]] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}

    @property
    def over(self) -> bool:
        """Whether every source has come to its end; one that is added may change that until `close`."""
        return self._closed or (self._tg is not None and not self._sources)

    @property
    def running(self) -> list[str]:
        """Names of the sources that have not ended."""
        return sorted(self._scopes)

    def serves(self, observes: type[Any]) -> bool:
        """Tell whether a source of this type was added and has not ended."""
        return any(source.observes is observes for source, _ in self._sources.values())

    def open(
        self,
        tg: anyio.abc.TaskGroup,
        subscribers: Callable[[type[Any]], Iterable[str]],
        *,
        finite: bool = False,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        """Start what was added, in this group; what is added later starts at once.

        `subscribers` names who reads a type. `finite`: an input that cannot be read ends the run with its error.
        `changed` is called when a source has ended.
        """
        self._tg, self._subscribers, self._finite, self._changed = tg, subscribers, finite, changed
        for source, owner in list(self._sources.values()):
            self._launch(tg, source, owner)

    def close(self) -> None:
        """Stop every source; none is started any more, whoever still asks: an operator may come back at any moment."""
        self._closed, self._tg = True, None
        for name in list(self._sources):
            self.remove(name)

    def add(self, source: Source, owner: str) -> None:
        """Run this source; `owner` is the operator that its restarts are counted for."""
        if self._closed:
            return
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
        self._changed()

    async def _publish(self, observes: type[Any], batch: Batch[Any]) -> None:
        key, end = (observes, batch.source), batch.first + len(batch.observations)
        # Before it is offered: whoever compares must not take a batch under way for none.
        self.ends[key] = max(end, self.ends.get(key, 0))
        await self._bus.publish(observes, batch)
        self.reasons.pop(batch.source, None)
        if batch.counts:
            self.counts[batch.source] = batch.counts
