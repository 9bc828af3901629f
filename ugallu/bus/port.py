"""`Bus`: sources publish batches, subscribers take them from rings of their own.

A source that can be rewound (its batches carry `resume`) waits for the slowest ring; one that cannot makes the ring
drop its oldest batch, counted by source. Closing the bus is how subscribers learn that there is no more.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

from ugallu.api.observation import Batch, Observation

O = TypeVar("O", bound=Observation)  # noqa: E741 - the type of an observation
O_co = TypeVar("O_co", bound=Observation, covariant=True)

Publish = Callable[[Batch[Any]], Awaitable[None]]
"""How a source offers a batch: `Bus.publish` with its type filled in."""


class Subscription(Protocol[O_co]):
    """One subscriber's ring."""

    async def receive(self) -> Batch[O_co] | None:
        """Return the next batch, None once the bus is closed and the ring is empty."""
        ...

    def losses(self) -> Mapping[str, int]:
        """Return what this subscriber lost since it was last asked, by source; rings that it left behind included."""
        ...

    def close(self) -> None:
        """Leave: publishers no longer wait for this ring."""
        ...


class Bus(Protocol):
    """The bus of one process."""

    def subscribe(self, observes: type[O], name: str, *, capacity: int = 8) -> Subscription[O]:
        """Join; `capacity` is in batches."""
        ...

    async def publish(self, observes: type[Any], batch: Batch[Any]) -> None:
        """Offer a batch to every subscriber of the type."""
        ...

    def close(self) -> None:
        """No more batches will come."""
        ...
