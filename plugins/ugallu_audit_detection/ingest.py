"""`Ingest`: takes in audit events for others, who read them from NATS; what it took in outlives it."""

from ugallu.sdk import Config, Operator, Parts, PermanentError, Placement, Platform, Port, Workload, forwarded
from ugallu_audit_detection.redact import redacted, scrubbed


class Ingest(Operator[Config]):
    """Runs where an audit log is: as many as there are API servers, without a rule. Whoever detects runs elsewhere."""

    name = "ingest"
    config = Config
    placement = Placement.EVERY_REPLICA
    shipped = False
    """Which NATS there is no overlay of ours can know."""
    workload = Workload(
        ports=(Port("webhook", 8443, service=443),),
        secrets=("ugallu-audit-webhook-tls", "ugallu-audit-webhook-token", "ugallu-nats"),
        durable=True,
    )

    def build(self, config: Config, platform: Platform) -> Parts:  # noqa: ARG002 - it has none
        """Return the sources of this process's audit logs, made to write to NATS."""
        settings = platform.settings
        if not settings.bus.url:
            raise PermanentError("nowhere to write to", where=f"operator {self.name}", fix="give --bus tls://HOST:4222")
        return Parts(
            sources=forwarded(
                settings,
                redact=redacted,
                scrub=scrubbed,
                clock=platform.clock,
                metrics=platform.metrics,
                log=platform.log,
            )
        )
