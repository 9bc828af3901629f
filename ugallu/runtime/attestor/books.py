"""What the attestor still owes: events without evidence, and bundles on their way, by phase."""

import bisect
from collections import Counter
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.marks import BundleMark, EventMark, ResponseMark
from ugallu.clock import Clock
from ugallu.cluster.port import Change, Cluster, NotFoundError, View
from ugallu.metrics import Metrics
from ugallu.runtime.attestor.parent import FINISHED, RESPONSE, is_attested

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

EVERY = 15.0
"""Seconds between two looks at the age of the oldest bundle."""
KEPT = 16
"""Bundles remembered for their checkpoints, the tallest and the newest: one of each would be enough, if nobody else
could write a status. The log before the one in use may have the taller trees."""


class Books:
    """Listens to both views; a Service only to keep the age gauge current."""

    name = "books"

    def __init__(
        self,
        events: View[EventMark],
        responses: View[ResponseMark],
        bundles: View[BundleMark],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._clock = clock
        self._metrics = metrics
        self._owed: set[str] = set()
        self._over: set[str] = set()
        """Responses that are over; they do not say themselves that they are attested."""
        self._sealed: set[str] = set()
        """Responses whose bundles are sealed."""
        self._failed: set[str] = set()
        self._phases: dict[str, BundlePhase] = {}
        self._begun: dict[str, dt.datetime] = {}
        self._counts: Counter[BundlePhase] = Counter()
        self._tallest: list[tuple[int, str]] = []
        self._newest: list[tuple[int, str]] = []
        self._stop: list[Callable[[], None]] = [
            events.listen(self._event),
            responses.listen(self._response),
            bundles.listen(self._bundle),
        ]

    @property
    def settled(self) -> bool:
        """Every known event and finished response is attested, or its bundle has failed for good or for long."""
        return self._owed <= self._failed and self._over <= self._sealed | self._failed

    async def checkpoints(self, cluster: Cluster) -> AsyncIterator[str]:
        """Yield the checkpoints with the largest trees that bundles name, and those that the newest name.

        Not checked: others write status. Read when they are asked for, which is once: marks are many.
        """
        tallest, newest = ([name for _, name in reversed(kept)] for kept in (self._tallest, self._newest))
        for name in dict.fromkeys((*tallest, *newest)):
            try:
                bundle = await cluster.get(AttestationBundle, name)
            except NotFoundError:
                continue
            if bundle.status.rekor_entry is not None:
                yield bundle.status.rekor_entry.checkpoint

    async def run(self) -> None:
        """Publish the age of the oldest bundle that is not sealed, until cancelled."""
        while True:
            now = self._clock.now()
            age = max(((now - begun).total_seconds() for begun in self._begun.values()), default=0.0)
            self._metrics.gauge("ugallu_attestor_oldest_pending_seconds", max(0.0, age))
            await self._clock.sleep(EVERY)

    def close(self) -> None:
        """Listen no more."""
        for stop in self._stop:
            stop()

    def _event(self, change: Change, event: EventMark) -> None:
        if change is Change.DELETED or is_attested(event):
            self._owed.discard(event.metadata.uid)
        else:
            self._owed.add(event.metadata.uid)

    def _response(self, change: Change, response: ResponseMark) -> None:
        if change is not Change.DELETED and response.status.phase in FINISHED:
            self._over.add(response.metadata.uid)
        else:
            self._over.discard(response.metadata.uid)

    def _bundle(self, change: Change, bundle: BundleMark) -> None:
        uid = bundle.metadata.uid
        entry = bundle.status.rekor_entry
        if entry is not None and entry.inclusion_proof is not None:
            _note(self._tallest, entry.inclusion_proof.tree_size, bundle.metadata.name)
            if (made := bundle.metadata.creation_timestamp) is not None:
                _note(self._newest, int(made.timestamp()), bundle.metadata.name)
        before = self._phases.pop(uid, None)
        phase = None if change is Change.DELETED else bundle.status.phase or BundlePhase.PENDING
        if phase is BundlePhase.SEALED and bundle.spec.attested_for.kind == RESPONSE:
            self._sealed.add(bundle.spec.attested_for.uid)
        else:
            self._sealed.discard(bundle.spec.attested_for.uid)
        if phase is BundlePhase.FAILED:
            self._failed.add(bundle.spec.attested_for.uid)
        else:
            self._failed.discard(bundle.spec.attested_for.uid)
        if phase is None or phase is BundlePhase.SEALED:
            self._begun.pop(uid, None)
        else:
            self._phases[uid] = phase
            self._begun[uid] = bundle.metadata.creation_timestamp or self._clock.now()
        if before is not self._phases.get(uid):
            self._move(before, self._phases.get(uid))

    def _move(self, before: BundlePhase | None, after: BundlePhase | None) -> None:
        for phase, step in ((before, -1), (after, 1)):
            if phase is not None:
                self._counts[phase] += step
                self._metrics.gauge("ugallu_attestor_pending_bundles", self._counts[phase], phase=phase)


def _note(kept: list[tuple[int, str]], rank: int, name: str) -> None:
    """Keep a name if few rank above it."""
    if len(kept) == KEPT and rank <= kept[0][0]:
        return
    if (rank, name) not in kept:
        bisect.insort(kept, (rank, name))
        del kept[:-KEPT]
