"""The catalogue of metric names, and the door to prometheus_client. A name never changes silently: a test freezes it.

Hot loops count in plain integers and add them here once a batch.
"""

from collections.abc import Mapping
from typing import Final

import prometheus_client as prom
from prometheus_client.exposition import generate_latest

CONTENT_TYPE: Final = prom.exposition.CONTENT_TYPE_LATEST

_LATENCY = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)

CATALOGUE: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    # Each name maps to its kind, its meaning and its labels.
    "ugallu_emitter_emitted_total": ("counter", "Events created.", ("class", "type", "severity")),
    "ugallu_emitter_dropped_total": ("counter", "Findings that became no event, by reason.", ("reason",)),
    "ugallu_emitter_buffer_depth": ("gauge", "Findings in the outbox that are not yet events.", ()),
    "ugallu_emitter_enrich_latency_seconds": (
        "histogram",
        "Time to hydrate a clue.",
        ("enrich_via", "outcome"),
    ),
    "ugallu_emitter_emits_total": ("counter", "Creates by outcome.", ("class", "outcome")),
    "ugallu_emitter_emit_latency_seconds": ("histogram", "Finding submitted to event created.", ()),
    "ugallu_emitter_folded_total": ("counter", "Findings folded into an earlier event.", ("type",)),
    "ugallu_emitter_windows_closed_early_total": ("counter", "Folds closed because the table of them was full.", ()),
    "ugallu_emitter_backpressure_level": ("gauge", "1 for the level in force.", ("level",)),
    "ugallu_journal_bytes": ("gauge", "Size of the journal on disk.", ()),
    "ugallu_journal_appends_total": ("counter", "Atomic appends by outcome.", ("outcome",)),
    "ugallu_journal_lost_total": ("counter", "Unread records that retention removed.", ("reader",)),
    "ugallu_bus_dropped_total": (
        "counter",
        "Observations that a full ring dropped.",
        ("source", "subscriber"),
    ),
    "ugallu_audit_file_lines_total": ("counter", "Audit log lines parsed.", ()),
    "ugallu_audit_file_parse_errors_total": ("counter", "Audit log lines rejected.", ()),
    "ugallu_audit_webhook_requests_total": ("counter", "Requests to the audit webhook by outcome.", ("outcome",)),
    "ugallu_audit_webhook_events_total": ("counter", "Audit events that the webhook acknowledged.", ()),
    "ugallu_audit_webhook_parse_errors_total": ("counter", "Audit events by webhook that were rejected.", ()),
    "ugallu_audit_webhook_auth_failures_total": ("counter", "Requests without the right token.", ()),
    "ugallu_audit_webhook_backpressure_total": ("counter", "Requests refused for a full spool or a bad disk.", ()),
    "ugallu_audit_webhook_ack_seconds": ("histogram", "Body of a request read to acknowledged, fsync included.", ()),
    "ugallu_audit_webhook_spool_bytes": ("gauge", "Size of the webhook's spool on disk.", ()),
    "ugallu_audit_bus_subscribers": ("gauge", "Streams of a consumer of the event bus.", ("consumer",)),
    "ugallu_audit_bus_sent_total": ("counter", "Audit events sent to a consumer.", ("consumer",)),
    "ugallu_audit_bus_dropped_total": (
        "counter",
        "Audit events lost to a consumer, by reason.",
        ("consumer", "reason"),
    ),
    "ugallu_audit_bus_queue_depth": ("gauge", "Audit events that the slowest stream has not read.", ("consumer",)),
    "ugallu_audit_bus_auth_failures_total": ("counter", "Calls of the event bus without the right token.", ()),
    "ugallu_audit_bus_received_total": ("counter", "Audit events read from an event bus.", ("source",)),
    "ugallu_audit_bus_lost_total": (
        "counter",
        "Audit events that an event bus lost, by its word.",
        ("source",),
    ),
    "ugallu_audit_bus_connected": ("gauge", "1 while an event bus is read.", ("source",)),
    "ugallu_audit_duplicate_total": ("counter", "Audit events that had come before.", ()),
    "ugallu_audit_source_lag_bytes": ("gauge", "Bytes of audit log not yet read.", ("source",)),
    "ugallu_audit_source_lag_seconds": ("gauge", "How old the newest event was when it was read.", ("source",)),
    "ugallu_audit_last_event_timestamp_seconds": ("gauge", "Time of the newest audit event.", ("source",)),
    "ugallu_audit_events_total": ("counter", "Audit events that the rules saw, by audit level.", ("level",)),
    "ugallu_audit_truncated_total": ("counter", "Audit events whose bodies the API server cut.", ()),
    "ugallu_audit_rule_matches_total": ("counter", "Matches of a rule after its limiter.", ("rule",)),
    "ugallu_audit_rule_dropped_total": ("counter", "Matches that a rule's limiter dropped.", ("rule",)),
    "ugallu_audit_rule_passed_over_total": (
        "counter",
        "Heavy events that a slow rule was not shown while it was held back.",
        ("rule",),
    ),
    "ugallu_audit_rule_compile_errors_total": ("counter", "Rule versions that did not compile.", ("rule",)),
    "ugallu_audit_correlation_evicted_total": (
        "counter",
        "Groups of a correlation forgotten for want of room.",
        ("rule",),
    ),
    "ugallu_audit_correlation_groups": ("gauge", "Groups that a correlation keeps a window for.", ("rule",)),
    "ugallu_audit_correlation_late_total": ("counter", "Matches that came too late for a correlation.", ("rule",)),
    "ugallu_audit_rules": ("gauge", "Rules by state.", ("state",)),
    "ugallu_books_events": ("gauge", "Observations since the beginning, restarts included.", ("source", "account")),
    "ugallu_books_findings": ("gauge", "Findings since the beginning, by what became of them.", ("account",)),
    "ugallu_attestor_bundles_total": ("counter", "Bundles by outcome.", ("kind", "mode", "outcome")),
    "ugallu_attestor_stage_duration_seconds": ("histogram", "Duration of one stage.", ("stage",)),
    "ugallu_attestor_stage_failures_total": ("counter", "Failed tries of a stage.", ("stage", "reason")),
    "ugallu_attestor_pending_bundles": ("gauge", "Bundles not yet sealed.", ("phase",)),
    "ugallu_attestor_oldest_pending_seconds": ("gauge", "Age of the oldest bundle not yet sealed.", ()),
    "ugallu_attestor_reverified_total": ("counter", "Sealed bundles read back and verified again.", ("outcome",)),
    "ugallu_attestor_shared_events_total": ("counter", "Events sealed in statements that they share.", ()),
    "ugallu_attestor_backend_shut": (
        "gauge",
        "1 while a back end is not asked: it does nothing but fail.",
        ("backend",),
    ),
    "ugallu_attestor_cert_not_after_timestamp_seconds": ("gauge", "When the signer's certificate ends.", ()),
    "ugallu_attestor_rekor_requests_total": ("counter", "Requests to transparency logs.", ("api", "code")),
    "ugallu_attestor_signer_requests_total": ("counter", "Requests to Fulcio and OpenBao.", ("api", "code")),
    "ugallu_attestor_tsa_requests_total": ("counter", "Requests to the timestamp authority.", ("code",)),
    "ugallu_attestor_key_info": ("gauge", "1 for the key in use.", ("mode", "key_id")),
    "ugallu_worm_put_total": ("counter", "Blobs put into the evidence store.", ("class", "outcome")),
    "ugallu_worm_bytes_total": ("counter", "Bytes put into the evidence store.", ("class",)),
    "ugallu_ttl_archived_total": ("counter", "Objects copied into the evidence store.", ("kind", "severity")),
    "ugallu_ttl_deleted_total": ("counter", "Objects deleted after their copy was read back.", ("kind",)),
    "ugallu_ttl_postponed_total": ("counter", "Objects found past their time that stay.", ("kind", "reason")),
    "ugallu_ttl_failures_total": ("counter", "Steps that failed.", ("kind", "stage")),
    "ugallu_ttl_archive_duration_seconds": ("histogram", "Object read to copy read back.", ("kind",)),
    "ugallu_ttl_overdue": ("gauge", "Objects whose time is over and that are still there.", ("kind",)),
    "ugallu_ttl_clock_doubt_seconds": ("gauge", "By how much the clock is ahead of what can be.", ()),
    "ugallu_ttl_attestor_unavailable": ("gauge", "1 while the attestor does not do its work.", ()),
    "ugallu_backpressure_level": ("gauge", "0 green, 1 yellow, 2 red.", ()),
    "ugallu_backpressure_ratio": ("gauge", "Pressure by signal, 1 is full.", ("signal",)),
    "ugallu_backpressure_sample_errors_total": ("counter", "Samples that could not be taken.", ("signal",)),
    "ugallu_backpressure_transitions_total": ("counter", "Changes of the level.", ("from", "to")),
    "ugallu_operator_restarts_total": ("counter", "Restarts of a part that failed.", ("operator", "part")),
    "ugallu_operator_ready": ("gauge", "1 while the operator is ready.", ("operator",)),
    "ugallu_operator_leading": ("gauge", "1 while this process leads, 0 while it stands by.", ("operator",)),
    "ugallu_detector_errors_total": (
        "counter",
        "Observations a detector failed on.",
        ("operator", "detector"),
    ),
    "ugallu_reconcile_total": ("counter", "Reconciliations by outcome.", ("operator", "kind", "outcome")),
    "ugallu_cluster_requests_total": (
        "counter",
        "Requests to the API server, watches at their start.",
        ("verb", "outcome"),
    ),
    "ugallu_cache_objects": ("gauge", "Objects held by the informer cache.", ("kind",)),
    "ugallu_cache_bytes": ("gauge", "Memory of the objects held by the informer cache, from a sample.", ("kind",)),
    "ugallu_cache_unread_total": ("counter", "Objects and changes that did not decode.", ("kind",)),
    "ugallu_cache_relists_total": ("counter", "Lists after the first one, by cause.", ("kind", "cause")),
}


def read(exposition: str) -> list[tuple[str, dict[str, str], float]]:
    """Return name, labels and value of each sample of another process's exposition.

    Raises `ValueError` for what is no exposition.
    """
    from prometheus_client.parser import text_string_to_metric_families

    return [
        (sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
    ]


class Metrics:
    """The metrics of one process; every name must stand in the catalogue."""

    def __init__(self) -> None:
        self._registry = prom.CollectorRegistry()
        self._metrics: dict[str, prom.Counter | prom.Gauge | prom.Histogram] = {}
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], prom.Counter | prom.Gauge | prom.Histogram] = {}
        """By name and labels as they were given: the client takes ten times as long to find one."""

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        series = self._one(name, labels)
        assert isinstance(series, prom.Counter), name
        series.inc(amount)

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        series = self._one(name, labels)
        assert isinstance(series, prom.Gauge), name
        series.set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Add one value to a histogram."""
        series = self._one(name, labels)
        assert isinstance(series, prom.Histogram), name
        series.observe(seconds)

    def value(self, name: str, **labels: str) -> float:
        """Return the present value of a counter or gauge, 0 when it was never touched."""
        sample = name if CATALOGUE[name][0] == "gauge" else name.removesuffix("_total") + "_total"
        return self._registry.get_sample_value(sample, labels) or 0.0

    def render(self) -> bytes:
        """Return the exposition; tens of milliseconds at thousands of series, so call it in a thread."""
        return generate_latest(self._registry)

    def _one(self, name: str, labels: dict[str, str]) -> prom.Counter | prom.Gauge | prom.Histogram:
        key = (name, tuple(labels.items()))
        series = self._series.get(key)
        if series is None:
            metric = self._get(name)
            series = self._series[key] = metric.labels(**labels) if labels else metric
        return series

    def _get(self, name: str) -> prom.Counter | prom.Gauge | prom.Histogram:
        metric = self._metrics.get(name)
        if metric is None:
            kind, meaning, labels = CATALOGUE[name]
            if kind == "counter":
                metric = prom.Counter(name, meaning, labels, registry=self._registry)
            elif kind == "gauge":
                metric = prom.Gauge(name, meaning, labels, registry=self._registry)
            else:
                metric = prom.Histogram(name, meaning, labels, registry=self._registry, buckets=_LATENCY)
            self._metrics[name] = metric
        return metric
