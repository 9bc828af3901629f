"""The evidence of an event in a state directory: read back, checked against what status says, ready to hand out."""

from pathlib import Path

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import EvidenceRef, SecurityEvent
from ugallu.clock import SystemClock
from ugallu.cluster.port import Cluster
from ugallu.errors import PermanentError, TransientError
from ugallu.evidence import bundle as sigstore
from ugallu.evidence import keys, statement, trusted_root, verify
from ugallu.evidence.kit import KEY_FILE, ROOT_FILE, Kit
from ugallu.evidence.ports import IntegrityError, PublicKey
from ugallu.evidence.roll import Roll
from ugallu.evidence.stores.directory import DirectoryStore

FOLDER = "evidence"
STORE = "store"
SIGNERS = "signers.json"
ASK = "keep the disk as it is and find out who changed it"


class Archive:
    """The evidence folder of a state directory, for reading."""

    def __init__(self, state: Path) -> None:
        """Raises `PermanentError` when nothing was ever sealed here."""
        folder = state / FOLDER
        if not (folder / KEY_FILE).exists():
            raise PermanentError("nothing was sealed here", where=str(state), fix="run without --no-seal")
        self.folder = folder
        key = keys.from_pem((folder / KEY_FILE).read_bytes(), where=str(folder / KEY_FILE))
        past = (one for one in Roll(folder / SIGNERS).known if isinstance(one, PublicKey))
        self.keys = tuple(dict.fromkeys((key, *past)))
        """Those that signed here, the newest first."""
        self.trusted_root = (folder / ROOT_FILE).read_bytes()
        self._store = DirectoryStore(folder / STORE, SystemClock())
        self._root = trusted_root.read(self.trusted_root)

    async def kit(self, event: SecurityEvent, bundle: AttestationBundle) -> Kit:
        """Return the event's evidence; raises `IntegrityError` when the archive does not hold what status names."""
        status = bundle.status
        if status.phase is not BundlePhase.SEALED or status.worm_ref is None or status.subject_ref is None:
            phase = status.phase.value if status.phase else "Pending"
            raise TransientError(f"not sealed yet ({phase})", where=event.metadata.name, fix="wait for phase Attested")
        content, spec = await self._read(status.worm_ref), await self._read(status.subject_ref)
        uid = event.metadata.uid
        # Status names the bundle, and status is not signed: only the statement itself says whose evidence this is.
        archived = sigstore.read(content)
        signed = statement.parse(archived.envelope.payload)
        if bundle.spec.attested_for.uid != uid or not statement.concerns(signed, uid, spec):
            raise IntegrityError("status names the evidence of another event", where=event.metadata.name, fix=ASK)
        return Kit(
            name=event.metadata.name,
            bundle=content,
            spec=spec,
            key=next((key for key in self.keys if key.hint == archived.hint), self.keys[0]),
            trusted_root=self.trusted_root,
        )

    def check(self, kit: Kit) -> verify.Report:
        """Verify a kit as a stranger would, under the keys and the log of this state."""
        return verify.verify(kit.bundle, key=self.keys, root=self._root, subject=kit.spec)

    async def _read(self, ref: EvidenceRef) -> bytes:
        # The directory may have been moved since: what counts is the key within the store.
        stored, content = await self._store.read(self._store.key(ref.url))
        if (stored.sha256, stored.size) != (ref.sha256, ref.size):
            raise IntegrityError("the archive holds other bytes than status names", where=ref.url)
        return content


async def bundle_of(cluster: Cluster, event: SecurityEvent) -> AttestationBundle:
    """Return the event's bundle; raises `TransientError` while it has none."""
    ref = event.status.attestation_bundle_ref
    if ref is None:
        raise TransientError("not attested yet", where=event.metadata.name, fix="is the attestor enabled?")
    return await cluster.get(AttestationBundle, ref.name)
