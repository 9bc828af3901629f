"""SeccompTrainingRun and SeccompTrainingProfile: syscalls observed, and the profile made of them."""

import datetime as dt
import enum
from typing import Annotated, ClassVar

from msgspec import Meta, field

from ugallu.api.k8s import LabelSelector
from ugallu.api.meta import AGE, Column, Condition, Kind, Resource, Wire, always
from ugallu.api.run import LocalProfileRef, RunPhase
from ugallu.api.scalars import Duration


class SeccompDefaultAction(enum.StrEnum):
    """What happens to a syscall that was not seen."""

    SCMP_ACT_ERRNO = "SCMP_ACT_ERRNO"
    SCMP_ACT_KILL = "SCMP_ACT_KILL"
    SCMP_ACT_LOG = "SCMP_ACT_LOG"
    SCMP_ACT_TRACE = "SCMP_ACT_TRACE"


class SeccompTrainingRunSpec(Wire, frozen=True, kw_only=True):
    """Which pods to observe, and for how long."""

    target_selector: LabelSelector
    """Pods to observe; empty selects the whole namespace."""
    target_namespace: str
    """Namespace of the pods."""
    duration: Duration = field(default_factory=always("30m"))
    """How long to observe, 24h at most."""
    replica_ratio: Annotated[int, Meta(ge=1, le=100)] = field(default_factory=always(50))
    """Percent of matching pods observed."""
    bridge_endpoint: str = ""
    """Address of the tetragon bridge, where it is not the usual one."""
    default_action: SeccompDefaultAction = field(default_factory=always(SeccompDefaultAction.SCMP_ACT_ERRNO))
    """Action for syscalls not seen."""


class SeccompTrainingRunStatus(Wire, frozen=True, kw_only=True):
    """How far the training has come."""

    phase: RunPhase | None = None
    """Lifecycle phase; empty = Pending."""
    start_time: dt.datetime | None = None
    """When the stream was opened."""
    completion_time: dt.datetime | None = None
    """When the window closed."""
    observed_syscall_count: int = 0
    """Distinct syscalls seen."""
    selected_replicas: int = 0
    """Pods actually observed."""
    profile_ref: LocalProfileRef | None = None
    """Profile object in the same namespace."""
    conditions: tuple[Condition, ...] = ()
    """Ready, Degraded, Failed."""


class SeccompTrainingRun(Resource, frozen=True, kw_only=True):
    """One training session."""

    kind_info: ClassVar[Kind] = Kind(
        "SeccompTrainingRun",
        "seccomptrainingruns",
        namespaced=True,
        short_names=("str",),
        selectable=("spec.targetNamespace", "status.phase"),
        columns=(
            Column("Phase", ".status.phase"),
            Column("Selected", ".status.selectedReplicas", "integer"),
            Column("Syscalls", ".status.observedSyscallCount", "integer"),
            AGE,
        ),
        spec_required=True,
    )
    spec: SeccompTrainingRunSpec
    """What is wanted."""
    status: SeccompTrainingRunStatus = SeccompTrainingRunStatus()
    """What has become of it."""


class SeccompTrainingProfileSpec(Wire, frozen=True, kw_only=True):
    """The profile, and where it comes from."""

    profile_json: bytes = field(name="profileJSON")
    """OCI seccomp JSON document as bytes (base64)."""
    derived_from_run: LocalProfileRef
    """Run that produced this profile."""
    default_action: SeccompDefaultAction
    """Copy of the run value."""
    pod_selector: LabelSelector | None = None
    """Pods the profile is meant for."""


class SeccompTrainingProfileStatus(Wire, frozen=True, kw_only=True):
    """Who has been given the profile."""

    applied_pod_count: int = 0
    """Pods given the profile so far."""
    last_applied_at: dt.datetime | None = None
    """Last injection time."""


class SeccompTrainingProfile(Resource, frozen=True, kw_only=True):
    """A seccomp profile made from what was observed."""

    kind_info: ClassVar[Kind] = Kind(
        "SeccompTrainingProfile",
        "seccomptrainingprofiles",
        namespaced=True,
        short_names=("stp",),
        selectable=("spec.derivedFromRun.name",),
        columns=(
            Column("Run", ".spec.derivedFromRun.name"),
            Column("Applied", ".status.appliedPodCount", "integer"),
            AGE,
        ),
        spec_required=True,
    )
    spec: SeccompTrainingProfileSpec
    """What is wanted."""
    status: SeccompTrainingProfileStatus = SeccompTrainingProfileStatus()
    """What has become of it."""
