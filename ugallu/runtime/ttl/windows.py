"""How long each kind is kept: a TTLConfig as seconds. Pure."""

from typing import Final

import msgspec

from ugallu.api.catalog import Severity
from ugallu.api.duration import seconds_of
from ugallu.api.platform import EventResponseTTLStrategy, PostponeConfig, ResultTTL, TTLConfigSpec, WorkerConfig
from ugallu.errors import PermanentError

MOST_WORKERS: Final = 64


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds; None keeps for ever."""

    events: dict[Severity, float]
    responses: float | None
    """None: as long as the event that is answered."""
    grace: float
    """How long a bundle outlives what it attests."""
    runs: dict[str, float | None]
    """By the kind of the run; its result goes with it."""
    first_delay: float
    longest_delay: float
    patience: int
    """Tries in vain after which somebody is told."""
    snapshots: bool
    dry_run: bool
    workers: int
    rate: float
    """Objects a second, 0 for as fast as it goes."""

    def event(self, severity: Severity | None) -> float:
        """Return the window of an event; one whose severity nobody knows counts as the one that is kept longest."""
        return max(self.events.values()) if severity is None else self.events[severity]

    def delay(self, attempts: int) -> float:
        """Return how long to wait after so many tries in vain."""
        return min(self.longest_delay, self.first_delay * 2.0 ** min(max(attempts, 1) - 1, 32))


def windows(config: TTLConfigSpec) -> Windows:
    """Read a config; raises `PermanentError` that names what cannot be meant."""
    kept, results = config.defaults, config.defaults.results or ResultTTL()
    by_severity = kept.security_event
    postpone, worker = config.postpone or PostponeConfig(), config.worker or WorkerConfig()
    responses = None
    if kept.event_response.strategy is EventResponseTTLStrategy.CONSTANT:
        if not kept.event_response.constant:
            raise PermanentError("empty", where="TTLConfig spec.defaults.eventResponse.constant", fix="such as 72h")
        responses = _window(kept.event_response, "constant")
    if not 1 <= worker.pool_size <= MOST_WORKERS:
        raise PermanentError(
            f"{worker.pool_size} workers", where="TTLConfig spec.worker.poolSize", fix=f"1 to {MOST_WORKERS}"
        )
    if postpone.max_attempts < 1:
        raise PermanentError("no attempt at all", where="TTLConfig spec.postpone.maxAttempts", fix="1 or more")
    first, longest = _window(postpone, "initial_delay"), _window(postpone, "max_delay")
    if not 1.0 <= first <= longest:
        raise PermanentError("must be from 1s to maxDelay", where="TTLConfig spec.postpone.initialDelay")
    return Windows(
        events={severity: _window(by_severity, severity.value) for severity in Severity},
        responses=responses,
        grace=_window(kept.attestation_bundle, "grace"),
        runs={
            "BackupVerifyRun": _window(results, "backup_verify") or None,
            "ComplianceScanRun": _window(results, "compliance_scan") or None,
            "ConfidentialAttestationRun": _window(results, "confidential_attestation") or None,
            "SeccompTrainingRun": _window(results, "seccomp_training") or None,
        },
        first_delay=first,
        longest_delay=longest,
        patience=postpone.max_attempts,
        snapshots=config.archive_snapshot_enabled,
        dry_run=config.dry_run,
        workers=worker.pool_size,
        rate=_rate(worker),
    )


def _window(given: msgspec.Struct, name: str) -> float:
    """Return the seconds of a field; an empty one means its default, never that nothing is kept at all."""
    default = {field.name: field.default for field in msgspec.structs.fields(given)}[name]
    return seconds_of(getattr(given, name) or default)


def _rate(worker: WorkerConfig) -> float:
    if worker.queue_rate_limit is None:
        return 0.0
    from ugallu.api.quantity import amount_of

    return float(amount_of(worker.queue_rate_limit, where="TTLConfig spec.worker.queueRateLimit"))
