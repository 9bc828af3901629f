"""ConfidentialAttestationRun and ConfidentialAttestationResult: what the hardware of a node can prove."""

import enum
from typing import ClassVar

from msgspec import field

from ugallu.api.meta import AGE, Column, Kind, Resource, Wire, always
from ugallu.api.run import LocalProfileRef, RunStatus
from ugallu.api.scalars import Duration


class ConfidentialAttestationBackend(enum.StrEnum):
    """Hardware that can attest."""

    TPM = "tpm"
    SEV_SNP = "sev-snp"
    TDX = "tdx"


class ConfidentialAttestationVerdict(enum.StrEnum):
    """What the verifier decided; what could not be checked is indeterminate."""

    VERIFIED = "verified"
    FAILED = "failed"
    INDETERMINATE = "indeterminate"


class ConfidentialAttestationRunSpec(Wire, frozen=True, kw_only=True):
    """Which node is to prove what."""

    backend: ConfidentialAttestationBackend
    """Hardware path."""
    target_node_name: str
    """Node whose agent must answer; one run per node."""
    nonce: str
    """Anti-replay value bound into the quote (hex)."""
    policy_ref: LocalProfileRef | None = None
    """ConfigMap in this namespace whose key policy.json holds the expected measurements; absent: report only."""
    timeout: Duration = field(default_factory=always("2m"))
    """Limit of the run, 5m at most."""


class ConfidentialAttestationRunStatus(RunStatus, frozen=True, kw_only=True):
    """How far the attestation has come."""


class ConfidentialAttestationRun(Resource, frozen=True, kw_only=True):
    """One attestation of one node."""

    kind_info: ClassVar[Kind] = Kind(
        "ConfidentialAttestationRun",
        "confidentialattestationruns",
        namespaced=True,
        short_names=("conar",),
        selectable=("spec.backend", "spec.targetNodeName", "status.phase"),
        columns=(
            Column("Backend", ".spec.backend"),
            Column("Node", ".spec.targetNodeName"),
            Column("Phase", ".status.phase"),
            AGE,
        ),
        spec_required=True,
    )
    spec: ConfidentialAttestationRunSpec
    """What is wanted."""
    status: ConfidentialAttestationRunStatus = ConfidentialAttestationRunStatus()
    """What has become of it."""


class ConfidentialAttestationMeasurement(Wire, frozen=True, kw_only=True):
    """A digest inside a quote."""

    slot: str
    """PCR index or report field name."""
    digest: str
    """Hex digest."""


class ConfidentialAttestationResultSpec(Wire, frozen=True, kw_only=True):
    """The quote, and what it is worth."""

    derived_from_run: LocalProfileRef
    """Run that produced this result."""
    backend: ConfidentialAttestationBackend
    """Copy of the run value."""
    node_name: str
    """Node that answered."""
    nonce: str
    """Nonce that was bound."""
    quote: bytes = b""
    """Raw evidence bytes (base64 in JSON)."""
    signature: bytes = b""
    """Quote signature (base64); empty if inside the quote."""
    measurements: tuple[ConfidentialAttestationMeasurement, ...] = ()
    """Digests extracted from the quote."""
    verdict: ConfidentialAttestationVerdict
    """Verifier decision."""
    verifier_notes: str = ""
    """Human notes on chain or missing device."""


class ConfidentialAttestationResultStatus(Wire, frozen=True, kw_only=True):
    """The verdict as a yes or no."""

    trusted: bool = False
    """true only when verdict is verified."""


class ConfidentialAttestationResult(Resource, frozen=True, kw_only=True):
    """The verdict of a run."""

    kind_info: ClassVar[Kind] = Kind(
        "ConfidentialAttestationResult",
        "confidentialattestationresults",
        namespaced=True,
        short_names=("conares",),
        selectable=("spec.nodeName", "spec.verdict", "spec.derivedFromRun.name", "status.trusted"),
        columns=(
            Column("Backend", ".spec.backend"),
            Column("Node", ".spec.nodeName"),
            Column("Verdict", ".spec.verdict"),
            Column("Trusted", ".status.trusted", "boolean"),
            AGE,
        ),
        spec_required=True,
    )
    spec: ConfidentialAttestationResultSpec
    """What is wanted."""
    status: ConfidentialAttestationResultStatus = ConfidentialAttestationResultStatus()
    """What has become of it."""
