"""Event to AttestationBundle: every event gets the bundle that seals it, under a name that nobody can squat."""

import hashlib

from ugallu.api.bundle import LABEL_EVENT_UID, LABEL_SOURCE_UID, AttestationBundle, AttestationBundleSpec, BundlePhase
from ugallu.api.event import LABEL_MANAGED_BY
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.meta import Metadata
from ugallu.cluster.port import AlreadyExistsError, Cluster, Key, View
from ugallu.errors import PermanentError
from ugallu.operator.contract import After
from ugallu.runtime.attestor.choose import Ports
from ugallu.runtime.attestor.parent import attest, is_attested
from ugallu.runtime.attestor.proof import confirm_in

MANAGED_BY = "ugallu-attestor"
PREFIX = "att-se-"
CLUSTER_ANNOTATION = "ugallu.io/cluster-id"
"""Keeps the partition of the evidence known when the event is gone."""


class Enqueue:
    """A Reconciler of SecurityEvents."""

    watches = EventMark
    at_once = 64

    def __init__(self, ports: Ports, cluster: Cluster, events: View[EventMark], bundles: View[BundleMark]) -> None:
        self._ports = ports
        self._cluster = cluster
        self._events = events
        self._bundles = bundles

    async def reconcile(self, event: EventMark) -> After | None:
        """Create the bundle if there is none; if it is sealed and the event does not say so, make it say so."""
        if is_attested(event):
            return None
        for name in names_of(event):
            bundle = self._bundles.get(name) or await self._create(name, event)
            # A bundle under our name may belong to an event that had the name before, or to somebody else.
            if bundle.spec.attested_for.uid == event.metadata.uid:
                if bundle.status.phase is BundlePhase.SEALED:
                    await self._settle(name, event)
                return None
        raise PermanentError(
            "all its bundle names belong to other events", where=f"SecurityEvent/{event.metadata.name}"
        )

    async def gone(self, key: Key) -> None:
        """Nothing to do: evidence outlives its event."""

    async def again(self, key: Key) -> None:
        """Create a bundle anew that was deleted before its event was attested."""
        plain = key.name.removeprefix(PREFIX)
        for name in (plain, plain.rpartition("-")[0]):
            event = self._events.get(name)
            if event is not None and key.name in names_of(event):
                await self.reconcile(event)

    async def _settle(self, name: str, event: EventMark) -> None:
        """Say that an event is attested whose bundle says so, and is not to be believed unseen."""
        bundle = await self._cluster.get(AttestationBundle, name)
        if bundle.spec.attested_for.uid == event.metadata.uid and bundle.status.phase is BundlePhase.SEALED:
            await confirm_in(self._ports.store, lambda b, s: self._ports.check(b, subject=s), bundle)
            await attest(self._cluster, bundle, event)

    async def _create(self, name: str, event: EventMark) -> AttestationBundle:
        try:
            return await self._cluster.create(bundle_for(name, event))
        except AlreadyExistsError:
            return await self._cluster.get(AttestationBundle, name)


def names_of(event: EventMark) -> tuple[str, str]:
    """Return the bundle's name, and the one to take when that belongs to an earlier event of the same name."""
    plain = f"{PREFIX}{event.metadata.name}"
    return plain, f"{plain}-{hashlib.sha256(event.metadata.uid.encode()).hexdigest()[:8]}"


def bundle_for(name: str, event: EventMark) -> AttestationBundle:
    """Return the bundle to create for an event."""
    return AttestationBundle(
        metadata=Metadata(
            name=name,
            labels={
                LABEL_EVENT_UID: event.metadata.uid,
                LABEL_SOURCE_UID: event.metadata.uid,
                LABEL_MANAGED_BY: MANAGED_BY,
                "app.kubernetes.io/part-of": "ugallu",
                "app.kubernetes.io/component": "attestation",
            },
            annotations={CLUSTER_ANNOTATION: event.spec.cluster_identity.cluster_id or "unknown"},
        ),
        spec=AttestationBundleSpec(attested_for=event.ref),
    )
