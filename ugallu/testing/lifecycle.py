"""ttl in a test: its reconcilers over a real embedded cluster, evidence in memory, and a clock to move by hand."""

import datetime as dt
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
import structlog

from ugallu.api.bundle import (
    AttestationBundle,
    AttestationBundleSpec,
    BundlePhase,
    RekorEntry,
)
from ugallu.api.catalog import Severity
from ugallu.api.event import LABEL_CLASS, LABEL_SEVERITY, ClusterIdentity, EventPhase, EvidenceRef, SecurityEvent
from ugallu.api.meta import Metadata, Resource, utc_seconds
from ugallu.api.observation import Checkpoint, Finding
from ugallu.api.platform import TTLConfigSpec
from ugallu.api.response import EventResponse
from ugallu.clock import Clock
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.port import Cluster, NotFoundError
from ugallu.emit.port import Origin
from ugallu.errors import PermanentError, RefusedError, UgalluError
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import BUNDLE_MEDIA_TYPE, IntegrityError, Lock, Stored
from ugallu.evidence.seal import RETENTION, Keys
from ugallu.evidence.statement import spec_bytes
from ugallu.metrics import Metrics
from ugallu.operator.contract import After, Parts
from ugallu.operator.platform import Platform
from ugallu.runtime.ttl import operator as ttl
from ugallu.runtime.ttl.collect import Collect
from ugallu.runtime.ttl.vault import NO_STORE
from ugallu.settings import load
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.evidence import make_event

ACCOUNT: Final = "system:serviceaccount:ugallu-system:ugallu-ttl"
NAMESPACE: Final = "ugallu-system"


class MemoryStore:
    """The `EvidenceStore` port in a dictionary; `broken` is raised by every call, `torn` keys read as other bytes."""

    endpoint = "memory://"
    lock = Lock.STORE

    def __init__(self, clock: Clock) -> None:
        self.blobs: dict[str, tuple[bytes, Stored]] = {}
        self.broken: UgalluError | None = None
        self.torn: set[str] = set()
        self.forgetful = False
        """Answers puts and keeps nothing."""
        self._clock = clock

    def key(self, url: str) -> str:
        """Return the key of `memory://<key>`."""
        scheme, _, key = url.partition("://")
        if scheme != "memory":
            raise PermanentError("not of this store", where=url[:80])
        return key

    async def put(self, key: str, content: bytes, *, media_type: str, until: dt.datetime | None) -> Stored:
        """Store once."""
        await self._call()
        there = self.blobs.get(key)
        if there is not None and there[0] != content and not key.startswith("staging/"):
            raise IntegrityError("the key already holds other content", where=key)
        stored = Stored(f"memory://{key}", digest(content), len(content), media_type, until, self.lock)
        if there is not None and there[1].until is not None and until is not None:
            stored = msgspec.structs.replace(stored, until=max(there[1].until, until), held=there[1].held)
        if not self.forgetful:
            self.blobs[key] = content, stored
        return stored

    async def get(self, key: str) -> bytes:
        """Return the content."""
        return (await self.read(key))[1]

    async def read(self, key: str) -> tuple[Stored, bytes]:
        """Return the content, and what is recorded of it."""
        await self._call()
        if key not in self.blobs:
            raise PermanentError("nothing is stored here", where=key)
        if key in self.torn:
            raise IntegrityError("the content is not what was recorded", where=key)
        content, stored = self.blobs[key]
        return stored, content

    async def stat(self, key: str) -> Stored | None:
        """Return what is recorded."""
        await self._call()
        return self.blobs[key][1] if key in self.blobs else None

    async def extend(self, key: str, until: dt.datetime) -> Stored:
        """Keep longer."""
        stored = await self._known(key)
        later = msgspec.structs.replace(stored, until=max(until, stored.until or until))
        self.blobs[key] = self.blobs[key][0], later
        return later

    async def hold(self, key: str, *, on: bool) -> Stored:
        """Hold or let go."""
        stored = msgspec.structs.replace(await self._known(key), held=on)
        self.blobs[key] = self.blobs[key][0], stored
        return stored

    async def drop(self, key: str) -> None:
        """Remove what nothing keeps."""
        await self._call()
        _, stored = self.blobs.get(key, (b"", None))
        if stored is not None and (stored.held or (stored.until is not None and stored.until > self._clock.now())):
            raise RefusedError("kept", where=key)
        self.blobs.pop(key, None)

    async def _known(self, key: str) -> Stored:
        await self._call()
        if key not in self.blobs:
            raise PermanentError("nothing is stored here", where=key)
        return self.blobs[key][1]

    async def _call(self) -> None:
        await anyio.lowlevel.checkpoint()
        if self.broken is not None:
            raise self.broken


class MemoryVault:
    """A `Vault` that confirms what `sealed` put there, by its digests; `confirmed` are the uids that it vouched for."""

    def __init__(self, store: MemoryStore, missing: str = "") -> None:
        self.store = store
        self.missing = missing
        self.services = ()
        self.confirmed: list[str] = []

    async def confirm(self, bundle: AttestationBundle) -> None:
        """Read back, and compare digests."""
        status = bundle.status
        where = f"AttestationBundle/{bundle.metadata.name}"
        if status.worm_ref is None or status.subject_ref is None or status.rekor_entry is None:
            raise IntegrityError("called sealed, but the status names no evidence", where=where)
        for ref in (status.worm_ref, status.subject_ref):
            if digest(await self.store.get(self.store.key(ref.url))) != ref.sha256:
                raise IntegrityError("the archive holds other bytes than the status names", where=where)
        about = (await self.store.get(self.store.key(status.worm_ref.url))).decode()
        if about != f"evidence of {bundle.spec.attested_for.uid}":
            raise IntegrityError("called sealed with the evidence of another event", where=where)
        self.confirmed.append(bundle.spec.attested_for.uid)

    def until(self, now: dt.datetime) -> dt.datetime:
        """A year."""
        return now + RETENTION

    def close(self) -> None:
        """Nothing is open."""


class Heard:
    """An `Emitter` that remembers what it was told."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.origin = Origin(component="ugallu-ttl", emits=frozenset())

    async def submit(self, findings: Sequence[Finding], checkpoint: Checkpoint | None = None) -> None:  # noqa: ARG002
        """Remember."""
        self.findings += findings

    def of(self, type_: str) -> list[Finding]:
        """Return the findings of a type."""
        return [finding for finding in self.findings if finding.type.name == type_]


@dataclass
class Lifecycle:
    """One process of ttl, and the objects it looks after."""

    cluster: Cluster
    """As people write to it."""
    cache: SharedCache
    parts: Parts
    metrics: Metrics
    clock: ManualClock
    store: MemoryStore
    vault: MemoryVault
    heard: Heard
    _versions: dict[str, int] = field(default_factory=dict)

    def collector(self, kind: type[Resource]) -> Collect:
        """Return the reconciler of a kind."""
        for found in self.parts.reconcilers:
            if isinstance(found, Collect) and found.watches.kind_info == kind.kind_info:
                return found
        raise AssertionError(kind)

    async def look(self, item: Resource) -> After | None:
        """Reconcile one object, as the cache shows it."""
        await settled()
        collector = self.collector(type(item))
        view = self.cache.view(collector.watches)
        seen = view.get(item.metadata.name, item.metadata.namespace)
        return None if seen is None else await collector.reconcile(seen)

    async def chain(self) -> None:
        """Write the manifests that wait."""
        await self.service("chain").turn()

    def service(self, name: str) -> Any:  # noqa: ANN401 - whichever it is
        """Return a service by name."""
        return next(service for service in self.parts.services if service.name == name)

    async def through(self, item: Resource) -> bool:
        """Look as often as it takes to archive and delete an object, if it may go; tell whether it went."""
        for _ in range(6):
            await self.look(item)
            await self.chain()
            await self.clock.advance(61)
        return not await self.there(item)

    async def there(self, item: Resource) -> bool:
        """Tell whether this very object is in the cluster."""
        try:
            found = await self.cluster.get(type(item), item.metadata.name, item.metadata.namespace)
        except NotFoundError:
            return False
        return found.metadata.uid == item.metadata.uid

    async def notes(self, item: Resource) -> dict[str, str]:
        """Return an object's annotations."""
        found = await self.cluster.get(type(item), item.metadata.name, item.metadata.namespace)
        return found.metadata.annotations

    async def annotate(self, item: Resource, **notes: str | None) -> None:
        """Write annotations as a person may: `ttl_frozen` is `ugallu.io/ttl-frozen`."""
        named = {f"ugallu.io/{name.replace('_', '-')}": text for name, text in notes.items()}
        patch = {"metadata": {"annotations": named}}
        await self.cluster.patch(type(item), item.metadata.name, patch, item.metadata.namespace)
        await settled()

    async def event(self, name: str, severity: Severity = Severity.INFO) -> SecurityEvent:
        """Create an event."""
        made = make_event(name, detected_at=self.clock.now())
        spec = msgspec.structs.replace(made.spec, severity=severity)
        labels = {LABEL_CLASS: spec.class_.value, LABEL_SEVERITY: severity.value}
        return await self.cluster.create(msgspec.structs.replace(made, spec=spec).with_metadata(labels=labels))

    async def seal(self, item: Resource, *, phase: BundlePhase = BundlePhase.SEALED) -> AttestationBundle:
        """Make the bundle of an event or a response, as the attestor does."""
        return await sealed(self.cluster, self.store, item, self.clock, phase=phase)


async def sealed(
    cluster: Cluster,
    store: MemoryStore,
    item: Resource,
    clock: Clock,
    *,
    phase: BundlePhase = BundlePhase.SEALED,
) -> AttestationBundle:
    """Make a bundle and what it names, and tell the event; in another phase than Sealed nothing is stored."""
    is_event = isinstance(item, SecurityEvent)
    event_uid = item.metadata.uid if is_event else item.spec.security_event_ref.uid  # type: ignore[attr-defined]
    bundle = await cluster.create(
        AttestationBundle(
            metadata=Metadata(
                name=f"att-{'se' if is_event else 'er'}-{item.metadata.name}",
                labels={"ugallu.io/security-event-uid": event_uid},
                annotations={"ugallu.io/cluster-id": "test"},
            ),
            spec=AttestationBundleSpec(attested_for=item.ref),
        )
    )
    now = utc_seconds(clock.now())
    if phase is not BundlePhase.SEALED:
        return await cluster.patch_status(AttestationBundle, bundle.metadata.name, {"phase": phase})
    keys = Keys(bundle.metadata.uid)
    assert isinstance(item, SecurityEvent | EventResponse)
    spec = spec_bytes(item)
    until = now + RETENTION
    about = f"evidence of {item.metadata.uid}".encode()
    proof = await store.put(keys.bundle("test", now), about, media_type=BUNDLE_MEDIA_TYPE, until=until)
    subject = await store.put(keys.subject("test", now), spec, media_type="application/json", until=until)
    await store.put(keys.envelope_line("test", now), about, media_type="application/json", until=until)
    status = {
        "phase": phase,
        "statementDigest": digest(about),
        "rekorEntry": RekorEntry(log_index=1, uuid="1"),
        "wormRef": EvidenceRef(media_type=BUNDLE_MEDIA_TYPE, url=proof.url, sha256=proof.sha256),
        "subjectRef": EvidenceRef(media_type="application/json", url=subject.url, sha256=subject.sha256),
        "sealedAt": now,
    }
    bundle = await cluster.patch_status(AttestationBundle, bundle.metadata.name, msgspec.to_builtins(status))
    if is_event:
        told = {
            "phase": EventPhase.ATTESTED,
            "attestationDigest": digest(about),
            "attestationBundleRef": msgspec.to_builtins(bundle.ref),
        }
        await cluster.patch_status(SecurityEvent, item.metadata.name, told)
    return bundle


@asynccontextmanager
async def lifecycle(
    folder: Path,
    cluster: Any,  # noqa: ANN401 - an EmbeddedCluster, or one that breaks calls to it
    clock: ManualClock,
    *,
    store: MemoryStore | None = None,
    config: TTLConfigSpec | None = None,
    people: Cluster | None = None,
    vaulted: bool = True,
    wrap: Callable[[Cluster], Cluster] = lambda cluster: cluster,
) -> AsyncIterator[Lifecycle]:
    """Build ttl over the cluster, under its own account and policies; leaving is the end of the process."""
    store = store or MemoryStore(clock)
    vault = MemoryVault(store, "" if vaulted else NO_STORE)
    metrics, heard = Metrics(), Heard()
    cache = SharedCache(cluster, clock=clock)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cache.run)
        platform = Platform(
            identity=ClusterIdentity(cluster_name="test", cluster_id="test"),
            cluster=wrap(cluster.acting(ACCOUNT)),
            cache=cache,
            emitter=heard,
            clock=clock,
            log=structlog.get_logger(),
            metrics=metrics,
            settings=load({"state": str(folder), "instance": "test"}, {}),
            namespace=NAMESPACE,
            state=folder,
        )
        parts = ttl.TTL().build_over(config or TTLConfigSpec(), platform, vault)
        try:
            await settled()
            yield Lifecycle(people or cluster, cache, parts, metrics, clock, store, vault, heard)
        finally:
            parts.close()
            tasks.cancel_scope.cancel()
