"""`AuditDetection`: rules over the Kubernetes audit log, as an operator."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ugallu.sdk import (
    CATALOGUE,
    AuditDetectionConfig,
    AuditDetectionConfigSpec,
    Detector,
    EventBus,
    Grant,
    Operator,
    Parts,
    PermanentError,
    Placement,
    Platform,
    Port,
    Resource,
    Service,
    SilentBridge,
    Workload,
    hours,
    utc_seconds,
)
from ugallu_audit_detection import bus
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.inventory import Inventory
from ugallu_audit_detection.lastgood import LastGood
from ugallu_audit_detection.ledger import CLOSED, Ledger
from ugallu_audit_detection.pulse import Watch
from ugallu_audit_detection.redact import redacted, scrubbed
from ugallu_audit_detection.replicas import Replicas
from ugallu_audit_detection.rules import Rules
from ugallu_audit_detection.sigma.questions import BINDINGS, RBAC, ROLES

_GROUP = "security.ugallu.io"


class AuditDetection(Operator[AuditDetectionConfigSpec]):
    """Evaluates SigmaRules on every audit event. The audit source itself is shared and not its own."""

    name = "audit-detection"
    config = AuditDetectionConfigSpec
    config_kind = AuditDetectionConfig
    emits = (*CATALOGUE.values(), CLOSED)
    """A rule may name any type of the catalogue."""
    grants = (
        Grant(_GROUP, ("sigmarules",), ("get", "list", "watch")),
        Grant(_GROUP, ("sigmarules/status",), ("patch",)),
        Grant(_GROUP, ("auditdetectionconfigs",), ("get",), names=(bus.NAME,)),
        # For rules that ask which Pod is entered and which rights are behind it; watched from the first such rule on.
        Grant("", ("pods",), ("list", "watch")),
        Grant(RBAC, (*ROLES, *BINDINGS), ("list", "watch")),
    )
    placement = Placement.EVERY_REPLICA
    workload = Workload(
        ports=(Port("webhook", 8443, service=443), Port("bus", 8444, service=8444, headless=True)),
        secrets=(
            "ugallu-audit-webhook-tls",
            "ugallu-audit-webhook-token",
            "ugallu-audit-bus-tls",
            "ugallu-audit-bus-token",
            "ugallu-audit-bus-client-ca",
        ),
        memory="256Mi",
        durable=True,
    )

    def __init__(self) -> None:
        self._bus: EventBus | None = None
        self._state = bus.State()

    def build(self, config: AuditDetectionConfigSpec, platform: Platform) -> Parts:
        """Return engine, rule reconciler, the event bus if it is asked for, and the watch over a live stream."""
        try:
            bus.check(config)
        except PermanentError as error:
            self._state.invalid = str(error)
            raise
        self._state.invalid, self._state.loaded_at = "", utc_seconds(platform.clock.now())
        engine = Engine(platform.metrics, holding=platform.settings.audit.follow)
        audit = platform.settings.audit
        # A replay knows what its log says and nothing else, else the same log would not give the same events.
        inventory = Inventory(platform.cache) if audit.follow and not platform.cluster.embedded else None
        rules = Rules(
            engine,
            cluster=platform.cluster,
            clock=platform.clock,
            metrics=platform.metrics,
            last_good=LastGood(platform.state / "rules"),
            instance=platform.settings.instance,
            inventory=inventory,
        )
        services: list[Service] = [rules, *([inventory] if inventory is not None else [])]
        fed = audit.files or audit.webhook.listen or audit.bus.addresses or platform.settings.bus.url
        if audit.follow and fed:
            # What one log says no other one does; what a webhook is sent goes to any of its replicas.
            shared = not audit.files and not platform.cluster.embedded
            services.append(
                Watch(
                    engine.pulse,
                    emitter=platform.emitter,
                    clock=platform.clock,
                    identity=platform.identity,
                    replicas=Replicas(platform.cluster, platform.clock) if shared else None,
                )
            )
        if audit.follow:
            services.append(
                Ledger(
                    platform.state / hours.FILE,
                    platform.accounts,
                    emitter=platform.emitter,
                    clock=platform.clock,
                    metrics=platform.metrics,
                    identity=platform.identity,
                    instance=platform.settings.instance,
                )
            )
        served = self._served(config, platform)
        detectors: list[Detector[Any]] = [engine]
        if served is not None:
            detectors.insert(0, bus.Feeder(served))
            services += [bus.Serving(served, config), bus.Losses(served, platform.emitter, platform.clock)]
        if audit.follow:
            services.append(bus.Status(served, self._state, platform.cluster, platform.clock))
        if audit.bus.addresses:
            detectors.append(SilentBridge(platform.identity))
        return Parts(detectors=detectors, reconcilers=[rules], services=services, ready=rules.ready)

    def _served(self, config: AuditDetectionConfigSpec, platform: Platform) -> EventBus | None:
        """Return the bus: the same one as long as it is asked for, whatever else changes."""
        if config.event_bus is None or not config.event_bus.enabled:
            self._bus = None
        elif self._bus is None:
            self._bus = EventBus(
                redacted,
                scrubbed,
                secrets=Path(platform.settings.secrets),
                clock=platform.clock,
                metrics=platform.metrics,
                log=platform.log,
            )
        return self._bus

    def resources(self, paths: Sequence[Path]) -> Sequence[Resource]:
        """Return the SigmaRules in these files; the path `pack` alone names the default ones."""
        from ugallu_audit_detection import pack
        from ugallu_audit_detection.files import objects

        files = [path for path in paths if not pack.is_meant(path)]
        return [*(pack.rules() if len(files) < len(paths) else ()), *(objects(files) if files else ())]

    @classmethod
    def packs(cls) -> Mapping[str, Sequence[Resource]]:
        """Return the default rules."""
        from ugallu_audit_detection import pack

        return {"rule-pack": list(pack.rules())}

    @classmethod
    def pages(cls) -> Mapping[str, str]:
        """Return the page of the default rules."""
        from ugallu_audit_detection.pack.page import page

        return {"rules/pack.md": page()}
