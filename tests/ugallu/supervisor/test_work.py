"""The worker: nothing inspected twice, nothing skipped, no checkpoint ahead of its findings."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import anyio
import msgspec
import pytest
import structlog

from ugallu.api.catalog import CATALOGUE
from ugallu.api.observation import Batch, Checkpoint, Finding
from ugallu.api.subject import ExternalKind, external
from ugallu.bus.bus import LocalBus
from ugallu.emit.port import Origin
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.operator.contract import Detector
from ugallu.supervisor.positions import Positions
from ugallu.supervisor.work import IDLE_BATCHES, IDLE_SECONDS, Worker
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.pipeline import RememberingEmitter, Seen, batches

TYPE = CATALOGUE["ExecIntoPod"]
ORIGIN = Origin(component="ugallu-test", emits=frozenset({TYPE.name}))


def finding(number: int) -> Finding:
    return Finding(TYPE, external(ExternalKind.USER, "eve"), key=str(number))


class Every:
    """Finds every n-th number."""

    observes = Seen

    def __init__(self, step: int) -> None:
        self.step = step

    def inspect(self, seen: Seen) -> Iterator[Finding]:
        if seen.number % self.step == 0:
            yield finding(seen.number)


class Counting:
    """Finds when the sum of what it saw passes a multiple of 100; keeps the sum as its window."""

    observes = Seen
    name = "counting"

    def __init__(self, bad: Sequence[int] = ()) -> None:
        self.total = 0
        self.matched = 0
        self.bad = set(bad)

    def inspect(self, seen: Seen) -> Iterable[Finding]:
        if seen.number in self.bad:
            raise ZeroDivisionError
        before, self.total = self.total, self.total + seen.number
        if before // 100 != self.total // 100:
            self.matched += 1
            return (finding(seen.number),)
        return ()

    def inspect_batch(self, observations: Sequence[Seen]) -> Iterable[tuple[int, Finding]]:
        for index, seen in enumerate(observations):
            for found in self.inspect(seen):
                yield index, found

    def snapshot(self) -> bytes:
        return msgspec.json.encode([self.total, self.matched])

    def restore(self, state: bytes) -> None:
        try:
            self.total, self.matched = msgspec.json.decode(state, type=tuple[int, int])
        except msgspec.DecodeError as error:
            raise PermanentError("unreadable state") from error

    def books(self) -> Mapping[str, int]:
        return {"matched": self.matched, "dropped.limit": 0}


class Bench:
    """One worker with its surroundings."""

    def __init__(self, *detectors: Detector[Seen], known: Sequence[Checkpoint] = ()) -> None:
        self.metrics = Metrics()
        self.bus = LocalBus(self.metrics)
        self.emitter = RememberingEmitter(ORIGIN)
        self.clock = ManualClock()
        self.positions = Positions(known)
        self.worker = Worker(
            "test",
            Seen,
            detectors,
            subscription=self.bus.subscribe(Seen, "test"),
            emitter=self.emitter,
            positions=self.positions,
            metrics=self.metrics,
            clock=self.clock,
            log=structlog.wrap_logger(structlog.ReturnLogger()),
        )

    async def feed(self, *fed: Batch[Seen]) -> None:
        """Publish all, then end the stream and let the worker finish."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self.worker.run)
            for batch in fed:
                await self.bus.publish(Seen, batch)
            self.bus.close()

    @property
    def keys(self) -> list[int]:
        return [int(found.key) for found in self.emitter.findings]


async def test_findings_leave_in_order_with_the_checkpoint_that_covers_them() -> None:
    """Each submit carries a position behind its last finding, and positions never go back."""
    bench = Bench(Every(7))
    await bench.feed(*batches("s", range(100), 10))
    assert bench.keys == list(range(0, 100, 7))
    done = 0
    for found, point in bench.emitter.submitted:
        assert point is not None
        assert point.next >= done
        assert all(int(f.key) < point.next for f in found)
        done = point.next
    assert done == 100
    last = bench.emitter.checkpoints[-1]
    assert (last.resume, last.counts) == (b"100", {"received": 100, "parsed": 100, "matched": 15})


async def test_batches_without_findings_share_a_checkpoint() -> None:
    """A thousand empty batches cost a handful of submits, and the last one still says how far reading came."""
    bench = Bench(Every(10**9))
    await bench.feed(*batches("s", range(1, 5000), 5))
    assert len(bench.emitter.submitted) <= 1000 // IDLE_BATCHES + 2
    assert bench.emitter.checkpoints[-1].next == 4999


async def test_a_waiting_checkpoint_leaves_when_flushed() -> None:
    """In a quiet stream the books still move: the cell flushes what waits for company."""
    bench = Bench(Every(10**9))
    first, second = batches("s", range(1, 21), 10)
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.worker.run)
        await bench.bus.publish(Seen, first)
        await settled()
        assert not bench.emitter.submitted
        await bench.clock.advance(IDLE_SECONDS)
        await bench.worker.flush()
        assert [point.next for point in bench.emitter.checkpoints] == [10]
        await bench.bus.publish(Seen, second)
        bench.bus.close()
    assert bench.emitter.checkpoints[-1].next == 20


async def test_what_lies_before_the_checkpoint_is_skipped_even_inside_a_batch() -> None:
    """A source that starts a little too early causes no second finding."""
    before = Checkpoint(source="s", subscriber="test", next=33, counts={"matched": 5})
    bench = Bench(Every(1), known=[before])
    await bench.feed(*batches("s", range(50), 10))
    assert bench.keys == list(range(33, 50))


@pytest.mark.parametrize("cut", range(0, 41, 3))
async def test_a_restart_at_any_point_changes_neither_findings_nor_books(cut: int) -> None:
    """Windows, books and position survive as one: stop after any submit, start again, and nothing differs."""
    whole = Bench(Counting(), Every(5))
    fed = batches("s", range(200), 5)
    await whole.feed(*fed)
    first = Bench(Counting(), Every(5))
    await first.feed(*fed[:cut])
    durable = first.emitter.submitted[: max(0, len(first.emitter.submitted) - 1)]  # the last one dies with the process
    known = {(p.source, p.subscriber): p for _, p in durable if p is not None}
    second = Bench(Counting(), Every(5), known=list(known.values()))
    await second.feed(*fed)
    assert [f for found, _ in durable for f in found] + second.emitter.findings == whole.emitter.findings
    assert second.emitter.checkpoints[-1].counts == whole.emitter.checkpoints[-1].counts


async def test_two_sources_of_one_window_stay_in_step() -> None:
    """Before another source's batch is inspected, the first one's checkpoint leaves: states hold what positions say."""
    bench = Bench(Counting())
    ones, twos = batches("one", range(30), 10), batches("two", range(30), 10)
    fed = [batch for pair in zip(ones, twos, strict=True) for batch in pair]
    await bench.feed(*fed)
    for at in range(1, len(bench.emitter.submitted)):
        known = {(p.source, p.subscriber): p for p in bench.emitter.checkpoints[:at]}
        again = Bench(Counting(), known=list(known.values()))
        await again.feed(*fed)
        assert again.emitter.checkpoints[-1].states["counting"] == bench.emitter.checkpoints[-1].states["counting"]


async def test_a_detector_that_raises_loses_one_observation_and_says_so() -> None:
    """The fast road fails, the slow road finds the culprit, windows and books hold every other observation once."""
    bench = Bench(Counting(bad=[17]))
    await bench.feed(*batches("s", range(100), 10))
    good = Bench(Counting())
    await good.feed(*batches("s", range(100), 10))
    assert bench.metrics.value("ugallu_detector_errors_total", operator="test", detector="counting") == 1
    last = bench.emitter.checkpoints[-1]
    assert msgspec.json.decode(last.states["counting"])[0] == sum(range(100)) - 17
    assert last.counts["failed"] == 1
    assert last.counts["matched"] == len(bench.emitter.findings)


async def test_replaced_detectors_take_over_the_windows_of_their_name() -> None:
    """A new config in mid-stream neither forgets the window nor misses an observation."""
    whole = Bench(Counting())
    fed = batches("s", range(200), 10)
    await whole.feed(*fed)
    bench = Bench(Counting())
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.worker.run)
        for at, batch in enumerate(fed):
            if at == 9:
                await bench.worker.replace([Counting()])
            await bench.bus.publish(Seen, batch)
        bench.bus.close()
    assert bench.keys == whole.keys
    assert bench.emitter.checkpoints[-1].counts == whole.emitter.checkpoints[-1].counts


async def test_a_state_that_cannot_be_read_starts_the_window_afresh() -> None:
    """An incompatible window of an older version is said in the log and does not stop the operator."""
    broken = Checkpoint(source="s", subscriber="test", next=10, states={"counting": b"from the future"})
    bench = Bench(Counting(), known=[broken])
    await bench.feed(*batches("s", range(60), 10))
    assert bench.emitter.checkpoints[-1].next == 60


async def test_no_position_is_known_before_the_journal_has_it() -> None:
    """While a submit waits for the disk, a source that restarts would still begin behind the old checkpoint."""
    bench = Bench(Every(1))
    bench.emitter.gate = anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(bench.worker.run)
        await bench.bus.publish(Seen, batches("s", range(10), 10)[0])
        await settled()
        assert bench.positions.of("s", "test") is None
        bench.emitter.gate.set()
        await settled()
        point = bench.positions.of("s", "test")
        assert point is not None
        assert point.next == 10
        bench.bus.close()


async def test_ring_and_worker_carry_100_000_records_a_second() -> None:
    """The supervisor's own share of the road is small: a loose bound, so that a busy machine does not fail it."""

    class Silent:
        observes = Seen

        def inspect(self, seen: Seen) -> Iterable[Finding]:
            return ()

    fed = batches("s", range(200_000), 500)
    bench = Bench(Silent())
    begin = time.process_time()
    await bench.feed(*fed)
    spent = time.process_time() - begin
    assert 200_000 / spent > 100_000


async def test_what_the_ring_drops_is_reported() -> None:
    """An overflow becomes a report with its counts, once, by the next flush."""
    bench = Bench(Every(7))
    for batch in batches("hook", range(100), 10, rewinds=False):
        await bench.bus.publish(Seen, batch)
    await bench.feed()
    assert bench.emitter.losses == [("bus_overflow", {"hook": 20})]
    await bench.worker.flush()
    assert len(bench.emitter.losses) == 1
