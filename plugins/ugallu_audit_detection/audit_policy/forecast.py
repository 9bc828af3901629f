"""What a policy would make an API server write, by what it wrote under another one: events and bytes a second."""

from collections.abc import Iterable

import msgspec

from ugallu_audit_detection.audit_policy.document import AuditPolicy, decide, rank, request_of
from ugallu_audit_detection.audit_policy.sight import Event, record_of, shown_by


class Forecast(msgspec.Struct, frozen=True):
    """Counts over a recording; `seconds` from its first event to its last."""

    seconds: float
    seen: int
    """Events of the recording."""
    seen_bytes: int
    events: int
    """Those that would still be written."""
    bytes: int
    """What they would take, one line each."""
    shallow: int
    """Of them, those that the recording shows at a lower level than the policy asks for: they would take more."""
    unread: int = 0
    """Lines that are no audit events."""

    @property
    def events_a_second(self) -> float:
        """Events a second; 0 for a recording without time."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def bytes_a_second(self) -> float:
        """Bytes a second; 0 for a recording without time."""
        return self.bytes / self.seconds if self.seconds else 0.0


def forecast(policy: AuditPolicy, recording: Iterable[bytes]) -> Forecast:
    """Return what would be written of these lines; requests that the recording itself left out are not in it."""
    seen = seen_bytes = events = size = shallow = unread = 0
    first = last = 0.0
    for line in recording:
        try:
            event: Event = msgspec.json.decode(line, type=Event)
            record = record_of(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            unread += 1
            continue
        at = record.seen_at.timestamp()
        first, last = (at, at) if not seen else (min(first, at), max(last, at))
        seen, seen_bytes = seen + 1, seen_bytes + len(line)
        found = decide(policy, request_of(record))
        left = shown_by(found, event)
        if left is None:
            continue
        events += 1
        size += len(line) if left.keys() == event.keys() else len(msgspec.json.encode(left)) + 1
        shallow += rank(record.level) < rank(found.level) and record.verb in ("create", "update", "patch")
    return Forecast(last - first, seen, seen_bytes, events, size, shallow, unread)
