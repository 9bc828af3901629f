"""Which findings may become objects: the budget, the level, and the report of what was refused. Pure.

The budget counts objects in a rolling hour of the findings' own time, so a replay decides as the first run did. Past
it the breaker opens: only high and critical become objects until a tenth of the budget is free again.
"""

import datetime as dt
import enum
from typing import NamedTuple

import msgspec

from ugallu.api.catalog import CATALOGUE, EventClass, Severity
from ugallu.api.event import ClusterIdentity, SecurityEventSpec, SourceRef
from ugallu.api.subject import ExternalKind, external
from ugallu.emit.identity import Fact
from ugallu.errors import PermanentError

OBJECT_BUDGET = "object_budget"
BACKPRESSURE = "backpressure"

REPORT_SECONDS = 60
_HOUR = 60
_SKEW = 5
"""Minutes ahead of a finding that count against it as well: sources are a little out of step."""
_MAX_MINUTES = 512
_MAX_TYPES = 96
_REPORT = CATALOGUE["SourceRateLimited"]


class Level(enum.StrEnum):
    """How hard the store is pressed; unknown (nobody has said) acts as green."""

    UNKNOWN = "unknown"
    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


class Tally(msgspec.Struct):
    """What one component lost for one reason since its last report, by type. Times are Unix seconds."""

    component: str
    reason: str
    opened: int
    first: int
    last: int
    source: SourceRef
    cluster: ClusterIdentity
    counts: dict[str, int] = {}


class Report(NamedTuple):
    """A `SourceRateLimited` event."""

    name: str
    component: str
    spec: SecurityEventSpec


class _State(msgspec.Struct):
    minutes: list[tuple[int, int]] = []
    open: bool = False
    level: Level = Level.UNKNOWN
    tallies: list[Tally] = []
    reports: dict[str, int] = {}


_state = msgspec.msgpack.Decoder(_State)


class Gate:
    """Admits findings, and keeps the tallies of what did not become an object."""

    def __init__(self, objects_per_hour: int) -> None:
        self._budget = objects_per_hour
        self._minutes: dict[int, int] = {}
        self._open = False
        self._here: tuple[int, int] | None = None
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._reports: dict[str, int] = {}
        self.level = Level.UNKNOWN

    @property
    def breaker_open(self) -> bool:
        """Whether the budget is spent: only high and critical pass."""
        return self._open

    @property
    def reporting(self) -> bool:
        """Whether a report is due once its minute ends."""
        return bool(self._tallies)

    def admit(self, severity: Severity, at: dt.datetime) -> str:
        """Charge one object; return why it may not be, empty when it may."""
        minute = int(at.timestamp()) // 60
        used = self._used(minute)
        if used >= self._budget:
            self._open = True
        elif used * 10 < self._budget * 9:
            self._open = False
        if severity.rank < Severity.HIGH.rank:
            if self.level is Level.RED:
                return BACKPRESSURE
            if self._open:
                return OBJECT_BUDGET
        self.charge(minute)
        return ""

    def charge(self, minute: int) -> None:
        """Count one object in a minute (Unix time over 60)."""
        self._minutes[minute] = self._minutes.get(minute, 0) + 1
        if len(self._minutes) > _MAX_MINUTES:
            # By age of entry, not by time: after a clock that ran ahead, the present must not be what is forgotten.
            del self._minutes[next(iter(self._minutes))]
        if self._here is not None:
            here, used = self._here
            self._here = (here, used + 1) if here == minute else None

    def refuse(
        self,
        component: str,
        reason: str,
        counts: dict[str, int],
        *,
        at: dt.datetime,
        source: SourceRef,
        cluster: ClusterIdentity,
    ) -> None:
        """Enter what did not become an object."""
        moment = int(at.timestamp())
        tally = self._tallies.get((component, reason))
        if tally is None:
            tally = Tally(component, reason, moment, moment, moment, source, cluster)
            self._tallies[component, reason] = tally
        tally.first = min(tally.first, moment)
        tally.last = max(tally.last, moment)
        for type_, count in counts.items():
            name = type_ if type_ in tally.counts or len(tally.counts) < _MAX_TYPES else "other"
            tally.counts[name] = tally.counts.get(name, 0) + count

    def due(self, at: dt.datetime) -> list[Report]:
        """Return the reports whose minute is over at the time of this finding."""
        if not self._tallies:
            return []
        moment = int(at.timestamp())
        over = [key for key, tally in self._tallies.items() if abs(moment - tally.opened) >= REPORT_SECONDS]
        return [self._report(self._tallies.pop(key)) for key in over]

    def flush(self) -> list[Report]:
        """Return every report: nothing more comes that could end its minute."""
        tallies, self._tallies = self._tallies, {}
        return [self._report(tally) for tally in tallies.values()]

    def snapshot(self) -> bytes:
        """Return everything that later decisions depend on."""
        return msgspec.msgpack.encode(
            _State(list(self._minutes.items()), self._open, self.level, list(self._tallies.values()), self._reports)
        )

    def restore(self, data: bytes) -> None:
        """Become what `snapshot` saw. Raises `PermanentError` for bytes that are none."""
        try:
            state = _state.decode(data)
        except msgspec.DecodeError as error:
            raise PermanentError(f"unreadable gate: {error}", where="outbox snapshot") from error
        self._minutes = dict(state.minutes)
        self._open, self.level, self._here = state.open, state.level, None
        self._tallies = {(tally.component, tally.reason): tally for tally in state.tallies}
        self._reports = state.reports

    def _used(self, minute: int) -> int:
        if self._here is None or self._here[0] != minute:
            seen = self._minutes
            used = sum(seen.get(m, 0) for m in range(minute - _HOUR + 1, minute + _SKEW + 1))
            self._here = (minute, used)
        return self._here[1]

    def _report(self, tally: Tally) -> Report:
        at = dt.datetime.fromtimestamp(tally.last, dt.UTC)
        self.charge(tally.last // 60)
        subject = external(ExternalKind.ENDPOINT, tally.component, source="ugallu")
        # Numbered, because two reports of one minute and equal counts are two reports.
        name = f"{tally.component}/{tally.reason}"
        number = self._reports[name] = self._reports.get(name, 0) + 1
        cluster_id = tally.cluster.cluster_id
        fact = Fact(cluster_id, _REPORT.event_class.value, _REPORT.name, subject.key, f"{tally.reason}/{number}")
        shared = fact.correlation(tally.opened)
        spec = SecurityEventSpec(
            class_=EventClass.ANOMALY,
            type=_REPORT.name,
            severity=_REPORT.severity,
            cluster_identity=tally.cluster,
            source=tally.source,
            subject=subject,
            detected_at=at,
            signals={
                "reason": tally.reason,
                "dropped": str(sum(tally.counts.values())),
                "firstSeen": _text(tally.first),
                "lastSeen": _text(tally.last),
                **{f"dropped.{name}": str(count) for name, count in sorted(tally.counts.items())},
            },
            correlation_id=shared,
        )
        return Report(fact.name(shared), tally.component, spec)


def _text(at: int) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
