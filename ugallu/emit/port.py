"""`Emitter`: what operators hand their findings to."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from ugallu.api.event import ClusterIdentity
from ugallu.api.observation import Checkpoint, Finding
from ugallu.api.subject import Clue, Subject


class Origin(msgspec.Struct, frozen=True):
    """Who emits: the component name of `spec.source`, what it declared, and where it runs."""

    component: str
    """`ugallu-<operator>`."""
    emits: frozenset[str]
    """Names of the event types that the operator declared; another one is refused and counted."""
    version: str = ""
    instance: str = ""
    """The pod or host, part of every event's spec: leave it empty where two runs must give equal digests (replay)."""
    cluster: ClusterIdentity = ClusterIdentity()


class Hydrator(Protocol):
    """Looks up what a Clue points at."""

    async def hydrate(self, clue: Clue) -> Subject | None:
        """Return the snapshot, None when there is no such object. Raises `TransientError` when it cannot tell."""
        ...


class Emitter(Protocol):
    """Takes findings from one operator."""

    @property
    def origin(self) -> Origin:
        """Whose findings these are."""
        ...

    async def submit(self, findings: Sequence[Finding], checkpoint: Checkpoint | None = None) -> None:
        """Make findings, and how far their source was read, durable as one; return when they are.

        Findings that break the rules (undeclared type, no subject) are counted as dropped by reason, never raised.
        Waits while the disk refuses; raises only on cancellation.
        """
        ...


class ReportingEmitter(Emitter, Protocol):
    """What the supervisor asks of an operator's emitter besides."""

    def ready(self) -> str:
        """Return what keeps findings from being accepted, empty when nothing does."""
        ...

    async def lost(self, reason: str, counts: Mapping[str, int], at: dt.datetime) -> None:
        """Report observations that never reached a detector, by source."""
        ...
