"""Running a source by hand: what it published, and the checkpoint a new process would start from."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from ugallu.api.observation import Batch, Checkpoint
from ugallu.operator.contract import Source
from ugallu.testing.clock import settled


class Heard:
    """The batches of one or several lives of a source, checked for gaps in their numbers."""

    def __init__(self) -> None:
        self.batches: list[Batch[Any]] = []
        self.observations: list[Any] = []

    async def publish(self, batch: Batch[Any]) -> None:
        """Take a batch, as the bus does."""
        await anyio.lowlevel.checkpoint()
        assert batch.first == len(self.observations), f"{batch.first} follows {len(self.observations)} observations"
        self.batches.append(batch)
        self.observations += batch.observations

    @property
    def counts(self) -> dict[str, int]:
        """The source's books as last published."""
        return self.batches[-1].counts if self.batches else {}

    def checkpoint(self, index: int = -1) -> Checkpoint | None:
        """Return the checkpoint behind a batch; None when there is none."""
        if not self.batches:
            return None
        batch = self.batches[index]
        end = batch.first + len(batch.observations)
        return Checkpoint(batch.source, "test", next=end, resume=batch.resume, counts=batch.counts)

    def forget(self, kept: int) -> None:
        """Lose the batches behind the first `kept`, as a crash does."""
        self.batches = self.batches[:kept]
        self.observations = [observation for batch in self.batches for observation in batch.observations]


@asynccontextmanager
async def sourcing(source: Source, heard: Heard) -> AsyncIterator[None]:
    """Run a source until the block ends, from what was heard last."""
    async with anyio.create_task_group() as group:
        group.start_soon(source.run, heard.publish, heard.checkpoint())
        await settled()
        yield
        group.cancel_scope.cancel()
