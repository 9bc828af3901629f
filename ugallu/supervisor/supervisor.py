"""`Supervisor`: the nested task groups that carry the data flow, started from the ground up, stopped upstream first.

base      cache, probes                    released last
outflow   outbox                           ends once it is empty
work      cells: reconcilers, detectors    end with the stream
intake    sources                          the first to stop, the last to start
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import anyio.abc
import msgspec
import structlog

from ugallu.api.bundle import BundlePhase
from ugallu.api.marks import BundleMark
from ugallu.api.meta import Resource
from ugallu.bus.port import Bus
from ugallu.clock import Clock
from ugallu.cluster.port import Cache, Change, Cluster, GoneError, Key, View, key_of
from ugallu.emit.ledger import Totals
from ugallu.emit.outbox import Outbox
from ugallu.errors import PermanentError, UgalluError
from ugallu.metrics import Metrics
from ugallu.operator.contract import Source
from ugallu.settings import Settings
from ugallu.supervisor.cell import Cell
from ugallu.supervisor.health import Probes, serve
from ugallu.supervisor.intake import Intake

ARM_SECONDS = 30.0
"""So long do sources wait for an operator that does not become ready; then they start without it."""
WORK_SHARE = 0.7
"""Of the grace period; what is left of it is the outbox's."""
PROGRESS_SECONDS = 0.2
HEARTBEAT_SECONDS = 0.1
VIEW_SECONDS = 2.0


class Progress(msgspec.Struct, frozen=True):
    """How far a run has come, for whoever draws it."""

    lines: int = 0
    bytes: int = 0
    """Of the input, as far as its sources count them."""
    findings: int = 0
    events: int = 0
    sealed: int = 0


class Outcome(Totals, frozen=True):
    """The closed books of a run, with what was sealed, and what shutdown cut off."""

    sealed: int = 0
    cut: tuple[str, ...] = ()


class Supervisor:
    """Runs the cells of one process, once."""

    def __init__(
        self,
        settings: Settings,
        *,
        cluster: Cluster,
        cache: Cache,
        bus: Bus,
        outbox: Outbox,
        intake: Intake,
        clock: Clock,
        log: structlog.typing.FilteringBoundLogger,
        metrics: Metrics,
        sources: Mapping[type[Any], Callable[[], Sequence[Source]]],
        started: Callable[[], None] = lambda: None,
    ) -> None:
        """`sources` makes the shared ones, by what they observe; `started` is called once everything stands."""
        self._cells: list[Cell] = []
        self.cut: list[str] = []
        """What a deadline cut off, by name."""
        """The addresses of the probes, once they listen."""
        self.ready = anyio.Event()
        """Set once sources run."""
        self._settings = settings
        self._cluster = cluster
        self._cache = cache
        self._bus = bus
        self._outbox = outbox
        self._intake = intake
        self._clock = clock
        self._log = log
        self._metrics = metrics
        self._sources = sources
        self._started = started
        self._reasons: dict[str, str] = {}
        self._phase = "starting"
        self._stopped_at: float | None = None
        self._poked = anyio.Event()
        self._sealed: set[str] = set()

    @property
    def cells(self) -> Sequence[Cell]:
        """The operators of this process."""
        return tuple(self._cells)

    def add(self, cell: Cell) -> None:
        """Take in an operator; before `run`."""
        self._cells.append(cell)

    def poke(self) -> None:
        """Something has changed: whoever waits looks again."""
        self._poked.set()
        self._poked = anyio.Event()

    def subscribers(self, observes: type[Any]) -> list[str]:
        """Return the operators whose detectors read observations of this type."""
        return [cell.name for cell in self._cells if observes in cell.observed]

    def readers(self, observes: type[Any]) -> list[str]:
        """Return the operators that read observations of this type, or may do so once they have recovered."""
        return [
            cell.name
            for cell in self._cells
            if observes in cell.observed or cell.failed is not None or not cell.armed.is_set()
        ]

    def want(self, observes: type[Any]) -> None:
        """A detector reads this type: have its shared sources running, and rewound to where the detector stands."""
        if self._intake.serves(observes):
            self._intake.rewind(observes)
            return
        make = self._sources.get(observes)
        if make is None:
            return
        found = make()
        if not found:
            self._reasons[observes.__name__] = f"no source of {observes.__name__} is configured"
            self._log.warning("operators wait without a source", observes=observes.__name__)
        for source in found:
            self._intake.add(source, "supervisor")

    def reasons(self) -> dict[str, str]:
        """Return what keeps the process from being ready."""
        why = {cell.name: reason for cell in self._cells if (reason := cell.reason)}
        why |= self._reasons
        why |= self._intake.reasons
        if trouble := self._outbox.ready():
            why["outbox"] = trouble
        if self._phase != "running":
            why["process"] = self._phase
        return why

    async def run(
        self,
        stop: anyio.Event,
        *,
        until_idle: bool = False,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Outcome:
        """Run until `stop`, or with `until_idle` until the input has ended and everything that it caused is done.

        Returns the closed books. With `until_idle` an operator that cannot be built, or an input that cannot be read,
        raises its `PermanentError`; without, it is a reason not to be ready.
        """
        try:
            await self._run(stop, until_idle, on_progress)
        except BaseExceptionGroup as group:
            # Task groups wrap; the caller gets the error that a person can act on, if nothing else went wrong.
            ours, rest = group.split(UgalluError)
            if ours is not None and rest is None:
                raise _first(ours) from group
            raise
        if on_progress is not None:
            on_progress(self.progress())
        books = msgspec.structs.asdict(self._outbox.books())
        return Outcome(**books, sealed=len(self._sealed), cut=tuple(self.cut))

    def progress(self) -> Progress:
        """Return how far the run has come."""
        books = self._outbox.books()
        counts = self._intake.counts.values()
        return Progress(
            lines=sum(count.get("received", 0) for count in counts),
            bytes=sum(count.get("bytes", 0) for count in counts),
            findings=books.matched,
            events=books.emitted + books.summaries,
            sealed=len(self._sealed),
        )

    async def _run(self, stop: anyio.Event, until_idle: bool, on_progress: Callable[[Progress], None] | None) -> None:
        async with anyio.create_task_group() as base:
            base.start_soon(self._cache.run)
            base.start_soon(self._on_stop, stop)
            listen = self._settings.listen
            await base.start(
                lambda *, task_status: serve(
                    Probes(self._metrics, self.reasons),
                    health=listen.health,
                    metrics=listen.metrics,
                    log=self._log,
                    task_status=task_status,
                )
            )
            if on_progress is not None:
                base.start_soon(self._report, on_progress)
            with anyio.CancelScope() as outflow_limit:
                async with anyio.create_task_group() as outflow:
                    outflow.start_soon(self._outbox.run)
                    with anyio.CancelScope() as work_limit:
                        async with anyio.create_task_group() as work:
                            for cell in self._cells:
                                work.start_soon(cell.run)
                            await self._arm(stop, until_idle)
                            async with anyio.create_task_group() as intake:
                                self._intake.open(intake, self.subscribers, finite=until_idle, changed=self.poke)
                                self._settled_in()
                                await (self._until_read(stop) if until_idle else stop.wait())
                                self._phase = "stopping"
                                self._intake.close()
                            self._bus.close()
                            base.start_soon(self._cut_off, stop, work_limit, WORK_SHARE, self._unfinished_work)
                            for cell in self._cells:
                                await cell.drained()
                            if until_idle:
                                await self._until_idle(stop)
                            for cell in self._cells:
                                cell.finish()
                    self._outbox.close()
                    base.start_soon(self._cut_off, stop, outflow_limit, 1.0, lambda: ["outbox"])
            base.cancel_scope.cancel()

    # Starting

    async def _arm(self, stop: anyio.Event, until_idle: bool) -> None:
        late = anyio.Event()

        async def patience() -> None:
            await self._clock.sleep(ARM_SECONDS)
            late.set()
            self.poke()

        def settled() -> bool:
            if until_idle and any(isinstance(cell.failed, PermanentError) for cell in self._cells):
                return True
            over = stop.is_set() or (late.is_set() and not until_idle)
            return over or all(cell.armed.is_set() or cell.failed is not None for cell in self._cells)

        async with anyio.create_task_group() as waiting:
            waiting.start_soon(patience)
            await self.until(settled)
            waiting.cancel_scope.cancel()
        for cell in self._cells:
            if until_idle and cell.failed is not None:
                raise cell.failed
            if not cell.armed.is_set() and not stop.is_set():
                self._log.warning("sources start without it", operator=cell.name, reason=cell.reason)
            if BundleMark in cell.watched:
                self._cache.view(BundleMark).listen(self._see_bundle)

    def _settled_in(self) -> None:
        self._started()
        self._phase = "running"
        self.ready.set()
        self._log.info("running", operators=[cell.name for cell in self._cells])

    # Waiting

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`; it is asked again whenever a part has got on."""
        while not holds():
            await self._poked.wait()

    async def _on_stop(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._stop_time()
        self._phase = "stopping"
        self._log.info("stopping", grace_seconds=self._settings.grace_seconds)
        self.poke()

    async def _until_read(self, stop: anyio.Event) -> None:
        """Wait until the input has ended and every operator has taken it in for good, or until `stop`.

        One that broke comes back first, and has the input read again from where it stood.
        """
        while not stop.is_set():
            await self.until(lambda: stop.is_set() or self._read())
            for cell in self._cells:
                await cell.flush()
            if self._read(durable=True):
                return
            await self._clock.sleep(HEARTBEAT_SECONDS)

    def _read(self, *, durable: bool = False) -> bool:
        return self._intake.over and all(
            cell.failed is None and (cell.durable(source) if durable else cell.inspected(observes, source)) >= end
            for (observes, source), end in self._intake.ends.items()
            for cell in self._cells
            if cell.failed is not None or observes in cell.observed
        )

    async def _until_idle(self, stop: anyio.Event) -> None:
        """Wait until the outbox is empty and every cell has done what came of it, or until `stop`."""
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._leave_on, stop, tg.cancel_scope)
            # The end of the stream closes every window: the last events come of it.
            await self._outbox.drain()
            await self.settle()
            tg.cancel_scope.cancel()

    async def settle(self) -> None:
        """Wait until all that was published has been dealt with: inspected, emitted, and idle in every cell.

        An informer may be a moment behind the cluster, so idleness counts only when the views held every object
        that a list showed before, and nothing was written in between.
        """
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._heartbeat)
            while True:
                for cell in self._cells:
                    await cell.flush()
                await self.until(lambda: self._outbox.idle)
                before = await self._seen_by_views()
                await self.until(lambda: all(cell.idle for cell in self._cells))
                if self._outbox.idle and await self._versions() == before:
                    break
            tg.cancel_scope.cancel()

    async def _seen_by_views(self) -> dict[str, str]:
        """Return the version of every watched kind, once the views hold all of its objects."""
        versions = await self._versions()
        for kind in self._watched():
            view = self._cache.view(kind)
            missing = await self._unseen(kind, view)

            def all_seen(missing: set[Key] = missing, view: View[Any] = view) -> bool:
                missing.difference_update([key for key in missing if view.get(key.name, key.namespace)])
                return not missing

            # An object may be deleted before its view ever saw it: look again rather than wait for it.
            with anyio.move_on_after(VIEW_SECONDS):
                await view.until(all_seen)
        return versions

    async def _versions(self) -> dict[str, str]:
        """Return the present version of every watched kind: equal ones mean that nothing was written in between."""
        found: dict[str, str] = {}
        for kind in self._watched():
            found[kind.kind_info.name] = (await self._cluster.list(kind, limit=1)).resource_version
        return found

    def _watched(self) -> set[type[Resource]]:
        return {watched for cell in self._cells for watched in cell.watched}

    async def _unseen(self, kind: type[Resource], view: View[Any]) -> set[Key]:
        """Return what the cluster has and the view has not, page by page: there may be a great many."""
        missing: set[Key] = set()
        token = ""
        while True:
            try:
                page = await self._cluster.list(kind, continue_token=token)
            except GoneError:  # the list took longer than the cluster remembers
                missing, token = set(), ""
                continue
            missing.update(key for r in page.items if view.get((key := key_of(r)).name, key.namespace) is None)
            token = page.continue_token
            if not token:
                return missing

    async def _leave_on(self, stop: anyio.Event, scope: anyio.CancelScope) -> None:
        await stop.wait()
        scope.cancel()

    async def _heartbeat(self) -> None:
        """Idleness of a plug-in may change without a word; ask now and then."""
        while True:
            await anyio.sleep(HEARTBEAT_SECONDS)
            self.poke()

    # Stopping

    async def _cut_off(
        self, stop: anyio.Event, scope: anyio.CancelScope, share: float, left: Callable[[], Sequence[str]]
    ) -> None:
        """Cancel `scope` once this share of the grace is over, counted from `stop`; say by name what that ends."""
        await stop.wait()
        over = self._stop_time() + share * self._settings.grace_seconds
        await self._clock.sleep(max(0.0, over - self._clock.monotonic()))
        names = list(left())
        self.cut += names
        self._log.error("cut off at the end of the grace period", names=names)
        scope.cancel()

    def _stop_time(self) -> float:
        """Return when the stop was first noticed, monotonic: whoever looks first."""
        if self._stopped_at is None:
            self._stopped_at = self._clock.monotonic()
        return self._stopped_at

    def _unfinished_work(self) -> list[str]:
        return [f"{cell.name}: {name}" for cell in self._cells for name in cell.unfinished]

    # Watching

    async def _report(self, on_progress: Callable[[Progress], None]) -> None:
        while True:
            await self._clock.sleep(PROGRESS_SECONDS)
            on_progress(self.progress())

    def _see_bundle(self, change: Change, bundle: BundleMark) -> None:
        if change is Change.DELETED or bundle.status.phase is not BundlePhase.SEALED:
            self._sealed.discard(bundle.metadata.uid)
        else:
            self._sealed.add(bundle.metadata.uid)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
