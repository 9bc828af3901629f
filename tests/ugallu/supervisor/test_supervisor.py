"""The supervisor: started from the ground up, stopped upstream first, idle only when everything is done."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import structlog

from ugallu.api.bundle import AttestationBundle
from ugallu.api.catalog import CATALOGUE
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.api.meta import Config, Metadata
from ugallu.api.observation import Checkpoint, Finding
from ugallu.api.sigma import SigmaEmit, SigmaMatch, SigmaRule, SigmaRuleSpec
from ugallu.api.subject import ExternalKind, external
from ugallu.bus.port import Publish
from ugallu.clock import Clock, SystemClock
from ugallu.cluster.embedded.cluster import EmbeddedCluster
from ugallu.cluster.port import GoneError, Key, Page, list_all
from ugallu.errors import PermanentError
from ugallu.metrics import Metrics
from ugallu.operator.contract import After, Operator, Parts, Source
from ugallu.operator.platform import Platform
from ugallu.settings import AuditSettings, ListenSettings, Settings
from ugallu.supervisor.assembly import Process, assembled, embedded_identity
from ugallu.testing.clock import ManualClock, settled
from ugallu.testing.pipeline import NumberSource, Seen

if TYPE_CHECKING:
    from ugallu.supervisor.supervisor import Outcome, Progress

TYPE = CATALOGUE["ExecIntoPod"]
LOG = structlog.wrap_logger(structlog.ReturnLogger())


class Tens:
    observes = Seen

    def inspect(self, seen: Seen) -> Iterator[Finding]:
        if seen.number % 10 == 0:
            yield Finding(TYPE, external(ExternalKind.USER, f"u{seen.number}"), key=str(seen.number))


class Rules:
    """Arms a rule a while after it was seen; notes what had happened by then."""

    watches = SigmaRule

    def __init__(self, notes: list[str]) -> None:
        self.notes = notes

    async def reconcile(self, resource: SigmaRule) -> After | None:
        await settled()
        self.notes.append(f"armed {resource.metadata.name}")
        return None

    async def gone(self, key: Key) -> None:
        return


class Acknowledge:
    """Something slow that follows every event: marks it attested."""

    watches = SecurityEvent

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.done: set[str] = set()

    async def reconcile(self, resource: SecurityEvent) -> After | None:
        if resource.status.phase is not EventPhase.ATTESTED:
            await self.platform.cluster.patch_status(
                SecurityEvent, resource.metadata.name, {"phase": EventPhase.ATTESTED}
            )
        else:
            self.done.add(resource.metadata.name)
        return None

    async def gone(self, key: Key) -> None:
        return


class Watching(Operator[Config]):
    name = "watching"
    config = Config
    emits = (TYPE,)
    notes: list[str] = []

    def build(self, config: Config, platform: Platform) -> Parts:
        return Parts(detectors=[Tens()], reconcilers=[Rules(self.notes)])


class Answering(Operator[Config]):
    name = "answering"
    config = Config

    def build(self, config: Config, platform: Platform) -> Parts:
        at_work = Acknowledge(platform)
        return Parts(reconcilers=[at_work])


class Unbuildable(Operator[Config]):
    name = "unbuildable"
    config = Config

    def build(self, config: Config, platform: Platform) -> Parts:
        raise PermanentError("no key", where="unbuildable", fix="give one")


@asynccontextmanager
async def process(
    state: Path,
    *operators: type[Operator[Any]],
    source: Callable[[], Source] | None = None,
    clock: Clock | None = None,
    grace: float = 5,
) -> AsyncIterator[Process]:
    settings = Settings(
        state=str(state),
        grace_seconds=grace,
        audit=AuditSettings(follow=False),
        listen=ListenSettings(health="", metrics=""),
    )
    cluster = EmbeddedCluster.open(state)
    sources: Mapping[type[Any], Callable[[], Sequence[Source]]] = {Seen: lambda: [source()] if source else []}
    try:
        async with assembled(
            settings,
            cluster,
            operators,
            identity=embedded_identity(settings),
            clock=clock or SystemClock(),
            log=LOG,
            metrics=Metrics(),
            sources=sources,
        ) as made:
            yield made
    finally:
        await cluster.close()


async def test_a_run_until_idle_ends_when_the_last_consequence_is_done(tmp_path: Path) -> None:
    """The input ends, windows close, events are created, and every one of them was answered before it returns."""
    async with process(tmp_path, Watching, Answering, source=lambda: NumberSource(1000)) as made:
        with anyio.fail_after(30):
            outcome = await made.supervisor.run(anyio.Event(), until_idle=True)
        events, _ = await list_all(made.cluster, SecurityEvent)
    assert len(events) == outcome.emitted + outcome.summaries
    assert outcome.emitted == 100
    assert (outcome.received, outcome.parsed, outcome.matched, outcome.pending) == (1000, 1000, 100, 0)
    assert outcome.gaps == []
    assert all(event.status.phase is EventPhase.ATTESTED for event in events)


async def test_no_source_starts_before_every_rule_is_armed(tmp_path: Path) -> None:
    """What was seen first is judged by all rules."""
    notes = Watching.notes = []

    class Noted(NumberSource):
        async def run(self, publish: Publish, start: Checkpoint | None) -> None:
            notes.append("source")
            await super().run(publish, start)

    async with process(tmp_path, Watching, source=lambda: Noted(10)) as made:
        for name in ("a", "b", "c"):
            rule = SigmaRule(
                metadata=Metadata(name=name),
                spec=SigmaRuleSpec(
                    match=SigmaMatch(verb=("get",)),
                    emit=SigmaEmit(security_event_type=TYPE.name, severity=TYPE.severity),
                ),
            )
            await made.cluster.create(rule)
        await made.supervisor.run(anyio.Event(), until_idle=True)
    assert notes[-1] == "source"
    assert sorted(notes[:-1]) == ["armed a", "armed b", "armed c"]


async def test_a_second_run_over_the_same_state_adds_nothing(tmp_path: Path) -> None:
    """The checkpoint holds: nothing is read again, the books stand as they were."""
    outcomes: list[Outcome] = []
    for _ in range(2):
        async with process(tmp_path, Watching, source=lambda: NumberSource(300)) as made:
            outcomes.append(await made.supervisor.run(anyio.Event(), until_idle=True))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].emitted == 30


async def test_an_operator_that_cannot_be_built_ends_a_finite_run_with_its_own_words(tmp_path: Path) -> None:
    """A replay says what is wrong instead of reporting an empty success."""
    async with process(tmp_path, Watching, Unbuildable, source=lambda: NumberSource(10)) as made:
        with pytest.raises(PermanentError, match=r"unbuildable: no key \(give one\)"):
            await made.supervisor.run(anyio.Event(), until_idle=True)


async def test_an_operator_that_cannot_be_built_is_a_reason_in_a_lasting_run(tmp_path: Path) -> None:
    """The others work; readiness names the one that does not."""
    async with process(tmp_path, Watching, Unbuildable, source=lambda: NumberSource(100)) as made:
        stop = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(made.supervisor.run, stop)
            await made.supervisor.ready.wait()
            seen = made.cache.view(SecurityEvent)
            with anyio.fail_after(10):
                await seen.until(lambda: len(list(seen.items())) == 10)
            assert made.supervisor.reasons() == {"unbuildable": "unbuildable: no key (give one)"}
            stop.set()


async def test_without_a_source_it_waits_and_says_so(tmp_path: Path) -> None:
    """No audit log is configured: not ready, with the reason, and no error."""
    async with process(tmp_path, Watching) as made:
        stop = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(made.supervisor.run, stop)
            await made.supervisor.ready.wait()
            assert made.supervisor.reasons() == {"Seen": "no source of Seen is configured"}
            stop.set()


async def test_a_stop_during_a_replay_ends_it_and_the_rest_comes_with_the_next(tmp_path: Path) -> None:
    """Interrupted anywhere, then run again: the sum is that of one run."""

    class Slow(NumberSource):
        async def run(self, publish: Publish, start: Checkpoint | None) -> None:
            async def halting(batch: Any) -> None:
                await publish(batch)
                if batch.first == 500:
                    stop.set()
                    await anyio.sleep_forever()

            await super().run(halting, start)

    stop = anyio.Event()
    async with process(tmp_path, Watching, source=lambda: Slow(1000)) as made:
        first = await made.supervisor.run(stop, until_idle=True)
    assert first.received == 510
    assert first.cut == ()
    async with process(tmp_path, Watching, source=lambda: NumberSource(1000)) as made:
        second = await made.supervisor.run(anyio.Event(), until_idle=True)
        events, _ = await list_all(made.cluster, SecurityEvent)
    assert (second.received, second.emitted, len(events)) == (1000, 100, 100 + second.summaries)


class Moody:
    """A source that has nothing to say; asked for its name on a bad day, it breaks the cell that asks."""

    observes = Seen
    bad_day = False

    @property
    def name(self) -> str:
        if self.bad_day:
            self.bad_day = False
            raise RuntimeError("not today")
        return "moody"

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        return


async def test_an_operator_that_breaks_while_the_input_ends_has_it_read_again(tmp_path: Path) -> None:
    """The shared source goes on and ends while nobody listens; the run waits for the operator and loses nothing."""
    clock, moody = ManualClock(), Moody()

    class Fragile(Watching):
        def build(self, config: Config, platform: Platform) -> Parts:
            return Parts(detectors=[Tens()], sources=[moody])

    class Ruthless(NumberSource):
        async def run(self, publish: Publish, start: Checkpoint | None) -> None:
            async def striking(batch: Any) -> None:
                await publish(batch)
                if batch.first == 500 and len(self.starts) == 1:
                    moody.bad_day = True
                    while cell.failed is None:
                        await clock.advance(1)

            await super().run(striking, start)

    source = Ruthless(1000)
    async with process(tmp_path, Fragile, source=lambda: source, clock=clock) as made:
        (cell,) = made.supervisor.cells
        result: list[Outcome] = []
        async with anyio.create_task_group() as tg:

            async def run() -> None:
                result.append(await made.supervisor.run(anyio.Event(), until_idle=True))

            tg.start_soon(run)
            with anyio.fail_after(30):
                while not result:
                    await clock.advance(0.5)
    assert len(source.starts) == 2
    assert (result[0].received, result[0].emitted, result[0].gaps) == (1000, 100, [])
    assert made.metrics.value("ugallu_operator_restarts_total", operator="watching", part="cell") == 1


class Stuck(Operator[Config]):
    """Has an object in hand that it will never finish."""

    name = "stuck"
    config = Config

    def build(self, config: Config, platform: Platform) -> Parts:
        return Parts(reconcilers=[Never()])


class Never:
    watches = SecurityEvent

    async def reconcile(self, resource: SecurityEvent) -> After | None:
        await anyio.sleep_forever()
        return None

    async def gone(self, key: Key) -> None:
        return


async def test_the_grace_is_counted_by_the_clock_and_what_it_cuts_is_named(tmp_path: Path) -> None:
    """A reconciler that hangs holds the process for its share of the grace and not longer."""
    clock = ManualClock()
    async with process(tmp_path, Watching, Stuck, source=lambda: NumberSource(1), clock=clock, grace=10) as made:
        stop = anyio.Event()
        result: list[Outcome] = []

        async def run() -> None:
            result.append(await made.supervisor.run(stop))

        async with anyio.create_task_group() as tg:
            tg.start_soon(run)
            # The first Parts are armed at once: there was no event yet.
            await made.supervisor.ready.wait()
            seen = made.cache.view(SecurityEvent)
            await seen.until(lambda: len(list(seen.items())) == 1)
            (event,) = seen.items()
            stop.set()
            await settled()
            await clock.advance(6.9)
            assert not result
            for _ in range(20):
                await clock.advance(0.2)
    assert result[0].cut == (f"stuck: SecurityEvent {event.metadata.name}",)


async def test_progress_is_told_while_it_runs_and_at_the_end(tmp_path: Path) -> None:
    """The last word is the whole."""
    told: list[Progress] = []
    async with process(tmp_path, Watching, source=lambda: NumberSource(200)) as made:
        await made.supervisor.run(anyio.Event(), until_idle=True, on_progress=told.append)
    assert (told[-1].lines, told[-1].findings, told[-1].sealed) == (200, 20, 0)
    assert told[-1].events >= 20
    assert AttestationBundle not in [kind for cell in made.supervisor.cells for kind in cell.watched]


async def test_settling_reads_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many objects there are, no more than a page is held; a list that grew too old begins again."""
    async with process(tmp_path, Watching, Answering, source=lambda: NumberSource(6000)) as made:
        real, gone, sizes = made.cluster.list, [True], []

        async def listing(kind: type[Any], **options: Any) -> Page[Any]:
            if options.get("continue_token") and kind is SecurityEvent and gone:
                gone.clear()
                raise GoneError("too old")
            page = await real(kind, **options)
            sizes.append(len(page.items))
            return page

        async def settle() -> None:
            await made.supervisor.ready.wait()
            monkeypatch.setattr(made.cluster, "list", listing)

        async with anyio.create_task_group() as tg:
            tg.start_soon(settle)
            outcome = await made.supervisor.run(anyio.Event(), until_idle=True)
        events, _ = await list_all(made.cluster, SecurityEvent)
    assert (outcome.emitted, gone) == (600, [])
    assert max(sizes) == 500
    assert all(event.status.phase is EventPhase.ATTESTED for event in events)
