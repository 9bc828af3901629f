"""The work queue."""

import random

import anyio
import anyio.lowlevel
import pytest

from ugallu.clock import SystemClock
from ugallu.cluster.queue import WorkQueue
from ugallu.pace import Backoff
from ugallu.testing.clock import ManualClock, settled


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def queue(clock: ManualClock) -> WorkQueue[str]:
    return WorkQueue(clock, lambda: Backoff(first=1.0, ceiling=8.0, jitter=0.0))


def idle(queue: WorkQueue[str]) -> bool:
    return queue.idle


async def test_a_key_stands_in_line_once(queue: WorkQueue[str]) -> None:
    """However often it is added, it comes once, in the order of the first."""
    for key in "abaab":
        queue.add(key)
    assert len(queue) == 2
    assert [await queue.get(), await queue.get()] == ["a", "b"]


async def test_one_worker_a_key_at_a_time(queue: WorkQueue[str]) -> None:
    """A key added while in work comes again, after `done` and not before."""
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1
    assert await queue.get() == "a"
    queue.done("a")
    assert len(queue) == 0
    assert idle(queue)


async def test_a_waiting_worker_is_woken(queue: WorkQueue[str]) -> None:
    """get waits for a key."""
    got: list[str] = []

    async def work() -> None:
        got.append(await queue.get())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await settled()
        assert got == []
        queue.add("a")
    assert got == ["a"]


async def test_later_is_later(queue: WorkQueue[str], clock: ManualClock) -> None:
    """A key set for later comes when it is due; the earliest of several counts, and it comes once."""
    got: list[tuple[str, float]] = []

    async def work() -> None:
        while True:
            key = await queue.get()
            got.append((key, clock.monotonic()))
            queue.done(key)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        queue.add_after("slow", 30)
        queue.add_after("a", 10)
        queue.add_after("a", 5)
        queue.add_after("a", 20)
        assert idle(queue)
        for _ in range(40):
            await clock.advance(1)
        tasks.cancel_scope.cancel()
    assert got == [("a", 5.0), ("slow", 30.0)]


async def test_retries_back_off_until_forgotten(queue: WorkQueue[str], clock: ManualClock) -> None:
    """Each retry of a key waits longer, up to the ceiling; success starts anew; a retry owed is no idleness."""
    assert [queue.retry("a") for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]
    assert queue.retry("b") == 1.0
    assert not idle(queue)
    queue.forget("a")
    queue.forget("b")
    assert idle(queue)
    assert queue.retry("a") == 1.0
    await clock.advance(1.0)
    assert await queue.get() == "a"
    assert not idle(queue)
    queue.done("a")
    assert idle(queue)


async def test_forgetting_leaves_visits_alone(queue: WorkQueue[str], clock: ManualClock) -> None:
    """Success cancels the retry, not a visit that was asked for."""
    queue.add_after("a", 5)
    queue.forget("a")
    await clock.advance(5)
    assert await queue.get() == "a"


async def test_close_drains(queue: WorkQueue[str], clock: ManualClock) -> None:
    """After close what is queued is still handed out, once more if it was asked for; then every worker's stream ends."""
    queue.add("a")
    queue.add("b")
    assert await queue.get() == "a"
    queue.add("a")
    queue.add_after("later", 1)
    queue.retry("owed")
    queue.close()
    queue.add("new")
    queue.add_after("new", 0)
    assert await queue.get() == "b"
    queue.done("b")
    with pytest.raises(anyio.EndOfStream):
        await queue.get()
    queue.done("a")
    assert await queue.get() == "a"
    queue.done("a")
    await clock.advance(10)
    with pytest.raises(anyio.EndOfStream):
        await queue.get()
    assert idle(queue)


async def test_close_wakes_those_who_wait(queue: WorkQueue[str]) -> None:
    """Workers that wait for a key, or for one that is set for later, end."""
    ended: list[int] = []

    async def work(number: int) -> None:
        with pytest.raises(anyio.EndOfStream):
            await queue.get()
        ended.append(number)

    queue.add_after("later", 100)
    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(work, number)
        await settled()
        queue.close()
    assert sorted(ended) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
async def test_under_many_workers_nothing_is_missed_or_done_twice_at_once(clock: ManualClock, seed: int) -> None:
    """After the last add of a key there is always one more turn for it; no key has two workers."""
    dice = random.Random(seed)
    queue: WorkQueue[int] = WorkQueue(clock)
    wanted = dict.fromkeys(range(10), 0)
    done = dict.fromkeys(range(10), 0)
    busy: set[int] = set()

    async def work() -> None:
        while True:
            try:
                key = await queue.get()
            except anyio.EndOfStream:
                return
            assert key not in busy
            busy.add(key)
            seen = wanted[key]
            for _ in range(dice.randrange(4)):
                await anyio.lowlevel.checkpoint()
            done[key] = seen
            busy.discard(key)
            if dice.random() < 0.2:
                queue.add_after(key, dice.choice([0, 1]))
            queue.done(key)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(work)
        for _ in range(300):
            key = dice.randrange(10)
            wanted[key] += 1
            queue.add(key)
            if dice.random() < 0.3:
                await anyio.lowlevel.checkpoint()
            if dice.random() < 0.02:
                await clock.advance(1)
        queue.close()
    assert done == wanted
    assert queue.idle


class Creeping(SystemClock):
    """Time goes on between any two looks at it."""

    def __init__(self) -> None:
        self.at = 0.0

    def monotonic(self) -> float:
        self.at += 1.0
        return self.at


async def test_a_moment_that_passes_between_two_looks() -> None:
    """A key that falls due while the wait for it is worked out is handed out; nobody sleeps for less than nothing."""
    queue: WorkQueue[str] = WorkQueue(Creeping())
    for key in "abc":
        queue.add_after(key, 1.5)
        with anyio.fail_after(5):
            assert await queue.get() == key
        queue.done(key)
