"""The intake: sources start where the slowest stands, fail alone, and come to an end."""

import anyio
import pytest
import structlog

from ugallu.api.observation import Checkpoint
from ugallu.bus.bus import LocalBus
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.operator.contract import Publish
from ugallu.supervisor.intake import Intake
from ugallu.supervisor.positions import Positions
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.pipeline import NumberSource, Seen


class Ground:
    def __init__(self, *known: Checkpoint) -> None:
        self.metrics = Metrics()
        self.bus = LocalBus(self.metrics)
        self.clock = ManualClock()
        self.positions = Positions(known)
        self.intake = Intake(
            self.bus,
            self.positions,
            clock=self.clock,
            metrics=self.metrics,
            log=structlog.wrap_logger(structlog.ReturnLogger()),
        )

    async def over(self) -> None:
        """Let sources run until all have ended."""
        await settled()
        assert self.intake.over


def point(subscriber: str, number: int) -> Checkpoint:
    return Checkpoint(source="numbers", subscriber=subscriber, next=number, resume=str(number).encode())


async def test_a_source_starts_behind_the_slowest_of_its_readers() -> None:
    """One operator is at 50, another at 20: reading begins at 20; a newcomer begins there too."""
    ground = Ground(point("fast", 50), point("slow", 20), point("stranger", 5))
    source = NumberSource(100)
    ground.intake.add(source, "test")
    async with anyio.create_task_group() as tg:
        ground.intake.open(tg, lambda _: ["fast", "slow", "new"])
        await ground.over()
    assert [start.next for start in source.starts if start] == [20]


async def test_a_source_that_fails_starts_again_and_its_readers_miss_nothing() -> None:
    """The error is counted and keeps the process from being ready until the source publishes again."""
    ground = Ground()
    source = NumberSource(50, fails_at=[30])
    ground.intake.add(source, "test")
    ring = ground.bus.subscribe(Seen, "reader", capacity=100)
    async with anyio.create_task_group() as tg:
        ground.intake.open(tg, lambda _: ["reader"])
        await settled()
        assert "the wire broke" in ground.intake.reasons["numbers"]
        assert ground.metrics.value("ugallu_operator_restarts_total", operator="test", part="numbers") == 1
        ground.positions.put(point("reader", 20))
        await ground.clock.advance(1)
        await ground.over()
        assert ground.intake.reasons == {}
    ground.bus.close()
    seen = set()
    while (batch := await ring.receive()) is not None:
        seen |= {observation.number for observation in batch.observations}
    assert seen == set(range(50))
    assert [start.next if start else 0 for start in source.starts] == [0, 20]


async def test_an_input_that_cannot_be_read_ends_a_finite_run() -> None:
    """`replay nosuchfile` fails with the source's own words; `run` would wait for the file."""

    class Missing(NumberSource):
        async def run(self, publish: Publish, start: Checkpoint | None) -> None:
            raise PermanentError("no such file", where="audit.log")

    ground = Ground()
    ground.intake.add(Missing(1), "test")
    with pytest.raises(BaseExceptionGroup) as caught:
        async with anyio.create_task_group() as tg:
            ground.intake.open(tg, lambda _: [], finite=True)
    assert caught.group_contains(PermanentError, match="no such file")

    ground = Ground()
    ground.intake.add(Missing(1), "test")
    async with anyio.create_task_group() as tg:
        ground.intake.open(tg, lambda _: [])
        await settled()
        assert ground.intake.running == ["numbers"]
        tg.cancel_scope.cancel()


async def test_an_operator_that_comes_late_has_the_source_rewound() -> None:
    """Its checkpoint lies behind what the others have read: the source starts again from there."""
    ground = Ground(point("early", 50))
    source = NumberSource(100)
    ring = ground.bus.subscribe(Seen, "early", capacity=2)
    readers = ["early"]
    ground.intake.add(source, "test")
    async with anyio.create_task_group() as tg:
        ground.intake.open(tg, lambda _: readers)
        await settled()
        ground.positions.put(point("late", 10))
        readers.append("late")
        ground.intake.rewind(Seen)
        ring.close()
        await ground.over()
    assert [start.next for start in source.starts if start] == [50, 10]


async def test_two_sources_of_one_name_are_refused() -> None:
    """Checkpoints are kept under the name: it must mean one source."""
    ground = Ground()
    ground.intake.add(NumberSource(1), "test")
    with pytest.raises(PermanentError, match="two sources are called numbers"):
        ground.intake.add(NumberSource(1), "test")


async def test_no_source_at_all_is_the_end_of_input() -> None:
    """A run over nothing ends."""
    ground = Ground()
    async with anyio.create_task_group() as tg:
        ground.intake.open(tg, lambda _: [])
        await ground.over()


async def test_the_end_of_input_is_no_end_while_somebody_may_come_back() -> None:
    """A source that is added after all others have ended runs; after `close` none does, and asking is no error."""
    ground = Ground()
    told: list[bool] = []
    async with anyio.create_task_group() as tg:
        ground.intake.open(tg, lambda _: [], changed=lambda: told.append(ground.intake.over))
        ground.intake.add(NumberSource(10), "test")
        await ground.over()
        again = NumberSource(20)
        ground.intake.add(again, "test")
        assert not ground.intake.over
        await ground.over()
        assert told == [True, True]
        assert ground.intake.ends == {(Seen, "numbers"): 20}
        ground.intake.close()
    late = NumberSource(10)
    ground.intake.add(late, "test")
    assert (late.starts, ground.intake.over, ground.intake.running) == ([], True, [])


async def test_close_stops_what_runs() -> None:
    """Sources that never end are stopped; their group ends by itself."""

    class Endless(NumberSource):
        async def run(self, publish: Publish, start: Checkpoint | None) -> None:
            await anyio.sleep_forever()

    ground = Ground()
    ground.intake.add(Endless(1), "test")
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tg:
            ground.intake.open(tg, lambda _: [])
            await settled()
            ground.intake.close()
