"""Fan-out, loss and its count, and how the end is told."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugallu.api.observation import Batch
from ugallu.bus.bus import LocalBus
from ugallu.bus.ring import Ring
from ugallu.errors import ConflictError
from ugallu.metrics import Metrics
from ugallu.testing.clock import settled
from ugallu.testing.pipeline import Seen


def batch(source: str, first: int, *, rewinds: bool = True, size: int = 3) -> Batch[Seen]:
    seen = [Seen(n) for n in range(first, first + size)]
    return Batch(source=source, first=first, observations=seen, resume=b"x" if rewinds else b"")


async def test_every_subscriber_gets_every_batch_in_order() -> None:
    """Every subscriber of a type gets its batches in order; those of another type do not arrive."""
    bus = LocalBus(Metrics())
    one, two, other = bus.subscribe(Seen, "one"), bus.subscribe(Seen, "two"), bus.subscribe(str, "other")  # type: ignore[type-var]
    for n in range(5):
        await bus.publish(Seen, batch("log", n * 3))
    bus.close()
    for ring in (one, two):
        firsts = []
        while (got := await ring.receive()) is not None:
            firsts.append(got.first)
        assert firsts == [0, 3, 6, 9, 12]
    assert await other.receive() is None


async def test_rewindable_source_waits_for_the_slowest() -> None:
    """A source that can be rewound waits for a full ring and loses nothing; whoever has room is served at once."""
    bus = LocalBus(Metrics())
    slow, fast = bus.subscribe(Seen, "slow", capacity=2), bus.subscribe(Seen, "fast", capacity=10)
    done: list[int] = []

    async def publish() -> None:
        for n in range(4):
            await bus.publish(Seen, batch("log", n))
            done.append(n)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        await settled()
        assert done == [0, 1]
        assert [(await fast.receive()).first for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
        assert [(await slow.receive()).first for _ in range(4)] == [0, 1, 2, 3]  # type: ignore[union-attr]
    assert bus.dropped == {}


async def test_lossy_source_never_waits() -> None:
    """A source that cannot be rewound drops its oldest batches in a full ring, counted by source and subscriber."""
    metrics = Metrics()
    bus = LocalBus(metrics)
    slow, fast = bus.subscribe(Seen, "slow", capacity=2), bus.subscribe(Seen, "fast", capacity=10)
    with anyio.fail_after(1):
        for n in range(5):
            await bus.publish(Seen, batch("hook", n, rewinds=False))
    assert [(await slow.receive()).first for _ in range(2)] == [3, 4]  # type: ignore[union-attr]
    assert [(await fast.receive()).first for _ in range(5)] == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    assert bus.dropped == {("hook", "slow"): 9}
    assert (dict(slow.dropped), dict(fast.dropped)) == ({"hook": 9}, {})
    assert metrics.value("ugallu_bus_dropped_total", source="hook", subscriber="slow") == 9


async def test_slow_subscriber_does_not_stall_another_source() -> None:
    """While one source waits for a slow subscriber, a lossy one of the same type goes on serving the others."""
    bus = LocalBus(Metrics())
    bus.subscribe(Seen, "slow", capacity=1)
    fast = bus.subscribe(Seen, "fast", capacity=50)
    async with anyio.create_task_group() as tasks:
        await bus.publish(Seen, batch("log", 0))
        tasks.start_soon(bus.publish, Seen, batch("log", 1))
        await settled()
        with anyio.fail_after(1):
            for n in range(20):
                await bus.publish(Seen, batch("hook", n, rewinds=False))
        tasks.cancel_scope.cancel()
    sources = [(await fast.receive()).source for _ in range(22)]  # type: ignore[union-attr]
    assert sources.count("hook") == 20
    assert bus.dropped == {("hook", "slow"): 60}


async def test_two_publishers_wait_for_one_ring() -> None:
    """Several sources may wait for the same ring; each goes on when there is room, none is forgotten."""
    bus = LocalBus(Metrics())
    ring = bus.subscribe(Seen, "one", capacity=1)
    got: list[str] = []
    async with anyio.create_task_group() as tasks:
        for name in "abcde":
            tasks.start_soon(bus.publish, Seen, batch(name, 0))
        for _ in range(5):
            await settled()
            received = await ring.receive()
            assert received is not None
            got.append(received.source)
    assert sorted(got) == list("abcde")


async def test_waiting_reader_is_woken() -> None:
    """A reader that waits gets the next batch, and None when the bus closes."""
    bus = LocalBus(Metrics())
    ring = bus.subscribe(Seen, "one")
    got: list[Batch[Seen] | None] = []

    async def read() -> None:
        got.append(await ring.receive())
        got.append(await ring.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await settled()
        await bus.publish(Seen, batch("log", 0))
        await settled()
        bus.close()
    assert [None if b is None else b.first for b in got] == [0, None]


async def test_leaving_frees_the_publisher() -> None:
    """A subscriber that leaves frees publishers that wait for it; what could not be read again is counted as lost."""
    bus = LocalBus(Metrics())
    ring = bus.subscribe(Seen, "one", capacity=2)
    await bus.publish(Seen, batch("hook", 0, rewinds=False))
    await bus.publish(Seen, batch("log", 0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bus.publish, Seen, batch("log", 3))
        await settled()
        ring.close()
        ring.close()
    assert await ring.receive() is None
    assert bus.dropped == {("hook", "one"): 3}
    await bus.publish(Seen, batch("log", 6))


async def test_closed_bus_takes_nothing() -> None:
    """Publishing on a closed bus is an error that names the source, also for a publisher that was waiting."""
    bus = LocalBus(Metrics())
    bus.subscribe(Seen, "one", capacity=1)
    await bus.publish(Seen, batch("log", 0))
    failures: list[str] = []

    async def publish() -> None:
        try:
            await bus.publish(Seen, batch("log", 3))
        except ConflictError as error:
            failures.append(str(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        await settled()
        bus.close()
    await publish()
    assert len(failures) == 2
    assert all("source log" in failure for failure in failures)


async def test_resubscribing_counts_on() -> None:
    """A subscriber that was rebuilt under its name starts an empty ring; the bus's counts go on."""
    bus = LocalBus(Metrics())
    for _ in range(2):
        ring = bus.subscribe(Seen, "one", capacity=1)
        for n in range(2):
            await bus.publish(Seen, batch("hook", n, rewinds=False))
        await ring.receive()
        ring.close()
    assert bus.dropped == {("hook", "one"): 6}


def test_ring_needs_room() -> None:
    """A ring without room for one batch is a mistake."""
    with pytest.raises(ValueError, match="at least one"):
        Ring(0)


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["offer", "take"]), st.sampled_from(["log", "hook"])), max_size=60),
)
def test_ring_accounts_for_everything(capacity: int, steps: list[tuple[str, str]]) -> None:
    """Every batch offered is taken, still there, refused to its publisher, or counted as dropped; order is kept."""
    ring = Ring(capacity)
    offered = accepted = 0
    taken: dict[str, list[int]] = {"log": [], "hook": []}
    for number, (step, source) in enumerate(steps):
        if step == "offer":
            offered += 1
            accepted += ring.offer(batch(source, number, rewinds=source == "log", size=1))
        elif (got := ring.take()) is not None:
            taken[got.source].append(got.first)
        assert len(ring) <= capacity
    assert "log" not in ring.dropped
    assert accepted == len(ring) + sum(map(len, taken.values())) + ring.dropped["hook"]
    assert all(firsts == sorted(firsts) for firsts in taken.values())


async def test_losses_are_told_once_to_whoever_reads_next() -> None:
    """A reader learns what it lost since it last asked; what a ring lost when it was left, the next ring tells."""
    bus = LocalBus(Metrics())
    ring, other = bus.subscribe(Seen, "slow", capacity=1), bus.subscribe(Seen, "other", capacity=9)
    for n in range(3):
        await bus.publish(Seen, batch("hook", n, rewinds=False))
    assert (ring.losses(), ring.losses(), other.losses()) == ({"hook": 6}, {}, {})
    ring.close()
    again = bus.subscribe(Seen, "slow", capacity=1)
    assert (again.losses(), again.losses()) == ({"hook": 3}, {})
