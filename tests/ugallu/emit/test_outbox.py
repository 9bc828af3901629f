"""The pump: what happens to findings between the journal and the cluster."""

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.api.catalog import CATALOGUE, Severity
from ugallu.api.event import SecurityEvent
from ugallu.api.observation import Checkpoint, Finding
from ugallu.api.subject import Subject
from ugallu.clock import SystemClock
from ugallu.cluster.embedded import EmbeddedCluster
from ugallu.cluster.port import ForbiddenError, InvalidError, NotFoundError
from ugallu.emit.emitter import JournalEmitter
from ugallu.emit.gate import Level
from ugallu.emit.identity import digest
from ugallu.emit.ledger import Totals
from ugallu.emit.outbox import Outbox
from ugallu.emit.records import Submitted, decode
from ugallu.errors import PermanentError, TransientError, UgalluError
from ugallu.journal.port import Record, Retention
from ugallu.journal.segmented import SegmentedJournal
from ugallu.metrics import Metrics
from ugallu.settings import EmitSettings
from ugallu.testing.clock import settled
from ugallu.testing.cluster import Call, Fault, FaultyCluster, outdated, scripted, seeded, unavailable
from ugallu.testing.emission import (
    EPOCH,
    CrashError,
    Emission,
    Fuse,
    MortalCluster,
    finding,
    numbered,
    pumping,
)

LOW, MEDIUM, HIGH, CRITICAL, INFO = (
    Severity.LOW,
    Severity.MEDIUM,
    Severity.HIGH,
    Severity.CRITICAL,
    Severity.INFO,
)


SAME = "a" * 32


def names(events: list[SecurityEvent]) -> dict[str, str]:
    return {event.metadata.name: digest(event.spec) for event in events}


# One process


async def test_finding_becomes_event() -> None:
    """A finding becomes one event with the labels, source and time that the API promises."""
    (event,) = await Emission().settled(finding(second=12.7, signals={"user": "eve"}))
    spec = event.spec
    assert (spec.type, spec.severity, spec.signals) == ("ExecIntoPod", MEDIUM, {"user": "eve"})
    assert spec.detected_at == EPOCH + dt.timedelta(seconds=12)
    assert (spec.source.kind, spec.source.name) == ("Operator", "ugallu-test")
    assert event.metadata.labels == {
        "ugallu.io/correlation-id": f"{12:032x}",
        "app.kubernetes.io/managed-by": "ugallu-test",
        "ugallu.io/class": "Detection",
        "ugallu.io/type": "ExecIntoPod",
        "ugallu.io/severity": "medium",
        "ugallu.io/subject-kind": "Pod",
        "ugallu.io/subject-namespace": "shop",
    }


async def test_experimental_is_labelled() -> None:
    """An experimental type bears the label that lets it through admission."""
    odd = msgspec.structs.replace(CATALOGUE["ExecIntoPod"], name="MyOwnType")
    rig = Emission()
    await rig.emitter(emits=frozenset({"MyOwnType"})).submit([finding(type_=odd, experimental=True)])
    outbox = rig.outbox()
    async with pumping(outbox):
        await outbox.drain()
    (event,) = await rig.events()
    assert event.metadata.labels["ugallu.io/type-experimental"] == "true"


async def test_critical_first() -> None:
    """Whatever the journal's order, critical events are created before the others, info last."""
    rig = Emission()
    grades = [INFO, LOW, MEDIUM, HIGH, CRITICAL] * 3
    await rig.emitter().submit([finding(f"r{n}", n, severity=grade) for n, grade in enumerate(grades)])
    outbox = rig.outbox(in_flight=1)
    async with pumping(outbox):
        await outbox.drain()
    ranks = [event.spec.severity.rank for event in await rig.events()]
    assert ranks == sorted(ranks, reverse=True)
    assert len(ranks) == 15


async def test_bounded_memory() -> None:
    """Beyond the bound findings wait as numbers and are read again: none is lost, and urgent ones still go first."""
    rig = Emission()
    plan = scripted(*[unavailable()] * 64)
    rig.cluster = FaultyCluster(rig.store, plan)
    await rig.emitter().submit([*numbered(300, severity=LOW), finding("urgent", 301, severity=CRITICAL)])
    outbox = rig.outbox(in_flight=1, held=10)
    async with pumping(outbox):
        assert outbox.pending == 301
        assert outbox._pending.held <= 10
        rig.cluster.plan = lambda _: None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outbox.drain)
            for _ in range(40):
                await rig.manual.advance(10)
    events = await rig.events()
    assert len(events) == 301
    assert events[0].spec.severity is CRITICAL
    assert outbox.books().gaps == []


async def test_failing_item_blocks_nobody() -> None:
    """An event whose create keeps failing waits on its own schedule; those behind it are created meanwhile."""
    rig = Emission()
    await rig.emitter().submit([finding("stuck", severity=CRITICAL), *numbered(20, severity=INFO)])
    stuck: list[str] = []

    def plan(call: Call) -> Fault | None:
        if call.verb != "create":
            return None
        if not stuck:
            stuck.append(call.name)
        return unavailable() if call.name in stuck else None

    rig.cluster = FaultyCluster(rig.store, plan)
    outbox = rig.outbox(in_flight=2)
    async with pumping(outbox):
        assert len(await rig.events()) == 20
        assert outbox.pending == 1
        stuck.append("")
        stuck[0] = ""
        for _ in range(10):
            await rig.manual.advance(5)
        assert len(await rig.events()) == 21


@pytest.mark.parametrize("fault", [unavailable(), unavailable(after=True), outdated(), Fault(NotFoundError("no kind"))])
async def test_transient_errors_are_retried(fault: Fault) -> None:
    """No connection, a lost answer, a conflict and a kind that is not served yet are tried again until it works."""
    rig = Emission()
    rig.cluster = FaultyCluster(rig.store, scripted(fault, fault, fault))
    await rig.emitter().submit([finding()])
    outbox = rig.outbox()
    async with pumping(outbox):
        for _ in range(8):
            await rig.manual.advance(5)
        assert outbox.idle
    assert len(await rig.events()) == 1
    assert outbox.books().emitted == 1


async def test_network_errors_are_retried() -> None:
    """A connection that is refused below the cluster port loses nothing either."""
    rig = Emission()

    def plan(call: Call) -> Fault | None:
        if call.verb == "create" and call.number < 3:
            raise ConnectionRefusedError("connection refused")
        return None

    rig.cluster = FaultyCluster(rig.store, plan)
    await rig.emitter().submit([finding()])
    outbox = rig.outbox()
    async with pumping(outbox):
        for _ in range(8):
            await rig.manual.advance(5)
    assert len(await rig.events()) == 1


async def test_outage_is_probed_not_hammered() -> None:
    """While nothing gets through, a few tries a minute go out whatever the backlog, and readiness says why."""
    rig = Emission()
    rig.cluster = cluster = FaultyCluster(rig.store, lambda _: unavailable())
    await rig.emitter().submit(list(numbered(500)))
    outbox = rig.outbox(in_flight=4)
    async with pumping(outbox):
        for _ in range(12):
            await rig.manual.advance(5)
        assert outbox.ready() == "cluster does not answer"
        assert len(cluster.calls) < 100
        cluster.plan = lambda _: None
        for _ in range(6):
            await rig.manual.advance(10)
        assert outbox.ready() == ""
        assert outbox.idle
    assert len(await rig.events()) == 500


async def test_age_limit() -> None:
    """A create that has failed for the age limit is given up, counted, reported, and kept as a dead letter."""
    rig = Emission()
    rig.cluster = cluster = FaultyCluster(rig.store, lambda call: unavailable() if call.verb == "create" else None)
    await rig.emitter().submit([finding()])
    outbox = rig.outbox(settings=EmitSettings(max_age_seconds=3600))
    async with pumping(outbox):
        for _ in range(14):
            await rig.manual.advance(300)
        assert outbox.books().dropped == {"retry_exhausted": 1}
        assert [letter.reason for letter in outbox.dead_letters] == ["retry_exhausted"]
        cluster.plan = lambda _: None
        await outbox.drain()
    (report,) = await rig.events()
    assert report.spec.type == "SourceRateLimited"
    assert report.spec.signals["reason"] == "retry_exhausted"
    assert report.spec.signals["dropped.ExecIntoPod"] == "1"
    assert outbox.books().gaps == []
    assert rig.metrics.value("ugallu_emitter_dropped_total", reason="retry_exhausted") == 1


async def test_clock_jump_gives_up_nothing() -> None:
    """A wall clock that jumps a week ahead does not age out a finding that has just begun to fail."""
    rig = Emission()
    rig.cluster = FaultyCluster(rig.store, scripted(*[unavailable()] * 3))
    await rig.emitter().submit([finding()])
    rig.manual._now += dt.timedelta(days=7)
    outbox = rig.outbox()
    async with pumping(outbox):
        for _ in range(8):
            await rig.manual.advance(5)
    assert len(await rig.events()) == 1


async def test_what_is_wrong_with_the_event_itself_is_permanent() -> None:
    """What the cluster will never take is counted by reason and reported; its neighbours are created."""
    rig = Emission()
    bad: list[str] = []

    def plan(call: Call) -> Fault | None:
        if call.verb == "create" and call.number == 0:
            bad.append(call.name)
        return Fault(InvalidError("bad")) if call.name in bad else None

    rig.cluster = FaultyCluster(rig.store, plan)
    events = await rig.settled(*numbered(3))
    assert sorted(event.spec.type for event in events) == ["ExecIntoPod", "ExecIntoPod", "SourceRateLimited"]
    outbox = rig.outbox()
    await outbox.recover()
    assert outbox.books().dropped == {"invalid": 1}
    assert outbox.books().gaps == []
    assert [(letter.name, letter.reason) for letter in outbox.dead_letters] == [(bad[0], "invalid")]


@pytest.mark.parametrize(
    "error", [ForbiddenError("events is forbidden"), PermanentError("store is broken"), NotFoundError("no such kind")]
)
async def test_what_is_wrong_with_the_cluster_passes(error: UgalluError) -> None:
    """Rights withdrawn for an hour, a token that is late, a broken store: events wait, readiness says why, none is lost."""
    rig = Emission()
    down = [True]
    rig.cluster = FaultyCluster(rig.store, lambda call: Fault(error) if down and call.verb == "create" else None)
    await rig.emitter().submit(list(numbered(20)))
    outbox = rig.outbox()
    async with pumping(outbox):
        for _ in range(60):
            await rig.manual.advance(60)
            assert outbox.ready() == f"cluster refuses events: {error}"
        assert (outbox.pending, outbox.books().dropped) == (20, {})
        assert rig.said.count("the cluster refuses an event") == 1
        down.clear()
        await rig.manual.advance(60)
        assert outbox.ready() == ""
    assert len(await rig.events()) == 20


async def test_patience_with_the_cluster_ends_with_the_age_limit() -> None:
    """A right that nobody gives back for a day costs the event, counted."""
    rig = Emission()
    rig.cluster = FaultyCluster(rig.store, lambda call: Fault(ForbiddenError("no")) if call.verb == "create" else None)
    await rig.emitter().submit([finding()])
    outbox = rig.outbox()
    async with pumping(outbox):
        for _ in range(23):
            await rig.manual.advance(3600)
        assert outbox.books().dropped == {}
        for _ in range(2):
            await rig.manual.advance(3600)
        assert outbox.books().dropped == {"retry_exhausted": 1}


async def test_refused_reports_do_not_multiply() -> None:
    """Where the cluster takes nothing at all, the drain ends: a report that fails is counted, not reported."""
    rig = Emission()
    rig.cluster = FaultyCluster(rig.store, lambda call: Fault(InvalidError("no")) if call.verb == "create" else None)
    assert await rig.settled(*numbered(5)) == []
    outbox = rig.outbox()
    await outbox.recover()
    assert outbox.books().dropped == {"invalid": 5}
    assert outbox.ledger.summaries_dropped == {"invalid": 1}


# Names that are taken


async def test_equal_event_is_success() -> None:
    """A name that holds an equal event is success: no second object, the finding counts as folded."""
    rig = Emission()
    first = await rig.settled(finding())
    other = Emission(cluster=rig.cluster)
    other.store = rig.store
    assert names(await other.settled(finding())) == names(first)
    outbox = other.outbox()
    await outbox.recover()
    books = outbox.books()
    assert (books.emitted, books.folded, books.gaps) == (0, 1, [])
    assert outbox.ledger.conflict_idempotent == 1
    assert rig.metrics.value("ugallu_emitter_emits_total", **{"class": "Detection", "outcome": "ok"}) == 1
    assert other.metrics.value("ugallu_emitter_emits_total", **{"class": "Detection", "outcome": "conflict_idempotent"})


async def test_two_replicas_tell_a_fact_once() -> None:
    """Which Pod of a component saw it, and of which release, is no part of a fact: the second one to tell it makes nothing."""
    rig = Emission(instance="audit-0", version="1.0")
    first = await rig.settled(finding())
    other = Emission(cluster=rig.cluster, instance="audit-1", version="1.1")
    other.store = rig.store
    assert names(await other.settled(finding())) == names(first)
    (event,) = first
    assert (event.spec.source.instance, event.spec.source.version) == ("audit-0", "1.0")
    assert other.metrics.value("ugallu_emitter_emits_total", **{"class": "Detection", "outcome": "conflict_idempotent"})


async def test_different_event_gets_a_suffix() -> None:
    """A name that holds a different event gets a suffix, the next one the next, and is counted as a real conflict."""
    rig = Emission()
    await rig.settled(finding(second=0, correlation=SAME))
    await rig.settled(finding(second=4000, correlation=SAME))
    events = await rig.settled(finding(second=9000, correlation=SAME))
    base = events[0].metadata.name
    assert [event.metadata.name for event in events] == [base, f"{base}-2", f"{base}-3"]
    assert rig.metrics.value("ugallu_emitter_emits_total", **{"class": "Detection", "outcome": "conflict_real"}) == 2


async def test_same_name_takes_turns() -> None:
    """Facts of one name get plain name and suffixes in journal order, even when a later one is more urgent."""
    rig = Emission()
    grades = [INFO, CRITICAL, LOW, HIGH]
    events = await rig.settled(*[finding(second=n * 5000, severity=g, correlation=SAME) for n, g in enumerate(grades)])
    base = min(event.metadata.name for event in events)
    assert {event.metadata.name: event.spec.severity for event in events} == {
        base: INFO,
        f"{base}-2": CRITICAL,
        f"{base}-3": LOW,
        f"{base}-4": HIGH,
    }


async def test_without_the_right_to_read() -> None:
    """Where events may not be read back, a taken name counts as the same fact, and nothing is tried for ever."""
    rig = Emission()
    await rig.settled(finding())
    other = Emission(
        cluster=FaultyCluster(rig.store, lambda c: Fault(ForbiddenError("get")) if c.verb == "get" else None)
    )
    other.store = rig.store
    assert len(await other.settled(finding())) == 1
    outbox = other.outbox()
    await outbox.recover()
    assert outbox.ledger.conflict_idempotent == 1
    assert outbox.books().gaps == []


# Pace and pressure


async def test_pace_reserves_a_share() -> None:
    """With a pace, high and critical have a share of it that a flood of others cannot use."""
    rig = Emission()
    await rig.emitter().submit(list(numbered(200, severity=INFO)))
    outbox = rig.outbox(settings=EmitSettings(creates_per_second=10, reserved_share=0.5))
    async with pumping(outbox):
        assert len(await rig.events()) == 5
        await rig.emitter().submit([finding(f"h{n}", n, severity=HIGH) for n in range(5)])
        await settled()
        assert [event.spec.severity for event in (await rig.events())[5:]] == [HIGH] * 5
        await rig.manual.advance(60)
        for _ in range(45):
            await rig.manual.advance(4)
        assert len(await rig.events()) == 205


async def test_red_keeps_low_severities_out() -> None:
    """At level red only high and critical become objects; the rest is counted and reported."""
    rig = Emission()
    outbox = rig.outbox()
    async with pumping(outbox):
        await outbox.press(Level.RED)
        await rig.emitter().submit([finding("a", severity=MEDIUM), finding("b", severity=HIGH)])
        await outbox.drain()
    assert outbox.books().dropped == {"backpressure": 1}
    assert sorted(event.spec.type for event in await rig.events()) == ["ExecIntoPod", "SourceRateLimited"]
    assert rig.metrics.value("ugallu_emitter_backpressure_level", level="red") == 1
    again = rig.outbox()
    await again.recover()
    assert again._decisions.gate.level is Level.RED


async def test_nobody_says_the_level() -> None:
    """Until something sets it the level is unknown, exported so, and acts as green."""
    rig = Emission()
    await rig.settled(finding())
    assert rig.metrics.value("ugallu_emitter_backpressure_level", level="unknown") == 1


# The end


async def test_live_windows_close_by_the_wall_clock() -> None:
    """In live mode a window that nothing touches closes after its length by the wall clock."""
    rig = Emission()
    outbox = rig.outbox(settings=EmitSettings(fold_window_seconds=60), live=True)
    async with pumping(outbox):
        await rig.emitter().submit([finding(second=0), finding(second=1)])
        await settled()
        assert len(await rig.events()) == 1
        for _ in range(12):
            await rig.manual.advance(15)
        events = await rig.events()
    assert [event.spec.signals.get("occurrences") for event in events] == [None, "2"]


async def test_live_reports_stay_one_a_minute() -> None:
    """In live mode reports of losses come without further findings, and still at most one a minute."""
    rig = Emission()
    outbox = rig.outbox(settings=EmitSettings(fold_window_seconds=4), live=True)
    async with pumping(outbox):
        for second in range(70):
            if second % 10 == 0:
                await rig.emitter().submit([finding(type_=CATALOGUE["HostPIDPod"], about=Subject(kind="", name=""))])
            await rig.manual.advance(2)
        reports = [event.spec.signals["dropped"] for event in await rig.events()]
    assert reports == ["3", "3"]


async def test_close_ends_the_pump() -> None:
    """After `close` the pump ends by itself once all is created; windows stay open for the next run."""
    rig = Emission()
    await rig.emitter().submit([finding(second=0), finding(second=1)])
    outbox = rig.outbox()
    outbox.close()
    await outbox.run()
    assert len(await rig.events()) == 1
    assert len(await rig.settled(finding(second=2))) == 2
    assert [event.spec.signals.get("occurrences") for event in await rig.events()] == [None, "3"]


async def test_disk_that_refuses_the_cursor() -> None:
    """A disk that refuses the cursor stops nothing; readiness says so, and it is saved once the disk takes it."""
    rig = Emission()
    outbox = rig.outbox()
    await outbox.recover()
    await rig.emitter().submit([finding()])
    async with pumping(outbox):
        rig.journal.refusing = True
        await rig.manual.advance(2)
        assert len(await rig.events()) == 1
        assert "cannot save" in outbox.ready()
        rig.journal.refusing = False
        await rig.manual.advance(2)
        assert outbox.ready() == ""
    assert rig.journal.cursors["outbox"].seq == 1


async def test_records_that_retention_took() -> None:
    """Records that the journal lost before they were read are counted, and the rest goes on."""
    rig = Emission()
    await rig.emitter().submit(list(numbered(5)))
    rig.journal.forgotten = 2
    outbox = rig.outbox()
    async with pumping(outbox):
        await outbox.drain()
    assert outbox.books().lost == {"journal_lost": 2}
    assert len(await rig.events()) == 3


async def test_pending_record_that_retention_took() -> None:
    """A finding whose record is gone before its turn came is counted as lost, and the books close."""
    rig = Emission()
    rig.cluster = cluster = FaultyCluster(rig.store, lambda _: unavailable())
    await rig.emitter().submit(list(numbered(20, severity=LOW)))
    outbox = rig.outbox(held=1, in_flight=1)
    async with pumping(outbox):
        rig.journal.forgotten = 10
        cluster.plan = lambda _: None
        for _ in range(20):
            await rig.manual.advance(5)
        assert outbox.idle
    books = outbox.books()
    assert books.dropped["journal_lost"] + books.emitted == 20
    assert books.gaps == []


async def test_foreign_snapshot_is_refused() -> None:
    """A snapshot that this version cannot read is an error with a remedy, not a silent new start."""
    rig = Emission()
    outbox = rig.outbox()
    await outbox.recover()
    cursor = rig.journal.cursors["outbox"]
    rig.journal.cursors["outbox"] = msgspec.structs.replace(cursor, state=b"\xc1nonsense")
    with pytest.raises(PermanentError, match="snapshot"):
        await rig.outbox().recover()


async def test_unreadable_record_is_skipped() -> None:
    """A record that this version cannot read is counted, and what follows it becomes an event."""
    rig = Emission()
    await rig.journal.append([b"\xc1nonsense"])
    assert len(await rig.settled(finding())) == 1
    outbox = rig.outbox()
    await outbox.recover()
    assert outbox.ledger.unreadable == 1


# Checkpoints


async def test_recover_returns_the_latest_checkpoints() -> None:
    """After a crash each subscriber of each source goes on from its latest checkpoint, saved or not yet."""
    rig = Emission()
    outbox = rig.outbox()
    assert await outbox.recover() == {}
    await rig.emitter().submit([finding()], Checkpoint("log", "one", next=5))
    async with pumping(outbox):
        await outbox.drain()
    await rig.emitter().submit([], Checkpoint("log", "two", next=7))
    await rig.emitter().submit([finding(second=9)], Checkpoint("log", "one", next=9, states={"d": b"\x00"}))
    assert await rig.outbox().recover() == {
        ("log", "one"): Checkpoint("log", "one", next=9, states={"d": b"\x00"}),
        ("log", "two"): Checkpoint("log", "two", next=7),
    }


# Crashes

_STORY: list[tuple[str, float, Severity, str]] = [
    # key, second, severity, correlation: a fold, a rise in it, a name that is taken twice, and a budget that runs out
    ("a", 0, LOW, "1"),
    ("a", 5, LOW, "2"),
    ("b", 6, HIGH, "3"),
    ("a", 7, CRITICAL, "2"),
    ("a", 8, LOW, "4"),
    ("c", 700, INFO, "9"),
    ("c", 1400, MEDIUM, "9"),
    ("d", 1401, INFO, "5"),
    ("e", 1402, INFO, "6"),
    ("d", 1403, INFO, "7"),
    ("c", 2200, HIGH, "9"),
    ("f", 2300, LOW, "8"),
]
_BATCH = 3
_SETTINGS = EmitSettings(objects_per_hour=7)


def _batch(start: int) -> list[Finding]:
    return [
        finding(key, second, severity=grade, correlation=mark * 32)
        for key, second, grade, mark in _STORY[start : start + _BATCH]
    ]


async def _life(rig: Emission, fuse: Fuse, *, often: bool) -> None:
    """One life of a process: take up where the last one stopped, submit what is missing, drain."""
    rig.journal.fuse = fuse
    rig.cluster = MortalCluster(rig.store, fuse)
    rig.journal.chunk = 2 if often else 512
    outbox = rig.outbox(settings=_SETTINGS, held=2, in_flight=3, save_every=1 if often else 8192)
    start = (await outbox.recover()).get(("log", "sub"))
    emitter = rig.emitter()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(outbox.run)
        for at in range(start.next if start else 0, len(_STORY), _BATCH):
            counts = {"received": at + _BATCH, "parsed": at + _BATCH, "matched": at + _BATCH}
            await emitter.submit(_batch(at), Checkpoint("log", "sub", next=at + _BATCH, counts=counts))
        await outbox.drain()
        tasks.cancel_scope.cancel()


async def _history(crashes: list[int], *, often: bool = False) -> tuple[dict[str, str], Totals, int]:
    """Return the events, the books and the number of port calls of the last life, after lives that ended early."""
    rig = Emission()
    for at in crashes:
        with suppress(BaseExceptionGroup, CrashError):
            await _life(rig, Fuse(at), often=often)
    fuse = Fuse()
    await _life(rig, fuse, often=often)
    outbox = rig.outbox(settings=_SETTINGS)
    await outbox.recover()
    assert outbox.idle
    return names(await rig.events()), outbox.books(), fuse.calls


@pytest.mark.parametrize("often", [False, True])
async def test_every_single_crash_point(often: bool) -> None:
    """A process that dies at any one port call, and is started again, gives the events of one that never died."""
    events, books, calls = await _history([], often=often)
    assert len(events) == 10
    assert books.gaps == []
    for at in range(calls):
        assert (await _history([at], often=often))[:2] == (events, books), at


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 160), max_size=6), st.booleans())
def test_any_crashes(crashes: list[int], often: bool) -> None:
    """Any number of deaths at any port calls gives the same names, digests and books as none."""

    async def compare() -> None:
        events, books, _ = await _history(crashes, often=often)
        plain, whole, _ = await _history([])
        assert (events, books) == (plain, whole)

    anyio.run(compare)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1 << 20))
def test_any_transient_faults(seed: int) -> None:
    """Refused connections and lost answers in any order change neither names nor digests nor books."""

    async def compare() -> None:
        rig = Emission()
        rig.cluster = FaultyCluster(rig.store, seeded(seed, 0.3, verbs={"create", "get"}))
        outbox = rig.outbox(settings=_SETTINGS, in_flight=3)
        async with pumping(outbox), anyio.create_task_group() as tasks:
            for at in range(0, len(_STORY), _BATCH):
                await rig.emitter().submit(_batch(at))
            tasks.start_soon(outbox.drain)
            while not (outbox.idle and not outbox.open):
                await rig.manual.advance(20)
        plain, _, _ = await _history([])
        assert names(await rig.events()) == plain
        assert outbox.books().gaps == []

    anyio.run(compare)


# The real journal and store


async def test_disk_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails a read delays findings, says so, and loses none."""
    rig = Emission()
    rig.cluster = cluster = FaultyCluster(rig.store, lambda _: unavailable())
    await rig.emitter().submit(list(numbered(20)))
    outbox = rig.outbox(held=1)
    read = outbox._reader.read
    broken: list[bool] = []

    def failing(after: int, *, limit: int = 512) -> Sequence[Record]:
        if broken:
            raise TransientError("input/output error", where="segment")
        return read(after, limit=limit)

    monkeypatch.setattr(outbox._reader, "read", failing)
    async with pumping(outbox):
        broken.append(True)
        cluster.plan = lambda _: None
        await rig.emitter().submit([finding("late", 100)])
        for _ in range(5):
            await rig.manual.advance(60)
        assert "input/output error" in outbox.ready()
        broken.clear()
        for _ in range(5):
            await rig.manual.advance(60)
        assert outbox.ready() == ""
    assert len(await rig.events()) == 21
    assert outbox.books().gaps == []


async def test_journal_that_ends_before_the_cursor() -> None:
    """Damage that takes decided records is logged, and what is journalled afterwards becomes events all the same."""
    rig = Emission()
    await rig.settled(*numbered(5))
    del rig.journal.entries[3:]
    assert len(await rig.settled(finding("new", 50))) == 6
    assert "ends before the outbox" in rig.said


async def test_on_disk(tmp_path: Path) -> None:
    """Over the journal and store of the product: stopped half-way and opened again, it gives the whole story once."""
    plain, books, _ = await _history([])
    metrics, clock = Metrics(), SystemClock()
    for life in range(4):
        rig = Emission(clock=clock)
        rig.store = EmbeddedCluster.open(tmp_path / "cluster")
        rig.cluster = FaultyCluster(rig.store, seeded(life, 0.2, verbs={"create"}, in_row=1))
        journal = SegmentedJournal(tmp_path / "journal", Retention(), clock=clock, metrics=metrics, log=rig.log)
        outbox = Outbox(journal, rig.cluster, clock, metrics, rig.log, _SETTINGS)
        start = (await outbox.recover()).get(("log", "sub"))
        emitter = JournalEmitter(rig.emitter().origin, journal, clock, metrics, rig.log)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outbox.run)
            for at in range(start.next if start else 0, min(len(_STORY), (life + 1) * 2 * _BATCH), _BATCH):
                counts = {"received": at + _BATCH, "parsed": at + _BATCH, "matched": at + _BATCH}
                await emitter.submit(_batch(at), Checkpoint("log", "sub", next=at + _BATCH, counts=counts))
            if life == 3:
                await outbox.drain()
            tasks.cancel_scope.cancel()
        events = await rig.events()
        journal.close()
        await rig.store.close()
        if life == 3:
            assert names(events) == plain
            assert outbox.books() == books


async def test_crashes_around_giving_up() -> None:
    """An event that the cluster refuses for good is dropped exactly once, wherever the process dies around that."""

    async def life(rig: Emission, fuse: Fuse) -> Outbox:
        rig.journal.fuse = fuse
        refuses = FaultyCluster(
            rig.store, lambda call: Fault(InvalidError("no")) if call.name == bad and call.verb == "create" else None
        )
        rig.cluster = MortalCluster(refuses, fuse)
        rig.journal.chunk = 1
        outbox = rig.outbox(in_flight=2, save_every=1)
        start = (await outbox.recover()).get(("log", "sub"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outbox.run)
            if start is None:
                await rig.emitter().submit(list(numbered(4)), Checkpoint("log", "sub", next=4))
            await outbox.drain()
            tasks.cancel_scope.cancel()
        return outbox

    bad = ""
    bad = min(event.metadata.name for event in await Emission().settled(*numbered(4)))
    rig, fuse = Emission(), Fuse()
    books = (await life(rig, fuse)).books()
    kept = names(await rig.events())
    assert (books.dropped, books.emitted, books.gaps) == ({"invalid": 1}, 3, [])
    for at in range(fuse.calls):
        rig = Emission()
        with suppress(BaseExceptionGroup, CrashError):
            await life(rig, Fuse(at))
        outbox = await life(rig, Fuse())
        assert outbox.books() == books, at
        assert names(await rig.events()) == kept, at


async def test_windows_closed_early_are_counted() -> None:
    """A table of folds that is too small shows in a metric, and a restart does not count anew."""
    rig = Emission()
    await rig.emitter().submit(list(numbered(50)))
    name = "ugallu_emitter_windows_closed_early_total"
    for total in (40, 50):
        outbox = rig.outbox(windows=10)
        await outbox.recover()
        async with pumping(outbox):
            assert rig.metrics.value(name) == total
            assert outbox.closed_early == total
        await rig.emitter().submit([finding(f"more-{n}", 60 + n) for n in range(10)])


async def test_a_closing_event_names_its_first_event_as_it_is_stored() -> None:
    """Where another fact has the plain name, the parent is the suffixed one; in every crash and order of creation."""
    rig = Emission()
    for component in ("ugallu-one", "ugallu-two"):
        await rig.emitter(component=component).submit([finding(second=n, correlation=SAME) for n in range(3)])
    events = await rig.settled()
    first = {e.spec.source.name: e.metadata.name for e in events if not e.spec.parents}
    parent = {e.spec.source.name: e.spec.parents[0].name for e in events if e.spec.parents}
    assert len(set(first.values())) == len(parent) == 2
    assert parent == first
    assert max(first.values()) == f"{min(first.values())}-2"


async def test_a_closing_event_waits_for_its_first() -> None:
    """However severe it is, it is created behind the event that it names, and names none that was given up."""
    rig = Emission()
    await rig.emitter().submit(
        [finding(key, n, severity=severity) for key in "ab" for n, severity in enumerate([LOW, CRITICAL])]
    )
    gone = decode(rig.journal.entries[0], 1)
    assert isinstance(gone, Submitted)
    rig.cluster = FaultyCluster(
        rig.store, lambda call: Fault(InvalidError("bad")) if call.verb == "create" and call.name == gone.name else None
    )
    created = [event for event in await rig.settled() if event.spec.type == "ExecIntoPod"]
    first, *_ = [n for n, event in enumerate(created) if event.spec.severity is LOW]
    closings = {n: event.spec.parents for n, event in enumerate(created) if "occurrences" in event.spec.signals}
    assert sorted(len(parents) for parents in closings.values()) == [0, 1]
    ((at, parent),) = [(n, parents[0].name) for n, parents in closings.items() if parents]
    assert parent == created[first].metadata.name
    assert first < at
