"""What sources publish and detectors assert: Observations, the Batch they travel in, and Findings."""

import datetime as dt
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from ugallu.api.catalog import EventClass, EventType, Severity
from ugallu.api.event import EvidenceRef
from ugallu.api.meta import ObjectReference
from ugallu.api.subject import Clue, Subject

EMPTY = msgspec.Raw(b"")
"""A part that the wire did not carry."""


class Observation(Protocol):
    """A raw thing seen; frozen data that lives only on the bus."""

    @property
    def seen_at(self) -> dt.datetime:
        """When the source says it happened, aware, UTC; never our own clock."""
        ...

    def correlation(self, cluster_id: str) -> str:
        """32 hex characters that every finding about this one act shares; derived, never copied from a client."""
        ...


O_co = TypeVar("O_co", bound=Observation, covariant=True)


class Batch(msgspec.Struct, Generic[O_co], frozen=True):
    """Observations of one source in order, and where to resume behind them.

    `first` numbers the first observation since the source's very first start, so a reader that crashed can skip
    what it has already journalled. `resume` is the source's own opaque position behind the last observation (empty:
    the source cannot be rewound). `counts` are the source's books, cumulative since its first start. `lost` is how many
    observations the source itself lost since the batch before: whoever reads is told.
    """

    source: str
    first: int
    observations: Sequence[O_co]
    resume: bytes = b""
    counts: dict[str, int] = {}
    lost: int = 0


class Finding(msgspec.Struct, frozen=True):
    """What a detector or reconciler asserts. `key` says what makes this fact this fact (rule, actor, domain...).

    Empty fields are filled on the way: class and severity from the type, `detected_at` and `correlation` from the
    observation.
    """

    type: EventType
    about: Subject | Clue
    key: str
    severity: Severity | None = None
    event_class: EventClass | None = None
    signals: dict[str, str] = {}
    detected_at: dt.datetime | None = None
    correlation: str = ""
    evidence: tuple[EvidenceRef, ...] = ()
    parents: tuple[ObjectReference, ...] = ()
    traceparent: str = ""
    experimental: bool = False


class Checkpoint(msgspec.Struct, frozen=True):
    """How far one subscriber has come in one source: journalled together with the findings up to there.

    `next` numbers the first observation not yet inspected; `resume` and `counts` are those of the batch that ended
    there, `counts` with the subscriber's own books added; `states` are the detectors' windows, by detector name.
    """

    source: str
    subscriber: str
    next: int
    resume: bytes = b""
    counts: dict[str, int] = {}
    states: dict[str, bytes] = {}
