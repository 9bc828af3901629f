"""What a report tells, as plain values; whoever gathers them is elsewhere, and so is the page."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.catalog import Severity
from ugallu.api.event import SecurityEvent
from ugallu.cli.attack import Technique, techniques


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was really checked, and what came out."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Entry:
    """One event with its proof, and what its rule says about itself."""

    event: SecurityEvent
    bundle: AttestationBundle | None = None
    checks: Sequence[Check] = ()
    about: str = ""
    """The rule's description."""
    tags: Sequence[str] = ()
    origin: SecurityEvent | None = None
    """The first of the events that this one is about, for an event about events: it has the rule and the actor."""

    @property
    def at(self) -> dt.datetime:
        """When the source says it happened."""
        return self.event.spec.detected_at

    @property
    def severity(self) -> Severity:
        """The event's grade."""
        return self.event.spec.severity

    @property
    def rule(self) -> str:
        """The rule that found it, empty for an event that no rule made."""
        return self._signal("rule")

    @property
    def actor(self) -> str:
        """Who did it, and as whom if somebody else's identity was borrowed."""
        user, borrowed = _person(self._signal("user")), _person(self._signal("impersonated"))
        return f"{user} as {borrowed}" if user and borrowed else user

    @property
    def subject(self) -> str:
        """What it was done to: `Kind namespace/name`."""
        subject = self.event.spec.subject
        place = f"{subject.namespace}/{subject.name}" if subject.namespace else subject.name
        return f"{subject.external.kind if subject.external and subject.external.kind else subject.kind} {place}"

    @cached_property
    def techniques(self) -> Sequence[Technique]:
        """The ATT&CK techniques that the event, or else its rule, names."""
        named = self.event.spec.signals.get("attack.technique", "")
        return techniques([named] if named else self.tags)

    @property
    def alike(self) -> tuple[str, ...]:
        """What entries share that a reader takes for one thing done many times."""
        made_by = self.rule if self.rule and not self.event.spec.parents else self.event.metadata.name
        return (made_by, self.event.spec.type, self.severity.value, self.actor)

    @property
    def sealed(self) -> bool:
        """Whether its evidence is signed, logged, archived and read back."""
        return self.bundle is not None and self.bundle.status.phase is BundlePhase.SEALED

    @property
    def verified(self) -> bool:
        """Whether checks were made here, and all held."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def _signal(self, name: str) -> str:
        own = self.event.spec.signals.get(name, "")
        return own or (self.origin.spec.signals.get(name, "") if self.origin else "")


def _person(user: str) -> str:
    """Return a caller as a subject is written: `ServiceAccount payments/report-builder`; other names as they are."""
    namespace, _, name = user.removeprefix("system:serviceaccount:").partition(":")
    return f"ServiceAccount {namespace}/{name}" if name and user.startswith("system:serviceaccount:") else user


@dataclass(frozen=True)
class Story:
    """Everything on the page."""

    title: str
    inputs: Sequence[str]
    made_at: dt.datetime
    version: str
    entries: Sequence[Entry]
    ledger: Mapping[str, int] = field(default_factory=dict)
    """The books: `received`, `parsed`... and `dropped.<reason>`."""
    equations: Sequence[Check] = ()
    """Which of the books' sums hold."""
    rules: int = 0
    commands: Sequence[str] = ()
    """Shell lines with which a stranger checks one event."""
    cluster: str = ""

    @cached_property
    def by_time(self) -> Sequence[Entry]:
        """The entries in the order of what happened; what an event led to stands behind it."""
        return sorted(
            self.entries,
            key=lambda entry: (
                entry.at,
                bool(entry.event.spec.parents),
                -entry.severity.rank,
                entry.event.metadata.name,
            ),
        )

    @cached_property
    def groups(self) -> Sequence[Sequence[Entry]]:
        """The entries by time, those that say the same of the same actor one after the other taken together."""
        return [list(alike) for _, alike in groupby(self.by_time, key=lambda entry: entry.alike)]

    @cached_property
    def actors(self) -> Sequence[tuple[str, Sequence[Entry]]]:
        """Who did what: the gravest deeds first, then the most."""
        deeds: dict[str, list[Entry]] = {}
        for entry in self.by_time:
            if entry.actor and not entry.event.spec.parents:
                deeds.setdefault(entry.actor, []).append(entry)
        return sorted(
            deeds.items(), key=lambda one: (-max(entry.severity.rank for entry in one[1]), -len(one[1]), one[0])
        )

    @cached_property
    def gravest(self) -> Entry | None:
        """The first of the gravest sealed events."""
        sealed = [entry for entry in self.by_time if entry.sealed]
        return max(sealed, key=lambda entry: entry.severity.rank, default=None)

    @property
    def holds(self) -> bool:
        """Whether the books close and every event verifies."""
        return all(check.ok for check in self.equations) and all(entry.verified for entry in self.entries)
