"""How far each subscriber has come in each source: what a source is started from, what a worker skips.

In memory it runs a little ahead of nothing: a position is set only once its checkpoint is durable.
"""

from collections.abc import Iterable

import msgspec

from ugallu.api.observation import Checkpoint

SERIAL = "worker"
"""Key in `Checkpoint.states` of the worker's own state; detectors may not be called that."""


class WorkerState(msgspec.Struct, frozen=True):
    """What a worker keeps beside its detectors' windows. `serial` grows with every checkpoint of a subscriber."""

    serial: int = 0
    matched: int = 0
    """Findings, cumulative, of detectors without books of their own, in this source."""
    failed: int = 0
    """Observations of this source that a detector failed on, cumulative."""
    booked: dict[str, int] = {}
    """Books of the detectors that keep some, as far as this source caused them."""


def worker_state(checkpoint: Checkpoint | None) -> WorkerState:
    """Return the worker's part of a checkpoint."""
    raw = checkpoint.states.get(SERIAL) if checkpoint else None
    return msgspec.json.decode(raw, type=WorkerState) if raw else WorkerState()


class Positions:
    """The latest checkpoint of every (source, subscriber)."""

    def __init__(self, checkpoints: Iterable[Checkpoint] = ()) -> None:
        self._latest = {(point.source, point.subscriber): point for point in checkpoints}

    def of(self, source: str, subscriber: str) -> Checkpoint | None:
        """Return the latest durable checkpoint."""
        return self._latest.get((source, subscriber))

    def put(self, checkpoint: Checkpoint) -> None:
        """Take note of a checkpoint that has become durable."""
        self._latest[checkpoint.source, checkpoint.subscriber] = checkpoint

    def start(self, source: str, subscribers: Iterable[str]) -> Checkpoint | None:
        """Return where the source resumes so that none of these misses anything: behind the slowest that ever read.

        A subscriber that is new to the source begins there too; nothing that the others are done with is read again
        for its sake.
        """
        known = [point for name in subscribers if (point := self.of(source, name)) is not None]
        return min(known, key=lambda point: point.next, default=None)

    def state(self, subscriber: str, detector: str) -> bytes | None:
        """Return the detector's windows as last written, over all sources of the subscriber."""
        own = [point for point in self._own(subscriber) if detector in point.states]
        newest = max(own, key=lambda point: worker_state(point).serial, default=None)
        return newest.states[detector] if newest else None

    def serial(self, subscriber: str) -> int:
        """Return the highest serial that the subscriber has written."""
        return max((worker_state(point).serial for point in self._own(subscriber)), default=0)

    def all(self) -> list[Checkpoint]:
        """Return every latest checkpoint."""
        return list(self._latest.values())

    def _own(self, subscriber: str) -> list[Checkpoint]:
        return [point for (_, name), point in self._latest.items() if name == subscriber]
