"""The attestor: seals every security event, and keeps at it until the event says so."""

from typing import ClassVar

from ugallu import __version__
from ugallu.api.catalog import EventType
from ugallu.api.marks import BundleMark, EventMark, ResponseMark
from ugallu.api.meta import GROUP, Resource
from ugallu.api.platform import AttestorConfig, WORMConfig
from ugallu.cluster.port import Key
from ugallu.evidence.ports import PublicKey
from ugallu.evidence.statement import Attestor as Author
from ugallu.operator.contract import Grant, Operator, Parts, Placement, Workload
from ugallu.operator.platform import Platform
from ugallu.operator.rights import config_rights
from ugallu.runtime.attestor.alarms import EMITS, Alarms
from ugallu.runtime.attestor.books import Books
from ugallu.runtime.attestor.choose import choose
from ugallu.runtime.attestor.configs import FULCIO_VOLUME, SECRETS, Wanted
from ugallu.runtime.attestor.enqueue import MANAGED_BY, Enqueue, EnqueueResponses
from ugallu.runtime.attestor.keeper import Keeper
from ugallu.runtime.attestor.reseal import Reseal
from ugallu.runtime.attestor.share import Share, Turns
from ugallu.runtime.attestor.stages import Stages


class Attestor(Operator[Wanted]):
    """Event, or finished response, to AttestationBundle to evidence."""

    name = "attestor"
    config = Wanted
    config_kind: ClassVar[type[Resource] | None] = AttestorConfig
    emits: ClassVar[tuple[EventType, ...]] = EMITS
    placement: ClassVar[Placement] = Placement.ONE_LEADER
    workload: ClassVar[Workload] = Workload(memory="256Mi", durable=True, secrets=SECRETS, tokens=(FULCIO_VOLUME,))
    grants: ClassVar[tuple[Grant, ...]] = (
        Grant(GROUP, ("securityevents",), ("get", "list", "watch")),
        Grant(GROUP, ("securityevents/status",), ("patch",)),
        Grant(GROUP, ("eventresponses",), ("get", "list", "watch")),
        Grant(GROUP, ("attestationbundles",), ("get", "list", "watch", "create")),
        Grant(GROUP, ("attestationbundles/status",), ("patch",)),
        *config_rights(WORMConfig),
    )

    def build(self, config: Wanted, platform: Platform) -> Parts:
        """Open key, log and store, and return the reconcilers."""
        ports = choose(platform, config)
        events = platform.cache.view(EventMark)
        responses = platform.cache.view(ResponseMark)
        bundles = platform.cache.view(BundleMark)
        author = Author(MANAGED_BY, __version__, platform.settings.instance)
        books = Books(events, responses, bundles, platform.clock, platform.metrics)
        for who in ports.signers:
            name = who.key_id if isinstance(who, PublicKey) else who.name
            platform.metrics.gauge("ugallu_attestor_key_info", 1.0, mode=ports.mode, key_id=name)

        turns = platform.shared.take("attestor turns", Turns, lambda _: None)

        def close() -> None:
            books.close()
            ports.close()
            turns.give_back()

        enqueue = Enqueue(ports, platform.cluster, events, bundles)
        enqueue_responses = EnqueueResponses(platform.cluster, responses, bundles, platform.identity.cluster_id)

        async def again(key: Key) -> None:
            await enqueue.again(key)
            await enqueue_responses.again(key)

        alarms = Alarms(lambda finding: platform.emitter.submit([finding]), platform.clock)
        stages = Stages(ports, lambda: books.checkpoints(platform.cluster), platform.clock, platform.metrics)
        reseal = Reseal(
            stages,
            platform.cluster,
            events,
            attestor=author,
            again=again,
            alarm=alarms.failed,
            under_way=turns.value.alone,
            clock=platform.clock,
            metrics=platform.metrics,
        )
        stages.leads = platform.leads
        share = reseal.share = Share(
            stages,
            reseal,
            platform.cluster,
            turns.value,
            attestor=author,
            again=again,
            clock=platform.clock,
            metrics=platform.metrics,
            log=platform.log,
        )
        keeper = Keeper(
            ports,
            platform.cluster,
            bundles,
            alarms,
            doubt=reseal.doubt,
            clock=platform.clock,
            metrics=platform.metrics,
            log=platform.log,
        )
        return Parts(
            reconcilers=(enqueue, reseal, enqueue_responses),
            services=(books, share, keeper, *ports.services),
            ready=ports.ready,
            idle=lambda: books.settled,
            close=close,
        )
