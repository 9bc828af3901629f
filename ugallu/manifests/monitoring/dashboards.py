"""Grafana dashboards as data: is the product well and what does it find, is the audit stream whole, what is lost. Pure.

The format is Grafana's dashboard JSON (schemaVersion 39, Grafana 10 and later).
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

WIDTH: Final = 24
SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """One line of a panel."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel: `stat` shows the latest value, `timeseries` its course, `row` heads what follows."""

    title: str
    queries: tuple[Query, ...] = ()
    about: str = ""
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 12
    height: int = 8
    stacked: bool = False
    red_from: float | None = None
    """For a stat: the value from which it is red."""
    green_from: float | None = None
    """For a stat: the value from which it is green, and red below."""


class Dashboard(NamedTuple):
    """One dashboard."""

    uid: str
    title: str
    about: str
    panels: tuple[Panel, ...]


def _row(title: str) -> Panel:
    return Panel(title, kind="row", width=WIDTH, height=1)


def _stat(title: str, expr: str, about: str, **more: Any) -> Panel:  # noqa: ANN401 - the fields of a panel
    return Panel(title, (Query(expr),), about, kind="stat", width=4, height=4, **more)


OVERVIEW: Final = Dashboard(
    "ugallu-overview",
    "ugallu / Overview",
    "What is found, whether it is sealed, and whether anything is lost on the way.",
    (
        _stat("Operators not ready", "count(ugallu_operator_ready == 0) or vector(0)", "By process.", red_from=1),
        _stat(
            "Nobody leads",
            "count(max by (operator) (ugallu_operator_leading) == 0) or vector(0)",
            "Operators of one leader that have none.",
            red_from=1,
        ),
        _stat("Events in 24 h", "sum(increase(ugallu_emitter_emitted_total[24h]))", "Created as objects."),
        _stat(
            "Critical in 24 h",
            'sum(increase(ugallu_emitter_emitted_total{severity="critical"}[24h])) or vector(0)',
            "Events of severity critical.",
            red_from=1,
        ),
        _stat(
            "Not sealed",
            "sum(ugallu_attestor_pending_bundles) or vector(0)",
            "Bundles on their way, failed ones included.",
            red_from=500,
        ),
        _stat(
            "Dropped in 24 h",
            "sum(increase(ugallu_emitter_dropped_total[24h])) or vector(0)",
            "Findings that became no event. Each is counted and reported.",
            red_from=1,
        ),
        _row("Found"),
        Panel(
            "Events by severity",
            (Query("sum by (severity) (rate(ugallu_emitter_emitted_total[$__rate_interval]))", "{{severity}}"),),
            "SecurityEvents created a second.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Events by type",
            (Query("topk(10, sum by (type) (increase(ugallu_emitter_emitted_total[1h])))", "{{type}}"),),
            "The ten types with most events within an hour.",
            stacked=True,
        ),
        _row("The books: findings = events + folded + dropped + waiting"),
        Panel(
            "What became of findings",
            (
                Query("sum(rate(ugallu_emitter_emitted_total[$__rate_interval]))", "events"),
                Query("sum(rate(ugallu_emitter_folded_total[$__rate_interval]))", "folded"),
                Query("sum by (reason) (rate(ugallu_emitter_dropped_total[$__rate_interval]))", "dropped: {{reason}}"),
            ),
            "Folded ones are counted in an earlier event.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Waiting",
            (Query("sum by (pod) (ugallu_emitter_buffer_depth)", "outbox {{pod}}"),),
            "Durable findings that are not yet events.",
        ),
        Panel(
            "From finding to event",
            (
                Query(
                    "histogram_quantile(0.5, sum by (le) "
                    "(rate(ugallu_emitter_emit_latency_seconds_bucket[$__rate_interval])))",
                    "p50",
                ),
                Query(
                    "histogram_quantile(0.99, sum by (le) "
                    "(rate(ugallu_emitter_emit_latency_seconds_bucket[$__rate_interval])))",
                    "p99",
                ),
            ),
            "Time in the outbox.",
            unit="s",
        ),
        Panel(
            "Journal",
            (Query("sum by (pod) (ugallu_journal_bytes)", "{{pod}}"),),
            "Read history stays for a day within its size, so a full journal is no fault by itself.",
            unit="bytes",
        ),
        _row("Evidence"),
        Panel(
            "Bundles",
            (
                Query(
                    "sum by (outcome) (rate(ugallu_attestor_bundles_total[$__rate_interval]))",
                    "{{outcome}}",
                ),
            ),
            "Bundles sealed and failed a second.",
            unit="ops",
        ),
        Panel(
            "Not sealed, by phase",
            (Query("sum by (phase) (ugallu_attestor_pending_bundles)", "{{phase}}"),),
            "Where bundles stand.",
            stacked=True,
        ),
        Panel(
            "Duration of a stage, p90",
            (
                Query(
                    "histogram_quantile(0.9, sum by (stage, le) "
                    "(rate(ugallu_attestor_stage_duration_seconds_bucket[$__rate_interval])))",
                    "{{stage}}",
                ),
            ),
            "What makes sealing slow.",
            unit="s",
        ),
        Panel(
            "Failed tries of a stage",
            (
                Query(
                    "sum by (stage, reason) (rate(ugallu_attestor_stage_failures_total[$__rate_interval]))",
                    "{{stage}}: {{reason}}",
                ),
            ),
            "They are tried again.",
            unit="ops",
        ),
        Panel(
            "Oldest bundle that is not sealed",
            (Query("max(ugallu_attestor_oldest_pending_seconds)", "age"),),
            "Until then what an event says can be changed without a trace.",
            unit="s",
        ),
        Panel(
            "Archived",
            (Query("sum by (class) (rate(ugallu_worm_bytes_total[$__rate_interval]))", "{{class}}"),),
            "Bytes put into the evidence store a second.",
            unit="Bps",
        ),
        _row("Operators"),
        Panel(
            "Ready",
            (Query("min by (operator, pod) (ugallu_operator_ready)", "{{operator}} {{pod}}"),),
            "1 while ready; a replica that stands by is.",
        ),
        Panel(
            "Leading",
            (Query("max by (operator, pod) (ugallu_operator_leading)", "{{operator}} {{pod}}"),),
            "1 for the replica that leads.",
        ),
        Panel(
            "Restarts of parts in an hour",
            (Query("sum by (operator, part) (increase(ugallu_operator_restarts_total[1h]))", "{{operator}} {{part}}"),),
            "Sources, services and reconcilers that failed and were started again.",
        ),
        Panel(
            "Reconciliations",
            (
                Query(
                    "sum by (operator, kind, outcome) (rate(ugallu_reconcile_total[$__rate_interval]))",
                    "{{operator}} {{kind}} {{outcome}}",
                ),
            ),
            "Work on objects a second.",
            unit="ops",
        ),
        _row("The API server and the cache"),
        Panel(
            "Requests",
            (
                Query(
                    "sum by (verb, outcome) (rate(ugallu_cluster_requests_total[$__rate_interval]))",
                    "{{verb}} {{outcome}}",
                ),
            ),
            "Requests to the API server a second.",
            unit="ops",
        ),
        Panel(
            "Objects cached",
            (Query("sum by (kind) (ugallu_cache_objects)", "{{kind}}"),),
            "Held by all processes together.",
        ),
        Panel(
            "Memory of the cache",
            (Query("sum by (pod, kind) (ugallu_cache_bytes)", "{{pod}} {{kind}}"),),
            "An estimate from a sample.",
            unit="bytes",
            stacked=True,
        ),
        Panel(
            "Lists after the first, in an hour",
            (Query("sum by (kind, cause) (increase(ugallu_cache_relists_total[1h]))", "{{kind}}: {{cause}}"),),
            "Each brings a whole kind again.",
        ),
    ),
)

AUDIT: Final = Dashboard(
    "ugallu-audit-detection",
    "ugallu / Audit detection",
    "Whether every API server's audit log arrives whole and in time, and what the rules make of it.",
    (
        _stat(
            "Newest event",
            "time() - max(ugallu_audit_last_event_timestamp_seconds)",
            "How long ago. API servers are never silent.",
            unit="s",
            red_from=300,
        ),
        _stat(
            "Unread",
            "sum(ugallu_audit_source_lag_bytes) or vector(0)",
            "Bytes of audit log.",
            unit="bytes",
            red_from=67108864,
        ),
        _stat(
            "Rules serving",
            'max(ugallu_audit_rules{state="serving"})',
            "Each replica serves the same ones.",
            green_from=1,
        ),
        _stat(
            "Rules at fault",
            'max(ugallu_audit_rules{state=~"broken|last-good"}) or vector(0)',
            "They do not compile, or fail their own tests.",
            red_from=1,
        ),
        _stat(
            "Lines rejected in 24 h",
            "sum(increase(ugallu_audit_file_parse_errors_total[24h])) or vector(0)",
            "They are no audit events.",
            red_from=1,
        ),
        _stat(
            "Detector errors in 24 h",
            "sum(increase(ugallu_detector_errors_total[24h])) or vector(0)",
            "Observations that a detector could not judge.",
            red_from=1,
        ),
        _row("The stream"),
        Panel(
            "Events by level",
            (Query("sum by (level) (rate(ugallu_audit_events_total[$__rate_interval]))", "{{level}}"),),
            "At level Metadata rules cannot look into objects.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Age of the newest event",
            (Query("time() - max by (source, pod) (ugallu_audit_last_event_timestamp_seconds)", "{{source}} {{pod}}"),),
            "By source.",
            unit="s",
        ),
        Panel(
            "Unread bytes",
            (Query("sum by (source, pod) (ugallu_audit_source_lag_bytes)", "{{source}} {{pod}}"),),
            "How far behind the file's end.",
            unit="bytes",
        ),
        Panel(
            "Lines",
            (
                Query("sum(rate(ugallu_audit_file_lines_total[$__rate_interval]))", "parsed"),
                Query("sum(rate(ugallu_audit_file_parse_errors_total[$__rate_interval]))", "rejected"),
            ),
            "Of audit log files.",
            unit="ops",
        ),
        Panel(
            "Events without their bodies",
            (Query("sum(rate(ugallu_audit_truncated_total[$__rate_interval]))", "truncated"),),
            "The API server cut them.",
            unit="ops",
        ),
        Panel(
            "Observations dropped",
            (Query("sum by (source, subscriber) (rate(ugallu_bus_dropped_total[$__rate_interval]))", "{{source}}"),),
            "Only where a source cannot be rewound.",
            unit="ops",
        ),
        _row("The rules"),
        Panel(
            "Matches",
            (Query("topk(10, sum by (rule) (increase(ugallu_audit_rule_matches_total[1h])))", "{{rule}}"),),
            "The ten rules with most matches within an hour, after their limiter.",
            stacked=True,
        ),
        Panel(
            "Dropped by limiters",
            (Query("topk(10, sum by (rule) (increase(ugallu_audit_rule_dropped_total[1h])))", "{{rule}}"),),
            "Matches beyond what a rule may report.",
            stacked=True,
        ),
        Panel(
            "Rules by state",
            (Query("max by (state) (ugallu_audit_rules)", "{{state}}"),),
            "last-good: the version before serves on.",
            stacked=True,
        ),
        Panel(
            "Versions that did not compile, in an hour",
            (Query("sum by (rule) (increase(ugallu_audit_rule_compile_errors_total[1h]))", "{{rule}}"),),
            "The rule's condition Compiled says why.",
        ),
        Panel(
            "Groups of correlations",
            (Query("topk(10, max by (rule) (ugallu_audit_correlation_groups))", "{{rule}}"),),
            "Each has a window of its own.",
        ),
        Panel(
            "What correlations and slow rules miss, in an hour",
            (
                Query(
                    "sum by (rule) (increase(ugallu_audit_correlation_evicted_total[1h])) > 0",
                    "{{rule}}: groups forgotten",
                ),
                Query("sum by (rule) (increase(ugallu_audit_correlation_late_total[1h])) > 0", "{{rule}}: too late"),
                Query("sum by (rule) (increase(ugallu_audit_rule_passed_over_total[1h])) > 0", "{{rule}}: held back"),
            ),
            "For want of room, for lateness, and while a rule was too slow.",
        ),
    ),
)

BOOKS: Final = Dashboard(
    "ugallu-audit-books",
    "ugallu / Books and event bus",
    "Whether every audit event is accounted for, what API servers are told, and what consumers of the event bus miss.",
    (
        _stat(
            "Received in 24 h",
            'sum(delta(ugallu_books_events{account="received"}[24h])) or vector(0)',
            "Audit events, by the loss ledger.",
        ),
        _stat(
            "Not accounted for",
            'abs(sum(ugallu_books_events{account="received"}) '
            '- sum(ugallu_books_events{account=~"parsed|rejected|duplicate"})) or vector(0)',
            "Received events that are neither parsed nor rejected nor duplicates.",
            red_from=1,
        ),
        _stat(
            "Lost",
            'sum(ugallu_books_findings{account=~"lost[.].+"}) or vector(0)',
            "Observations that never reached a detector, since the beginning.",
            red_from=1,
        ),
        _stat(
            "Refused with 503 in 24 h",
            "sum(increase(ugallu_audit_webhook_backpressure_total[24h])) or vector(0)",
            "Requests of API servers, which try again: the spool is full, or the disk.",
            red_from=1,
        ),
        _stat(
            "Lost to consumers in 24 h",
            "sum(increase(ugallu_audit_bus_dropped_total[24h])) or vector(0)",
            "Events that the bus could not bring to somebody who asked for them.",
            red_from=1,
        ),
        _stat(
            "Buses not read",
            "count(max by (source) (ugallu_audit_bus_connected) == 0) or vector(0)",
            "By the readers' word.",
            red_from=1,
        ),
        _row(
            "The loss ledger: received = parsed + rejected + duplicate; matched = emitted + folded + dropped + pending"
        ),
        Panel(
            "Events by source",
            (
                Query(
                    'sum by (source, account) (deriv(ugallu_books_events{account!="received"}[5m]))',
                    "{{source}}: {{account}}",
                ),
            ),
            "What became of received events, a second.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Findings",
            (
                Query(
                    'sum by (account) (deriv(ugallu_books_findings{account!~"matched|pending|summaries"}[5m]))',
                    "{{account}}",
                ),
            ),
            "What became of matches, a second.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Not accounted for",
            (
                Query(
                    'sum by (source) (ugallu_books_events{account="received"}) '
                    '- sum by (source) (ugallu_books_events{account=~"parsed|rejected|duplicate"})',
                    "{{source}}",
                ),
                Query(
                    'sum(ugallu_books_findings{account="matched"}) '
                    '- sum(ugallu_books_findings{account=~"emitted|folded|pending|dropped[.].+"})',
                    "findings",
                ),
            ),
            "The books close where this is 0.",
        ),
        Panel(
            "Lost and dropped",
            (Query('sum by (account) (ugallu_books_findings{account=~"(lost|dropped)[.].+"})', "{{account}}"),),
            "By reason, since the beginning.",
        ),
        _row("The audit webhook"),
        Panel(
            "Requests",
            (Query("sum by (outcome) (rate(ugallu_audit_webhook_requests_total[$__rate_interval]))", "{{outcome}}"),),
            "By what the API server was told, a second.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Acknowledged after",
            (
                Query(
                    "histogram_quantile(0.5, sum by (le) "
                    "(rate(ugallu_audit_webhook_ack_seconds_bucket[$__rate_interval])))",
                    "p50",
                ),
                Query(
                    "histogram_quantile(0.99, sum by (le) "
                    "(rate(ugallu_audit_webhook_ack_seconds_bucket[$__rate_interval])))",
                    "p99",
                ),
            ),
            "From a body that is read to 200, fsync included.",
            unit="s",
        ),
        Panel(
            "Spool",
            (Query("sum by (pod) (ugallu_audit_webhook_spool_bytes)", "{{pod}}"),),
            "Acknowledged and not yet let go of.",
            unit="bytes",
        ),
        Panel(
            "Events",
            (
                Query("sum(rate(ugallu_audit_webhook_events_total[$__rate_interval]))", "acknowledged"),
                Query("sum(rate(ugallu_audit_webhook_parse_errors_total[$__rate_interval]))", "rejected"),
                Query("sum(rate(ugallu_audit_duplicate_total[$__rate_interval]))", "had come before"),
            ),
            "A second.",
            unit="ops",
        ),
        _row("The event bus: who serves"),
        Panel(
            "Sent",
            (Query("sum by (consumer) (rate(ugallu_audit_bus_sent_total[$__rate_interval]))", "{{consumer}}"),),
            "Events to each consumer, a second.",
            unit="ops",
        ),
        Panel(
            "Lost, by consumer",
            (
                Query(
                    "sum by (consumer, reason) (rate(ugallu_audit_bus_dropped_total[$__rate_interval]))",
                    "{{consumer}}: {{reason}}",
                ),
            ),
            "`rate`: its cap; `buffer`: it is too slow; `size`: the event is too large.",
            unit="ops",
            stacked=True,
        ),
        Panel(
            "Lag",
            (Query("max by (consumer, pod) (ugallu_audit_bus_queue_depth)", "{{consumer}} {{pod}}"),),
            "Events that the slowest stream has not read.",
        ),
        Panel(
            "Streams",
            (
                Query("sum by (consumer) (ugallu_audit_bus_subscribers)", "{{consumer}}"),
                Query("sum(rate(ugallu_audit_bus_auth_failures_total[$__rate_interval]))", "calls without the token"),
            ),
            "Each reader has one to every replica.",
        ),
        _row("The event bus: who reads"),
        Panel(
            "Read",
            (
                Query(
                    "sum by (source, pod) (rate(ugallu_audit_bus_received_total[$__rate_interval]))",
                    "{{source}} {{pod}}",
                ),
            ),
            "A second.",
            unit="ops",
        ),
        Panel(
            "Lost, by the bus's own word",
            (Query("sum by (source, pod) (increase(ugallu_audit_bus_lost_total[1h]))", "{{source}} {{pod}}"),),
            "Within an hour.",
        ),
        Panel(
            "Connected",
            (Query("max by (source, pod) (ugallu_audit_bus_connected)", "{{source}} {{pod}}"),),
            "1 while a server, or NATS, is read.",
        ),
        Panel(
            "Age of the newest event",
            (
                Query(
                    'time() - max by (source, pod) (ugallu_audit_last_event_timestamp_seconds{source!~"audit-file.*"})',
                    "{{source}} {{pod}}",
                ),
            ),
            "How late its readers are.",
            unit="s",
        ),
    ),
)

DASHBOARDS: Final = (OVERVIEW, AUDIT, BOOKS)


def text(dashboard: Dashboard) -> str:
    """Return the JSON of a dashboard."""
    return json.dumps(_document(dashboard), indent=1) + "\n"


def _document(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["ugallu"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [*_placed(dashboard.panels)],
    }


def _placed(panels: Iterable[Panel]) -> Iterator[dict[str, Any]]:
    """Lay panels out from left to right, a new line where the width is used up."""
    x = y = tallest = 0
    for number, panel in enumerate(panels, 1):
        if x + panel.width > WIDTH:
            x, y, tallest = 0, y + tallest, 0
        place = {"h": panel.height, "w": panel.width, "x": x, "y": y}
        x, tallest = x + panel.width, max(tallest, panel.height)
        yield {"id": number, "type": panel.kind, "title": panel.title, "gridPos": place, **_content(panel)}


def _content(panel: Panel) -> dict[str, Any]:
    if panel.kind == "row":
        return {"collapsed": False, "panels": []}
    return {
        "description": panel.about,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                **({"instant": True} if panel.kind == "stat" else {}),
            }
            for number, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        steps: list[dict[str, Any]] = [{"color": "text" if panel.red_from is None else "green", "value": None}]
        if panel.red_from is not None:
            steps.append({"color": "red", "value": panel.red_from})
        if panel.green_from is not None:
            steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.green_from}]
        return {"unit": panel.unit, "decimals": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    custom = {"fillOpacity": 30, "stacking": {"mode": "normal"}} if panel.stacked else {"fillOpacity": 0}
    return {"unit": panel.unit, "min": 0, "custom": {"drawStyle": "line", "showPoints": "never", **custom}}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"colorMode": "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
    return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
