"""`Cell`: one operator, walled in. It is configured, built, run, rebuilt and ended here, and what it breaks stays here.

config object ──> build ──> Parts: reconcilers armed first, then detectors take over at a batch's edge, then sources
      └─ invalid: Ready=False with field and reason; the Parts that run keep running
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread
import msgspec

from ugallu.api.meta import Condition, Config, Resource, decode_strict, utc_seconds, with_condition
from ugallu.bus.port import Bus
from ugallu.clock import comes
from ugallu.cluster.lease import Election
from ugallu.cluster.port import View
from ugallu.emit.port import ReportingEmitter
from ugallu.errors import PermanentError, RefusedError, UgalluError
from ugallu.operator.contract import Operator, Parts, Service
from ugallu.operator.platform import Platform
from ugallu.operator.singletons import CONFIG_NAME, chosen, not_default
from ugallu.pace import Backoff
from ugallu.supervisor.guard import attempt, attempt_now
from ugallu.supervisor.intake import Intake
from ugallu.supervisor.positions import Positions
from ugallu.supervisor.reconciling import Reconciling
from ugallu.supervisor.work import IDLE_SECONDS, Worker


@dataclass(slots=True, eq=False)
class Assembly:
    """One set of Parts at work."""

    config: Config
    parts: Parts
    reconcilings: list[Reconciling] = field(default_factory=list)
    end: anyio.Event = field(default_factory=anyio.Event)
    failing: dict[str, str] = field(default_factory=dict)
    """Services that are being restarted, and why."""


class Cell:
    """Runs one operator until told to finish."""

    def __init__(
        self,
        operator: Operator[Any],
        platform: Platform,
        *,
        bus: Bus,
        intake: Intake,
        positions: Positions,
        emitter: ReportingEmitter,
        shared: Callable[[type[Any]], None],
        changed: Callable[[], None],
        election: Election | None = None,
    ) -> None:
        self.operator = operator
        self.name = operator.name
        self.armed = anyio.Event()
        """Set once the first Parts are at work with their first pass done."""
        self.failed: Exception | None = None
        """Why there are no Parts."""
        self._platform = platform
        self._cluster = platform.cluster
        self._cache = platform.cache
        self._clock = platform.clock
        self._metrics = platform.metrics
        self._log = platform.log
        self._bus = bus
        self._intake = intake
        self._positions = positions
        self._emitter = emitter
        self._shared = shared
        self._changed = changed
        self._election = election
        self._assembly: Assembly | None = None
        self._alive: list[Assembly] = []
        """The Parts at work, and those that still finish what they hold."""
        self._workers: dict[type[Any], Worker] = {}
        self._worker_errors: dict[str, str] = {}
        self._loose: type[Resource] | None = None
        self._config_error = ""
        self._build_error = ""
        self._config_changed = anyio.Event()
        self._finish = anyio.Event()
        self._drained = anyio.Event()

    # What others may ask

    @property
    def reason(self) -> str:
        """What keeps this operator from being ready; empty when it is."""
        if self._election is not None and not self._election.leading:
            return ""
        if self._config_error or self._build_error:
            return self._config_error or self._build_error
        if self._assembly is None or not self.armed.is_set():
            return "starting"
        faults = [*filter(None, [self._emitter.ready()]), *self._worker_errors.values()]
        faults += self._assembly.failing.values()
        faults += [why for source in self._assembly.parts.sources if (why := self._intake.reasons.get(source.name))]
        if faults:
            return "; ".join(faults)
        said: list[str] = []
        parts = self._assembly.parts
        error = attempt_now(lambda: said.append(parts.ready()))
        return str(error) if error else said[0]

    @property
    def idle(self) -> bool:
        """Everything that the operator's inputs have brought so far is done with."""
        if self._assembly is None:
            return self.failed is not None or (self._election is not None and not self._election.leading)
        said: list[bool] = []
        parts = self._assembly.parts
        attempt_now(lambda: said.append(parts.idle()))
        return all(r.idle for r in self._assembly.reconcilings) and said == [True]

    @property
    def watched(self) -> list[type[Resource]]:
        """The kinds that its reconcilers watch."""
        return [r.watches for r in self._assembly.parts.reconcilers] if self._assembly else []

    @property
    def observed(self) -> list[type[Any]]:
        """The types of observation that its detectors read."""
        return list(self._workers)

    @property
    def unfinished(self) -> list[str]:
        """What a deadline would cut off now, by name."""
        left = [f"detectors of {observes.__name__}" for observes in self._workers]
        for assembly in self._alive:
            for reconciling in assembly.reconcilings:
                left += [f"{reconciling.kind} {'/'.join(filter(None, key))}" for key in reconciling.under_way]
        return left

    # Running

    async def run(self) -> None:
        """Configure, build, run, rebuild, until `finish`; then end what runs and return.

        With an election the Parts run while this process leads, and are built anew each time it comes to lead.
        """
        if self._election is None:
            await self._walled()
            return
        election = self._election
        # Sources need not wait for somebody who may never lead.
        self.armed.set()
        self._stand_by()
        self._changed()
        async with anyio.create_task_group() as tg:

            async def lead() -> None:
                self._metrics.gauge("ugallu_operator_leading", 1.0, operator=self.name)
                try:
                    await self._walled()
                finally:
                    self._stand_by()

            async def contend() -> None:
                while not await election.lead(lead):
                    self._log.warning("leadership lost; another replica goes on", holder=election.holder)
                tg.cancel_scope.cancel()

            tg.start_soon(contend)
            await self._finish.wait()
            if not election.leading:
                tg.cancel_scope.cancel()

    def _stand_by(self) -> None:
        """Whoever waits to lead is ready, whatever it was when it led."""
        self._metrics.gauge("ugallu_operator_leading", 0.0, operator=self.name)
        self._metrics.gauge("ugallu_operator_ready", 1.0, operator=self.name)

    async def _walled(self) -> None:
        """Run; whatever still gets out of the parts' own guards ends here and not in a neighbour."""
        backoff = Backoff(first=1.0)
        while not self._finish.is_set():
            error = await attempt(self._run)
            if error is None:
                return
            self._build_error, self.failed = f"broke: {error}", error
            self._metrics.count("ugallu_operator_restarts_total", operator=self.name, part="cell")
            self._log.error("cell broke; starting it again", exc_info=error)
            self._changed()
            await self._pause(backoff.next())

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond `finish`."""
        async with anyio.create_task_group() as tg:

            async def finished() -> None:
                await self._finish.wait()
                tg.cancel_scope.cancel()

            tg.start_soon(finished)
            await self._clock.sleep(seconds)
            tg.cancel_scope.cancel()

    async def _run(self) -> None:
        view = self._config_view()
        unlisten = view.listen(lambda _, __: self._config_changed.set()) if view else lambda: None
        try:
            async with anyio.create_task_group() as tg:
                async with anyio.create_task_group() as live:
                    live.start_soon(self._flush_idle)
                    live.start_soon(self._live, view, tg)
                    await self._finish.wait()
                    live.cancel_scope.cancel()
                for assembly in self._alive:
                    assembly.end.set()
        finally:
            unlisten()
            for worker in self._workers.values():
                worker.close()
            for source in self._assembly.parts.sources if self._assembly else ():
                self._intake.remove(source.name)
            self._workers.clear()
            self._assembly = None
            self._ring_drained()

    async def drained(self) -> None:
        """Wait until the workers have emptied their rings; call after the bus was closed."""
        while self._workers:
            await self._drained.wait()

    async def flush(self) -> None:
        """Submit the checkpoints that wait for company."""
        for worker in list(self._workers.values()):
            if (error := await attempt(worker.flush)) is not None:
                self._log.error("checkpoint not written", exc_info=error)

    def inspected(self, observes: type[Any], source: str) -> int:
        """Return the number of the first observation of a source that its detectors have not yet seen."""
        worker = self._workers.get(observes)
        return worker.inspected(source) if worker else 0

    def durable(self, source: str) -> int:
        """Return the number of the first observation of a source whose checkpoint is not yet durable."""
        point = self._positions.of(source, self.name)
        return point.next if point else 0

    def finish(self) -> None:
        """End: no new reconciliation begins, services stop, then `run` returns."""
        self._finish.set()

    async def _live(self, view: View[Any] | None, tg: anyio.abc.TaskGroup) -> None:
        """Keep the Parts as the config object says."""
        if view is not None:
            await view.synced()
        backoff = Backoff()
        while True:
            self._config_changed = anyio.Event()
            changed = self._config_changed
            there = list(view.items()) if view else []
            found = chosen(there)
            retry = not await self._adopt(found, tg)
            for other in there:
                if other is not found and found is not None:
                    await self._say(other, not_default(other, found, self._clock.now()))
            self._metrics.gauge("ugallu_operator_ready", 0.0 if self.reason else 1.0, operator=self.name)
            self._changed()
            if not retry:
                backoff.reset()
                await changed.wait()
                continue
            await comes(changed, self._clock, backoff.next())

    async def _adopt(self, found: Any, tg: anyio.abc.TaskGroup) -> bool:  # noqa: ANN401 - a Struct made by `_loose`
        """Bring the Parts in line with the config object; False when it is worth trying again unchanged."""
        try:
            config = self._decode(found)
            self._config_error = ""
        except PermanentError as error:
            self._config_error = str(error)
            self._log.error("invalid config; what runs keeps running", error=str(error))
            await self._tell(found, error)
            if self._assembly is None:
                self.failed = error
            return True
        if self._assembly is not None and self._assembly.config == config and not self._build_error:
            await self._tell(found, None)
            return True
        built: list[Parts] = []
        broken = attempt_now(lambda: built.append(self.operator.build(config, self._platform)))
        if broken is not None:
            self._build_error = str(broken) or repr(broken)
            said = isinstance(broken, UgalluError)
            self._log.error("cannot be built", **({"error": str(broken)} if said else {"exc_info": broken}))
            await self._tell(found, broken)
            if self._assembly is None:
                self.failed = broken
            # A bug may go away with what triggered it; a permanent error waits for another config.
            return isinstance(broken, PermanentError | RefusedError)
        self._build_error = ""
        await self._swap(Assembly(config, built[0]), tg)
        self.failed = None
        await self._tell(found, None)
        return True

    async def _swap(self, new: Assembly, tg: anyio.abc.TaskGroup) -> None:
        """Start the new Parts; once they are armed, hand over at a batch's edge and let the old ones finish."""
        await tg.start(self._host, new)
        old, self._assembly = self._assembly, new
        wanted: dict[type[Any], list[Any]] = {}
        for detector in new.parts.detectors:
            wanted.setdefault(detector.observes, []).append(detector)
        for observes, detectors in wanted.items():
            if observes in self._workers:
                await self._workers[observes].replace(detectors)
            else:
                self._employ(observes, detectors, tg)
        for observes in [o for o in self._workers if o not in wanted]:
            self._workers[observes].close()
        for source in old.parts.sources if old else ():
            self._intake.remove(source.name)
        for source in new.parts.sources:
            error = attempt_now(partial(self._intake.add, source, self.name))
            if error is not None:
                new.failing[source.name] = str(error)
                self._log.error("source cannot start", source=source.name, error=str(error))
        if old is not None:
            old.end.set()
            self._log.info("rebuilt: the config has changed")
        self.armed.set()

    async def _host(
        self, assembly: Assembly, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run reconcilers and services of one set of Parts until it is told to end."""
        self._alive.append(assembly)
        try:
            async with anyio.create_task_group() as tg:
                for reconciler in assembly.parts.reconcilers:
                    at_work = Reconciling(
                        reconciler,
                        self._cache.view(reconciler.watches),
                        operator=self.name,
                        clock=self._clock,
                        metrics=self._metrics,
                        log=self._log,
                        changed=self._changed,
                    )
                    assembly.reconcilings.append(at_work)
                    tg.start_soon(at_work.run)
                async with anyio.create_task_group() as services:
                    for service in assembly.parts.services:
                        services.start_soon(self._serve, service, assembly)
                    for at_work in assembly.reconcilings:
                        await at_work.armed.wait()
                    task_status.started()
                    await assembly.end.wait()
                    services.cancel_scope.cancel()
                for at_work in assembly.reconcilings:
                    at_work.close()
        finally:
            # What was written ahead goes to its files now: seconds of it, in which probes answer and others finish.
            with anyio.CancelScope(shield=True):
                error = await attempt(partial(anyio.to_thread.run_sync, assembly.parts.close))
            if error is not None:
                self._log.error("close failed", exc_info=error)
            self._alive.remove(assembly)

    async def _serve(self, service: Service, assembly: Assembly) -> None:
        await self._again(service.name, service.run, assembly.failing)

    def _employ(self, observes: type[Any], detectors: list[Any], tg: anyio.abc.TaskGroup) -> None:
        worker = self._workers[observes] = Worker(
            self.name,
            observes,
            detectors,
            subscription=self._bus.subscribe(observes, self.name),
            emitter=self._emitter,
            positions=self._positions,
            metrics=self._metrics,
            clock=self._clock,
            log=self._log,
            changed=self._changed,
        )
        tg.start_soon(self._work, worker)
        self._shared(observes)

    async def _work(self, worker: Worker) -> None:
        await self._again(f"detectors of {worker.observes.__name__}", worker.run, self._worker_errors)
        if self._workers.get(worker.observes) is worker:
            del self._workers[worker.observes]
        self._ring_drained()

    def _ring_drained(self) -> None:
        self._drained.set()
        self._drained = anyio.Event()
        self._changed()

    async def _again(self, part: str, run: Callable[[], Any], failing: dict[str, str]) -> None:
        """Run a part to its end, again with backoff whenever it fails."""
        backoff = Backoff()
        while True:
            began = self._clock.monotonic()
            error = await attempt(run)
            if error is None:
                failing.pop(part, None)
                return
            failing[part] = f"{part}: {error}"
            self._metrics.count("ugallu_operator_restarts_total", operator=self.name, part=part)
            self._metrics.gauge("ugallu_operator_ready", 0.0, operator=self.name)
            if self._clock.monotonic() - began > 60.0:
                backoff.reset()
            wait = backoff.next()
            said = isinstance(error, UgalluError)
            self._log.error(
                "part failed; starting it again",
                part=part,
                seconds=round(wait, 2),
                **({"error": str(error)} if said else {"exc_info": error}),
            )
            await self._clock.sleep(wait)
            failing.pop(part, None)

    async def _flush_idle(self) -> None:
        """A checkpoint must not wait for the next batch for ever."""
        while True:
            await self._clock.sleep(IDLE_SECONDS)
            await self.flush()
            self._metrics.gauge("ugallu_operator_ready", 0.0 if self.reason else 1.0, operator=self.name)

    # The config object

    def _config_view(self) -> View[Any] | None:
        kind = self.operator.config_kind
        if kind is None:
            return None
        self._loose = self._loose or _loose(kind)
        if kind.kind_info.namespaced:
            return self._cache.view(self._loose, namespace=self._platform.namespace)
        return self._cache.view(self._loose, fields=f"metadata.name={CONFIG_NAME}")

    def _decode(self, found: Any) -> Config:  # noqa: ANN401 - a Struct made by `_loose`
        cls: type[Config] = self.operator.config
        if found is None:
            return cls()
        where = f"{type(found).kind_info.name}/{found.metadata.name} spec"
        return decode_strict(cls, found.spec if found.spec is not None else {}, where=where)

    async def _tell(self, found: Any, error: Exception | None) -> None:  # noqa: ANN401 - a Struct made by `_loose`
        """Say on the config object what has become of it."""
        if found is None:
            return
        if error is None and found.metadata.name != CONFIG_NAME:
            await self._say(found, not_default(found, found, self._clock.now()))
            return
        ready = Condition(
            type="Ready",
            status="False" if error else "True",
            reason="InvalidConfig" if self._config_error else "BuildFailed" if error else "Running",
            message=str(error) if error else "",
            last_transition_time=utc_seconds(self._clock.now()),
            observed_generation=found.metadata.generation,
        )
        await self._say(found, ready)

    async def _say(self, found: Any, ready: Condition) -> None:  # noqa: ANN401 - a Struct made by `_loose`
        """Write the Ready condition to a config object that has room for one."""
        kind = self.operator.config_kind
        if kind is None or not _has_conditions(kind):
            return
        raw = found.status.get("conditions", []) if isinstance(found.status, dict) else []
        try:
            before = msgspec.convert(raw, tuple[Condition, ...])
        except msgspec.ValidationError:
            before = ()
        after = with_condition(before, ready)
        if after == before:
            return
        trouble = await attempt(
            partial(
                self._cluster.patch_status,
                type(found),
                found.metadata.name,
                {"conditions": msgspec.to_builtins(after)},
                found.metadata.namespace,
            )
        )
        if trouble is not None:
            self._log.warning("status of the config not written", error=str(trouble))


def _loose(kind: type[Resource]) -> type[Resource]:
    """Return a Struct of this kind that keeps spec and status as they are, so that the cell can decode strictly."""
    made = msgspec.defstruct(
        f"Loose{kind.kind_info.name}",
        [("spec", Any, None), ("status", Any, None)],
        bases=(Resource,),
        frozen=True,
        kw_only=True,
        namespace={"kind_info": kind.kind_info},
    )
    assert issubclass(made, Resource)
    return made


def _has_conditions(kind: type[Resource]) -> bool:
    status = {f.name: f.type for f in msgspec.structs.fields(kind)}.get("status")
    return isinstance(status, type) and "conditions" in {f.name for f in msgspec.structs.fields(status)}
