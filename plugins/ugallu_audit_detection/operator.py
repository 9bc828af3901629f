"""`AuditDetection`: rules over the Kubernetes audit log, as an operator."""

from collections.abc import Sequence
from pathlib import Path

from ugallu.sdk import (
    CATALOGUE,
    AuditDetectionConfig,
    AuditDetectionConfigSpec,
    Grant,
    Operator,
    Parts,
    PermanentError,
    Placement,
    Platform,
    Port,
    Resource,
    Service,
    Workload,
)
from ugallu_audit_detection.engine import Engine
from ugallu_audit_detection.lastgood import LastGood
from ugallu_audit_detection.pulse import Watch
from ugallu_audit_detection.rules import Rules

_GROUP = "security.ugallu.io"


class AuditDetection(Operator[AuditDetectionConfigSpec]):
    """Evaluates SigmaRules on every audit event. The audit source itself is shared and not its own."""

    name = "audit-detection"
    config = AuditDetectionConfigSpec
    config_kind = AuditDetectionConfig
    emits = tuple(CATALOGUE.values())
    """A rule may name any type of the catalogue."""
    grants = (
        Grant(_GROUP, ("sigmarules",), ("get", "list", "watch")),
        Grant(_GROUP, ("sigmarules/status",), ("patch",)),
    )
    placement = Placement.EVERY_REPLICA
    workload = Workload(
        ports=(Port("webhook", 8443, service=443),),
        secrets=("ugallu-audit-webhook-tls", "ugallu-audit-webhook-token"),
        memory="256Mi",
        durable=True,
    )

    def build(self, config: AuditDetectionConfigSpec, platform: Platform) -> Parts:
        """Return engine, rule reconciler, and where a live stream is followed the watch over it."""
        _check(config)
        engine = Engine(platform.metrics)
        rules = Rules(
            engine,
            cluster=platform.cluster,
            clock=platform.clock,
            metrics=platform.metrics,
            last_good=LastGood(platform.state / "rules"),
            instance=platform.settings.instance,
        )
        services: list[Service] = [rules]
        audit = platform.settings.audit
        if audit.follow and (audit.files or audit.webhook.listen):
            services.append(
                Watch(engine.pulse, emitter=platform.emitter, clock=platform.clock, identity=platform.identity)
            )
        bus = config.event_bus is not None and config.event_bus.enabled

        def ready() -> str:
            return "eventBus.enabled: this release has no event bus" if bus else rules.ready()

        return Parts(detectors=[engine], reconcilers=[rules], services=services, ready=ready)

    def resources(self, paths: Sequence[Path]) -> Sequence[Resource]:
        """Return the SigmaRules in these files."""
        from ugallu_audit_detection.files import objects

        return objects(paths)


def _check(config: AuditDetectionConfigSpec) -> None:
    names = [consumer.name for consumer in config.consumers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise PermanentError(
            f"the consumer {twice[0]!r} stands twice" if twice else "a consumer without a name",
            where=f"AuditDetectionConfig/default: spec.consumers[{names.index(twice[0] if twice else '')}].name",
            fix="give each consumer a name of its own",
        )
