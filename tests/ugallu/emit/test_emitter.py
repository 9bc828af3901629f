"""From findings to durable records."""

import datetime as dt

import anyio
import msgspec
import pytest

from ugallu.api.catalog import EventClass, Severity
from ugallu.api.observation import Checkpoint
from ugallu.api.snapshots import PodSubject
from ugallu.api.subject import Clue, Subject
from ugallu.emit.records import Mark, Submitted, decode
from ugallu.testing.emission import EPOCH, Emission, Lookup, finding


def entries(rig: Emission) -> list[object]:
    return [decode(data, seq) for seq, data in enumerate(rig.journal.entries, 1)]


async def test_findings_and_checkpoint_are_one_append() -> None:
    """Findings and the checkpoint behind them are one atomic append, and durable when `submit` returns."""
    rig = Emission()
    sizes: list[int] = []
    append = rig.journal.append

    async def counted(records: list[bytes]) -> int:
        sizes.append(len(records))
        return await append(records)

    rig.journal.append = counted  # type: ignore[method-assign, assignment]
    point = Checkpoint("log", "sub", next=7, resume=b"\x00\xff", states={"d": b"\x01"})
    await rig.emitter().submit([finding("a"), finding("b")], point)
    assert sizes == [3]
    assert entries(rig)[-1] == Mark(point, findings=2)
    await rig.emitter().submit([], point)
    await rig.emitter().submit([])
    assert sizes == [3, 1]


async def test_waits_while_the_disk_refuses() -> None:
    """A disk that refuses makes `submit` wait, readiness says why, and the findings are there once it takes them."""
    rig = Emission()
    emitter = rig.emitter()
    rig.journal.refusing = True
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(emitter.submit, [finding()])
        for _ in range(5):
            await rig.manual.advance(20)
        assert "no space left" in emitter.ready()
        assert "no space left" in rig.said
        rig.journal.refusing = False
        await rig.manual.advance(20)
    assert emitter.ready() == ""
    assert rig.journal.last == 1


async def test_defaults_come_from_the_type() -> None:
    """Class and severity come from the type unless the finding says otherwise; a missing time is now."""
    rig = Emission()
    plain = msgspec.structs.replace(finding(), severity=None, detected_at=None, correlation="")
    await rig.emitter().submit(
        [plain, msgspec.structs.replace(plain, severity=Severity.INFO, event_class=EventClass.AUDIT)]
    )
    one, other = (entry.spec for entry in entries(rig) if isinstance(entry, Submitted))
    assert (one.class_, one.severity, one.detected_at) == (EventClass.DETECTION, Severity.HIGH, rig.clock.now())
    assert (other.class_, other.severity) == (EventClass.AUDIT, Severity.INFO)
    assert len(one.correlation_id) == 32


@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime(2026, 1, 1, 12, 0, 0, 999_999, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 1, 14, 0, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.datetime(2026, 1, 1, 12, 0),  # noqa: DTZ001 - what a careless detector gives
    ],
)
async def test_times_do_not_depend_on_the_machine(moment: dt.datetime) -> None:
    """Times are UTC, cut to the second; one without a zone is UTC, not the machine's own zone."""
    rig = Emission()
    await rig.emitter().submit([finding(detected_at=moment)])
    (entry,) = entries(rig)
    assert isinstance(entry, Submitted)
    assert entry.spec.detected_at == EPOCH + dt.timedelta(hours=12)


async def test_clue_without_a_resolver() -> None:
    """Without a resolver a clue becomes a bare subject, unresolved, named after what the source knew."""
    rig = Emission()
    await rig.emitter().submit(
        [
            msgspec.structs.replace(finding("1"), about=Clue("pod_ip", "10.0.0.9")),
            msgspec.structs.replace(finding("2"), about=Clue("cgroup_id", "77", kind="Pod", name="p", namespace="n")),
            msgspec.structs.replace(finding("3"), about=Clue("", "")),
        ]
    )
    subjects = [entry.spec.subject for entry in entries(rig) if isinstance(entry, Submitted)]
    assert subjects == [
        Subject(kind="External", name="10.0.0.9", unresolved=True),
        Subject(kind="Pod", name="p", namespace="n", unresolved=True),
    ]


@pytest.mark.parametrize(
    ("subject", "outcome"),
    [
        (Subject(kind="Pod", name="p", pod=PodSubject()), "hit"),
        (Subject(kind="Pod", name="p", pod=PodSubject(), partial=True), "partial"),
        (Subject(kind="Pod", name="p", pod=PodSubject(), tombstone=True), "tombstone"),
        (None, "unresolved"),
    ],
)
async def test_outcomes_of_a_lookup(subject: Subject | None, outcome: str) -> None:
    """A lookup is measured by how it ended; an object that is not there leaves the bare subject."""
    rig = Emission()

    class Fixed(Lookup):
        async def hydrate(self, clue: Clue) -> Subject | None:
            return subject

    await rig.emitter(hydrator=Fixed({})).submit(
        [msgspec.structs.replace(finding(), about=Clue("pod_ip", "10.0.0.9", kind="Pod"))]
    )
    (entry,) = entries(rig)
    assert isinstance(entry, Submitted)
    assert entry.spec.subject.resolved == (subject is not None)
    assert f'outcome="{outcome}"' in rig.metrics.render().decode()


async def test_silent_resolver_costs_one_limit() -> None:
    """A resolver that does not answer delays a submission by its limit once, not once for every clue."""
    rig = Emission()
    clues = [msgspec.structs.replace(finding(), about=Clue("pod_ip", f"10.0.0.{n}")) for n in range(100)]
    with anyio.fail_after(1):
        await rig.emitter(hydrator=Lookup({})).submit(clues)
    assert rig.journal.last == 100


async def test_lost_observations_are_reported() -> None:
    """Observations that a ring dropped are in the books by reason and reported by source."""
    rig = Emission()
    await rig.emitter().lost("bus_overflow", {"audit-webhook": 17}, EPOCH)
    (report,) = await rig.settled()
    assert report.spec.signals["dropped.audit-webhook"] == "17"
    outbox = rig.outbox()
    await outbox.recover()
    assert outbox.books().lost == {"bus_overflow": 17}
    assert outbox.books().gaps == []
