"""What ttl keeps in memory of each object: whose it is, how far it has come, and what is written on it."""

import datetime as dt
import functools
from typing import Any, ClassVar

import msgspec

from ugallu.api.backup import BackupVerifyResult, BackupVerifyRun
from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.catalog import Severity
from ugallu.api.compliance import ComplianceScanResult, ComplianceScanRun
from ugallu.api.confidential import ConfidentialAttestationResult, ConfidentialAttestationRun
from ugallu.api.event import ClusterIdentity, EventPhase, SecurityEvent
from ugallu.api.meta import Kind, ObjectReference, Resource, Wire
from ugallu.api.platform import TTLConfig
from ugallu.api.response import EventResponse, ResponsePhase, SecurityEventRef
from ugallu.api.run import LocalProfileRef, RunPhase
from ugallu.api.seccomp import SeccompTrainingRun


class EventSpec(Wire, frozen=True, kw_only=True):
    """What decides how long, and under which name the copy is kept."""

    type: str = ""
    severity: Severity | None = None
    cluster_identity: ClusterIdentity = ClusterIdentity()
    correlation_id: str = ""
    detected_at: dt.datetime | None = None


class EventStatus(Wire, frozen=True, kw_only=True):
    """How far the event has come."""

    phase: EventPhase | None = None


class Event(Resource, frozen=True, kw_only=True):
    """A SecurityEvent."""

    kind_info: ClassVar[Kind] = SecurityEvent.kind_info
    spec: EventSpec = EventSpec()
    status: EventStatus = EventStatus()


class ResponseSpec(Wire, frozen=True, kw_only=True):
    """Which event is answered."""

    security_event_ref: SecurityEventRef = SecurityEventRef(name="", uid="")


class ResponseStatus(Wire, frozen=True, kw_only=True):
    """Whether it has come to its end."""

    phase: ResponsePhase | None = None


class Response(Resource, frozen=True, kw_only=True):
    """An EventResponse."""

    kind_info: ClassVar[Kind] = EventResponse.kind_info
    spec: ResponseSpec = ResponseSpec()
    status: ResponseStatus = ResponseStatus()


class BundleSpec(Wire, frozen=True, kw_only=True):
    """What is attested."""

    attested_for: ObjectReference = ObjectReference()


class Blob(Wire, frozen=True, kw_only=True):
    """Where something is stored."""

    url: str = ""


class BundleStatus(Wire, frozen=True, kw_only=True):
    """Whether it is sealed, and since when."""

    phase: BundlePhase | None = None
    sealed_at: dt.datetime | None = None
    worm_ref: Blob | None = None


class Bundle(Resource, frozen=True, kw_only=True):
    """An AttestationBundle."""

    kind_info: ClassVar[Kind] = AttestationBundle.kind_info
    spec: BundleSpec = BundleSpec()
    status: BundleStatus = BundleStatus()


class RunStatus(Wire, frozen=True, kw_only=True):
    """Whether it has come to its end, and when."""

    phase: RunPhase | None = None
    completion_time: dt.datetime | None = None


class Run(Resource, frozen=True, kw_only=True):
    """A run of any kind."""

    status: RunStatus = RunStatus()


class ResultSpec(Wire, frozen=True, kw_only=True):
    """Whose result it is."""

    derived_from_run: LocalProfileRef = LocalProfileRef(name="")


class Result(Resource, frozen=True, kw_only=True):
    """A result of any kind."""

    spec: ResultSpec = ResultSpec()


class BackupRun(Run, frozen=True, kw_only=True):
    """A BackupVerifyRun."""

    kind_info: ClassVar[Kind] = BackupVerifyRun.kind_info


class ScanRun(Run, frozen=True, kw_only=True):
    """A ComplianceScanRun."""

    kind_info: ClassVar[Kind] = ComplianceScanRun.kind_info


class ConfidentialRun(Run, frozen=True, kw_only=True):
    """A ConfidentialAttestationRun."""

    kind_info: ClassVar[Kind] = ConfidentialAttestationRun.kind_info


class TrainingRun(Run, frozen=True, kw_only=True):
    """A SeccompTrainingRun; its profile is a product that stays."""

    kind_info: ClassVar[Kind] = SeccompTrainingRun.kind_info


class BackupResult(Result, frozen=True, kw_only=True):
    """A BackupVerifyResult."""

    kind_info: ClassVar[Kind] = BackupVerifyResult.kind_info


class ScanResult(Result, frozen=True, kw_only=True):
    """A ComplianceScanResult."""

    kind_info: ClassVar[Kind] = ComplianceScanResult.kind_info


class ConfidentialResult(Result, frozen=True, kw_only=True):
    """A ConfidentialAttestationResult."""

    kind_info: ClassVar[Kind] = ConfidentialAttestationResult.kind_info


RESULT_OF: dict[type[Run], type[Result] | None] = {
    BackupRun: BackupResult,
    ScanRun: ScanResult,
    ConfidentialRun: ConfidentialResult,
    TrainingRun: None,
}
"""Which results go with which runs."""


class Config(Resource, frozen=True, kw_only=True):
    """A TTLConfig, whatever it says."""

    kind_info: ClassVar[Kind] = TTLConfig.kind_info


class Whole(Resource, frozen=True, kw_only=True):
    """Any object just as it is stored: what is copied must not be what one Struct happens to know of it."""

    spec: Any = None
    status: Any = None


@functools.cache
def whole(kind: Kind) -> type[Whole]:
    """Return the Struct that reads all of an object of this kind."""
    made = msgspec.defstruct(
        f"Whole{kind.name}", [], bases=(Whole,), namespace={"kind_info": kind}, frozen=True, kw_only=True
    )
    assert issubclass(made, Whole)
    return made
