"""What an AttestationBundle's status says of each stage. Pure."""

import datetime as dt
from typing import Any

from ugallu.api.bundle import (
    BundleArchive,
    BundlePhase,
    InclusionProof,
    PipelineFailure,
    RekorEntry,
    SignatureInfo,
    SigningMode,
)
from ugallu.api.event import EvidenceRef
from ugallu.api.meta import Condition
from ugallu.evidence.logs import merkle
from ugallu.evidence.ports import Lock, LogEntry, Stored
from ugallu.evidence.seal import MAX_FAILURES, Stage
from ugallu.runtime.attestor.stages import Archived, Draft

CONDITION = {Stage.STATEMENT: "Signed", Stage.SIGN: "Signed", Stage.LOG: "Logged", Stage.ARCHIVE: "Archived"}
"""The condition that tells of each stage."""


def signed(draft: Draft, mode: str, now: dt.datetime) -> dict[str, Any]:
    """Return the changes that say who signed."""
    key_id = _key_id(draft)
    return {
        "phase": BundlePhase.SIGNED,
        "signature": SignatureInfo(mode=SigningMode(mode), key_id=key_id),
        "signedAt": now,
    }


def signer(mode: str) -> str:
    """Return the reason of the condition Signed: a key for development proves nothing to anybody."""
    return "DevMode" if mode == SigningMode.ED25519_DEV else "SignerOK"


def _key_id(draft: Draft) -> str:
    names = [leg.envelope.key_id for leg in draft.legs]
    return names[0] if len(names) == 1 else f"dual:{'+'.join(names)}"


def logged(draft: Draft) -> dict[str, Any]:
    """Return the changes that name the first leg's log entry; the others' are in their bundles."""
    entry = draft.legs[0].entry
    return {"phase": BundlePhase.LOGGED, "rekorEntry": _entry(entry) if entry is not None else None}


def sealed(archived: Archived, subject: Stored, now: dt.datetime) -> dict[str, Any]:
    """Return the changes that name the archive; `subject` is where the attested bytes of this very bundle are."""
    return {
        "phase": BundlePhase.SEALED,
        "wormRef": _evidence(archived.bundles[0][1]),
        "subjectRef": _evidence(subject),
        "bundles": tuple(
            BundleArchive(
                role=leg.role,
                media_type=stored.media_type,
                url=stored.url,
                sha256=stored.sha256,
                size=stored.size,
                key_id=leg.envelope.key_id,
            )
            for leg, stored in archived.bundles
        ),
        "sealedAt": now,
        "nextAttemptAt": None,
    }


def kept(archived: Archived) -> tuple[str, str]:
    """Return reason and message of the condition Archived: true about who keeps the evidence from being deleted."""
    day = f"read back and verified, kept until {archived.until:%Y-%m-%d}"
    match weakest([archived.subject, *(stored for _, stored in archived.bundles)]):
        case Lock.STORE:
            return "WORMUploaded", f"{day}, locked by the store"
        case Lock.RIGHTS:
            return "WORMGovernance", f"{day}, locked by the store for all who may not bypass its locks"
        case Lock.PROCESS:
            return "StoredUnlocked", f"{day} by ugallu itself: the operating system does not enforce it"


def weakest(stored: list[Stored]) -> Lock:
    """Return the weakest lock among these."""
    order = (Lock.PROCESS, Lock.RIGHTS, Lock.STORE)
    return min((one.lock for one in stored), key=order.index)


def condition(kind: str, reason: str, message: str, *, holds: bool, now: dt.datetime, generation: int) -> Condition:
    """Return a condition as it is from now on."""
    return Condition(
        type=kind,
        status="True" if holds else "False",
        reason=reason,
        message=message,
        last_transition_time=now,
        observed_generation=generation,
    )


def bounded(failures: tuple[PipelineFailure, ...]) -> tuple[PipelineFailure, ...]:
    """Return the failures to keep: the first, and the newest."""
    if len(failures) <= MAX_FAILURES:
        return failures
    return (failures[0], *failures[-(MAX_FAILURES - 1) :])


def _entry(entry: LogEntry) -> RekorEntry:
    return RekorEntry(
        log_index=entry.index,
        uuid=entry.uuid or merkle.leaf_hash(entry.body).hex(),
        inclusion_proof=InclusionProof(
            tree_size=entry.tree_size,
            log_index=entry.log_index,
            root_hash=entry.root_hash.hex(),
            hashes=tuple(value.hex() for value in entry.hashes),
        ),
        log_id=entry.log_id.hex(),
        integrated_time=entry.integrated_time,
        api_version=entry.version,
        kind=entry.kind,
        checkpoint=entry.checkpoint,
    )


def _evidence(stored: Stored) -> EvidenceRef:
    return EvidenceRef(media_type=stored.media_type, url=stored.url, sha256=stored.sha256, size=stored.size)
