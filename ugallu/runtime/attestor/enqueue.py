"""Event, or finished response, to AttestationBundle: each gets the one that seals it, under a name nobody can squat."""

import hashlib
from collections.abc import Callable
from typing import Final, TypeVar

from ugallu.api.bundle import (
    LABEL_EVENT_UID,
    LABEL_RESPONSE_UID,
    LABEL_SOURCE_UID,
    AttestationBundle,
    AttestationBundleSpec,
    BundlePhase,
)
from ugallu.api.event import LABEL_MANAGED_BY
from ugallu.api.marks import BundleMark, EventMark, ResponseMark
from ugallu.api.meta import Metadata
from ugallu.cluster.port import AlreadyExistsError, Cluster, Key, View
from ugallu.errors import PermanentError
from ugallu.evidence.seal import Keys
from ugallu.operator.contract import After
from ugallu.runtime.attestor.choose import Ports
from ugallu.runtime.attestor.parent import FINISHED, attest, is_attested
from ugallu.runtime.attestor.proof import confirm_in

P = TypeVar("P", EventMark, ResponseMark)

MANAGED_BY: Final = "ugallu-attestor"
PREFIX: Final = "att-se-"
RESPONSE_PREFIX: Final = "att-er-"
LONGEST: Final = 244
"""Characters of a bundle's name, 253 less the ending of the second one."""
CLUSTER_ANNOTATION: Final = "ugallu.io/cluster-id"
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
        found = await _bundle(self._cluster, self._bundles, event, bundle_for)
        if found.status.phase is BundlePhase.SEALED:
            await self._settle(found.metadata.name, event)
        return None

    async def gone(self, key: Key) -> None:
        """Nothing to do: evidence outlives its event."""

    async def again(self, key: Key) -> None:
        """Create a bundle anew that was deleted before its event was attested."""
        for event in _named(key, PREFIX, self._events):
            await self.reconcile(event)

    async def _settle(self, name: str, event: EventMark) -> None:
        """Say that an event is attested whose bundle says so, and is not to be believed unseen."""
        bundle = await self._cluster.get(AttestationBundle, name)
        if bundle.spec.attested_for.uid == event.metadata.uid and bundle.status.phase is BundlePhase.SEALED:
            await confirm_in(self._ports.store, lambda b, s: self._ports.check(b, subject=s), bundle)
            # Whoever sealed it died before: once the event says so, nobody comes by again.
            await self._ports.store.drop(Keys(bundle.metadata.uid).draft)
            await attest(self._cluster, bundle, bundle.status.statement_digest, event)


class EnqueueResponses:
    """A Reconciler of EventResponses: what is over is sealed, as it was asked and as it ended."""

    watches = ResponseMark

    def __init__(
        self, cluster: Cluster, responses: View[ResponseMark], bundles: View[BundleMark], cluster_id: str
    ) -> None:
        self._cluster = cluster
        self._responses = responses
        self._bundles = bundles
        self._cluster_id = cluster_id

    async def reconcile(self, response: ResponseMark) -> After | None:
        """Create the bundle if the response is over and there is none."""
        if response.status.phase in FINISHED:
            await _bundle(self._cluster, self._bundles, response, self._bundle_for)
        return None

    async def gone(self, key: Key) -> None:
        """Nothing to do: evidence outlives its response."""

    async def again(self, key: Key) -> None:
        """Create a bundle anew that was deleted while its response is there."""
        for response in _named(key, RESPONSE_PREFIX, self._responses):
            await self.reconcile(response)

    def _bundle_for(self, name: str, response: ResponseMark) -> AttestationBundle:
        return response_bundle_for(name, response, self._cluster_id)


async def _bundle(
    cluster: Cluster, bundles: View[BundleMark], parent: P, make: Callable[[str, P], AttestationBundle]
) -> AttestationBundle | BundleMark:
    """Return the bundle for an object, made if there is none.

    A bundle under its name may belong to an object that had the name before, or to somebody else: then there is
    another name, and `PermanentError` when that is taken as well.
    """
    for name in names_of(parent):
        found = bundles.get(name) or await _create(cluster, make(name, parent))
        if found.spec.attested_for.uid == parent.metadata.uid:
            return found
    kind = parent.kind_info.name
    raise PermanentError(f"all its bundle names belong to other {kind}s", where=f"{kind}/{parent.metadata.name}")


async def _create(cluster: Cluster, bundle: AttestationBundle) -> AttestationBundle:
    try:
        return await cluster.create(bundle)
    except AlreadyExistsError:
        return await cluster.get(AttestationBundle, bundle.metadata.name)


def names_of(parent: EventMark | ResponseMark) -> tuple[str, str]:
    """Return the bundle's name, and the one to take when that belongs to an earlier object of the same name."""
    prefix = PREFIX if isinstance(parent, EventMark) else RESPONSE_PREFIX
    plain = f"{prefix}{parent.metadata.name}"
    if len(plain) > LONGEST:
        # No room for what is put before and behind it; a digest keeps names apart that begin alike.
        plain = f"{plain[: LONGEST - 33].rstrip('.-')}-{hashlib.sha256(parent.metadata.name.encode()).hexdigest()[:32]}"
    return plain, f"{plain}-{hashlib.sha256(parent.metadata.uid.encode()).hexdigest()[:8]}"


def _named(key: Key, prefix: str, view: View[P]) -> list[P]:
    """Return the objects that a bundle of this name may be for."""
    if not key.name.startswith(prefix):
        return []
    plain = key.name.removeprefix(prefix)
    found = [view.get(name) for name in (plain, plain.rpartition("-")[0])]
    if len(key.name) > LONGEST // 2:
        found += [one for one in view.items() if len(one.metadata.name) > LONGEST - len(prefix)]
    return [one for one in found if one is not None and key.name in names_of(one)]


def bundle_for(name: str, event: EventMark) -> AttestationBundle:
    """Return the bundle to create for an event."""
    labels = {LABEL_EVENT_UID: event.metadata.uid, LABEL_SOURCE_UID: event.metadata.uid}
    return _made(name, event, labels, event.spec.cluster_identity.cluster_id)


def response_bundle_for(name: str, response: ResponseMark, cluster_id: str) -> AttestationBundle:
    """Return the bundle to create for a response, found by the uid of its event as well."""
    labels = {LABEL_RESPONSE_UID: response.metadata.uid, LABEL_SOURCE_UID: response.metadata.uid}
    if response.spec.security_event_ref.uid:
        labels[LABEL_EVENT_UID] = response.spec.security_event_ref.uid
    return _made(name, response, labels, cluster_id)


def _made(name: str, parent: EventMark | ResponseMark, labels: dict[str, str], cluster_id: str) -> AttestationBundle:
    return AttestationBundle(
        metadata=Metadata(
            name=name,
            labels={
                **labels,
                LABEL_MANAGED_BY: MANAGED_BY,
                "app.kubernetes.io/part-of": "ugallu",
                "app.kubernetes.io/component": "attestation",
            },
            annotations={CLUSTER_ANNOTATION: cluster_id or "unknown"},
        ),
        spec=AttestationBundleSpec(attested_for=parent.ref),
    )
