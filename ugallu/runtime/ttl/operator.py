"""The ttl operator: a reconciler a kind over one desk, the chain of copies, the clock, and a watch on the attestor."""

from collections.abc import Awaitable, Callable
from typing import ClassVar, Final

from ugallu.api.core import Lease
from ugallu.api.meta import GROUP, Resource
from ugallu.api.observation import Finding
from ugallu.api.platform import TTLConfig, TTLConfigSpec, WORMConfig
from ugallu.operator.contract import Grant, Namespace, Operator, Parts, Placement, Service, Workload
from ugallu.operator.platform import Platform
from ugallu.operator.singletons import chosen
from ugallu.runtime.attestor.configs import ROOT_SECRET
from ugallu.runtime.ttl import reports, timekeeper
from ugallu.runtime.ttl.archive import Archive
from ugallu.runtime.ttl.chain import Chain
from ugallu.runtime.ttl.collect import Collect
from ugallu.runtime.ttl.desk import Desk, Safe
from ugallu.runtime.ttl.family import Families
from ugallu.runtime.ttl.marks import RESULT_OF, Bundle, Config, Event, Response
from ugallu.runtime.ttl.reports import Reports
from ugallu.runtime.ttl.timekeeper import Timekeeper
from ugallu.runtime.ttl.vault import Vault, vault
from ugallu.runtime.ttl.watchdog import LEASE, Watchdog
from ugallu.runtime.ttl.windows import windows

COLLECTED: Final[tuple[type[Resource], ...]] = (
    Event, Response, Bundle, *RESULT_OF, *(made for made in RESULT_OF.values() if made is not None),
)  # fmt: skip
"""Every kind that is collected; a SeccompTrainingProfile is a product, and never is."""


class Unconfigured:
    """A Service that says once that nobody configured how long anything is kept."""

    name = "config"

    def __init__(self, missing: Callable[[], bool], synced: Callable[[], Awaitable[None]], tell: Reports) -> None:
        self._missing = missing
        self._synced = synced
        self._tell = tell

    async def run(self) -> None:
        """Look once: when a config comes, the Parts are built anew."""
        await self._synced()
        if self._missing():
            await self._tell.config_missing()


class TTL(Operator[TTLConfigSpec]):
    """Archives what has had its time, deletes it then, and says on what stays why it does."""

    name = "ttl"
    config = TTLConfigSpec
    config_kind: ClassVar[type[Resource] | None] = TTLConfig
    emits = reports.EMITS
    placement: ClassVar[Placement] = Placement.ONE_LEADER
    workload: ClassVar[Workload] = Workload(memory="192Mi", secrets=(ROOT_SECRET, "ugallu-worm-credentials"))
    grants: ClassVar[tuple[Grant, ...]] = (
        Grant(
            GROUP,
            ("securityevents", "eventresponses", "attestationbundles"),
            ("get", "list", "watch", "patch", "delete"),
        ),
        Grant(GROUP, ("securityevents/status", "eventresponses/status", "attestationbundles/status"), ("patch",)),
        Grant(
            GROUP,
            tuple(kind.kind_info.plural for kind in COLLECTED if kind.kind_info.namespaced),
            ("get", "list", "watch", "patch", "delete"),
        ),
        Grant(
            Lease.kind_info.group,
            (Lease.kind_info.plural,),
            ("list", "watch"),
            names=(LEASE,),
            namespace=Namespace.SYSTEM.value,
        ),
        Grant(GROUP, (WORMConfig.kind_info.plural,), ("list", "watch"), namespace=Namespace.SYSTEM.value),
    )

    def build(self, config: TTLConfigSpec, platform: Platform) -> Parts:
        """Open the store and return a reconciler for each kind; raises `PermanentError` for windows that cannot be."""
        windows(config)
        return self.build_over(config, platform, vault(platform))

    def build_over(self, config: TTLConfigSpec, platform: Platform, found: Vault) -> Parts:
        """As `build`, over a store that is open."""
        chosen = windows(config)
        families = Families(platform.cache)
        clock = platform.clock
        trust = timekeeper.begin(platform.state, clock, timekeeper.boot_id())

        async def submit(finding: Finding) -> None:
            await platform.emitter.submit([finding])

        tell = Reports(submit, lambda: trust.now(clock.now(), clock.monotonic()), platform.identity.cluster_name)
        cluster_id = platform.identity.cluster_id
        chain = Chain(found.store, cluster_id, clock, platform.log, tell=tell.manifest, until=found.until)
        safe = Safe(found, Archive(found.store, found.until, clock), chain)
        desk = Desk(
            platform.cluster,
            families,
            chosen,
            trust,
            safe,
            cluster_id=cluster_id,
            clock=clock,
            metrics=platform.metrics,
            log=platform.log,
            tell=tell.overdue,
        )
        keeper = Timekeeper(
            trust,
            platform.state,
            platform.server,
            clock=clock,
            metrics=platform.metrics,
            log=platform.log,
            tell=tell.clock,
        )
        return Parts(
            reconcilers=[Collect(kind, desk) for kind in COLLECTED],
            services=[keeper, *self._watching(platform, families, desk, tell), chain, *found.services],
            ready=lambda: found.missing or keeper.doubt,
            close=found.close,
        )

    @staticmethod
    def _watching(platform: Platform, families: Families, desk: Desk, tell: Reports) -> list[Service]:
        async def submit(finding: Finding) -> None:
            await platform.emitter.submit([finding])

        namespace = platform.namespace
        leases = None
        services: list[Service] = []
        if not platform.cluster.embedded:
            leases = platform.cache.view(Lease, namespace=namespace, fields=f"metadata.name={LEASE}")
            configs = platform.cache.view(Config, namespace=namespace)
            services.append(Unconfigured(lambda: chosen(configs.items()) is None, configs.synced, tell))
        services.append(
            Watchdog(families, leases, now=desk.now, clock=platform.clock, metrics=platform.metrics, submit=submit)
        )
        return services
