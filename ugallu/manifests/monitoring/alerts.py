"""What wakes somebody up, and what they do then: alerts as data. Pure.

An alert asks only for metrics of the catalogue, and says in two sentences what is wrong and what to look at first. The
same words are the annotations of the PrometheusRule and the sections of docs/monitoring.md.
"""

import enum
from typing import Any, Final, NamedTuple

from ugallu.settings import EmitSettings, WebhookSettings

PAGE: Final = "https://github.com/ugallu/ugallu/blob/main/docs/monitoring.md"
EVERY: Final = "30s"


class Severity(enum.StrEnum):
    """How soon somebody must look: now, today, some day."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class Alert(NamedTuple):
    """One alerting rule."""

    name: str
    expr: str
    lasts: str
    """How long it must hold."""
    severity: Severity
    summary: str
    """One line, with labels as Prometheus' templates write them."""
    meaning: str
    first: str
    """What to do first."""

    @property
    def anchor(self) -> str:
        """Where its section is in the page."""
        return self.name.lower()


class Group(NamedTuple):
    """Alerts about one thing."""

    name: str
    title: str
    alerts: tuple[Alert, ...]


def _grew(selector: str, window: str, by: str) -> str:
    """Tell whether a counter that should never move has moved, its first appearance included.

    `increase` needs two samples of a series, and such a counter comes into being with the first fault.
    """
    return f"sum by ({by}) (({selector} unless {selector} offset {window}) or increase({selector}[{window}])) > 0"


def _share(part: str, whole: str, percent: float) -> str:
    return f"sum(rate({part}[10m])) / sum(rate({whole}[10m])) > {percent / 100:g}"


def _rose(selector: str, window: str, by: str) -> str:
    """Tell whether a gauge that only rises, and outlives its process, is above all that it was before the window.

    Where it is for the first time, too. Pods come and go under other names, so they are added up first.
    """
    now = f"sum by ({by}) ({selector})"
    return f"{now} > (max_over_time(({now})[2h:5m] offset {window}) or 0 * {now})"


_WHO: Final = "{{ $labels.operator }}{{ with $labels.pod }} in {{ . }}{{ end }}"
_NEARLY_FULL: Final = int(0.9 * EmitSettings().journal_bytes)
_SPOOL_FILLING: Final = WebhookSettings().spool_bytes // 2

PROCESS: Final = Group(
    "ugallu.process",
    "Processes and operators",
    (
        Alert(
            "UgalluAbsent",
            "absent(ugallu_operator_ready)",
            "15m",
            Severity.CRITICAL,
            "No process of ugallu is scraped",
            "Nothing is detected, or nothing of it is seen here: no Pod runs, or Prometheus does not reach port 9090.",
            "`kubectl get pods -A -l app.kubernetes.io/name=ugallu`; if they run, look at Prometheus' targets and at "
            "the NetworkPolicy `ugallu-metrics` (the hardened overlay lets only the namespace `monitoring` in).",
        ),
        Alert(
            "UgalluOperatorDown",
            "group by (operator) (max_over_time(ugallu_operator_ready[1h])) "
            "unless group by (operator) (ugallu_operator_ready)",
            "5m",
            Severity.CRITICAL,
            "{{ $labels.operator }} ran within the last hour and is gone",
            "No process reports this operator any more. Whoever uninstalled it hears of it for an hour.",
            "`kubectl get pods -A -l app.kubernetes.io/name=ugallu` and the events of the one that is missing; with "
            "`OOMKilled`, compare `ugallu_cache_bytes` with the limit.",
        ),
        Alert(
            "UgalluOperatorNotReady",
            "ugallu_operator_ready == 0",
            "10m",
            Severity.WARNING,
            f"{_WHO} is not ready",
            "The operator runs and says why it cannot do its work: a config object that is refused, a source or a "
            "store that is missing, rights that are not granted.",
            "`/readyz` names the reason: `kubectl port-forward -n NAMESPACE POD 8081`, `curl localhost:8081/readyz`; "
            "`ugallu doctor` says what mends it.",
        ),
        Alert(
            "UgalluOperatorRestarting",
            "sum by (operator, part, pod) (increase(ugallu_operator_restarts_total[15m])) > 3",
            "5m",
            Severity.WARNING,
            f"{_WHO} starts its part {{{{ $labels.part }}}} again and again",
            "A source, service or reconciler fails soon after each start. Its neighbours go on; nothing durable "
            "is lost.",
            "The log has the error of each restart, with the part's name.",
        ),
        Alert(
            "UgalluNoLeader",
            "max by (operator) (ugallu_operator_leading) == 0",
            "2m",
            Severity.CRITICAL,
            "Nobody leads {{ $labels.operator }}",
            "Every replica stands by: the Lease is held by one that is gone, or cannot be written.",
            "`kubectl get leases -n ugallu-system`, then the log for `lease`; a missing Lease is created by applying "
            "the manifests again.",
        ),
        Alert(
            "UgalluTwoLeaders",
            "sum by (namespace, operator) (ugallu_operator_leading) > 1",
            "2m",
            Severity.CRITICAL,
            "{{ $value }} replicas lead {{ $labels.operator }}",
            "Two processes act as the one leader for longer than two scrapes can explain. Each write carries a "
            "precondition, so evidence stays whole, but they work against each other.",
            "Compare the holder in `kubectl get lease` with the Pods; delete the Pod that does not hold it, and "
            "check "
            "the clock of its node.",
        ),
        Alert(
            "UgalluLeadershipUnsteady",
            "sum by (operator) (changes(ugallu_operator_leading[30m])) > 6",
            "0s",
            Severity.WARNING,
            "The leader of {{ $labels.operator }} changes all the time",
            "Leases are lost and won again: the API server is slow to answer, or a node starves its Pods.",
            "`ugallu_cluster_requests_total` by outcome, and the API server's own latency.",
        ),
        Alert(
            "UgalluDetectorErrors",
            _grew("ugallu_detector_errors_total", "15m", "operator, detector"),
            "0s",
            Severity.WARNING,
            "{{ $labels.detector }} of {{ $labels.operator }} failed on {{ $value | humanize }} observations",
            "What a detector failed on it has not judged: an attack may be among it. This is a bug.",
            "The log has the error and the audit id of the first ones; report it with them.",
        ),
        Alert(
            "UgalluReconcileErrors",
            'sum by (operator, kind) (rate(ugallu_reconcile_total{outcome!="done"}[10m])) '
            "/ sum by (operator, kind) (rate(ugallu_reconcile_total[10m])) > 0.1",
            "15m",
            Severity.WARNING,
            "{{ $labels.operator }} fails on {{ $value | humanizePercentage }} of its work on {{ $labels.kind }}",
            "Objects are tried again with backoff, so they are late. `outcome` says whether the cluster is "
            "unreachable "
            "(transient), refuses (unauthorized), or the object is at fault (permanent).",
            "`sum by (outcome) (rate(ugallu_reconcile_total[10m]))`, then the log for the kind.",
        ),
        Alert(
            "UgalluReconcileFloods",
            "sum by (operator, kind) (rate(ugallu_reconcile_total[5m])) > 200",
            "15m",
            Severity.WARNING,
            "{{ $labels.operator }} works on {{ $value | humanize }} {{ $labels.kind }} a second",
            "Somebody rewrites objects without end, often a second controller that undoes what ours did.",
            "Who writes: `kubectl get KIND NAME -o yaml --show-managed-fields`.",
        ),
    ),
)

EVENTS: Final = Group(
    "ugallu.events",
    "From finding to event",
    (
        Alert(
            "UgalluEmitterDropsHigh",
            "sum by (reason) (rate(ugallu_emitter_dropped_total[5m])) > 0.05",
            "5m",
            Severity.WARNING,
            'Findings become no events: {{ $labels.reason }}, {{ printf "%.2f" $value }} a second',
            "They are counted and reported as SourceRateLimited events, and are not objects. `object_budget` "
            "means more than "
            "the budget of objects in an hour (high and critical ones pass); every other reason is a fault.",
            "`kubectl get securityevents -l ugallu.io/type=SourceRateLimited`: its signals say which types and "
            "how many. A "
            "rule that matches too much is better narrowed than the budget raised.",
        ),
        Alert(
            "UgalluEmitterBufferStuck",
            "ugallu_emitter_buffer_depth > 100",
            "10m",
            Severity.WARNING,
            "{{ $value }} findings wait to become events",
            "They are durable and late: the API server is slow, refuses, or cannot be reached.",
            "`/readyz` names the error of the oldest; `sum by (outcome) (rate(ugallu_cluster_requests_total[5m]))`.",
        ),
        Alert(
            "UgalluEmitterErrors",
            'sum by (class) (rate(ugallu_emitter_emits_total{outcome="error"}[5m])) > 0',
            "5m",
            Severity.WARNING,
            "Creating events of class {{ $labels.class }} fails",
            "A refusal that a retry will not mend (400, 422) gives the event up, counted; everything else is "
            "tried for 24 "
            "hours.",
            "The log for `event not created`; an admission policy of your own may refuse what ours lets through.",
        ),
        Alert(
            "UgalluEmitterConflicts",
            _grew('ugallu_emitter_emits_total{outcome="conflict_real"}', "1h", "class"),
            "0s",
            Severity.CRITICAL,
            "An event's name was taken by another content",
            "Names are hashes of facts, so somebody else has written an object under a name of ours, or two "
            "clusters share "
            "one id. Ours is stored under a suffix; nothing is lost.",
            "The API server's audit log for who created the object; `cluster_id` must differ between clusters.",
        ),
        Alert(
            "UgalluFoldTableFull",
            "sum(rate(ugallu_emitter_windows_closed_early_total[10m])) > 0",
            "30m",
            Severity.INFO,
            "Folds are closed before their window ends",
            "More different facts are open than the table holds, so equal findings become more events than they need.",
            "`topk(5, sum by (type) (rate(ugallu_emitter_emitted_total[1h])))` shows which rule brings them.",
        ),
        Alert(
            "UgalluBackpressureRed",
            'max(ugallu_emitter_backpressure_level{level="red"}) == 1',
            "15m",
            Severity.WARNING,
            "The cluster's store is so full that only grave events become objects",
            "Lower ones are counted and reported, until the level falls again.",
            "Usage of etcd; `kubectl get securityevents --no-headers | wc -l`.",
        ),
        Alert(
            "UgalluJournalFilling",
            f"ugallu_journal_bytes > {_NEARLY_FULL} and on (instance, pod) ugallu_emitter_buffer_depth > 100",
            "10m",
            Severity.CRITICAL,
            "The journal is nearly full of findings that are not yet events",
            "A full journal alone is a day of history; full with a backlog, it will lose what was never an "
            "event. (90 % of "
            "the default of 1 GiB.)",
            "As UgalluEmitterBufferStuck, and soon; a larger `UGALLU_EMIT_JOURNAL_BYTES` buys time where the "
            "volume has room.",
        ),
        Alert(
            "UgalluJournalLost",
            _grew("ugallu_journal_lost_total", "15m", "reader"),
            "0s",
            Severity.CRITICAL,
            "{{ $value | humanize }} records were removed before {{ $labels.reader }} had read them",
            "The journal reached its size with unread records in it. These findings are gone, and the books say "
            "how many.",
            "Mend what holds the reader up, then `ugallu replay` over the audit log of that time.",
        ),
        Alert(
            "UgalluJournalFailing",
            _grew('ugallu_journal_appends_total{outcome="failed"}', "10m", "pod"),
            "0s",
            Severity.CRITICAL,
            "The journal cannot be written{{ with $labels.pod }} in {{ . }}{{ end }}",
            "Nothing is acknowledged while this lasts: file sources wait, API servers get 503.",
            "The volume: full, read-only or broken. The log has the error number.",
        ),
        Alert(
            "UgalluBooksOpen",
            'sum by (source, pod) (ugallu_books_events{account="received"}) '
            '!= sum by (source, pod) (ugallu_books_events{account=~"parsed|rejected|duplicate"})',
            "15m",
            Severity.WARNING,
            "The books of {{ $labels.source }} do not close",
            "Events were received of which nobody knows what became. This is a bug, or a state that was put back.",
            "`ugallu doctor` shows the ledger; report it with its output.",
        ),
        Alert(
            "UgalluObservationsLost",
            _rose('ugallu_books_findings{account=~"lost[.].+"}', "15m", "account"),
            "0s",
            Severity.WARNING,
            "Observations were lost: {{ $labels.account }}, {{ $value | humanize }} by now",
            "No detector has seen them, so an attack may be among them. The books count each, with its reason.",
            "The SourceRateLimited events of that time name source and reason; `ugallu replay` over the audit log of "
            "that time shows what was missed.",
        ),
        Alert(
            "UgalluBusDropping",
            "sum by (source, subscriber) (rate(ugallu_bus_dropped_total[5m])) > 0",
            "5m",
            Severity.WARNING,
            "{{ $labels.subscriber }} is too slow for {{ $labels.source }}",
            "A source that cannot be rewound loses its oldest observations when a ring is full.",
            "The CPU of the Pod; rules that are slow say so in `ugallu rules explain`.",
        ),
    ),
)

_AUDIT_READY: Final = 'count(ugallu_operator_ready{operator="audit-detection"} == 1)'

AUDIT: Final = Group(
    "ugallu.audit",
    "The audit stream and its rules",
    (
        Alert(
            "UgalluAuditStreamSilent",
            'time() - ugallu_audit_last_event_timestamp_seconds{source=~"audit-file:.*"} > 600 '
            'or time() - max by (source) (ugallu_audit_last_event_timestamp_seconds{source!~"audit-file:.*"}) > 600',
            "5m",
            Severity.CRITICAL,
            "{{ $labels.source }} has brought nothing for {{ $value | humanizeDuration }}",
            "API servers are never silent: nodes renew Leases. Auditing was switched off, the log is written "
            "elsewhere, or "
            "nobody reaches the webhook. An attacker with access to the control plane does this first.",
            "The flags of kube-apiserver (`--audit-log-path`, `--audit-webhook-config-file`) on each node, and "
            '`apiserver_audit_error_total{plugin="webhook"}` of the API server.',
        ),
        Alert(
            "UgalluAuditStreamNeverSeen",
            f"{_AUDIT_READY} unless count(ugallu_audit_last_event_timestamp_seconds)",
            "15m",
            Severity.CRITICAL,
            "audit-detection runs and has never seen an audit event",
            "The API server does not send, or not here.",
            "docs/install.md, the part on the audit log; `ugallu doctor` says whether the stream arrives.",
        ),
        Alert(
            "UgalluAuditSourceLagging",
            "min_over_time(ugallu_audit_source_lag_bytes[10m]) > 67108864",
            "5m",
            Severity.WARNING,
            "{{ $labels.source }} is {{ $value | humanize1024 }}B behind",
            "Detection is late by that much. Nothing is lost as long as the rotated files stay.",
            "The CPU of the Pod; how many rotated files the API server keeps (`--audit-log-maxbackup`).",
        ),
        Alert(
            "UgalluAuditFileSourceParseErrors",
            "sum by (pod) (rate(ugallu_audit_file_parse_errors_total[10m])) / (sum by (pod) "
            "(rate(ugallu_audit_file_parse_errors_total[10m])) + sum by (pod) "
            "(rate(ugallu_audit_file_lines_total[10m]))) "
            "> 0.05",
            "10m",
            Severity.WARNING,
            "{{ $value | humanizePercentage }} of the audit log's lines are no audit events",
            "Something else writes into the file, or its disk was full.",
            "The log quotes the first lines that were rejected, with file and position.",
        ),
        Alert(
            "UgalluAuditTruncated",
            _share("ugallu_audit_truncated_total", "ugallu_audit_events_total", 1),
            "30m",
            Severity.WARNING,
            "The API server cuts the bodies of {{ $value | humanizePercentage }} of its audit events",
            "Rules that look into bodies cannot judge these: their subject is `unresolved`.",
            "`--audit-log-truncate-max-event-size` and `--audit-webhook-truncate-max-event-size` of kube-apiserver.",
        ),
        Alert(
            "UgalluAuditWebhookBackpressure",
            "sum by (pod) (rate(ugallu_audit_webhook_backpressure_total[5m])) > 0",
            "5m",
            Severity.CRITICAL,
            "API servers are told to come back later{{ with $labels.pod }} by {{ . }}{{ end }}",
            "The spool is full, its disk is, or it cannot be written. An API server tries a batch five times, and then "
            "it is lost.",
            "The log says which it is. A full spool: why its reader does not get on (UgalluEmitterBufferStuck, "
            "UgalluJournalFailing). A full disk: `df` in the Pod, a larger volume.",
        ),
        Alert(
            "UgalluAuditWebhookSpoolFilling",
            f"ugallu_audit_webhook_spool_bytes > {_SPOOL_FILLING}",
            "10m",
            Severity.WARNING,
            "The webhook's spool holds {{ $value | humanize1024 }}B{{ with $labels.pod }} in {{ . }}{{ end }}",
            "Nothing is lost and no API server waits, yet: events come faster than they are read. (Half of the default "
            "of 1 GiB.)",
            "The CPU of the Pod; rules that are slow say so in their condition `TooSlow`; UgalluJournalFailing.",
        ),
        Alert(
            "UgalluAuditWebhookAuthFailures",
            "sum by (pod) (rate(ugallu_audit_webhook_auth_failures_total[5m])) > 0.1",
            "2m",
            Severity.WARNING,
            "Somebody calls the audit webhook without its token{{ with $labels.pod }} of {{ . }}{{ end }}",
            "An API server whose kubeconfig is out of date, whose events are lost meanwhile; or somebody who tries to "
            "forge them.",
            'An API server whose `apiserver_audit_error_total{plugin="webhook"}` rises has the wrong kubeconfig; where '
            "none does, somebody else calls.",
        ),
        Alert(
            "UgalluAuditBusLosing",
            "sum by (consumer, reason) (rate(ugallu_audit_bus_dropped_total[5m])) > 0",
            "5m",
            Severity.WARNING,
            "The event bus loses {{ $labels.consumer }} {{ $value | humanize }} events a second ({{ $labels.reason }})",
            "Its cap is too low (`rate`), it reads too slowly (`buffer`), or an event is larger than any should be "
            "(`size`). It is told how many, and may have missed what it watches for.",
            "`spec.consumers` of AuditDetectionConfig: raise `maxEventsPerSec`, narrow `filter`, or name what must not "
            "be missed under `priority`.",
        ),
        Alert(
            "UgalluAuditBusLagging",
            "max by (consumer) (min_over_time(ugallu_audit_bus_queue_depth[10m])) > 10000",
            "5m",
            Severity.WARNING,
            "{{ $labels.consumer }} is {{ $value | humanize }} events behind on the event bus",
            "It is served late, and loses what leaves the replay (60 s or 64 MiB) before it comes by.",
            "The CPU of the consumer's Pod and what it waits for; a narrower `filter` in AuditDetectionConfig.",
        ),
        Alert(
            "UgalluAuditBusConsumerGone",
            "max by (consumer) (max_over_time(ugallu_audit_bus_subscribers[1h])) > 0 "
            "and max by (consumer) (ugallu_audit_bus_subscribers) == 0",
            "10m",
            Severity.WARNING,
            "Nobody reads the event bus as {{ $labels.consumer }} any more",
            "What it detects is not detected. What it misses from now on cannot be told to it to the event.",
            "The consumer's Pods and their `/readyz`; `spec.consumers` of AuditDetectionConfig if it was taken away on "
            "purpose.",
        ),
        Alert(
            "UgalluAuditBusAuthFailures",
            "sum by (pod) (rate(ugallu_audit_bus_auth_failures_total[5m])) > 0.1",
            "2m",
            Severity.WARNING,
            "Somebody calls the event bus without its token{{ with $labels.pod }} of {{ . }}{{ end }}",
            "A consumer with an old token, which sees nothing; or somebody who wants to read the audit log.",
            "The Secret `ugallu-audit-bus-token` of both sides; a consumer's `/readyz` says that it is refused.",
        ),
        Alert(
            "UgalluAuditBusGap",
            _grew("ugallu_audit_bus_lost_total", "15m", "source"),
            "0s",
            Severity.WARNING,
            "A reader of {{ $labels.source }} has missed {{ $value | humanize }} events",
            "The bus says so: it was away for longer than the bus remembers, too slow, or above its cap.",
            "The SourceRateLimited events of that time; over NATS, the limits of the stream (`--bus-stream`).",
        ),
        Alert(
            "UgalluAuditBusUnread",
            "max by (pod) (ugallu_audit_bus_connected) == 0",
            "5m",
            Severity.CRITICAL,
            "No event bus is read by {{ $labels.pod }}",
            "The operator's detectors see nothing, and nothing is what they report.",
            "Its log and `/readyz` say why: the address, the certificate, the token, the consumer's name. On the other "
            "side the condition `BusServing` of AuditDetectionConfig `default`.",
        ),
        Alert(
            "UgalluAuditNoBodies",
            "sum(increase(ugallu_audit_events_total[1h])) > 0 "
            'unless sum(increase(ugallu_audit_events_total{level=~"Request|RequestResponse"}[1h])) > 0',
            "1h",
            Severity.WARNING,
            "No audit event has a body",
            "The audit policy is at level Metadata, so every rule that looks into an object is blind.",
            "`ugallu rules explain RULE` says what a rule needs; examples/audit-policy.yaml is a policy that has it.",
        ),
        Alert(
            "UgalluAuditRuleCompileErrors",
            'max by (state) (ugallu_audit_rules{state=~"broken|last-good"}) > 0',
            "5m",
            Severity.WARNING,
            "{{ $value }} rules do not compile, or fail their own tests ({{ $labels.state }})",
            "`last-good`: the version before goes on serving. `broken`: there is none, and the rule detects nothing; "
            "also a correlation or filter without the rules that it means.",
            "`kubectl get sigmarules` and `Compiled`, `Tested` or `Linked` of the one at fault; "
            "`ugallu rules test FILE` before applying it.",
        ),
        Alert(
            "UgalluAuditNoRules",
            f'{_AUDIT_READY.replace(" == 1", "")} unless count(ugallu_audit_rules{{state=~"serving|last-good"}} > 0)',
            "15m",
            Severity.CRITICAL,
            "No rule serves",
            "Audit events come and nothing looks at them.",
            "`kubectl get sigmarules`; `kubectl apply --server-side -k manifests/overlays/rule-pack` brings some.",
        ),
        Alert(
            "UgalluAuditRuleDropping",
            "sum by (rule) (rate(ugallu_audit_rule_dropped_total[10m])) > 1",
            "15m",
            Severity.INFO,
            "The limiter of rule {{ $labels.rule }} drops {{ $value | humanize }} matches a second",
            "It matches what is no news. The matches are counted and reported, and are not events.",
            "`kubectl get sigmarule RULE -o yaml`: exclude the ordinary caller by name, with an owner and an expiry.",
        ),
    ),
)

EVIDENCE: Final = Group(
    "ugallu.evidence",
    "Evidence",
    (
        Alert(
            "UgalluAttestorPendingOld",
            "max(ugallu_attestor_oldest_pending_seconds) > 900",
            "5m",
            Severity.CRITICAL,
            "An event has waited {{ $value | humanizeDuration }} for its evidence",
            "Until it is sealed, what the event says can be changed without a trace.",
            "`kubectl get attestationbundles` sorted by age, and `status.failures` of the oldest.",
        ),
        Alert(
            "UgalluAttestorBacklog",
            "sum(ugallu_attestor_pending_bundles) > 500 and deriv(sum(ugallu_attestor_pending_bundles)[15m:1m]) > 0",
            "15m",
            Severity.WARNING,
            "{{ $value }} bundles are not sealed, and it grows",
            "More events come than the signer, the log or the store take.",
            "`histogram_quantile(0.9, sum by (stage, le) "
            "(rate(ugallu_attestor_stage_duration_seconds_bucket[10m])))` shows "
            "which stage is slow.",
        ),
        Alert(
            "UgalluAttestorSealFailing",
            "sum by (stage, reason) (rate(ugallu_attestor_stage_failures_total[10m])) > 0",
            "15m",
            Severity.WARNING,
            "Stage {{ $labels.stage }} fails: {{ $labels.reason }}",
            "Bundles are tried again after up to 300 s, so evidence is late.",
            "`Transient`: the peer of that stage cannot be reached. `Unauthorized`: its credentials. "
            "`Permanent`: see the "
            "bundle's `status.failures`.",
        ),
        Alert(
            "UgalluAttestorCertificateEnds",
            "(max by (instance, pod) (ugallu_attestor_cert_not_after_timestamp_seconds) - time() < 60) "
            'and on (instance, pod) sum by (instance, pod) (ugallu_attestor_pending_bundles{phase="Pending"}) > 0',
            "5m",
            Severity.CRITICAL,
            "The signer's certificate ends or has ended, no other came, and events wait to be signed",
            "Without a certificate of the authority nothing is signed keyless, and nothing is signed in its place. One "
            "that ends while there is nothing to sign is no trouble: the next comes with the next event.",
            "Fulcio and its certificate log, and the token: `kubectl get attestorconfigs default -o yaml`, "
            "`status.failures` of a Pending bundle, `ugallu_attestor_signer_requests_total` by code.",
        ),
        Alert(
            "UgalluAttestorBundlesFailed",
            'sum(ugallu_attestor_pending_bundles{phase="Failed"}) > 0',
            "15m",
            Severity.CRITICAL,
            "{{ $value }} bundles have failed for good or for long",
            "Their events have no evidence. A wrong byte in the archive or the log ends here as well: it is "
            "refused and "
            "never called sealed.",
            "`kubectl get attestationbundles | grep Failed`, `status.failures`; then `ugallu export` and `ugallu "
            "verify`.",
        ),
        Alert(
            "UgalluNothingSealed",
            "sum(increase(ugallu_emitter_emitted_total[30m])) > 0 "
            'unless sum(increase(ugallu_attestor_bundles_total{outcome="sealed"}[30m])) > 0',
            "15m",
            Severity.CRITICAL,
            "Events are made and none is sealed",
            "The attestor is away, or every stage waits. Silence this where you run without one on purpose.",
            "`kubectl get pods -n ugallu-system -l app.kubernetes.io/component=attestor` and its `/readyz`.",
        ),
        Alert(
            "UgalluEvidenceChanged",
            'sum(increase(ugallu_attestor_reverified_total{outcome="failed"}[1h])) > 0',
            "0m",
            Severity.CRITICAL,
            "Evidence that was sealed does not verify any more",
            "It was changed, or is gone, or its key is not known any more: somebody had a hand in it, or a disk.",
            "The attestor's log names the bundle; keep the store as it is, and compare with `ugallu verify`.",
        ),
        Alert(
            "UgalluWormPutFailing",
            _grew('ugallu_worm_put_total{outcome="failed"}', "15m", "class"),
            "5m",
            Severity.WARNING,
            "The evidence store does not take blobs of class {{ $labels.class }}",
            "Nothing is sealed until it does.",
            "The store: space, credentials, its lock on deletion; the bundle's `status.failures` has its words.",
        ),
    ),
)

CLUSTER: Final = Group(
    "ugallu.cluster",
    "The API server and the cache",
    (
        Alert(
            "UgalluClusterUnavailable",
            'sum by (pod) (rate(ugallu_cluster_requests_total{outcome=~"unavailable|failed"}[5m])) '
            "/ sum by (pod) (rate(ugallu_cluster_requests_total[5m])) > 0.1",
            "10m",
            Severity.WARNING,
            "{{ $value | humanizePercentage }} of the requests to the API server fail",
            "What is shown may be stale and what is written is late. Nothing durable is lost.",
            "The API server's health; a NetworkPolicy that does not know its port; a token or CA that was changed.",
        ),
        Alert(
            "UgalluClusterForbidden",
            _grew('ugallu_cluster_requests_total{outcome="forbidden"}', "15m", "pod, verb"),
            "0s",
            Severity.WARNING,
            "The API server forbids {{ $labels.verb }}{{ with $labels.pod }} to {{ . }}{{ end }}",
            "A role lacks a right that its operator declares: the manifests are older than the image, or were changed.",
            "`ugallu doctor` names the right and the line that grants it.",
        ),
        Alert(
            "UgalluCacheRelisting",
            "sum by (pod, kind) (increase(ugallu_cache_relists_total[15m])) > 10",
            "15m",
            Severity.WARNING,
            "{{ $labels.kind }} is listed again and again",
            "Watches do not last: the cluster's history is too short (etcd compacts fast), or a proxy cuts "
            "connections.",
            "`sum by (cause) (increase(ugallu_cache_relists_total[1h]))`.",
        ),
        Alert(
            "UgalluCacheUnread",
            _grew("ugallu_cache_unread_total", "15m", "kind"),
            "0s",
            Severity.WARNING,
            "{{ $value | humanize }} objects of {{ $labels.kind }} could not be read",
            "Each is left out alone, and the others are seen. It was written before its schema, or by a newer release.",
            "The log names the object and the field.",
        ),
    ),
)

LIFECYCLE: Final = Group(
    "ugallu.lifecycle",
    "Retention and pressure",
    (
        Alert(
            "UgalluTtlArchiveFailing",
            "sum by (kind, stage) (rate(ugallu_ttl_failures_total[10m])) > 0",
            "30m",
            Severity.WARNING,
            "Objects of {{ $labels.kind }} cannot go: {{ $labels.stage }} fails",
            "What cannot be copied, proven or deleted stays, and says on itself why.",
            "The annotation `ugallu.io/ttl-reason` of what is left, and the log of ttl; `snapshot` is the store, "
            "`precondition` the evidence, `delete` the API server.",
        ),
        Alert(
            "UgalluTtlOverdue",
            "sum by (kind) (ugallu_ttl_overdue) > 1000",
            "1h",
            Severity.WARNING,
            "{{ $value | humanize }} objects of {{ $labels.kind }} are there beyond their time",
            "The cluster's store fills: objects are held, their evidence is missing, or ttl cannot keep up.",
            "`sum by (reason) (increase(ugallu_ttl_postponed_total[6h]))` says which it is.",
        ),
        Alert(
            "UgalluTtlClockDoubt",
            "abs(ugallu_ttl_clock_doubt_seconds) > 60",
            "5m",
            Severity.WARNING,
            "The clock of ttl is {{ $value | humanizeDuration }} off",
            "It jumped, so nothing ends by it until it agrees with the monotonic clock and the API server's.",
            "`chronyc tracking` on its node; docs/operators/ttl.md for a machine that booted with a wrong clock.",
        ),
        Alert(
            "UgalluAttestorUnavailable",
            "max(ugallu_ttl_attestor_unavailable) == 1",
            "2m",
            Severity.CRITICAL,
            "The attestor does not do its work",
            "Its Lease is not renewed, bundles wait too long, or most of them fail: nothing new is sealed.",
            "`kubectl get securityevents --field-selector spec.type=AttestorUnavailable` says since when and by "
            "which sign.",
        ),
        Alert(
            "UgalluBackpressureBlind",
            "sum(rate(ugallu_backpressure_sample_errors_total[10m])) > 0",
            "15m",
            Severity.WARNING,
            "Nobody knows how full the cluster's store is",
            "The API server's metrics cannot be read, so the level is stale and sheds nothing.",
            "The log of backpressure; it needs `get` on the path `/metrics`.",
        ),
    ),
)

GROUPS: Final = (PROCESS, EVENTS, AUDIT, EVIDENCE, LIFECYCLE, CLUSTER)


def rules() -> dict[str, Any]:
    """Return the rule groups as Prometheus reads them from a file, and the operator from `spec`."""
    return {
        "groups": [
            {"name": group.name, "interval": EVERY, "rules": [_rule(alert) for alert in group.alerts]}
            for group in GROUPS
        ]
    }


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.lasts,
        "labels": {"severity": alert.severity.value},
        "annotations": {
            "summary": alert.summary,
            "description": f"{alert.meaning} First: {alert.first}",
            "runbook_url": f"{PAGE}#{alert.anchor}",
        },
    }
