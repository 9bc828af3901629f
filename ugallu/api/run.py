"""What all runs share: a phase, when it began and ended, and where the result is."""

import datetime as dt
import enum

from ugallu.api.meta import Condition, Wire


class RunPhase(enum.StrEnum):
    """How far a run has come; absent reads as Pending. The last two are final."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class LocalProfileRef(Wire, frozen=True, kw_only=True):
    """An object in the same namespace."""

    name: str
    """Object name in the same namespace."""


class RunStatus(Wire, frozen=True, kw_only=True):
    """How far the run has come."""

    phase: RunPhase | None = None
    """Lifecycle phase; empty = Pending."""
    start_time: dt.datetime | None = None
    """When work began."""
    completion_time: dt.datetime | None = None
    """When a terminal phase was reached."""
    result_ref: LocalProfileRef | None = None
    """Result object in the same namespace."""
    conditions: tuple[Condition, ...] = ()
    """Failed condition carries reason and message."""
