"""What is said when evidence is not what it should be: an event for each cause, at most one an hour."""

from collections.abc import Awaitable, Callable
from typing import Final

from ugallu.api.catalog import CATALOGUE, EventType
from ugallu.api.observation import Finding
from ugallu.api.subject import ExternalKind, external
from ugallu.clock import Clock
from ugallu.errors import RefusedError, UgalluError
from ugallu.evidence.ports import FullError, IntegrityError, KeyGoneError, TokenEndedError, UnprovenError, reason_of

VIOLATION: Final = CATALOGUE["WORMIntegrityViolation"]
FULL: Final = CATALOGUE["WORMQuotaExceeded"]
KEY: Final = CATALOGUE["KeyRotationEmergency"]
UNAVAILABLE: Final = CATALOGUE["AttestorUnavailable"]
EMITS: Final = (VIOLATION, FULL, KEY, UNAVAILABLE)
AGAIN: Final = 3600.0
"""Seconds for which a cause that was told is not told again."""

_SELF: Final = external(ExternalKind.ENDPOINT, "ugallu-attestor", source="ugallu-attestor")


class Alarms:
    """Makes findings of errors that somebody must look at, and hands them to the emitter."""

    def __init__(self, submit: Callable[[Finding], Awaitable[None]], clock: Clock) -> None:
        self._submit = submit
        self._clock = clock
        self._told: dict[str, float] = {}

    async def failed(self, where: str, error: UgalluError) -> None:
        """Tell of an error met in a stage or a check, if a person must look: what passes by itself is in the status.

        Evidence was changed or is not kept; there is no room; nobody lets us; the key that signs is not there any more.
        """
        if isinstance(error, IntegrityError | UnprovenError):
            await self._once(VIOLATION, where, reason_of(error), str(error))
        elif isinstance(error, FullError):
            await self._once(FULL, where, reason_of(error), str(error))
        elif isinstance(error, RefusedError | TokenEndedError):
            await self._once(UNAVAILABLE, where, reason_of(error), str(error))
        elif isinstance(error, KeyGoneError):
            await self._once(KEY, where, reason_of(error), str(error))

    async def filling(self, store: str, percent: int, limit: int) -> None:
        """Tell that a store is fuller than it should be."""
        await self._once(FULL, "store", "SoftQuota", f"{store} is {percent}% full, more than {limit}%")

    async def _once(self, type_: EventType, where: str, reason: str, detail: str) -> None:
        cause = f"{type_.name}/{where}/{reason}"
        now = self._clock.monotonic()
        told = self._told.get(cause)
        if told is not None and now - told < AGAIN:
            return
        self._told[cause] = now
        at = self._clock.now()
        await self._submit(
            Finding(
                type_,
                _SELF,
                key=f"{where}/{reason}/{at:%Y-%m-%dT%H}",
                signals={"stage": where, "reason": reason, "detail": detail[:1024]},
                detected_at=at,
                correlation=f"attestor-{where}-{reason.lower()}-{at:%Y-%m-%d}",
            )
        )
