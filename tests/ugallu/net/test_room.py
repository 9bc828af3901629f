"""Memory that is shared: never more than there is, first come first served, nobody waits for ever."""

import anyio
import pytest

from ugallu.net.room import Room
from ugallu.testing.clock import settled


async def held(room: Room, size: int, got: list[int], end: anyio.Event) -> None:
    async with room.hold(size):
        got.append(size)
        await end.wait()


async def test_first_come_first_served() -> None:
    """A small one does not pass a large one that waits: the large one would wait for ever."""
    room, got, end = Room(10), list[int](), anyio.Event()
    async with anyio.create_task_group() as tg:
        for size in (6, 7, 1):
            tg.start_soon(held, room, size, got, end)
            await settled()
        assert got == [6]
        end.set()
    assert got == [6, 7, 1]
    assert room.free == 10


async def test_more_than_there_is_means_all_there_is() -> None:
    """It waits until everything is free, and gets it."""
    room = Room(10)
    async with room.hold(1000):
        assert room.free == 0
    assert room.free == 10


@pytest.mark.parametrize("first", [True, False])
async def test_who_gives_up_is_in_nobodys_way(first: bool) -> None:
    """A cancelled one leaves the queue, and whoever stood behind it goes on."""
    room, got, end = Room(10), list[int](), anyio.Event()
    async with anyio.create_task_group() as tg:
        tg.start_soon(held, room, 6, got, end)
        await settled()
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(held, room, 8, got, end)
            await settled()
            tg.start_soon(held, room, 3, got, end)
            await settled()
            assert got == [6]
            if first:
                # Its turn comes in the very moment in which it gives up.
                end.set()
            waiting.cancel_scope.cancel()
        await settled()
        assert got[-1] == 3
        end.set()
    assert room.free == 10
