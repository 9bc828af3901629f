"""Who is woken for a key: one, and none is lost on the way."""

import anyio

from ugallu.cluster.queue import WorkQueue
from ugallu.testing.clock import ManualClock


async def test_each_key_goes_to_the_one_who_waits_longest() -> None:
    """Of those who wait, as many are woken as there are keys."""
    queue: WorkQueue[str] = WorkQueue(ManualClock())
    got: list[tuple[int, str]] = []

    async def worker(number: int) -> None:
        got.append((number, await queue.get()))

    async with anyio.create_task_group() as tg:
        for number in range(4):
            tg.start_soon(worker, number)
            await anyio.wait_all_tasks_blocked()
        for key in ("a", "b", "c"):
            queue.add(key)
        await anyio.wait_all_tasks_blocked()
        assert got == [(0, "a"), (1, "b"), (2, "c")]
        queue.add("d")
    assert got[3:] == [(3, "d")]


async def test_a_key_in_sight_of_one_who_is_cancelled_goes_to_the_next() -> None:
    """One who is being cancelled may be woken for a key: it is the next one's."""
    queue: WorkQueue[str] = WorkQueue(ManualClock())
    got: list[str] = []
    gone = anyio.CancelScope()

    async def first() -> None:
        with gone:
            await queue.get()

    async def second() -> None:
        got.append(await queue.get())

    async with anyio.create_task_group() as tg:
        tg.start_soon(first)
        await anyio.wait_all_tasks_blocked()
        tg.start_soon(second)
        await anyio.wait_all_tasks_blocked()
        gone.cancel()
        queue.add("a")
        with anyio.fail_after(5):
            while not got:
                await anyio.wait_all_tasks_blocked()
    assert got == ["a"]


async def test_who_goes_to_work_hands_on_the_watch_for_what_is_due() -> None:
    """A visit comes in its time although the one who waited for it is busy."""
    clock = ManualClock()
    queue: WorkQueue[str] = WorkQueue(clock)
    got: list[tuple[str, str]] = []

    async def worker(name: str) -> None:
        got.append((name, await queue.get()))
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tg:
        tg.start_soon(worker, "one")
        await anyio.wait_all_tasks_blocked()
        tg.start_soon(worker, "other")
        await anyio.wait_all_tasks_blocked()
        queue.add_after("late", 10.0)
        await anyio.wait_all_tasks_blocked()
        queue.add("now")
        await anyio.wait_all_tasks_blocked()
        await clock.advance(10.0)
        await anyio.wait_all_tasks_blocked()
        assert sorted(key for _, key in got) == ["late", "now"]
        tg.cancel_scope.cancel()
