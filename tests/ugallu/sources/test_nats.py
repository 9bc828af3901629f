"""Events over NATS, as far as no server is needed: where a reader begins, what fits, what cannot work."""

import msgspec
import pytest

from ugallu.api.observation import Checkpoint
from ugallu.bus.events import Encoder
from ugallu.bus.jetstream import Origin, Stored
from ugallu.clock import SystemClock
from ugallu.errors import PermanentError, TransientError
from ugallu.metrics import Metrics
from ugallu.settings import AuditSettings, NatsSettings, RelaySettings, Settings
from ugallu.sources.nats import Position, StreamReader, begin, check, encoded, forwarded
from ugallu.testing.audit import audit_record
from ugallu.testing.relay import QUIET
from ugallu.wire.auditstream.v1 import audit_stream_pb2 as pb

ENCODER = Encoder(lambda body, _: body, lambda text: text)
URL = "tls://nats:4222"


def checkpoint(made: str, sequence: int, base: int = 0) -> Checkpoint:
    resume = msgspec.json.encode(Position(made, sequence, base))
    return Checkpoint("nats", "op", next=base + sequence, resume=resume)


@pytest.mark.parametrize(
    ("start", "floor", "expected"),
    [
        (None, 0, (5, 0)),
        (None, 30, (31, 0)),
        (checkpoint("a", 50), 30, (51, 0)),
        (checkpoint("a", 2), 0, (3, 0)),
        (checkpoint("before", 900), 0, (5, 896)),
        (checkpoint("before", 900, base=100), 0, (5, 996)),
        (checkpoint("a", 900), 0, (5, 896)),
        (Checkpoint("nats", "op", next=7), 0, (5, 0)),
    ],
)
def test_where_a_reader_begins(start: Checkpoint | None, floor: int, expected: tuple[int, int]) -> None:
    """Its checkpoint decides, then what it acknowledged; in a stream made anew numbers go on behind the old ones."""
    assert begin(Origin("a", 5, 100), start, floor) == expected


def test_a_checkpoint_of_somebody_else() -> None:
    """Is no place to begin."""
    with pytest.raises(TransientError, match="not ours"):
        begin(Origin("a", 1, 1), Checkpoint("nats", "op", next=1, resume=b"{"), 0)


def test_gaps_are_told_and_keep_the_numbers() -> None:
    """What retention took between two messages is lost, by number; what is no event is rejected, and counted."""
    metrics = Metrics()
    reader = StreamReader(
        NatsSettings(url=URL), checkpoints=lambda _: (), clock=SystemClock(), metrics=metrics, log=QUIET
    )
    data = ENCODER.metadata(audit_record())
    stored = [Stored(11, data), Stored(12, data), Stored(13, b"\xff"), Stored(14, data), Stored(20, data)]
    counts = {"received": 0, "parsed": 0, "rejected": 0}
    batches = reader._batches(stored, Position("a", 10, base=100), counts)
    assert [(batch.first, len(batch.observations), batch.lost) for batch in batches] == [
        (110, 2, 0),
        (113, 1, 0),
        (119, 1, 5),
    ]
    assert counts == {"received": 5, "parsed": 4, "rejected": 1, "lost": 5}
    assert msgspec.json.decode(batches[-1].resume, type=Position) == Position("a", 20, 100)
    assert metrics.value("ugallu_audit_bus_lost_total", source="nats") == 5


def test_an_event_is_made_to_fit() -> None:
    """Bodies go first, the response's before the request's; one that does not fit without them is nothing."""
    record = audit_record(verb="create", requestObject={"a": "x" * 3000}, responseObject={"b": "y" * 6000})
    sizes = [pb.AuditEvent.FromString(encoded(ENCODER, record, most)) for most in (20_000, 5_000, 1_500)]
    assert [(len(e.request_object) > 0, len(e.response_object) > 0) for e in sizes] == [
        (True, True),
        (True, False),
        (False, False),
    ]
    assert [event.bodies_omitted for event in sizes] == [False, True, True]
    assert encoded(ENCODER, record, 50) == b""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"url": "http://nats"}, "no address of NATS"),
        ({"url": "tls://"}, "no address of NATS"),
        ({"url": "tls://me:secret@nats:4222"}, "credentials in the address"),
        ({"tls_cert": "a"}, "a certificate and its key"),
        ({"plaintext": True}, "TLS and no TLS"),
        ({"credentials": "a", "token_file": "b"}, "two credentials"),
    ],
)
def test_settings_that_cannot_work(changes: dict[str, str], said: str) -> None:
    """Each is named with what to do, and no secret is."""
    with pytest.raises(PermanentError, match=said) as caught:
        check(NatsSettings(**{"url": URL, **changes}))  # type: ignore[arg-type]
    assert caught.value.fix
    assert "secret" not in str(caught.value)


def test_an_event_bus_is_forwarded_as_well() -> None:
    """As one source of many streams, read as the consumer `ingest` unless another one is named."""
    relay = RelaySettings(addresses=("bus:8444",))
    settings = Settings(bus=NatsSettings(url=URL), audit=AuditSettings(bus=relay))
    (source,) = forwarded(
        settings, redact=lambda body, _: body, scrub=str, clock=SystemClock(), metrics=Metrics(), log=QUIET
    )
    assert source.name == "audit-bus-to-nats"
    assert source.checkpoints() == []


def test_there_must_be_something_to_forward() -> None:
    """A process that takes nothing in has no business in writing."""
    settings = Settings(bus=NatsSettings(url=URL), audit=AuditSettings())
    with pytest.raises(PermanentError, match="no audit log to forward"):
        forwarded(
            settings,
            redact=lambda body, _: body,
            scrub=str,
            clock=SystemClock(),
            metrics=Metrics(),
            log=QUIET,
        )
