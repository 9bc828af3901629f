"""Which event is next."""

import tracemalloc

import msgspec

from ugallu.api.catalog import Severity
from ugallu.emit.decisions import Item, record_of
from ugallu.emit.pending import Pending
from ugallu.emit.records import Submitted, decode
from ugallu.testing.emission import Emission, finding


async def items(*grades: Severity, same: bool = False) -> list[Item]:
    """Return one item for each grade, of records 1, 2, 3...; of one name if asked."""
    rig = Emission()
    await rig.emitter().submit(
        [finding("k" if same else f"k{n}", n, severity=g, correlation="a" * 32) for n, g in enumerate(grades)]
    )
    made = []
    for seq, data in enumerate(rig.journal.entries, 1):
        entry = decode(data, seq)
        assert isinstance(entry, Submitted)
        made.append(Item(seq << 16, entry.name, entry.component, entry.spec, 0.0))
    return made


def drain(pending: Pending, now: float = 0.0) -> list[int]:
    order = []
    while (rank := pending.ready(now)) >= 0:
        item_id = pending.next(rank)
        order.append(record_of(item_id))
        pending.settle(item_id, pending.name(item_id))
    return order


async def test_severity_then_age() -> None:
    """The most severe goes first, and of equals the oldest."""
    pending = Pending()
    for item in await items(Severity.LOW, Severity.HIGH, Severity.LOW, Severity.CRITICAL, Severity.HIGH):
        pending.add(item)
    assert drain(pending) == [4, 2, 5, 1, 3]
    assert len(pending) == 0


async def test_failing_items_come_back_when_due() -> None:
    """An item that failed is next of its severity once it is due, and not before."""
    pending = Pending()
    for item in await items(Severity.LOW, Severity.LOW):
        pending.add(item)
    first = pending.next(pending.ready(0))
    pending.later(first, 10.0)
    assert pending.due() == 10.0
    second = pending.next(pending.ready(5))
    assert (record_of(first), record_of(second)) == (1, 2)
    assert pending.ready(9.9) == -1
    assert pending.next(pending.ready(10.0)) == first


async def test_one_name_at_a_time() -> None:
    """Of one name only the first decided may be tried, however urgent the second is."""
    pending = Pending()
    for item in await items(Severity.INFO, Severity.CRITICAL, same=True):
        pending.add(item)
    assert pending.ready(0) == Severity.INFO.rank
    assert drain(pending) == [1, 2]


async def test_condemned_items_wait_for_their_record() -> None:
    """An item whose end is in the journal is not tried, not even after a restart, and lets the next one of its name go."""
    first, second = await items(Severity.LOW, Severity.LOW, same=True)
    pending = Pending()
    pending.condemn(first.id)
    pending.add(first)
    pending.add(second)
    assert pending.ready(0) == -1
    pending.settle(first.id, first.name)
    assert drain(pending) == [2]


async def test_only_so_many_are_held() -> None:
    """Beyond the bound findings are numbers; summaries, which stand in no record, are always held."""
    pending = Pending(held=2)
    made = await items(*[Severity.LOW] * 4)
    for item in made:
        pending.add(item)
    summary = msgspec.structs.replace(made[0], id=made[0].id + 1, name="se-closing", summary=True)
    pending.add(summary)
    assert [pending.item(item.id) is not None for item in [*made, summary]] == [True, True, False, False, True]
    assert pending.findings == 4
    assert pending.snapshot() == ([item.id for item in made], [summary])


async def test_a_finding_that_waits_is_small() -> None:
    """A finding that waits beyond the bound costs a few hundred bytes, so that a day's outage fits into memory."""
    (item,) = await items(Severity.LOW)
    pending = Pending(held=0)
    tracemalloc.start()
    for n in range(20_000):
        pending.add(msgspec.structs.replace(item, id=(n + 1) << 16, name=f"se-{n:024x}"))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / 20_000 < 400


async def test_an_event_about_another_waits_for_it() -> None:
    """Even a critical one: only once its parent is settled is it known what to call it."""
    low, critical, free = await items(Severity.LOW, Severity.CRITICAL, Severity.LOW)
    pending = Pending()
    pending.add(low)
    pending.add(msgspec.structs.replace(critical, id=critical.id | 1, summary=True, after=low.id))
    pending.add(free)
    assert drain(pending) == [1, 2, 3]
    pending.add(msgspec.structs.replace(critical, after=low.id))
    assert drain(pending) == [2]
