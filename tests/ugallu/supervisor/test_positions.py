"""Positions: where sources begin, and which window a detector gets back."""

import msgspec

from ugallu.api.observation import Checkpoint
from ugallu.supervisor.positions import SERIAL, Positions, WorkerState, worker_state


def point(source: str, subscriber: str, number: int, serial: int = 0, **states: bytes) -> Checkpoint:
    own = msgspec.json.encode(WorkerState(serial=serial))
    return Checkpoint(source=source, subscriber=subscriber, next=number, states={SERIAL: own, **states})


def test_a_source_starts_behind_the_slowest_reader_that_ever_read() -> None:
    """Others' positions and newcomers do not count."""
    positions = Positions([point("s", "a", 30), point("s", "b", 10), point("s", "c", 5), point("t", "a", 1)])
    start = positions.start("s", ["a", "b", "new"])
    assert start is not None
    assert (start.subscriber, start.next) == ("b", 10)
    assert positions.start("s", ["new"]) is None


def test_a_detector_gets_the_window_that_was_written_last() -> None:
    """Of two sources that feed one detector, the later checkpoint holds what both brought."""
    positions = Positions([point("s", "a", 30, serial=7, d=b"later"), point("t", "a", 99, serial=6, d=b"earlier")])
    assert positions.state("a", "d") == b"later"
    assert positions.state("a", "unknown") is None
    assert positions.state("b", "d") is None
    assert positions.serial("a") == 7
    positions.put(point("t", "a", 100, serial=8, d=b"latest"))
    assert positions.state("a", "d") == b"latest"
    assert len(positions.all()) == 2


def test_a_checkpoint_of_somebody_else_has_no_worker_state() -> None:
    """What another version or a foreign subscriber wrote reads as the beginning."""
    assert worker_state(None) == WorkerState()
    assert worker_state(Checkpoint(source="s", subscriber="a", next=1)) == WorkerState()
