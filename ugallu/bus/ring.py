"""`Ring`: one subscriber's bounded queue of batches. Pure: it never waits, it says what it could not keep."""

from collections import Counter, deque
from typing import Any

from ugallu.api.observation import Batch

Batches = Batch[Any]


class Ring:
    """At most `capacity` batches, in the order in which they came.

    A batch that can be read again (it carries `resume`) is never dropped: `offer` refuses it and the publisher waits.
    One that cannot pushes out the oldest of its kind; where only rewindable batches are kept, the new one itself goes.
    Either way `dropped` counts the observations lost, by source.
    """

    __slots__ = ("_batches", "_capacity", "dropped")

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a ring holds at least one batch, not {capacity}")
        self._capacity = capacity
        self._batches: deque[Batches] = deque()
        self.dropped: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._batches)

    def offer(self, batch: Batches) -> bool:
        """Take the batch, or tell the publisher to wait."""
        if len(self._batches) >= self._capacity:
            if batch.resume:
                return False
            oldest = next((at for at, kept in enumerate(self._batches) if not kept.resume), None)
            if oldest is None:
                self._lose(batch)
                return True
            self._lose(self._batches[oldest])
            del self._batches[oldest]
        self._batches.append(batch)
        return True

    def take(self) -> Batches | None:
        """Return the oldest batch, None when there is none."""
        return self._batches.popleft() if self._batches else None

    def abandon(self) -> None:
        """Empty the ring because its reader left: what cannot be read again is lost, and counted."""
        while self._batches:
            batch = self._batches.popleft()
            if not batch.resume:
                self._lose(batch)

    def _lose(self, batch: Batches) -> None:
        self.dropped[batch.source] += len(batch.observations)
