"""AttestationBundle: the signing job of one fact, and the proof that comes of it, stage by stage."""

import datetime as dt
import enum
from typing import ClassVar

import msgspec

from ugallu.api.event import EvidenceRef
from ugallu.api.meta import Condition, Kind, ObjectReference, Resource, Wire

LABEL_EVENT_UID = "ugallu.io/security-event-uid"
LABEL_SOURCE_UID = "ugallu.io/source-uid"


class BundlePhase(enum.StrEnum):
    """How far sealing has come; absent reads as Pending."""

    PENDING = "Pending"
    SIGNED = "Signed"
    LOGGED = "Logged"
    SEALED = "Sealed"
    FAILED = "Failed"


class SigningMode(enum.StrEnum):
    """Who signs. `local-p256` is ours: the key on disk of a process that runs without a cluster."""

    FULCIO_KEYLESS = "fulcio-keyless"
    OPENBAO_TRANSIT = "openbao-transit"
    DUAL = "dual"
    ED25519_DEV = "ed25519-dev"
    LOCAL_P256 = "local-p256"


class SignatureInfo(Wire, frozen=True, kw_only=True):
    """Mode and key used to sign."""

    mode: SigningMode
    key_id: str = ""


class InclusionProof(Wire, frozen=True, kw_only=True):
    """Merkle audit path, hex, leaf to root."""

    tree_size: int
    log_index: int = msgspec.field(default_factory=int)
    root_hash: str = ""
    hashes: tuple[str, ...] = ()


class RekorEntry(Wire, frozen=True, kw_only=True):
    """The entry in the transparency log; `uuid` is the hex leaf hash where the log has no uuids."""

    log_index: int
    uuid: str
    inclusion_proof: InclusionProof | None = None
    log_id: str = ""
    integrated_time: int = 0
    api_version: str = ""
    kind: str = ""
    checkpoint: str = ""


class PipelineFailure(Wire, frozen=True, kw_only=True):
    """One failed try of a stage, kept for audit."""

    stage: str
    reason: str = ""
    detail: str = ""
    timestamp: dt.datetime


class BundleArchive(Wire, frozen=True, kw_only=True):
    """One archived bundle: its leg (`role`), where it is and what it hashes to."""

    role: str
    media_type: str
    url: str
    sha256: str
    size: int = 0
    key_id: str = ""


class AttestationBundleSpec(Wire, frozen=True, kw_only=True):
    """What is signed."""

    attested_for: ObjectReference
    parent_bundle_ref: ObjectReference | None = None


class AttestationBundleStatus(Wire, frozen=True, kw_only=True):
    """What is proven so far. `statement_digest` is `sha256:<hex>` of the signed Statement's bytes."""

    phase: BundlePhase | None = None
    statement_digest: str = ""
    signature: SignatureInfo | None = None
    rekor_entry: RekorEntry | None = None
    worm_ref: EvidenceRef | None = None
    signed_at: dt.datetime | None = None
    sealed_at: dt.datetime | None = None
    failures: tuple[PipelineFailure, ...] = ()
    conditions: tuple[Condition, ...] = ()
    bundles: tuple[BundleArchive, ...] = ()
    subject_ref: EvidenceRef | None = None
    attempts: int = 0
    next_attempt_at: dt.datetime | None = None


class AttestationBundle(Resource, frozen=True, kw_only=True):
    """The signing job and proof of one event or response."""

    kind_info: ClassVar[Kind] = Kind("AttestationBundle", "attestationbundles", short_names=("ab",))
    spec: AttestationBundleSpec
    status: AttestationBundleStatus = AttestationBundleStatus()
