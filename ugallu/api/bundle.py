"""AttestationBundle: the signing job of one fact, and the proof that comes of it, stage by stage."""

import datetime as dt
import enum
from typing import ClassVar

import msgspec

from ugallu.api.event import EvidenceRef
from ugallu.api.meta import AGE, Column, Conditions, Kind, ObjectReference, Resource, Wire, always
from ugallu.api.scalars import Int64

LABEL_EVENT_UID = "ugallu.io/security-event-uid"
LABEL_RESPONSE_UID = "ugallu.io/event-response-uid"
LABEL_SOURCE_UID = "ugallu.io/source-uid"


class BundlePhase(enum.StrEnum):
    """How far sealing has come; absent reads as Pending."""

    PENDING = "Pending"
    SIGNED = "Signed"
    LOGGED = "Logged"
    SEALED = "Sealed"
    FAILED = "Failed"


class SigningMode(enum.StrEnum):
    """Who signs.

    `fulcio` and `openbao` are short for the names behind them and only asked for: what has signed is named in full.
    `local-p256` is the key on disk of a process that runs without a cluster.
    """

    FULCIO = "fulcio"
    FULCIO_KEYLESS = "fulcio-keyless"
    OPENBAO = "openbao"
    OPENBAO_TRANSIT = "openbao-transit"
    DUAL = "dual"
    ED25519_DEV = "ed25519-dev"
    LOCAL_P256 = "local-p256"

    @property
    def canonical(self) -> "SigningMode":
        """The mode by its full name, as a status carries it."""
        return _FULL_NAMES.get(self, self)


_FULL_NAMES = {SigningMode.FULCIO: SigningMode.FULCIO_KEYLESS, SigningMode.OPENBAO: SigningMode.OPENBAO_TRANSIT}


class SignatureInfo(Wire, frozen=True, kw_only=True):
    """Mode and key used to sign."""

    mode: SigningMode
    """Signing mode used (canonical name)."""
    key_id: str = ""
    """Key fingerprint; dual = dual:<a>+<b>."""


class InclusionProof(Wire, frozen=True, kw_only=True):
    """Merkle audit path, hex, leaf to root."""

    tree_size: Int64
    """Tree size the proof refers to."""
    log_index: Int64 = msgspec.field(default_factory=always(0))
    """Leaf index inside that tree."""
    root_hash: str = ""
    """Hex root hash."""
    hashes: tuple[str, ...] = ()
    """Sibling hashes, leaf to root."""


class RekorEntry(Wire, frozen=True, kw_only=True):
    """The entry in the transparency log; `uuid` is the hex leaf hash where the log has no uuids."""

    log_index: Int64
    """Log index of the entry."""
    uuid: str
    """Log entry UUID."""
    inclusion_proof: InclusionProof | None = None
    """Merkle inclusion proof."""
    log_id: str = ""
    """Hex id of the log's key."""
    integrated_time: Int64 = 0
    """When the log took the entry, in Unix seconds; 0 where it does not say."""
    api_version: str = ""
    """Version of the entry's type."""
    kind: str = ""
    """Type of the entry."""
    checkpoint: str = ""
    """Signed tree head that the proof leads to."""


class PipelineFailure(Wire, frozen=True, kw_only=True):
    """One failed try of a stage, kept for audit."""

    stage: str
    """Stage name: sign, log, archive, statement."""
    reason: str = ""
    """Short tag."""
    detail: str = ""
    """Error text."""
    timestamp: dt.datetime
    """When it failed."""


class BundleArchive(Wire, frozen=True, kw_only=True):
    """One archived bundle: its leg (`role`), where it is and what it hashes to."""

    role: str
    """The leg that signed."""
    media_type: str
    """MIME type of the blob."""
    url: str
    """Where the blob is."""
    sha256: str
    """Digest `sha256:<hex>` of the blob."""
    size: Int64 = 0
    """Blob size in bytes."""
    key_id: str = ""
    """Fingerprint of the key that signed."""


class AttestationBundleSpec(Wire, frozen=True, kw_only=True):
    """What is signed."""

    attested_for: ObjectReference
    """SecurityEvent or EventResponse being signed."""
    parent_bundle_ref: ObjectReference | None = None
    """Earlier bundle (re-attestation, closure, redaction record)."""


class AttestationBundleStatus(Wire, frozen=True, kw_only=True):
    """What is proven so far. `statement_digest` is `sha256:<hex>` of the signed Statement's bytes."""

    phase: BundlePhase | None = None
    """Pipeline phase reached."""
    statement_digest: str = ""
    """`sha256:<hex>` of the signed Statement."""
    signature: SignatureInfo | None = None
    """Mode and key used to sign."""
    rekor_entry: RekorEntry | None = None
    """Transparency-log entry."""
    worm_ref: EvidenceRef | None = None
    """Stored DSSE envelope."""
    signed_at: dt.datetime | None = None
    """Time signing succeeded."""
    sealed_at: dt.datetime | None = None
    """Time the bundle became Sealed."""
    failures: tuple[PipelineFailure, ...] = ()
    """Stage errors met, kept for audit."""
    conditions: Conditions = ()
    """Types Signed, Logged, Archived."""
    bundles: tuple[BundleArchive, ...] = ()
    """Archived Sigstore bundles, one for each leg."""
    subject_ref: EvidenceRef | None = None
    """The archived bytes that were signed."""
    attempts: int = 0
    """Tries of the present stage."""
    next_attempt_at: dt.datetime | None = None
    """Earliest next try."""


class AttestationBundle(Resource, frozen=True, kw_only=True):
    """The signing job and proof of one event or response."""

    kind_info: ClassVar[Kind] = Kind(
        "AttestationBundle",
        "attestationbundles",
        short_names=("ab",),
        selectable=("spec.attestedFor.kind", "spec.attestedFor.name", "spec.attestedFor.uid", "status.phase"),
        columns=(
            Column("For", ".spec.attestedFor.kind"),
            Column("Subject", ".spec.attestedFor.name"),
            Column("Phase", ".status.phase"),
            Column("Mode", ".status.signature.mode"),
            Column("RekorIndex", ".status.rekorEntry.logIndex", "integer"),
            AGE,
        ),
    )
    spec: AttestationBundleSpec
    """What is signed."""
    status: AttestationBundleStatus = AttestationBundleStatus()
    """What is proven so far."""
