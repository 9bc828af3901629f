"""AttestorConfig, WORMConfig, TTLConfig: how facts are signed, stored and, in time, deleted."""

import enum
from typing import ClassVar

from msgspec import field

from ugallu.api.bundle import SigningMode
from ugallu.api.k8s import LocalObjectReference, SecretKeySelector
from ugallu.api.meta import AGE, Column, Config, ConfigStatus, Kind, Resource, Wire, always
from ugallu.api.scalars import Duration, Off, Quantity


class OpenBaoKeyType(enum.StrEnum):
    """Type of a transit key, and with it the algorithm of signatures."""

    ED25519 = "ed25519"
    ECDSA_P256 = "ecdsa-p256"
    RSA_PSS_2048 = "rsa-pss-2048"


class WORMBackend(enum.StrEnum):
    """Flavours of object stores."""

    SEAWEEDFS = "seaweedfs"
    AWS_S3 = "aws-s3"
    RUSTFS = "rustfs"


class EncryptionMode(enum.StrEnum):
    """Who encrypts what is stored."""

    SSE_KMS = "sse-kms"
    SSE_S3 = "sse-s3"
    NONE = "none"


class ObjectLockMode(enum.StrEnum):
    """Who may shorten a retention: nobody, whoever has the right, or there is none."""

    COMPLIANCE = "COMPLIANCE"
    GOVERNANCE = "GOVERNANCE"
    NONE = "NONE"


class EventResponseTTLStrategy(enum.StrEnum):
    """How long a response is kept: as long as its event, or a constant time."""

    MATCH_PARENT = "matchParent"
    CONSTANT = "constant"


class AttestationBundleTTLStrategy(enum.StrEnum):
    """How long a bundle is kept: as long as what it attests, and a grace."""

    PARENT_PLUS_GRACE = "parentPlusGrace"


class SecretReference(Wire, frozen=True, kw_only=True):
    """A Secret, perhaps in another namespace."""

    name: str
    """Secret name."""
    namespace: str = ""
    """Secret namespace; empty = namespace of the CR."""


class FulcioConfig(Wire, frozen=True, kw_only=True):
    """The certificate authority of keyless signing."""

    issuer: str
    """OIDC issuer URL of the token."""
    fulcio_url: str
    """Fulcio v2 base URL."""
    oidc_token_path: str = ""
    """Token file; empty = /var/run/secrets/ugallu/fulcio/token."""
    ca_bundle_secret: SecretReference | None = None
    """Secret with trust bundle in key ca.crt; empty = system."""
    insecure_skip_verify: Off = False
    """Skip TLS checks; lab only."""


class OpenBaoConfig(Wire, frozen=True, kw_only=True):
    """The transit engine that holds the key."""

    address: str
    """Base URL of OpenBao."""
    transit_mount: str = "transit"
    """Mount path of the transit engine."""
    key_name: str
    """Transit key to sign with."""
    key_type: OpenBaoKeyType = OpenBaoKeyType.ED25519
    """Transit key type and signature algorithm."""
    auth_mount: str = "auth/kubernetes"
    """Mount path of Kubernetes auth."""
    auth_role: str
    """Kubernetes auth role of the attestor."""
    ca_bundle_secret: SecretReference | None = None
    """Secret with the CA in key ca.crt; empty = system store."""
    insecure_skip_verify: Off = False
    """Skip TLS checks; lab only."""


class DualModeConfig(Wire, frozen=True, kw_only=True):
    """What two signatures are worth to a verifier."""

    require_all: bool = False
    """true = both signatures must verify; false = either."""


class RekorConfig(Wire, frozen=True, kw_only=True):
    """The transparency log."""

    enabled: bool = field(default_factory=always(True, required=False))
    """Upload entries to the log."""
    url: str
    """Log base URL."""
    api_version: int = 1
    """Generation of the log, 1 or 2; a log of generation 2 signs no time, so that certificates need an authority's."""
    read_url: str = ""
    """Where the tiles of a log of generation 2 are read; empty = url."""
    ca_bundle_secret: SecretReference | None = None
    """Secret with trust bundle in key ca.crt; empty = system."""


class TimestampAuthorityConfig(Wire, frozen=True, kw_only=True):
    """Who signs when a signature was made (RFC 3161)."""

    url: str
    """Whole URL of the service, with its path."""
    ca_bundle_secret: SecretReference | None = None
    """Secret with trust bundle in key ca.crt; empty = system."""


class AttestorConfigSpec(Config, frozen=True, kw_only=True):
    """Who signs, and where signatures are logged."""

    signing_mode: SigningMode = SigningMode.FULCIO_KEYLESS
    """Signing back end(s) to use."""
    fulcio: FulcioConfig | None = None
    """Keyless CA settings; needed by fulcio and dual."""
    openbao: OpenBaoConfig | None = None
    """Transit engine settings; needed by openbao and dual."""
    dual_mode: DualModeConfig | None = None
    """How verifiers treat two signatures."""
    rekor: RekorConfig
    """Transparency log endpoint."""
    timestamp_authority: TimestampAuthorityConfig | None = None
    """Authority whose timestamp each bundle carries."""
    trusted_root_ref: SecretKeySelector | None = None
    """Secret with the trusted root that evidence is checked against, key trusted-root.json as a rule."""


class AttestorConfig(Resource, frozen=True, kw_only=True):
    """Settings of the attestor; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "AttestorConfig",
        "attestorconfigs",
        namespaced=True,
        short_names=("attcfg",),
        columns=(Column("Mode", ".spec.signingMode"), Column("Rekor", ".spec.rekor.url"), AGE),
    )
    spec: AttestorConfigSpec
    """What is wanted."""
    status: ConfigStatus = ConfigStatus()
    """What has become of it."""


class EncryptionConfig(Wire, frozen=True, kw_only=True):
    """Encryption at rest."""

    mode: EncryptionMode = EncryptionMode.SSE_KMS
    """Server-side encryption mode."""
    kms_key_id: str = ""
    """KMS key for sse-kms."""


class RetentionConfig(Wire, frozen=True, kw_only=True):
    """How long evidence is locked, by what it is."""

    bundle: Duration = ""
    """DSSE envelopes; at least the window of what they attest and 7 days. Empty: one year."""
    forensics_fs: Duration = ""
    """Filesystem snapshots, a year as a rule."""
    forensics_mem: Duration = ""
    """Memory snapshots, a year as a rule."""
    subject_tier2: Duration = ""
    """Full subject snapshots, 90 days as a rule."""
    audit_capture: Duration = ""
    """Audit-log chunks, a year as a rule."""
    applied_policy: Duration = ""
    """Records of applied policies, as long as what they belong to."""
    hard_cap_max: Duration = ""
    """Upper bound of every retention, 7 years as a rule."""


class MultipartConfig(Wire, frozen=True, kw_only=True):
    """How large objects are uploaded."""

    threshold: Quantity | None = None
    """Size from which multipart is used."""
    chunk_size: Quantity | None = None
    """Part size."""
    concurrency: int = 0
    """Parallel parts."""


class QuotaConfig(Wire, frozen=True, kw_only=True):
    """When the store counts as full."""

    soft_quota_percent: int = 80
    """Fill percent that raises WORMQuotaExceeded."""


class WORMConfigSpec(Config, frozen=True, kw_only=True):
    """The evidence store; one object drives all who write to it."""

    backend: WORMBackend = WORMBackend.SEAWEEDFS
    """Object-store flavour."""
    endpoint: str
    """S3 endpoint URL."""
    region: str = ""
    """S3 region; us-east-1 if empty."""
    bucket: str
    """Evidence bucket with object lock."""
    credentials_secret_ref: LocalObjectReference | None = None
    """Secret with keys access-key, secret-key; empty = ambient."""
    encryption: EncryptionConfig = field(default_factory=always(EncryptionConfig()))
    """At-rest encryption."""
    retention: RetentionConfig = field(default_factory=always(RetentionConfig()))
    """Retention per evidence kind."""
    multipart: MultipartConfig | None = None
    """Multipart upload tuning."""
    quotas: QuotaConfig | None = None
    """Soft quota."""
    object_lock_mode: ObjectLockMode = ObjectLockMode.COMPLIANCE
    """Object-lock mode of everything that is stored."""
    use_path_style: bool = field(default_factory=always(True, required=False))
    """Address the bucket in the path, not in the host name."""
    key_prefix: str = ""
    """Prefix of every object key."""


class WORMConfig(Resource, frozen=True, kw_only=True):
    """Settings of the evidence store; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "WORMConfig",
        "wormconfigs",
        namespaced=True,
        short_names=("wormcfg",),
        columns=(
            Column("Backend", ".spec.backend"),
            Column("Bucket", ".spec.bucket"),
            Column("Encryption", ".spec.encryption.mode"),
            AGE,
        ),
    )
    spec: WORMConfigSpec
    """What is wanted."""
    status: ConfigStatus = ConfigStatus()
    """What has become of it."""


class SeverityTTL(Wire, frozen=True, kw_only=True):
    """How long an event is kept, by severity."""

    info: Duration = "6h"
    """Window for info."""
    low: Duration = "12h"
    """Window for low."""
    medium: Duration = "24h"
    """Window for medium."""
    high: Duration = "72h"
    """Window for high."""
    critical: Duration = "168h"
    """Window for critical."""


class EventResponseTTL(Wire, frozen=True, kw_only=True):
    """How long a response is kept."""

    strategy: EventResponseTTLStrategy = EventResponseTTLStrategy.MATCH_PARENT
    """Follow the parent event or use a constant."""
    constant: Duration = ""
    """Window when strategy is constant."""


class AttestationBundleTTL(Wire, frozen=True, kw_only=True):
    """How long a bundle is kept."""

    strategy: AttestationBundleTTLStrategy = AttestationBundleTTLStrategy.PARENT_PLUS_GRACE
    """How the window is found."""
    grace: Duration = "168h"
    """Time kept after sealing."""


class ResultTTL(Wire, frozen=True, kw_only=True):
    """How long finished runs and their results are kept; 0s is for ever."""

    backup_verify: Duration = "720h"
    """Window of BackupVerifyRun and its result."""
    compliance_scan: Duration = "8760h"
    """Window of ComplianceScanRun and its result."""
    confidential_attestation: Duration = "168h"
    """Window of ConfidentialAttestationRun and its result."""
    seccomp_training: Duration = "0s"
    """Window of SeccompTrainingRun; 0s keeps it. Profiles are never collected."""


class TTLDefaults(Wire, frozen=True, kw_only=True):
    """How long each kind is kept."""

    security_event: SeverityTTL = field(default_factory=always(SeverityTTL()))
    """Windows per severity."""
    event_response: EventResponseTTL = field(default_factory=always(EventResponseTTL()))
    """EventResponse rule."""
    attestation_bundle: AttestationBundleTTL = field(default_factory=always(AttestationBundleTTL()))
    """AttestationBundle rule."""
    results: ResultTTL | None = None
    """Rule for finished runs and their results."""


class PostponeConfig(Wire, frozen=True, kw_only=True):
    """How a deletion that is not yet allowed is put off."""

    initial_delay: Duration = "1h"
    """First postponement."""
    max_delay: Duration = "24h"
    """Longest postponement."""
    max_attempts: int = 7
    """Postponements before alerting."""


class WorkerConfig(Wire, frozen=True, kw_only=True):
    """How fast objects are deleted."""

    pool_size: int = 10
    """Concurrent reconciles per kind."""
    queue_rate_limit: Quantity | None = None
    """Objects per second; empty = unlimited."""


class TTLConfigSpec(Config, frozen=True, kw_only=True):
    """How long objects are kept, and what happens before they go."""

    defaults: TTLDefaults = field(default_factory=always(TTLDefaults()))
    """Retention windows."""
    archive_snapshot_enabled: bool = field(default_factory=always(True, required=False))
    """Store a WORM copy before deleting."""
    postpone: PostponeConfig | None = None
    """Back-off when deletion is not yet allowed."""
    worker: WorkerConfig | None = None
    """Worker pool."""
    dry_run: bool = False
    """Say on each object that it would be deleted, and delete none."""


class TTLConfig(Resource, frozen=True, kw_only=True):
    """Settings of ttl; the object is called `default`."""

    kind_info: ClassVar[Kind] = Kind(
        "TTLConfig",
        "ttlconfigs",
        namespaced=True,
        short_names=("ttlcfg",),
        columns=(
            Column("Critical-TTL", ".spec.defaults.securityEvent.critical"),
            Column("Pool", ".spec.worker.poolSize", "integer"),
            AGE,
        ),
    )
    spec: TTLConfigSpec = TTLConfigSpec()
    """What is wanted."""
    status: ConfigStatus = ConfigStatus()
    """What has become of it."""
