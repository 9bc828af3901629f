"""`Feed`: from records to the messages of each stream. Whoever offers never waits; who reads too slowly is told.

    offer ─ lanes: filter, cap ─ encode once a shape ─ replay ─ cursors: one a stream

Nothing is encoded for nobody: a consumer counts as there while it has a stream, and so long after as the replay reaches
back; at the start, too, because consumers of the process before are on their way.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import anyio

from ugallu.api.audit import AuditRecord
from ugallu.api.detection import AuditDetectionConsumer, AuditDetectionConsumerFilter, AuditDetectionPriority
from ugallu.bus.events import MAX_METADATA, Encoder, Shape, lost_part, stream_part
from ugallu.bus.lanes import BUFFER, SIZE, Lane, Verdict
from ugallu.bus.replay import Replay
from ugallu.clock import Clock
from ugallu.errors import RefusedError

MESSAGES: Final = 256
MESSAGE_BYTES: Final = 256 << 10
"""What a stream sends at a time, so that others get their turn."""


class Cursor:
    """One stream's place in its consumer's lane."""

    def __init__(self, feed: "Feed", lane: Lane, shapes: Sequence[Shape]) -> None:
        self.sent = 0
        self.sequence = feed.sequence
        """The event that was told last: the stream may be resumed behind it."""
        self.closed = False
        """Whether the consumer is not declared any more."""
        self._feed = feed
        self._lane = lane
        self._shapes = shapes
        self._at = lane.end
        self._told: int | None = lane.ordinal

    @property
    def consumer(self) -> str:
        """Whose stream it is."""
        return self._lane.consumer.name

    @property
    def waiting(self) -> int:
        """How many events are not yet taken."""
        return self._lane.end - self._at

    @property
    def shape(self) -> Shape:
        """How it wants events."""
        return self._shapes[0]

    def resume(self, sequence: int, *, same: bool) -> None:
        """Go back behind a sequence; of another server's numbering everything that is still there is new."""
        if same:
            if sequence <= self._feed.sequence:
                self.sequence = sequence
                self._at, self._told = self._lane.behind(sequence)
        else:
            self._at, self._told = self._lane.since(self._feed.replay.first)
            self.sequence = self._feed.replay.first - 1

    def take(self) -> list[bytes]:
        """Return the next messages, as many as are sent at a time; empty when there are none."""
        lane, replay = self._lane, self._feed.replay
        found: list[bytes] = []
        size = 0
        gone = max(0, lane.first - self._at)
        self._at += gone
        while self._at < lane.end and len(found) < MESSAGES and size < MESSAGE_BYTES:
            place = lane.place(self._at)
            self._at += 1
            message = replay.get(place.sequence, self._shapes)
            if message is None:
                gone += 1
                continue
            # Where the number of the last one is forgotten, what others got counts as well: too many rather than none.
            before = place.ordinal - self._told if self._told is not None else place.sequence - self.sequence
            self._told, self.sequence = place.ordinal, place.sequence
            found.append(message + lost_part(before - 1) if before > 1 else message)
            size += len(message)
        if gone:
            lane.dropped[BUFFER] += gone
        if not found and self._told == lane.ordinal:
            self.sequence = self._feed.sequence
        self.sent += len(found)
        return found

    def close(self) -> None:
        """The stream has ended."""
        self._feed.forget(self, self._lane)


class Feed:
    """All consumers of one server."""

    def __init__(self, encoder: Encoder, clock: Clock, *, replay: Replay | None = None) -> None:
        self.instance = uuid.uuid4().hex
        self.sequence = 0
        """Of the newest event."""
        self.replay = replay or Replay()
        self.changed = anyio.Event()
        """Set, and replaced, when there may be something to take."""
        self._encoder = encoder
        self._clock = clock
        self._lanes: dict[str, Lane] = {}
        self._cursors: dict[str, set[Cursor]] = {}
        self._until: dict[str, float] = {}

    @property
    def lanes(self) -> Mapping[str, Lane]:
        """The consumers that are declared."""
        return self._lanes

    @property
    def streams(self) -> Mapping[str, int]:
        """How many streams each consumer has."""
        return {name: len(cursors) for name, cursors in self._cursors.items()}

    def waiting(self, consumer: str) -> int:
        """Return how far the slowest stream of a consumer is behind, in events."""
        return max((cursor.waiting for cursor in self._cursors[consumer]), default=0)

    def configure(self, consumers: Sequence[AuditDetectionConsumer]) -> None:
        """Go on with these consumers; streams of one that is not among them end. Raises as `Lane`."""
        for consumer in consumers:
            if (lane := self._lanes.get(consumer.name)) is not None:
                lane.configure(consumer)
            else:
                self._lanes[consumer.name] = Lane(consumer, self.sequence)
                self._cursors[consumer.name] = set()
                self._until[consumer.name] = self._clock.monotonic() + self.replay.seconds
        for name in self._lanes.keys() - {consumer.name for consumer in consumers}:
            for cursor in self._cursors.pop(name):
                cursor.closed = True
            del self._lanes[name], self._until[name]
        self.poke()

    def offer(self, records: Iterable[AuditRecord]) -> None:
        """Take in events, in order."""
        now = self._clock.monotonic()
        lanes = [lane for name, lane in self._lanes.items() if self._there(name, now)]
        for record in records:
            self.sequence += 1
            verdicts = [(lane, verdict) for lane in lanes if (verdict := lane.judge(record, now)) in _WANTED]
            parts = self._encoded(record, [lane for lane, _ in verdicts]) if verdicts else None
            for lane, _ in verdicts:
                if parts is None:
                    lane.dropped[SIZE] += 1
                else:
                    lane.keep(self.sequence)
            self.replay.put(parts, now, precious=any(verdict is Verdict.PRECIOUS for _, verdict in verdicts))
        self.poke()

    def subscribe(
        self,
        consumer: str,
        *,
        after: int = 0,
        instance: str = "",
        bodies: bool = True,
        priority: Sequence[AuditDetectionPriority] = (),
    ) -> Cursor:
        """Return a new stream's cursor: from now on, or behind event `after` of `instance`.

        Raises `RefusedError` for a consumer that is not declared, `PermanentError` for a priority that cannot work.
        """
        lane = self._lanes.get(consumer)
        if lane is None:
            raise RefusedError(
                "no such consumer", where=consumer[:64], fix="declare it in AuditDetectionConfig spec.consumers"
            )
        self._there(consumer, self._clock.monotonic())
        shape = _shape(lane)
        cursor = Cursor(self, lane, (shape, shape.bare) if bodies else (shape.bare, shape))
        lane.hint(cursor, priority)
        if instance:
            cursor.resume(after, same=instance == self.instance)
        self._cursors[consumer].add(cursor)
        return cursor

    def forget(self, cursor: Cursor, lane: Lane) -> None:
        """Let go of a stream that has ended."""
        lane.hint(cursor, ())
        name = lane.consumer.name
        if self._lanes.get(name) is lane:
            self._cursors[name].discard(cursor)
            self._until[name] = self._clock.monotonic() + self.replay.seconds

    def age(self) -> None:
        """Let go of what has become too old, and of consumers that do not come back."""
        now = self._clock.monotonic()
        self.replay.age(now)
        for name in self._lanes:
            self._there(name, now)

    def poke(self) -> None:
        """Let every stream look again."""
        self.changed.set()
        self.changed = anyio.Event()

    def _there(self, name: str, now: float) -> bool:
        if self._cursors[name] or now < self._until[name]:
            return True
        # Nothing of what comes is counted for it: a gap that begins here cannot be told to the event.
        self._lanes[name].rest(self.sequence)
        return False

    def _encoded(self, record: AuditRecord, lanes: Sequence[Lane]) -> Mapping[Shape, bytes] | None:
        """Return the event in every shape that somebody asks for; None when it is larger than any real one."""
        head = self._encoder.metadata(record)
        if len(head) > MAX_METADATA:
            return None
        stream = stream_part(self.sequence, self.instance)
        found: dict[Shape, bytes] = {}
        for shape in {shape for lane in lanes for shape in self._shapes(lane)}:
            found[shape] = b"".join((head, self._encoder.bodies(record, shape), stream))
        return found

    def _shapes(self, lane: Lane) -> set[Shape]:
        cursors = self._cursors[lane.consumer.name]
        return {cursor.shape for cursor in cursors} or {_shape(lane)}


def _shape(lane: Lane) -> Shape:
    wanted = lane.consumer.filter or AuditDetectionConsumerFilter()
    return Shape(wanted.bodies, wanted.body_cap)


_WANTED: Final = frozenset({Verdict.KEPT, Verdict.PRECIOUS})
