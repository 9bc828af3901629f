"""The backpressure operator: one controller, one ConfigMap."""

from typing import ClassVar

from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.meta import GROUP, Config
from ugallu.api.observation import Finding
from ugallu.emit.pressure import NAME
from ugallu.operator.contract import Grant, Namespace, Operator, Parts, Placement, Workload
from ugallu.operator.platform import Platform
from ugallu.runtime.backpressure.controller import HIGH, Controller
from ugallu.runtime.backpressure.level import Thresholds
from ugallu.runtime.backpressure.sampler import METRICS, FileSampler, Sampler, ServerSampler, backlog


class Backpressure(Operator[Config]):
    """Says to every emitter how hard the cluster's store is pressed."""

    name = "backpressure"
    config = Config
    emits = (HIGH,)
    placement: ClassVar[Placement] = Placement.ONE_LEADER
    workload: ClassVar[Workload] = Workload(config_maps=(NAME,))
    grants: ClassVar[tuple[Grant, ...]] = (
        Grant("", (), ("get",), urls=(METRICS,)),
        # The ConfigMap is shipped, empty: RBAC cannot limit `create` to a name.
        Grant("", ("configmaps",), ("get", "patch"), names=(NAME,), namespace=Namespace.SYSTEM.value),
        Grant(GROUP, ("attestationbundles",), ("list", "watch")),
    )

    def build(self, config: Config, platform: Platform) -> Parts:  # noqa: ARG002 - its settings are the process's
        """Return the controller; raises `PermanentError` for thresholds that make no sense."""
        settings = platform.settings.backpressure
        thresholds = Thresholds(
            yellow_at=settings.yellow_at,
            red_at=settings.red_at,
            recover_at=settings.recover_at,
            red_exit=settings.red_at - 0.05,
        )
        sampler: Sampler
        if platform.server is not None:
            sampler = ServerSampler(platform.server, settings, platform.clock)
        else:
            sampler = FileSampler(platform.state, platform.cache.view(EventMark), settings)

        async def submit(finding: Finding) -> None:
            await platform.emitter.submit([finding])

        controller = Controller(
            platform.cluster,
            sampler,
            backlog(platform.cache.view(BundleMark), platform.clock, thresholds.red_at),
            thresholds,
            namespace=Namespace.SYSTEM.value,
            poll=settings.poll_seconds,
            clock=platform.clock,
            metrics=platform.metrics,
            log=platform.log,
            submit=submit,
        )
        return Parts(services=[controller], ready=lambda: controller.trouble)
