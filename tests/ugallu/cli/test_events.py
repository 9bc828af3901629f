"""`ugallu events -w` over a server that ends watches, as every API server does after some minutes."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

import anyio
import structlog

from ugallu.api.event import SecurityEvent
from ugallu.api.meta import Resource
from ugallu.cli.events import follow
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import GoneError, Notice, list_all
from ugallu.cluster.through import Through
from ugallu.testing.evidence import make_event

R = TypeVar("R", bound=Resource)


class Ending(Through):
    """Ends each watch behind its second notice, every other one with 410."""

    watches = 0

    async def watch(
        self, kind: type[R], *, since: str, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncGenerator[Notice[R], None]:
        self.watches += 1
        watch = self._cluster.watch(kind, since=since, namespace=namespace, labels=labels, fields=fields)
        async with aclosing(watch) as notices:  # type: ignore[type-var]
            told = 0
            async for notice in notices:
                yield notice
                told += 1
                if told == 2:
                    if self.watches % 2:
                        raise GoneError("too old")
                    return


async def test_a_watch_that_the_server_ends_goes_on() -> None:
    """Every event is shown once, in whatever watch it came, and none that was listed before."""
    cluster = EmbeddedCluster.in_memory()
    for number in range(3):
        await cluster.create(make_event(f"se-old{number}"))
    known, _ = await list_all(cluster, SecurityEvent)
    shown: list[str] = []
    ending = Ending(cluster)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, ending, known, lambda event: shown.append(event.metadata.name), structlog.get_logger())
        for number in range(9):
            await cluster.create(make_event(f"se-new{number}"))
            with anyio.fail_after(10):
                while len(shown) <= number:  # noqa: ASYNC110 - what is shown tells nobody
                    await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert shown == [f"se-new{number}" for number in range(9)]
    assert ending.watches > 3
    await cluster.close()
