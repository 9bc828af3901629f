"""Puts one process together, over Kubernetes or over the embedded cluster: `ugallu run`, `replay`, `demo` start here.

--state DIR     the embedded cluster's files (ugallu.cluster.embedded), if that is the cluster
  journal/      acknowledged findings (ugallu.journal)
  audit-webhook/  acknowledged audit events (ugallu.sources.spool), if there is a webhook
  audit-twins/  which of log file and webhook has published what (ugallu.sources.twins), if there are both
  ...           what operators keep, each under a name of its own
"""

import gc
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ugallu import __version__
from ugallu.api.audit import AuditRecord
from ugallu.api.bridge import BridgeSilence
from ugallu.api.event import ClusterIdentity
from ugallu.api.observation import Checkpoint
from ugallu.bus.bus import LocalBus
from ugallu.bus.port import Bus
from ugallu.clock import Clock, SystemClock
from ugallu.cluster.cache import SharedCache
from ugallu.cluster.fence import Fenced
from ugallu.cluster.lease import Election
from ugallu.cluster.port import Cache, Cluster, Server
from ugallu.emit.emitter import JournalEmitter
from ugallu.emit.outbox import Outbox
from ugallu.emit.port import Origin
from ugallu.emit.pressure import NAME as PRESSURE
from ugallu.emit.pressure import PressureMap
from ugallu.errors import PermanentError
from ugallu.journal.port import Journal, Retention
from ugallu.logs import Logger, logger
from ugallu.metrics import Metrics
from ugallu.operator.contract import Namespace, Operator, Placement, Source
from ugallu.operator.platform import Platform
from ugallu.operator.rights import lease_of
from ugallu.operator.shared import Shared
from ugallu.settings import Settings
from ugallu.supervisor.cell import Cell
from ugallu.supervisor.intake import Intake
from ugallu.supervisor.positions import Positions
from ugallu.supervisor.reach import reach
from ugallu.supervisor.registry import choose, installed
from ugallu.supervisor.supervisor import Supervisor

if TYPE_CHECKING:
    from ugallu.sources.relay import AuditRelay

JOURNAL = "journal"
SEALERS = ("attestor",)
"""Left out of "all operators" when nothing is to be sealed."""
LIFECYCLE = ("backpressure", "ttl")
"""Left out of "all operators" where the input ends: a replay tells what was in it, whatever the time is now."""
CREATES_PER_SECOND = 50.0
"""Against an API server that others need as well; nothing is lost by it, bursts wait in the journal."""


def runnable(
    operators: Iterable[type[Operator[Any]]], *, embedded: bool, named: Iterable[str] = ()
) -> list[type[Operator[Any]]]:
    """Return the operators that can run here.

    Raises `PermanentError` for one that was asked for by name and needs Pods where there are none.
    """
    found = []
    for operator in operators:
        if operator.needs_pods and embedded:
            if operator.name in named:
                raise PermanentError(
                    "it works on Pods, and the embedded cluster runs none",
                    where=f"operator {operator.name}",
                    fix="give a kubeconfig, or leave it out of --enable",
                )
            continue
        found.append(operator)
    return found


def load(settings: Settings, *, embedded: bool) -> list[type[Operator[Any]]]:
    """Import and return the operators that the settings ask for; nothing else is imported."""
    # What is not sealed is never deleted, so without sealing ttl has nothing to do either.
    without = (() if settings.seal else (*SEALERS, "ttl")) + (() if settings.audit.follow else LIFECYCLE)
    if not settings.bus.url:
        without = (*without, "ingest")
    lines = choose(settings.enable, installed(), without=without)
    found = runnable((line.load() for line in lines), embedded=embedded, named=settings.enable)
    if not found:
        raise PermanentError("no operator to run", where="--enable", fix="see `ugallu operators`")
    return found


@dataclass(frozen=True, slots=True)
class Process:
    """One assembled process: nothing runs yet but the cluster, so objects can be written before `supervisor.run`."""

    settings: Settings
    cluster: Cluster
    journal: Journal
    operators: Sequence[Operator[Any]]
    supervisor: Supervisor
    metrics: Metrics
    clock: Clock
    log: Logger
    bus: Bus
    cache: Cache


@asynccontextmanager
async def open_process(
    settings: Settings, *, clock: Clock | None = None, log: Logger | None = None, metrics: Metrics | None = None
) -> AsyncIterator[Process]:
    """Assemble the process that the settings ask for, over the cluster that they mean.

    Raises `PermanentError` for settings that cannot work, `UnavailableError` for a cluster that does not answer,
    `ForbiddenError` for one that does not know us.
    """
    opened = open_kubernetes if settings.on_kubernetes else open_embedded
    async with opened(settings, clock=clock, log=log, metrics=metrics) as process:
        yield process


@asynccontextmanager
async def open_kubernetes(
    settings: Settings,
    *,
    operators: Sequence[type[Operator[Any]]] | None = None,
    clock: Clock | None = None,
    log: Logger | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[Process]:
    """Reach the cluster and assemble everything over it; the state directory has the journal, and what operators keep.

    Raises as `open_process`.
    """
    clock, log, metrics = clock or SystemClock(), log or logger(settings.log), metrics or Metrics()
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    classes = load(settings, embedded=False) if operators is None else runnable(operators, embedded=False)
    async with reach(settings, clock=clock, metrics=metrics, log=log) as reached:
        identity = ClusterIdentity(
            cluster_id=reached.cluster_id, cluster_name=settings.cluster_name or reached.cluster_id
        )
        async with assembled(
            settings,
            reached.cluster,
            classes,
            identity=identity,
            namespace=reached.namespace,
            clock=clock,
            log=log,
            metrics=metrics,
            started=freeze_heap,
        ) as process:
            yield process


@asynccontextmanager
async def open_embedded(
    settings: Settings,
    *,
    operators: Sequence[type[Operator[Any]]] | None = None,
    clock: Clock | None = None,
    log: Logger | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[Process]:
    """Open the state directory and assemble everything over it; `operators` None: those that the settings ask for.

    Raises `PermanentError` for an unknown operator, and for a directory that another process holds.
    """
    from ugallu.cluster.embedded.cluster import EmbeddedCluster

    clock, log, metrics = clock or SystemClock(), log or logger(settings.log), metrics or Metrics()
    classes = load(settings, embedded=True) if operators is None else runnable(operators, embedded=True)
    cluster = EmbeddedCluster.open(settings.state_dir, clock=clock)
    try:
        async with assembled(
            settings,
            cluster,
            classes,
            identity=embedded_identity(settings),
            clock=clock,
            log=log,
            metrics=metrics,
            started=freeze_heap,
        ) as process:
            yield process
    finally:
        await cluster.close()


def embedded_identity(settings: Settings) -> ClusterIdentity:
    """Return who an embedded cluster is."""
    cluster_id = settings.cluster_id or "local"
    return ClusterIdentity(cluster_id=cluster_id, cluster_name=settings.cluster_name or cluster_id)


@asynccontextmanager
async def assembled(
    settings: Settings,
    cluster: Cluster,
    operators: Sequence[type[Operator[Any]]],
    *,
    identity: ClusterIdentity,
    clock: Clock,
    log: Logger,
    metrics: Metrics,
    namespace: str = Namespace.SYSTEM.value,
    sources: Mapping[type[Any], Callable[[], Sequence[Source]]] | None = None,
    lend: Callable[[Operator[Any]], Cluster] | None = None,
    started: Callable[[], None] = lambda: None,
) -> AsyncIterator[Process]:
    """Assemble a process over a cluster that somebody else opens and closes.

    `namespace` is where Leases are; `sources` replaces the shared ones; `lend` gives each operator its own view of the
    cluster.
    """
    from ugallu.journal.segmented import SegmentedJournal

    journal = SegmentedJournal(
        settings.state_dir / JOURNAL,
        Retention(max_bytes=settings.emit.journal_bytes, max_age_seconds=settings.emit.max_age_seconds),
        clock=clock,
        metrics=metrics,
        log=log,
    )
    try:
        emit = settings.emit
        if emit.creates_per_second is None:
            pace = 0.0 if cluster.embedded else CREATES_PER_SECOND
            emit = msgspec.structs.replace(emit, creates_per_second=pace)
        outbox = Outbox(journal, cluster, clock, metrics, log, emit, live=settings.audit.follow)
        positions = Positions((await outbox.recover()).values())
        bus = LocalBus(metrics)
        cache = SharedCache(cluster, clock=clock, metrics=metrics, log=log)
        if settings.audit.follow and any(operator.emits for operator in operators):
            # A replay decides by its input alone.
            named = f"metadata.name={PRESSURE}"
            outbox.obey(cache.view(PressureMap, namespace=Namespace.SYSTEM.value, fields=named))
        intake = Intake(bus, positions, clock=clock, metrics=metrics, log=log)

        def checkpoints(source: str) -> Sequence[Checkpoint]:
            readers = supervisor.readers(AuditRecord)
            return [point for name in readers if (point := positions.of(source, name)) is not None]

        supervisor = Supervisor(
            settings,
            cluster=cluster,
            cache=cache,
            bus=bus,
            outbox=outbox,
            intake=intake,
            clock=clock,
            log=log,
            metrics=metrics,
            sources=shared_sources(settings, clock, metrics, log, checkpoints) if sources is None else sources,
            started=started,
        )
        built = [operator() for operator in operators]
        shared = Shared()
        for operator in built:
            own = log.bind(operator=operator.name)
            origin = Origin(
                component=f"ugallu-{operator.name}",
                emits=frozenset(kind.name for kind in operator.emits),
                version=__version__,
                instance=settings.instance,
                cluster=identity,
            )
            emitter = JournalEmitter(origin, journal, clock, metrics, own)
            election = _election(
                operator, cluster, instance=settings.instance, namespace=namespace, clock=clock, log=own
            )
            lent = lend(operator) if lend else cluster
            platform = Platform(
                identity=identity,
                cluster=lent if election is None else Fenced(lent, election.leads),
                cache=cache,
                emitter=emitter,
                clock=clock,
                log=own,
                metrics=metrics,
                settings=settings,
                namespace=namespace,
                state=settings.state_dir,
                shared=shared,
                accounts=outbox.accounts,
                **({} if election is None else {"leads": election.leads}),
                server=cluster if isinstance(cluster, Server) else None,
            )
            supervisor.add(
                Cell(
                    operator,
                    platform,
                    bus=bus,
                    intake=intake,
                    positions=positions,
                    emitter=emitter,
                    shared=supervisor.want,
                    changed=supervisor.poke,
                    election=election,
                )
            )
        yield Process(settings, cluster, journal, built, supervisor, metrics, clock, log, bus, cache)
    finally:
        journal.close()


def freeze_heap() -> None:
    """Keep the collector from walking again and again what was built at start and stays to the end."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 50)


def shared_sources(
    settings: Settings,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
    checkpoints: Callable[[str], Sequence[Checkpoint]] = lambda _: (),
) -> Mapping[type[Any], Callable[[], Sequence[Source]]]:
    """Return how to make the sources that operators share, by what they observe; none where none is configured.

    `checkpoints` returns, by source, those of everybody who must not miss anything of it. Raises `PermanentError` for
    settings that cannot work.
    """
    if settings.bus.url and settings.audit.follow:
        from ugallu.sources.nats import StreamReader

        # What this process takes in itself goes there first: see the operator `ingest`.
        reader = StreamReader(settings.bus, checkpoints=checkpoints, clock=clock, metrics=metrics, log=log)
        return {AuditRecord: lambda: [reader]}
    webhook: Sequence[Source] = ()
    if settings.audit.webhook.listen and settings.audit.follow:
        from ugallu.sources.audit_webhook import audit_webhook

        webhook = audit_webhook(
            settings.audit.webhook,
            settings.state_dir,
            max_event_bytes=settings.audit.max_line_bytes,
            checkpoints=checkpoints,
            clock=clock,
            metrics=metrics,
            log=log,
        )

    relay = _relay(settings, clock, metrics, log, checkpoints)
    served: Sequence[Source] = webhook if relay is None else [*webhook, relay]

    def audit() -> Sequence[Source]:
        if not settings.audit.files:
            return served
        from ugallu.sources.audit_file import audit_files

        files = audit_files(settings.audit, clock=clock, metrics=metrics, log=log)
        if not webhook:
            return [*files, *served]
        from ugallu.sources.twins import once

        # What the bus brings has its bodies redacted: another record, whoever else has the event.
        twins = once([*files, *webhook], settings.state_dir, clock=clock, metrics=metrics, log=log)
        return twins if relay is None else [*twins, relay]

    def silences() -> Sequence[Source]:
        from ugallu.sources.relay import RelayWatch

        return [RelayWatch(relay, clock)] if relay is not None else ()

    return {AuditRecord: audit, **({BridgeSilence: silences} if relay is not None else {})}


def _relay(
    settings: Settings,
    clock: Clock,
    metrics: Metrics,
    log: Logger,
    checkpoints: Callable[[str], Sequence[Checkpoint]],
) -> "AuditRelay | None":
    if not settings.audit.bus.addresses or not settings.audit.follow:
        return None
    from ugallu.sources.relay import AuditRelay

    # An operator is declared as a consumer under its own name.
    consumer = settings.audit.bus.consumer or (settings.enable[0] if len(settings.enable) == 1 else "")
    return AuditRelay(
        settings.audit.bus, consumer=consumer, checkpoints=checkpoints, clock=clock, metrics=metrics, log=log
    )


def _election(
    operator: Operator[Any], cluster: Cluster, *, instance: str, namespace: str, clock: Clock, log: Logger
) -> Election | None:
    """Return the candidacy of an operator that runs once a cluster; one process has an embedded cluster to itself."""
    if operator.placement is not Placement.ONE_LEADER or cluster.embedded:
        return None
    return Election(
        cluster,
        clock,
        name=lease_of(operator),
        namespace=namespace,
        # Two processes of one machine must not take each other for themselves.
        identity=f"{instance}_{uuid.uuid4().hex[:12]}",
        failed=lambda error: log.warning("lease", error=str(error)),
    )
