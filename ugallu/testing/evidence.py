"""Evidence for tests: an event to seal, the embedded ports in a directory, and one sealed kit."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.event import ClusterIdentity, SecurityEvent, SecurityEventSpec, SourceRef
from ugallu.api.meta import Metadata
from ugallu.api.subject import Subject
from ugallu.clock import Clock
from ugallu.evidence import bundle, statement, trusted_root
from ugallu.evidence.kit import Kit
from ugallu.evidence.logs.tiles import TileLog
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, LogEntry, PublicKey
from ugallu.evidence.signers.local import LocalSigner, open_key
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.testing.clock import ManualClock

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def make_event(
    name: str = "se-0123456789abcdef01234567", *, uid: str = "", detected_at: dt.datetime = NOON
) -> SecurityEvent:
    """Return a small event, unlike any real one in nothing but its size."""
    return SecurityEvent(
        metadata=Metadata(name=name, uid=uid),
        spec=SecurityEventSpec(
            class_=EventClass.DETECTION,
            type="ExecIntoPod",
            severity=Severity.HIGH,
            cluster_identity=ClusterIdentity(cluster_name="test", cluster_id="test"),
            source=SourceRef(kind="Deployment", name="ugallu-audit-detection", version="0.1.0"),
            subject=Subject(
                kind="Pod", name="web", namespace="shop", uid="11111111-2222-3333-4444-555555555555", unresolved=True
            ),
            detected_at=detected_at,
            signals={"rule": "exec-by-workload", "user": "system:serviceaccount:shop:web", "verb": "create"},
            correlation_id="c0ffee",
        ),
    )


@dataclass(frozen=True, slots=True)
class LocalEvidence:
    """The embedded ports below one directory."""

    signer: LocalSigner
    log: TileLog
    store: DirectoryStore
    key: PublicKey

    @property
    def trusted_root(self) -> bytes:
        """The trusted root that believes this log."""
        return trusted_root.write([self.log.trusted_root])

    def close(self) -> None:
        """Let another one open log and store."""
        self.log.close()
        self.store.close()


def open_evidence(folder: Path, clock: Clock | None = None) -> LocalEvidence:
    """Open, or begin, the embedded ports below `folder`."""
    clock = clock or ManualClock()
    key = open_key(folder / "keys" / "attestor.key")
    log = TileLog(folder / "log", open_key(folder / "keys" / "log.key"), folder / "keys" / "log.witness", clock)
    return LocalEvidence(LocalSigner(key), log, DirectoryStore(folder / "store", clock), key.public)


async def sign(evidence: LocalEvidence, *specs: bytes) -> Envelope:
    """Sign a Statement about these bytes."""
    subjects = [statement.subject_of(f"SecurityEvent/se-{number}@v1alpha1", spec) for number, spec in enumerate(specs)]
    payload = statement.build(subjects, statement.EVENT_PREDICATE, {"incident": {"type": "ExecIntoPod"}})
    return await evidence.signer.sign(STATEMENT_MEDIA_TYPE, payload)


async def seal(evidence: LocalEvidence, event: SecurityEvent) -> tuple[Kit, Envelope, LogEntry]:
    """Sign and log one event, and return its kit with the parts it was made of."""
    spec = statement.spec_bytes(event)
    payload = statement.event_statement(event, statement.Attestor("ugallu-attestor", "0.1.0", "test"), NOON)
    envelope = await evidence.signer.sign(STATEMENT_MEDIA_TYPE, payload)
    entry = await evidence.log.add(envelope)
    content = bundle.write(envelope, entry)
    return Kit(event.metadata.name, content, spec, evidence.key, evidence.trusted_root), envelope, entry
