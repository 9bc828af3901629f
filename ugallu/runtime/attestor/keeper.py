"""Looks after evidence that was sealed long ago: a sample is read back and verified again, room is measured."""

import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, runtime_checkable

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.marks import BundleMark
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, NotFoundError, View
from ugallu.errors import ConflictError, PermanentError, RefusedError, TransientError, UgalluError
from ugallu.evidence.ports import ElsewhereError, IntegrityError
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.runtime.attestor.alarms import Alarms
from ugallu.runtime.attestor.choose import Ports
from ugallu.runtime.attestor.proof import confirm_in

EVERY: Final = 600.0
"""Seconds between two looks."""
SAMPLE: Final = 4
"""Sealed bundles that are verified again in each of them: some 580 a day."""
LIMIT: Final = 80
"""Percent above which a store counts as filling (`spec.quotas.softQuotaPercent`), where no config says otherwise."""


@runtime_checkable
class Measured(Protocol):
    """A store that knows how full it is."""

    async def used(self) -> int | None:
        """Return how full it is, in percent; None where that is unknown."""
        ...


class Keeper:
    """A Service."""

    name = "keeper"

    def __init__(
        self,
        ports: Ports,
        cluster: Cluster,
        bundles: View[BundleMark],
        alarms: Alarms,
        *,
        doubt: Callable[[AttestationBundle, UgalluError], Awaitable[object]],
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        chance: random.Random | None = None,
    ) -> None:
        """`doubt` takes back what a bundle says of itself; it is called sealed again once its evidence is back."""
        self._ports = ports
        self._doubt = doubt
        self._cluster = cluster
        self._bundles = bundles
        self._alarms = alarms
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._chance = chance or random.Random()  # noqa: S311 - which ones is no secret
        metrics.count("ugallu_attestor_reverified_total", 0.0, outcome="failed")

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await self._clock.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        """Verify a sample again, and measure."""
        sealed = [mark for mark in self._bundles.items() if mark.status.phase is BundlePhase.SEALED]
        for mark in self._chance.sample(sealed, min(SAMPLE, len(sealed))):
            await self._verify(mark)
        store = self._ports.store
        if not isinstance(store, Measured):
            return
        try:
            percent = await store.used()
        except (TransientError, RefusedError) as error:
            self._log.warning("cannot be measured", error=str(error))
            return
        if percent is not None and percent >= LIMIT:
            await self._alarms.filling(store.endpoint, percent, LIMIT)

    async def _verify(self, mark: BundleMark) -> None:
        name = mark.metadata.name
        try:
            bundle = await self._cluster.get(AttestationBundle, name)
        except (TransientError, ConflictError, RefusedError, NotFoundError) as error:
            self._log.warning("could not be verified again", bundle=name, error=str(error))
            return
        try:
            await confirm_in(self._ports.store, lambda b, s: self._ports.check(b, subject=s), bundle)
        except (TransientError, RefusedError, ElsewhereError) as error:
            self._log.warning("could not be verified again", bundle=name, error=str(error))
        except PermanentError as error:
            # Missing is changed as well: it was there when it was sealed.
            self._metrics.count("ugallu_attestor_reverified_total", outcome="failed")
            self._log.error("sealed evidence does not verify any more", bundle=name, error=str(error))
            changed = IntegrityError(error.what, where=error.where or name)
            await self._alarms.failed("reverify", changed)
            try:
                await self._doubt(bundle, changed)
            except (TransientError, ConflictError, RefusedError) as failure:
                self._log.warning("a status could not be written", bundle=name, error=str(failure))
        else:
            self._metrics.count("ugallu_attestor_reverified_total", outcome="verified")
