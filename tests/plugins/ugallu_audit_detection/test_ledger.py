"""The loss ledger at work: rows on disk, metrics, and one event a day."""

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ugallu.api.event import SecurityEvent
from ugallu.cluster.port import list_all
from ugallu.emit import hours
from ugallu.emit.ledger import Accounts, Totals
from ugallu.metrics import Metrics
from ugallu.sdk import ClusterIdentity, Finding
from ugallu.settings import AuditSettings, Settings
from ugallu.testing.clock import ManualClock
from ugallu.testing.cluster import memory_cluster
from ugallu.testing.harness import running
from ugallu_audit_detection.ledger import CLOSED, Ledger, Unreadable
from ugallu_audit_detection.operator import AuditDetection


class Told:
    """An emitter that keeps what it is given."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    async def submit(self, findings: Sequence[Finding]) -> None:
        self.findings += findings


def ledger(
    tmp_path: Path,
    clock: ManualClock,
    accounts: Accounts | Callable[[], Accounts],
    told: Told,
    metrics: Metrics | None = None,
) -> Ledger:
    return Ledger(
        tmp_path / hours.FILE,
        accounts if callable(accounts) else lambda: accounts,
        emitter=told,  # type: ignore[arg-type]
        clock=clock,
        metrics=metrics or Metrics(),
        identity=ClusterIdentity(cluster_id="c1", cluster_name="test"),
        instance="audit-0",
    )


BOOKS = Accounts(
    Totals(received=12, parsed=9, rejected=1, duplicate=2, matched=5, emitted=3, folded=1, dropped={"rate": 1}),
    {"audit-webhook": {"received": 12, "parsed": 9, "rejected": 1, "duplicate": 2}},
)


async def test_a_day_is_told_once_with_everything_that_was_lost(tmp_path: Path) -> None:
    """The event names what came in, what became of it and what was dropped; a restart does not tell it again."""
    clock, told = ManualClock(), Told()
    kept = await ledger(tmp_path, clock, BOOKS, told).look(hours.Kept())
    assert told.findings == []
    await clock.advance(86_400)
    again = ledger(tmp_path, clock, BOOKS, told)
    kept = await again.look(hours.read(tmp_path / hours.FILE))
    await again.look(kept)
    (finding,) = told.findings
    assert finding.type is CLOSED
    assert {name: finding.signals[name] for name in ("received", "rejected", "duplicate", "matched", "dropped.rate")} == {
        "received": "12", "rejected": "1", "duplicate": "2", "matched": "5", "dropped.rate": "1",
    }  # fmt: skip
    assert finding.signals["source.audit-webhook"] == "duplicate 2, parsed 9, received 12, rejected 1"
    assert finding.detected_at == dt.datetime.fromisoformat(finding.signals["ledger.day"]).replace(
        tzinfo=dt.UTC
    ) + dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("counts", "told_of"),
    [
        ([(1000, 10), (2000, 21)], ["11 of 1000"]),
        ([(1000, 10), (2000, 20)], []),
        ([(1000, 10), (1005, 13)], []),
        ([(0, 0), (200, 3), (400, 6)], ["3 of 200"]),
    ],
    ids=["more than a hundredth", "a hundredth", "too few to say", "once a window"],
)
async def test_lines_that_are_no_events_are_told(
    tmp_path: Path, counts: list[tuple[int, int]], told_of: list[str]
) -> None:
    """More than one in a hundred since the window began: an event that names the source; what was before it is history."""
    clock, told = ManualClock(), Told()
    books = [Accounts(Totals(), {"audit-file": {"received": all_, "rejected": bad}}) for all_, bad in counts]
    turn = iter(books)
    watched = ledger(tmp_path, clock, lambda: next(turn), told)
    kept = hours.Kept()
    for _ in books:
        kept = await watched.look(kept)
        await clock.advance(30)
    assert [f"{each.signals['dropped']} of {each.signals['received']}" for each in told.findings] == told_of
    assert {each.signals["source"] for each in told.findings} <= {"audit-file"}


async def test_few_lines_are_judged_when_the_window_is_over(tmp_path: Path) -> None:
    """A quiet source is not judged by its first line, and not for ever either."""
    told, looks = [], Unreadable()
    for second, bad, all_ in ((0, 0, 0), (30, 1, 1), (599, 1, 20), (600, 1, 20), (630, 1, 20), (1200, 1, 30)):
        told += [(second, *each) for each in looks.look({"quiet": {"received": all_, "rejected": bad}}, float(second))]
    assert told == [(600, "quiet", 1, 20)]


async def test_the_books_are_metrics(tmp_path: Path) -> None:
    """By source and account, findings by what became of them."""
    metrics = Metrics()
    await ledger(tmp_path, ManualClock(), BOOKS, Told(), metrics).look(hours.Kept())
    assert metrics.value("ugallu_books_events", source="audit-webhook", account="duplicate") == 2
    assert metrics.value("ugallu_books_findings", account="dropped.rate") == 1
    assert metrics.value("ugallu_books_findings", account="pending") == 0


@pytest.mark.parametrize("follow", [True, False])
async def test_the_event_becomes_an_object_of_the_cluster(tmp_path: Path, follow: bool) -> None:
    """A day in a running process ends with one event under the label of types that the API does not list; a replay has none."""
    clock = ManualClock()
    cluster = memory_cluster(clock)
    settings = Settings(state=str(tmp_path), audit=AuditSettings(follow=follow))
    async with running(AuditDetection, cluster=cluster, clock=clock, settings=settings) as run:
        await run.settle()
        for _ in range(2):
            await clock.advance(43_210)
            await run.settle()
        found, _ = await list_all(cluster, SecurityEvent)
        closed = [event for event in found if event.spec.type == CLOSED.name]
        assert len(closed) == (1 if follow else 0)
        for event in closed:
            assert event.metadata.labels["ugallu.io/type-experimental"] == "true"
            assert event.spec.subject.kind == "Cluster"
    await cluster.close()
