"""One back end of sealing: so many calls at once, and none at all while it does nothing but fail."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from ugallu.clock import Clock
from ugallu.errors import TransientError, UgalluError
from ugallu.metrics import Metrics
from ugallu.pace import Backoff

T = TypeVar("T")

IN_A_ROW: Final = 8
"""Failures without a success between them after which a back end is left alone."""


class ShutError(TransientError):
    """The back end was not asked: it has failed too often, and `retry_after` says when it is asked again."""


class Gate:
    """Before one back end.

    After `IN_A_ROW` failures that may pass it is shut; then one call at a time is let through, later and later, until
    one succeeds. An error that is about the call itself (rights, integrity) says that somebody answers.
    """

    def __init__(self, name: str, places: int, clock: Clock, metrics: Metrics) -> None:
        self.name = name
        self._places = anyio.Semaphore(places)
        self._clock = clock
        self._metrics = metrics
        self._pause = Backoff(first=2.0, ceiling=60.0)
        self._failures = 0
        self._ask_at = 0.0
        self._asking = False
        metrics.gauge("ugallu_attestor_backend_shut", 0.0, backend=name)

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Call; raises `ShutError` instead where that is hopeless for now."""
        try:
            # A place that is free costs no turn of the loop, and a seal takes a dozen.
            self._places.acquire_nowait()
        except anyio.WouldBlock:
            await self._places.acquire()
        try:
            asking = self._failures >= IN_A_ROW
            if asking:
                wait = self._ask_at - self._clock.monotonic()
                if wait > 0 or self._asking:
                    raise ShutError(
                        f"not asked: it has failed {self._failures} times in a row",
                        where=self.name,
                        retry_after=max(wait, 1.0),
                    )
                self._asking = True
            try:
                done = await work()
            except TransientError:
                self._failed(asking=asking)
                raise
            except UgalluError:
                self._answered()
                raise
            else:
                self._answered()
                return done
            finally:
                if asking:
                    self._asking = False
        finally:
            self._places.release()

    def _failed(self, *, asking: bool) -> None:
        self._failures += 1
        # Calls that were under way when it shut fail as well: they are of the same trouble, and lengthen no pause.
        if asking or self._failures == IN_A_ROW:
            self._ask_at = self._clock.monotonic() + self._pause.next()
            self._metrics.gauge("ugallu_attestor_backend_shut", 1.0, backend=self.name)

    def _answered(self) -> None:
        if self._failures >= IN_A_ROW:
            self._metrics.gauge("ugallu_attestor_backend_shut", 0.0, backend=self.name)
        self._failures = 0
        self._pause.reset()
