"""ComplianceScanRun and ComplianceScanResult: what a scanner says of the cluster, mapped to controls."""

import enum
from typing import Annotated, ClassVar

from msgspec import field

from ugallu.api.catalog import Severity
from ugallu.api.meta import AGE, Column, Kind, Resource, Wire, always
from ugallu.api.run import LocalProfileRef, RunStatus
from ugallu.api.scalars import ATOMIC, Duration


class ComplianceScanBackend(enum.StrEnum):
    """Who scans. `cel` and `cel-custom` are the same."""

    KUBE_BENCH = "kube-bench"
    FALCO = "falco"
    CEL = "cel"
    CEL_CUSTOM = "cel-custom"


class FrameworkName(enum.StrEnum):
    """Frameworks that controls belong to."""

    SOC2 = "soc2"
    ISO27001 = "iso27001"
    PCI_DSS = "pci-dss"
    NIST_800_53 = "nist-800-53"
    CUSTOM = "custom"


class CheckOutcome(enum.StrEnum):
    """What a check says."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    WARN = "warn"
    SKIP = "skip"


class FrameworkControl(Wire, frozen=True, kw_only=True):
    """A control of a framework."""

    name: FrameworkName
    """Framework name."""
    control_id: str
    """Control id inside the framework."""


class ControlMapping(Wire, frozen=True, kw_only=True):
    """Which controls a check satisfies."""

    check_id: str
    """Scanner-native check id."""
    frameworks: Annotated[tuple[FrameworkControl, ...], ATOMIC]
    """Framework controls the check satisfies."""


class ComplianceScanRunSpec(Wire, frozen=True, kw_only=True):
    """What to scan, with what."""

    backend: ComplianceScanBackend
    """Scanner to run."""
    profile: str = ""
    """Benchmark id, Falco source or name of a CEL pack."""
    benchmark: str = ""
    """Another spelling of `profile`; equal if both are set."""
    alert_on: Severity = Severity.HIGH
    """Severity from which on a scan is a Detection."""
    target_node_selector: dict[str, str] = {}
    """Labels of the nodes that are scanned."""
    control_mappings: tuple[ControlMapping, ...] = ()
    """Check id → framework controls to stamp on results."""
    timeout: Duration = field(default_factory=always("10m"))
    """Limit of the run, 30m at most."""


class ComplianceScanRunStatus(RunStatus, frozen=True, kw_only=True):
    """How far the scan has come."""


class ComplianceScanRun(Resource, frozen=True, kw_only=True):
    """One scan."""

    kind_info: ClassVar[Kind] = Kind(
        "ComplianceScanRun",
        "compliancescanruns",
        namespaced=True,
        short_names=("csr", "csrun"),
        selectable=("spec.backend", "status.phase"),
        columns=(
            Column("Backend", ".spec.backend"),
            Column("Profile", ".spec.profile"),
            Column("Phase", ".status.phase"),
            AGE,
        ),
        spec_required=True,
    )
    spec: ComplianceScanRunSpec
    """What is wanted."""
    status: ComplianceScanRunStatus = ComplianceScanRunStatus()
    """What has become of it."""


class ComplianceCheckResult(Wire, frozen=True, kw_only=True):
    """What one check says."""

    check_id: str
    """Scanner-native check id."""
    code: str = ""
    """Machine code of synthetic findings, e.g. falco-endpoint-unreachable."""
    title: str
    """Check description."""
    outcome: CheckOutcome
    """Result of the check."""
    severity: Severity | None = None
    """Severity of the row."""
    detail: str = ""
    """One line of scanner output."""
    frameworks: tuple[FrameworkControl, ...] = ()
    """Framework controls from the mappings."""


class ComplianceScanResultSpec(Wire, frozen=True, kw_only=True):
    """What the scan says."""

    derived_from_run: LocalProfileRef
    """Run that produced this result."""
    backend: ComplianceScanBackend
    """Copy of the run value."""
    profile: str
    """Effective profile or benchmark of the run."""
    checks: tuple[ComplianceCheckResult, ...] = ()
    """One row per check."""
    summary: dict[str, int] = {}
    """Counts keyed pass, fail, warn, skip."""


class ComplianceScanResultStatus(Wire, frozen=True, kw_only=True):
    """The verdict in one word."""

    worst_severity: Severity | None = None
    """Highest severity over checks."""


class ComplianceScanResult(Resource, frozen=True, kw_only=True):
    """The report of a run."""

    kind_info: ClassVar[Kind] = Kind(
        "ComplianceScanResult",
        "compliancescanresults",
        namespaced=True,
        short_names=("csres",),
        selectable=("spec.derivedFromRun.name", "status.worstSeverity"),
        columns=(
            Column("Backend", ".spec.backend"),
            Column("Worst", ".status.worstSeverity"),
            Column("Run", ".spec.derivedFromRun.name"),
            AGE,
        ),
        spec_required=True,
    )
    spec: ComplianceScanResultSpec
    """What is wanted."""
    status: ComplianceScanResultStatus = ComplianceScanResultStatus()
    """What has become of it."""
