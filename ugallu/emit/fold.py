"""Equal findings within a window become one event, and one that closes it. Pure: time is the findings' own.

A window opens at the time of its first finding, which becomes an event at once, and takes equal findings up to
`window` seconds behind that. It closes when its stream's time has passed the end, when its stream ends, or early when
the table is full. A rise of severity inside it is an event of its own.
"""

import datetime as dt
import enum
import heapq
from typing import NamedTuple

import msgspec

from ugallu.api.catalog import Severity
from ugallu.api.event import SecurityEvent, SecurityEventSpec
from ugallu.api.meta import ObjectReference
from ugallu.emit.identity import derived_name
from ugallu.emit.limits import brief_signals, fit_subject
from ugallu.emit.records import Submitted
from ugallu.errors import PermanentError

LATENESS = 30
"""Seconds that a stream's time runs past a window's end before the window closes: logs are not quite in order."""
MAX_SUBJECT_BYTES = 1536
"""Of the subject in a closing event: the first event holds the whole snapshot."""
BRIEF_SIGNAL_BYTES = 2048
"""Of the first finding's signals in a closing event."""
_MAX_STREAMS = 256


class Verdict(enum.Enum):
    """What becomes of a finding."""

    FIRST = "first"
    FOLDED = "folded"
    RISEN = "risen"


class Window(msgspec.Struct):
    """What is known of the equal findings so far. Times are Unix seconds; `touched` is the last record's number."""

    opened: int
    first: int
    last: int
    count: int
    severity: Severity
    touched: int
    stream: str
    name: str
    component: str
    template: bytes
    """The first event's spec, its links and the bulk of its signals and subject left out."""
    begun: int = 0
    """Number of the first finding's record."""
    experimental: bool = False
    present: bool = True
    """Whether the first finding became an event: the gate may have refused it."""


class Taken(NamedTuple):
    """The verdict on one finding, its window, and the windows that its time closed."""

    verdict: Verdict
    window: Window
    closed: list[Window]


class Closing(NamedTuple):
    """The event that closes a window."""

    name: str
    spec: SecurityEventSpec


class _State(msgspec.Struct):
    windows: dict[bytes, Window] = {}
    marks: dict[str, int] = {}
    strays: dict[str, int] = {}
    early: int = 0


_state = msgspec.msgpack.Decoder(_State)
_spec = msgspec.msgpack.Decoder(SecurityEventSpec)


class Fold:
    """The table of open windows."""

    def __init__(self, window: float, *, capacity: int = 4096) -> None:
        self._length = max(1, round(window))
        self._capacity = capacity
        self._windows: dict[bytes, Window] = {}
        self._marks: dict[str, int] = {}
        self._strays: dict[str, int] = {}
        self._ends: dict[str, list[tuple[int, bytes]]] = {}
        self.early = 0
        """Windows closed before their time because the table was full."""

    def __len__(self) -> int:
        return len(self._windows)

    def take(self, seq: int, found: Submitted) -> Taken:
        """Enter the finding of record `seq`."""
        at = int(found.spec.detected_at.timestamp())
        closed = self._advance(found.stream, at)
        window = self._windows.get(found.fold)
        if window is not None and abs(at - window.opened) >= self._length:
            closed.append(self._windows.pop(found.fold))
            window = None
        if window is None:
            if len(self._windows) >= self._capacity:
                self.early += 1
                closed.append(self._windows.pop(next(iter(self._windows))))
            window = self._open(seq, at, found)
            return Taken(Verdict.FIRST, window, closed)
        window.count += 1
        window.first = min(window.first, at)
        window.last = max(window.last, at)
        window.touched = seq
        if found.spec.severity.rank > window.severity.rank:
            window.severity = found.spec.severity
            return Taken(Verdict.RISEN, window, closed)
        return Taken(Verdict.FOLDED, window, closed)

    def close(self, upto: int = 0) -> list[Window]:
        """Close the windows last touched up to record `upto`, all of them when it is 0."""
        keys = [key for key, window in self._windows.items() if not upto or window.touched <= upto]
        return [self._windows.pop(key) for key in keys]

    def stale(self, upto: int) -> bool:
        """Whether `close(upto)` would close anything."""
        return any(window.touched <= upto for window in self._windows.values())

    def snapshot(self) -> bytes:
        """Return everything that later verdicts depend on."""
        return msgspec.msgpack.encode(_State(self._windows, self._marks, self._strays, self.early))

    def restore(self, data: bytes) -> None:
        """Become what `snapshot` saw. Raises `PermanentError` for bytes that are none."""
        try:
            state = _state.decode(data)
        except msgspec.DecodeError as error:
            raise PermanentError(f"unreadable fold table: {error}", where="outbox snapshot") from error
        self._windows, self._marks, self._strays, self.early = state.windows, state.marks, state.strays, state.early
        self._index()

    def _open(self, seq: int, at: int, found: Submitted) -> Window:
        spec = msgspec.structs.replace(
            found.spec,
            signals=brief_signals(found.spec.signals, BRIEF_SIGNAL_BYTES),
            parents=(),
            evidence=(),
            subject=fit_subject(found.spec.subject, MAX_SUBJECT_BYTES),
        )
        window = Window(
            opened=at,
            first=at,
            last=at,
            count=1,
            severity=spec.severity,
            touched=seq,
            stream=found.stream,
            name=found.name,
            component=found.component,
            template=msgspec.msgpack.encode(spec),
            begun=seq,
            experimental=found.experimental,
        )
        self._windows[found.fold] = window
        ends = self._ends.setdefault(found.stream, [])
        heapq.heappush(ends, (at + self._length, found.fold))
        if len(ends) > 2 * self._capacity:
            self._index()
        return window

    def _index(self) -> None:
        """Build the heaps of ends anew: windows closed early leave their ends behind."""
        self._ends = {}
        for key, window in self._windows.items():
            self._ends.setdefault(window.stream, []).append((window.opened + self._length, key))
        for ends in self._ends.values():
            heapq.heapify(ends)

    def _advance(self, stream: str, at: int) -> list[Window]:
        """Move a stream's time; close the windows that it has passed, in the order of their ends.

        Far ahead or back it moves only when two findings in a row agree: one record from the future closes nothing.
        """
        mark, strayed = self._marks.get(stream), self._strays.pop(stream, None)
        far = 2 * self._length + LATENESS
        if mark is not None and abs(at - mark) > far and (strayed is None or abs(at - strayed) > far):
            # A quiet night, another day's log, or one clock that is wrong: the next finding tells.
            self._strays[stream] = at
        elif mark is None or at > mark or at < mark - far:
            self._marks[stream] = mark = at
            if len(self._marks) > _MAX_STREAMS:
                gone = next(iter(self._marks))
                del self._marks[gone]
                self._strays.pop(gone, None)
        ends = self._ends.get(stream)
        closed = []
        while ends and ends[0][0] + LATENESS <= mark:
            end, key = heapq.heappop(ends)
            window = self._windows.get(key)
            if window is not None and window.opened + self._length == end and window.stream == stream:
                closed.append(self._windows.pop(key))
        return closed


def closing(window: Window) -> Closing | None:
    """Return the event that closes a window, None where the first event has said it all."""
    if window.count == 1:
        return None
    first = _spec.decode(window.template)
    parent = ObjectReference(
        api_version=SecurityEvent.kind_info.api_version, kind=SecurityEvent.kind_info.name, name=window.name
    )
    spec = msgspec.structs.replace(
        first,
        severity=window.severity,
        detected_at=dt.datetime.fromtimestamp(window.last, dt.UTC),
        signals=first.signals
        | {
            "occurrences": str(window.count),
            "firstSeen": _text(window.first),
            "lastSeen": _text(window.last),
        },
        parents=(parent,) if window.present else (),
        traceparent="",
    )
    return Closing(derived_name(first, "closing", window.name), spec)


def _text(at: int) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
