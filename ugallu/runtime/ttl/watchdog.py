"""Watches the attestor from outside: its Lease, the age of what waits to be sealed, and how much fails.

An outage is known by when it began, so a restart of ours tells nothing twice; that it is over is told against the
events that there are, not against a memory.
"""

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Final

from ugallu.api.bundle import BundlePhase
from ugallu.api.catalog import CATALOGUE
from ugallu.api.core import Lease
from ugallu.api.observation import Finding
from ugallu.api.subject import ExternalKind, external
from ugallu.clock import Clock
from ugallu.cluster.port import View
from ugallu.metrics import Metrics
from ugallu.runtime.ttl.expiry import Now
from ugallu.runtime.ttl.facts import parent_of
from ugallu.runtime.ttl.family import Families
from ugallu.runtime.ttl.health import Outage, Seen, Sign, outage, reminder

LEASE: Final = "ugallu-attestor-leader"
EVERY: Final = 60.0
UNAVAILABLE: Final = CATALOGUE["AttestorUnavailable"]
RECOVERED: Final = CATALOGUE["AttestorRecovered"]
_OURS: Final = tuple(f"attestor-{sign.value}-" for sign in Sign)
_ATTESTOR: Final = external(ExternalKind.ENDPOINT, "ugallu-attestor", source="ugallu-ttl-watchdog")


class Watchdog:
    """A Service. Without a view of the Lease (the embedded cluster has none) bundles alone are watched."""

    name = "watchdog"

    def __init__(
        self,
        families: Families,
        leases: View[Lease] | None,
        *,
        now: Callable[[], Now],
        clock: Clock,
        metrics: Metrics,
        submit: Callable[[Finding], Awaitable[None]],
    ) -> None:
        self._families = families
        self._leases = leases
        self._now = now
        self._clock = clock
        self._metrics = metrics
        self._submit = submit
        self._lease: str | None = None
        self._renewed = leases is None
        """Whether the Lease was seen to change: until then it may be what a dead process left."""
        self._changed = clock.monotonic()
        self._told: set[tuple[str, dt.datetime]] = set()
        self._over: set[str] = set()

    async def run(self) -> None:
        """Look each minute until cancelled, whether anything happens or not."""
        await self._families.synced()
        if self._leases is not None:
            await self._leases.synced()
        self._changed = self._clock.monotonic()
        while True:
            await self.turn()
            await self._clock.sleep(EVERY)

    async def turn(self) -> None:
        """Look once, and tell what has changed."""
        now = self._now().low
        lease = None if self._leases is None else next(iter(self._leases.items()), None)
        renewed = None if lease is None else lease.spec.renew_time
        said = "" if lease is None or renewed is None else f"{lease.spec.holder_identity} {renewed.isoformat()}"
        if said != self._lease:
            self._renewed = self._renewed or (self._lease is not None and bool(said))
            self._lease, self._changed = said, self._clock.monotonic()
        found = outage(self._seen(), now, renewed, contends=self._leases is not None)
        self._metrics.gauge("ugallu_ttl_attestor_unavailable", 0.0 if found is None else 1.0)
        if found is not None:
            await self._tell(found, now)
            return
        if not self._renewed:
            return
        for since in self._unanswered():
            self._over.add(since)
            await self._submit(
                Finding(
                    RECOVERED,
                    _ATTESTOR,
                    key=since,
                    signals={"message": "the attestor is at work again", "outage": since},
                    detected_at=now,
                    correlation=since,
                )
            )

    async def _tell(self, found: Outage, now: dt.datetime) -> None:
        number = reminder(found, now)
        correlation = f"attestor-{found.sign.value}-{found.since:%Y%m%dT%H%M%SZ}"
        # Of the outage, not of this moment: so it is seen to have been told, whoever told it.
        at = found.since + dt.timedelta(hours=number)
        if (correlation, at) in self._told or any(
            event.spec.type == UNAVAILABLE.name
            and (event.spec.correlation_id, event.spec.detected_at) == (correlation, at)
            for event in self._families.events.items()
        ):
            return
        self._told.add((correlation, at))
        self._over.discard(correlation)
        signals = {"message": found.message, "sign": found.sign.value, "since": f"{found.since:%Y-%m-%dT%H:%M:%SZ}"}
        await self._submit(
            Finding(
                UNAVAILABLE,
                _ATTESTOR,
                key=f"{correlation}/{number}",
                signals=signals,
                detected_at=at,
                correlation=correlation,
            )
        )

    def _seen(self) -> Seen:
        oldest: dt.datetime | None = None
        pending = failed = 0
        for bundle in self._families.bundles.items():
            if bundle.status.phase is BundlePhase.SEALED or parent_of(bundle, self._families) is None:
                # Nobody waits for a bundle whose event is gone.
                continue
            pending += 1
            failed += bundle.status.phase is BundlePhase.FAILED
            born = bundle.metadata.creation_timestamp
            if born is not None and (oldest is None or born < oldest):
                oldest = born
        return Seen(
            lease=self._lease or "",
            lease_age=self._clock.monotonic() - self._changed,
            oldest=oldest,
            pending=pending,
            failed=failed,
        )

    def _unanswered(self) -> set[str]:
        """Return the outages that were told of here and not yet called over, by correlation id.

        The attestor tells by itself that somebody refuses it; whether that is over is not seen from here.
        """
        told: dict[str, set[str]] = {UNAVAILABLE.name: set(), RECOVERED.name: set(self._over)}
        for event in self._families.events.items():
            if event.spec.type in told and event.spec.correlation_id.startswith(_OURS):
                told[event.spec.type].add(event.spec.correlation_id)
        return told[UNAVAILABLE.name] - told[RECOVERED.name]
