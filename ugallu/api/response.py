"""EventResponse: one action taken because of an event, and what came of it."""

import datetime as dt
import enum
from typing import ClassVar

from ugallu.api.event import EvidenceRef
from ugallu.api.meta import AGE, Column, Conditions, Kind, ObjectReference, Resource, Wire
from ugallu.api.scalars import Duration


class ActionType(enum.StrEnum):
    """What can be done. Closed by the schema; a responder says which of these it knows."""

    POD_FREEZE = "PodFreeze"
    POD_UNFREEZE = "PodUnfreeze"
    NETWORK_DENY = "NetworkDeny"
    FILESYSTEM_SNAPSHOT = "FilesystemSnapshot"
    MEMORY_SNAPSHOT = "MemorySnapshot"
    EVIDENCE_UPLOAD = "EvidenceUpload"
    GITOPS_CHANGE = "GitOpsChange"
    RBAC_REVOKE = "RBACRevoke"
    NODE_ISOLATE = "NodeIsolate"
    IMAGE_QUARANTINE = "ImageQuarantine"
    WEBHOOK_DISABLE = "WebhookDisable"
    TOKEN_REVOKE = "TokenRevoke"  # noqa: S105 - a name
    NOTIFICATION_SEND = "NotificationSend"


class BackoffStrategy(enum.StrEnum):
    """How a delay follows from the one before: twice as long, longer by the first one, the same, or no delay at all."""

    EXPONENTIAL = "Exponential"
    LINEAR = "Linear"
    FIXED = "Fixed"
    NONE = "None"


class ResponsePhase(enum.StrEnum):
    """How far an action has come; absent reads as Pending. The last three are final."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class OutcomeType(enum.StrEnum):
    """What an action came to."""

    ACTION_TAKEN = "ActionTaken"
    NO_ACTION_NEEDED = "NoActionNeeded"
    SKIPPED = "Skipped"
    ERRORED = "Errored"


class ErrorCategory(enum.StrEnum):
    """Why an action failed; only Transient is tried again."""

    TRANSIENT = "Transient"
    PERMANENT = "Permanent"
    CONFLICTING = "Conflicting"
    UNAUTHORIZED = "Unauthorized"


class SecurityEventRef(Wire, frozen=True, kw_only=True):
    """The event that is answered."""

    name: str
    """SecurityEvent name."""
    uid: str = ""
    """SecurityEvent UID."""


class ResponderRef(Wire, frozen=True, kw_only=True):
    """The controller that acts."""

    kind: str
    """Responder kind, e.g. Operator."""
    name: str
    """Responder name; empty: any responder that knows the action."""
    version: str = ""
    """Responder version."""
    instance: str = ""
    """Responder instance."""


class Action(Wire, frozen=True, kw_only=True):
    """One action and what it is done to."""

    type: ActionType
    """Which action to take."""
    target_ref: ObjectReference | None = None
    """Kubernetes object acted on."""
    parameters: dict[str, str] = {}
    """Action-specific string parameters."""


class RetryPolicy(Wire, frozen=True, kw_only=True):
    """How often and when a transient error is tried again."""

    max_attempts: int = 3
    """Maximum tries."""
    backoff_strategy: BackoffStrategy = BackoffStrategy.EXPONENTIAL
    """Delay growth between tries."""
    initial_delay: Duration = ""
    """First delay; empty: 10s."""
    max_delay: Duration = ""
    """Delay ceiling; empty: 5m."""


class EventResponseSpec(Wire, frozen=True, kw_only=True):
    """What is to be done; never changed once created."""

    security_event_ref: SecurityEventRef
    """Event this response acts on."""
    responder: ResponderRef
    """Who acts; a responder claims only what names it."""
    action: Action
    """The single action to perform."""
    retry_policy: RetryPolicy | None = None
    """Retry rules for transient errors only."""
    parent_response_ref: ObjectReference | None = None
    """Previous EventResponse of a multi-step workflow."""


class Outcome(Wire, frozen=True, kw_only=True):
    """What came of the action."""

    type: OutcomeType
    """Result class."""
    message: str = ""
    """Human text."""


class ResponseError(Wire, frozen=True, kw_only=True):
    """The last failure, classified."""

    type: ErrorCategory
    """Failure class; only Transient is retried."""
    reason: str = ""
    """Short machine tag."""
    detail: str = ""
    """Full error text."""


class EventResponseStatus(Wire, frozen=True, kw_only=True):
    """How far the action has come."""

    phase: ResponsePhase | None = None
    """Lifecycle phase."""
    attempts: int = 0
    """Tries made so far."""
    last_attempt_at: dt.datetime | None = None
    """Time of the last try."""
    next_attempt_at: dt.datetime | None = None
    """Earliest next try."""
    started_at: dt.datetime | None = None
    """Time of the first try."""
    completed_at: dt.datetime | None = None
    """Time a terminal phase was reached."""
    outcome: Outcome | None = None
    """Typed result."""
    evidence: tuple[EvidenceRef, ...] = ()
    """Blobs produced by the action."""
    error: ResponseError | None = None
    """Last failure, classified."""
    cancel_reason: str = ""
    """Why the response was cancelled."""
    conditions: Conditions = ()
    """Standard conditions."""


class EventResponse(Resource, frozen=True, kw_only=True):
    """One action taken because of an event."""

    kind_info: ClassVar[Kind] = Kind(
        "EventResponse",
        "eventresponses",
        short_names=("er",),
        selectable=("spec.action.type", "spec.responder.name", "spec.securityEventRef.name", "status.phase"),
        columns=(
            Column("Action", ".spec.action.type"),
            Column("Phase", ".status.phase"),
            Column("Outcome", ".status.outcome.type"),
            Column("Responder", ".spec.responder.name"),
            Column("Attempts", ".status.attempts", "integer"),
            AGE,
        ),
    )
    spec: EventResponseSpec
    """What is wanted."""
    status: EventResponseStatus = EventResponseStatus()
    """What has become of it."""
