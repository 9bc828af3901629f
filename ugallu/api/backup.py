"""BackupVerifyRun and BackupVerifyResult: whether a backup is what it should be."""

import enum
from typing import ClassVar

from msgspec import field

from ugallu.api.catalog import Severity
from ugallu.api.meta import AGE, Column, Kind, Resource, Wire, always
from ugallu.api.run import LocalProfileRef, RunStatus
from ugallu.api.scalars import Duration


class BackupVerifyBackend(enum.StrEnum):
    """Where backups come from."""

    VELERO = "velero"
    ETCD_SNAPSHOT = "etcd-snapshot"


class BackupVerifyMode(enum.StrEnum):
    """How deep the check goes."""

    CHECKSUM_ONLY = "checksum-only"
    FULL_RESTORE = "full-restore"


class BackupVerifyBackupRef(Wire, frozen=True, kw_only=True):
    """One backup."""

    name: str
    """Velero Backup name or etcd snapshot file name."""
    namespace: str = ""
    """Velero namespace; empty for etcd-snapshot."""
    storage_location: str = ""
    """BackupStorageLocation override (Velero only)."""


class BackupVerifyRunSpec(Wire, frozen=True, kw_only=True):
    """Which backup to check, and how."""

    backend: BackupVerifyBackend
    """Backup system to check."""
    backup_ref: BackupVerifyBackupRef
    """The backup to check."""
    mode: BackupVerifyMode = field(default_factory=always(BackupVerifyMode.CHECKSUM_ONLY))
    """Depth of the check."""
    sandbox_namespace: str = ""
    """Restore target; must end "-bvsandbox"; required for full-restore."""
    timeout: Duration = field(default_factory=always("15m"))
    """Limit of the run, 1h at most."""


class BackupVerifyRunStatus(RunStatus, frozen=True, kw_only=True):
    """How far the check has come."""


class BackupVerifyRun(Resource, frozen=True, kw_only=True):
    """One check of one backup."""

    kind_info: ClassVar[Kind] = Kind(
        "BackupVerifyRun",
        "backupverifyruns",
        namespaced=True,
        short_names=("bvr",),
        selectable=("spec.backend", "status.phase"),
        columns=(
            Column("Backend", ".spec.backend"),
            Column("Mode", ".spec.mode"),
            Column("Phase", ".status.phase"),
            AGE,
        ),
        spec_required=True,
    )
    spec: BackupVerifyRunSpec
    """What is wanted."""
    status: BackupVerifyRunStatus = BackupVerifyRunStatus()
    """What has become of it."""


class BackupVerifyFinding(Wire, frozen=True, kw_only=True):
    """Something that is wrong with a backup."""

    code: str
    """Stable machine code, e.g. checksum-mismatch."""
    severity: Severity
    """Severity of the finding."""
    detail: str
    """Human explanation."""


class BackupVerifyResultSpec(Wire, frozen=True, kw_only=True):
    """What the check found."""

    derived_from_run: LocalProfileRef
    """Run that produced this result."""
    backend: BackupVerifyBackend
    """Copy of the run value."""
    mode: BackupVerifyMode
    """Copy of the run value."""
    checksum: str = ""
    """Hex SHA-256 of the payload; empty if none."""
    restored_object_count: int = 0
    """Objects found in the sandbox; 0 for checksum-only."""
    findings: tuple[BackupVerifyFinding, ...] = ()
    """Problems found."""


class BackupVerifyResultStatus(Wire, frozen=True, kw_only=True):
    """The verdict in one word."""

    worst_severity: Severity | None = None
    """Highest finding severity; empty if none."""


class BackupVerifyResult(Resource, frozen=True, kw_only=True):
    """The report of a run."""

    kind_info: ClassVar[Kind] = Kind(
        "BackupVerifyResult",
        "backupverifyresults",
        namespaced=True,
        short_names=("bvres",),
        selectable=("spec.derivedFromRun.name", "status.worstSeverity"),
        columns=(
            Column("Backend", ".spec.backend"),
            Column("Worst", ".status.worstSeverity"),
            Column("Run", ".spec.derivedFromRun.name"),
            AGE,
        ),
        spec_required=True,
    )
    spec: BackupVerifyResultSpec
    """What is wanted."""
    status: BackupVerifyResultStatus = BackupVerifyResultStatus()
    """What has become of it."""
