"""Streams: what each gets, where it resumes, what it is told that it lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.detection import AuditDetectionConsumer, AuditDetectionConsumerFilter, AuditDetectionPriority, BusBodies
from ugallu.bus import events as bus_events
from ugallu.bus.events import Encoder
from ugallu.bus.feed import Cursor, Feed
from ugallu.bus.lanes import BUFFER, RATE, SIZE
from ugallu.bus.replay import Replay
from ugallu.errors import RefusedError
from ugallu.testing.audit import audit_record
from ugallu.testing.clock import ManualClock
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

ENCODER = Encoder(lambda body, _: body, lambda text: text)


class Counting(Encoder):
    """Counts what it encodes."""

    def __init__(self) -> None:
        super().__init__(lambda body, _: body, lambda text: text)
        self.heads = 0
        self.made = 0

    def metadata(self, record: object) -> bytes:
        self.heads += 1
        return super().metadata(record)  # type: ignore[arg-type]

    def bodies(self, record: object, shape: object) -> bytes:
        self.made += 1
        return super().bodies(record, shape)  # type: ignore[arg-type]


def consumer(name: str = "c", cap: int = 0, **changes: object) -> AuditDetectionConsumer:
    return AuditDetectionConsumer(name=name, max_events_per_sec=cap, **changes)  # type: ignore[arg-type]


def feed(*consumers: AuditDetectionConsumer, encoder: Encoder = ENCODER, replay: Replay | None = None) -> Feed:
    made = Feed(encoder, ManualClock(), replay=replay)
    made.configure(consumers or (consumer(),))
    return made


def offer(to: Feed, *names: int | str) -> None:
    to.offer([audit_record(auditID=str(name)) for name in names])


def taken(cursor: Cursor) -> list[pb.AuditEvent]:
    found: list[pb.AuditEvent] = []
    while messages := cursor.take():
        found += [pb.AuditEvent.FromString(message) for message in messages]
    return found


def ids(cursor: Cursor) -> list[str]:
    return [event.audit_id for event in taken(cursor)]


def test_a_stream_begins_now() -> None:
    """Two streams of one consumer get everything each; another consumer's filter is its own."""
    one = feed(consumer(), consumer("w", filter=AuditDetectionConsumerFilter(verb_allowlist=("delete",))))
    offer(one, 1)
    first, second, other = one.subscribe("c"), one.subscribe("c"), one.subscribe("w")
    offer(one, 2, 3)
    one.offer([audit_record(auditID="4", verb="delete")])
    assert ids(first) == ids(second) == ["2", "3", "4"]
    assert ids(other) == ["4"]


def test_a_consumer_has_to_be_declared() -> None:
    """Its name is the one thing that is asked."""
    with pytest.raises(RefusedError, match="no such consumer"):
        feed().subscribe("stranger")


def test_requests_are_told_once() -> None:
    """W3: a consumer that asks for no stage gets no event of a request that is merely received."""
    one = feed()
    cursor = one.subscribe("c")
    one.offer([audit_record(auditID=stage, stage=stage) for stage in ("RequestReceived", "ResponseComplete")])
    assert ids(cursor) == ["ResponseComplete"]


def test_who_was_cut_off_goes_on_behind_what_it_has() -> None:
    """W2: nothing is lost, nothing comes twice, and sequences rise."""
    one = feed()
    cursor = one.subscribe("c")
    offer(one, 1, 2, 3)
    first = taken(cursor)
    cursor.close()
    offer(one, 4, 5)
    again = one.subscribe("c", after=first[1].sequence, instance=one.instance)
    offer(one, 6)
    events = taken(again)
    assert [event.audit_id for event in events] == ["3", "4", "5", "6"]
    assert not any(event.dropped_before for event in events)
    assert [event.sequence for event in events] == [3, 4, 5, 6]
    assert {event.server_instance for event in events} == {one.instance}


def test_of_another_server_everything_is_new() -> None:
    """After a restart the sequence of the process before says nothing: what there is comes, nothing is called lost."""
    one = feed()
    offer(one, 1, 2)
    events = taken(one.subscribe("c", after=900, instance="another"))
    assert [(event.audit_id, event.dropped_before) for event in events] == [("1", 0), ("2", 0)]


def test_what_the_cap_drops_is_told() -> None:
    """W2: with the next event that comes through, to the event; and counted by reason."""
    one = feed(consumer(cap=2))
    cursor = one.subscribe("c")
    offer(one, *range(10))
    assert [event.dropped_before for event in taken(cursor)] == [0, 0]
    one._clock._monotonic += 1  # type: ignore[attr-defined]
    offer(one, "later")
    (event,) = taken(cursor)
    assert (event.audit_id, event.dropped_before) == ("later", 8)
    assert one.lanes["c"].dropped == {RATE: 8}


def test_a_heartbeat_takes_nothing_away() -> None:
    """W2: who resumes behind a heartbeat is still told what its cap has dropped before it."""
    one = feed(consumer(cap=1))
    cursor = one.subscribe("c")
    offer(one, 1, 2, 3)
    assert ids(cursor) == ["1"]
    beat = cursor.sequence
    assert beat == 1, "two events lie behind it that were not told of"
    cursor.close()
    again = one.subscribe("c", after=beat, instance=one.instance)
    one._clock._monotonic += 1  # type: ignore[attr-defined]
    offer(one, 4)
    assert [(event.audit_id, event.dropped_before) for event in taken(again)] == [("4", 2)]


def test_a_heartbeat_moves_on_where_nothing_is_missing() -> None:
    """What a filter keeps back is nobody's loss, so a stream that is cut later need not ask for it again."""
    one = feed()
    cursor = one.subscribe("c")
    one.offer([audit_record(stage="RequestReceived")] * 5)
    assert ids(cursor) == []
    assert cursor.sequence == 5


def test_a_cap_is_shared_by_the_streams_of_a_consumer() -> None:
    """W6: who opens a second stream gets no second budget."""
    one = feed(consumer(cap=3))
    streams = [one.subscribe("c"), one.subscribe("c")]
    offer(one, *range(10))
    assert [ids(stream) for stream in streams] == 2 * [["0", "1", "2"]]


def test_who_reads_too_slowly_is_told() -> None:
    """W2: the oldest go, the source never waits, and the number is told with the next event."""
    one = feed(replay=Replay(most_bytes=20_000))
    slow, fast = one.subscribe("c"), one.subscribe("c")
    for number in range(500):
        offer(one, number)
        assert ids(fast) == [str(number)]
    events = taken(slow)
    assert 10 < len(events) < 100
    assert events[0].dropped_before == 500 - len(events)
    assert [event.dropped_before for event in events[1:]] == [0] * (len(events) - 1)
    assert one.lanes["c"].dropped == {BUFFER: 500 - len(events)}


def test_the_decoy_is_read_however_slow_its_watcher() -> None:
    """W6: noise pushes out noise; what is precious comes, and the gaps around it are told."""
    hint = AuditDetectionPriority(names=("db-backup",))
    one = feed(consumer(cap=1000, priority=(hint,)), replay=Replay(most_bytes=20_000))
    cursor = one.subscribe("c")
    offer(one, "before")
    one.offer([audit_record(auditID="decoy", objectRef={"resource": "secrets", "name": "db-backup"})])
    offer(one, *range(5000))
    one._clock._monotonic += 1  # type: ignore[attr-defined]
    offer(one, "after")
    events = taken(cursor)
    assert events[0].audit_id == "decoy"
    assert sum(event.dropped_before for event in events) + len(events) == 5003
    assert one.lanes["c"].dropped[RATE] > 3000


def test_an_event_larger_than_any_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """W4: one poisoned event ends no stream."""
    monkeypatch.setattr("ugallu.bus.feed.MAX_METADATA", 1000)
    assert bus_events.MAX_METADATA > 1000
    one = feed()
    cursor = one.subscribe("c")
    one.offer([audit_record(auditID="poison", requestURI="/" + "x" * 2000)])
    offer(one, "next")
    (event,) = taken(cursor)
    assert (event.audit_id, event.dropped_before) == ("next", 1)
    assert one.lanes["c"].dropped == {SIZE: 1}


def test_an_event_is_encoded_once() -> None:
    """For all streams and consumers that see as much of it; and for nobody when nobody is there."""
    encoder = Counting()
    wider = AuditDetectionConsumerFilter(bodies=BusBodies.ALL)
    one = feed(consumer("a"), consumer("b"), consumer("w", filter=wider), encoder=encoder)
    streams = [one.subscribe(name) for name in ("a", "a", "b", "w")]
    offer(one, *range(10))
    assert (encoder.heads, encoder.made) == (10, 20)
    assert [len(taken(stream)) for stream in streams] == 4 * [10]
    for stream in streams:
        stream.close()
    one._clock._monotonic += 61  # type: ignore[attr-defined]
    offer(one, *range(10))
    assert encoder.heads == 10


def test_a_consumer_that_comes_back_late_is_told_at_most() -> None:
    """Nothing was kept for it: the number is an upper bound, and no silence."""
    one = feed()
    cursor = one.subscribe("c")
    offer(one, 1)
    (last,) = taken(cursor)
    cursor.close()
    one._clock._monotonic += 61  # type: ignore[attr-defined]
    offer(one, *range(100))
    again = one.subscribe("c", after=last.sequence, instance=one.instance)
    offer(one, "now")
    (event,) = taken(again)
    assert (event.audit_id, event.dropped_before) == ("now", 100)


def test_consumers_of_the_process_before_are_expected() -> None:
    """What comes before they are back is there for them."""
    one = feed()
    offer(one, 1, 2)
    assert ids(one.subscribe("c", after=5, instance="before")) == ["1", "2"]


def test_a_consumer_that_is_not_declared_any_more() -> None:
    """Its streams end; the others go on with what is not yet read."""
    one = feed(consumer("a"), consumer("b"))
    gone, stays = one.subscribe("a"), one.subscribe("b")
    offer(one, 1)
    one.configure([consumer("b")])
    assert gone.closed
    assert ids(stays) == ["1"]
    gone.close()


def test_a_stream_that_wants_no_bodies() -> None:
    """Gets none, and what it gets says so."""
    one = feed()
    cursor = one.subscribe("c", bodies=False)
    one.offer([audit_record(requestObject={"a": 1})])
    (event,) = taken(cursor)
    assert (event.request_object, event.bodies_omitted) == (b"", True)


@given(
    st.lists(
        st.tuples(st.sampled_from(["offer", "take", "cut", "filtered"]), st.integers(1, 8)), min_size=1, max_size=50
    )
)
def test_the_books_of_a_stream_close(steps: list[tuple[str, int]]) -> None:
    """However it is cut and how slow it is: received and told as lost are what passed, in order, none twice."""
    one = feed(consumer(cap=40), replay=Replay(most_bytes=6_000))
    cursor = one.subscribe("c")
    got: list[pb.AuditEvent] = []
    passed = 0
    for step, count in steps:
        if step == "offer":
            offer(one, *range(passed, passed + count))
            passed += count
        elif step == "filtered":
            one.offer([audit_record(stage="RequestReceived")] * count)
        elif step == "take":
            got += [pb.AuditEvent.FromString(message) for message in cursor.take()]
        else:
            position = cursor.sequence
            cursor.close()
            cursor = one.subscribe("c", after=position, instance=one.instance)
    one._clock._monotonic += 10  # type: ignore[attr-defined]
    offer(one, passed)
    got += taken(cursor)
    numbers = [int(event.audit_id) for event in got]
    assert numbers == sorted(set(numbers))
    assert len(got) + sum(event.dropped_before for event in got) == passed + 1
