"""Exported folders for tests: facts sealed by whoever a test wants, on a shelf in memory."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ugallu.api.bundle import (
    AttestationBundle,
    AttestationBundleSpec,
    AttestationBundleStatus,
    BundleArchive,
    BundlePhase,
    PipelineFailure,
)
from ugallu.api.event import EvidenceRef, SecurityEvent
from ugallu.api.meta import Metadata, ObjectReference
from ugallu.api.response import (
    Action,
    ActionType,
    EventResponse,
    EventResponseSpec,
    EventResponseStatus,
    ResponderRef,
    ResponsePhase,
    SecurityEventRef,
)
from ugallu.errors import PermanentError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import keys, statement
from ugallu.evidence.canonical import digest
from ugallu.evidence.export import About, Exporter, Found, TooLargeError
from ugallu.evidence.folder import Asked, Writer
from ugallu.evidence.logs.rekor_v1 import RekorV1
from ugallu.evidence.logs.witness import Witness
from ugallu.evidence.ports import BUNDLE_MEDIA_TYPE, STATEMENT_MEDIA_TYPE, Envelope, Lock, PublicKey, Stored
from ugallu.evidence.share import pack
from ugallu.evidence.stores.parts import url_of
from ugallu.evidence.trust import Trust
from ugallu.evidence.trusted_root import read as read_root
from ugallu.testing.clock import ManualClock
from ugallu.testing.evidence import NOON, make_event
from ugallu.testing.sigstore import WHO, FakeSigstore, certified, new_key, sign, spki_of

ATTESTOR = statement.Attestor("ugallu-attestor", "0.1.0", "attestor-0")


def event(name: str, *, evidence: Sequence[EvidenceRef] = (), parents: Sequence[ObjectReference] = ()) -> SecurityEvent:
    """Return an event that names these blobs and causes."""
    made = make_event(name, uid=f"uid-{name}")
    spec = msgspec.structs.replace(made.spec, evidence=tuple(evidence), parents=tuple(parents))
    metadata = msgspec.structs.replace(made.metadata, creation_timestamp=NOON)
    return msgspec.structs.replace(made, metadata=metadata, spec=spec)


def response(name: str, to: SecurityEvent, *, evidence: Sequence[EvidenceRef] = ()) -> EventResponse:
    """Return a response that is over."""
    return EventResponse(
        metadata=Metadata(name=name, uid=f"uid-{name}", creation_timestamp=NOON),
        spec=EventResponseSpec(
            security_event_ref=SecurityEventRef(name=to.metadata.name, uid=to.metadata.uid),
            responder=ResponderRef(kind="Operator", name="ugallu-forensics"),
            action=Action(type=ActionType.EVIDENCE_UPLOAD, target_ref=ObjectReference(kind="Pod", name="web")),
        ),
        status=EventResponseStatus(
            phase=ResponsePhase.SUCCEEDED,
            started_at=NOON,
            completed_at=NOON + dt.timedelta(seconds=5),
            evidence=tuple(evidence),
        ),
    )


class Shelf:
    """A store in memory with a private Sigstore behind it: keyless signatures, a key, or both."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.services = FakeSigstore(self.clock)
        self.key = new_key()
        self.contents: dict[str, bytes] = {}
        log = self.services.rekor.log
        self._log = RekorV1(self.services.rekor, log, Witness(log), self.clock)

    @property
    def public(self) -> PublicKey:
        """The key."""
        return keys.from_spki(spki_of(self.key))

    @property
    def trust(self) -> Trust:
        """What is to be believed."""
        return Trust(read_root(self.services.trusted_root), (self.public, WHO))

    def put(self, name: str, content: bytes, media_type: str) -> EvidenceRef:
        """Put a blob on the shelf."""
        url = f"s3://evidence/{name}"
        self.contents[url] = content
        return EvidenceRef(media_type=media_type, url=url, sha256=digest(content), size=len(content))

    async def read(self, url: str, most: int) -> tuple[Stored, bytes]:
        """Return what lies at a URL."""
        if url not in self.contents:
            raise PermanentError("nothing is stored here", where=url)
        content = self.contents[url]
        if len(content) > most:
            raise TooLargeError(f"{len(content):,} bytes", where=url)
        until = NOON + dt.timedelta(days=365)
        return Stored(url, digest(content), len(content), "application/json", until, Lock.STORE), content

    async def sealed(self, fact: SecurityEvent | EventResponse, *roles: str) -> Found:
        """Seal one fact by these legs: `key`, `fulcio`."""
        content = statement.spec_bytes(fact)
        if isinstance(fact, SecurityEvent):
            payload = statement.event_statement(fact, ATTESTOR, NOON)
        else:
            payload = statement.response_statement(fact, ATTESTOR, NOON)
        name = fact.metadata.uid
        legs = [await self._leg(name, role, payload) for role in roles or ("key",)]
        return self._found(fact, legs, self.put(f"{name}.spec.json", content, "application/json"))

    async def shared(self, events: Sequence[SecurityEvent], role: str = "key") -> list[Found]:
        """Seal many events in one statement."""
        contents = [statement.spec_bytes(one) for one in events]
        payload = statement.shared_statement(list(zip(events, contents, strict=True)), ATTESTOR, NOON)
        leg = await self._leg("shared-x", role, payload)
        _, parts = pack(contents)
        found = []
        for one, content, part in zip(events, contents, parts, strict=True):
            url = url_of("s3://evidence/shared-x.spec.jsonl", part)
            self.contents[url] = content
            ref = EvidenceRef(media_type="application/json", url=url, sha256=digest(content), size=len(content))
            found.append(self._found(one, [leg], ref))
        return found

    async def _leg(self, name: str, role: str, payload: bytes) -> BundleArchive:
        if role == "key":
            from ugallu.evidence.dsse import pae

            signature = sign(self.key, pae(STATEMENT_MEDIA_TYPE, payload))
            envelope = Envelope(STATEMENT_MEDIA_TYPE, payload, signature, key=self.public)
        else:
            envelope = certified(self.services.fulcio, STATEMENT_MEDIA_TYPE, payload)
        stamp = self.services.authority.stamp(envelope.signature)
        content = bundles.write(envelope, await self._log.add(envelope), [stamp])
        ref = self.put(f"{name}.{role}.sigstore.json", content, BUNDLE_MEDIA_TYPE)
        return BundleArchive(role=role, media_type=ref.media_type, url=ref.url, sha256=ref.sha256, size=ref.size)

    def _found(self, fact: SecurityEvent | EventResponse, legs: Sequence[BundleArchive], spec: EvidenceRef) -> Found:
        first = legs[0]
        failure = PipelineFailure(stage="log", reason="Transient", timestamp=NOON)
        bundle = AttestationBundle(
            metadata=Metadata(name=f"att-{fact.metadata.name}", uid=f"att-{fact.metadata.uid}"),
            spec=AttestationBundleSpec(attested_for=fact.ref),
            status=AttestationBundleStatus(
                phase=BundlePhase.SEALED,
                worm_ref=EvidenceRef(media_type=first.media_type, url=first.url, sha256=first.sha256, size=first.size),
                subject_ref=spec,
                bundles=tuple(legs),
                sealed_at=NOON,
                failures=(failure,),
            ),
        )
        return Found(fact, whole_of(fact), bundle, whole_of(bundle))


def whole_of(item: SecurityEvent | EventResponse | AttestationBundle) -> bytes:
    """Return an object as the cluster has it."""
    kind = item.kind_info
    return msgspec.json.encode({"apiVersion": kind.api_version, "kind": kind.name, **msgspec.to_builtins(item)})


async def export(shelf: Shelf, found: Sequence[Found], folder: Path, *, most: int = 1 << 20) -> str:
    """Write a folder of these; returns the digest of its manifest."""
    with Writer(folder) as out:
        exporter = Exporter(out, shelf.read, shelf.trust, shelf.services.trusted_root, most=most)
        for one in found:
            await exporter.add(one)
        return exporter.finish(About("ugallu 0.1.0", "2026-01-02T00:00:00Z", "", Asked(related=True)))
