"""Flags that fill `Settings`; one table, so that every setting has a flag and every flag says what it means."""

import argparse
from collections.abc import Iterable
from typing import Any, Final, NamedTuple


class Flag(NamedTuple):
    """One flag: the setting it fills (dotted), its help, and how its value looks. A fixed value makes it a switch."""

    option: str
    setting: str
    help: str
    metavar: str = ""
    fixed: bool | None = None
    many: bool = False


FLAGS: Final = (
    Flag("--enable", "enable", "operators to run, with commas (default: all that can run here)", "NAME,...", many=True),
    Flag("--state", "state", "directory of everything durable: cluster, journal, key, log, evidence", "DIR"),
    Flag("--cluster", "cluster", "embedded or kubernetes (default: with a kubeconfig or in a Pod kubernetes)", "WHERE"),
    Flag("--cluster-id", "cluster_id", "part of every event's name (default: local, or kube-system's uid)", "ID"),
    Flag("--cluster-name", "cluster_name", "how people call the cluster (default: its id)", "NAME"),
    Flag("--instance", "instance", "name of this process in events (default: the host's name)", "NAME"),
    Flag("--grace-seconds", "grace_seconds", "from SIGTERM to the end (default: 25)", "S"),
    Flag("--kubeconfig", "kubernetes.kubeconfig", "work on this Kubernetes cluster (default: the Pod's own)", "F"),
    Flag("--context", "kubernetes.context", "context of the kubeconfig (default: its current one)", "NAME"),
    Flag("--namespace", "kubernetes.namespace", "where Leases are (default: the Pod's, or ugallu-system)", "NAME"),
    Flag(
        "--kubernetes-server",
        "kubernetes.server",
        "API server around this Pod (default: as Kubernetes says)",
        "H:P",
    ),
    Flag("--kubernetes-account", "kubernetes.account", "where the Pod's token, CA and namespace are mounted", "DIR"),
    Flag("--secrets", "secrets", "where Secrets are mounted, a folder each (default: /etc/ugallu/secrets)", "DIR"),
    Flag("--evidence", "evidence", "local: key, log and store in --state, also on Kubernetes", "local"),
    Flag("--no-seal", "seal", "do not sign, log and archive events", fixed=False),
    Flag("--audit-log", "audit.files", "audit log to read; again for more", "FILE", many=True),
    Flag("--no-follow", "audit.follow", "end with the input instead of waiting for more", fixed=False),
    Flag("--from-start", "audit.from_start", "without a checkpoint, begin at the oldest rotated file", fixed=True),
    Flag("--max-line-bytes", "audit.max_line_bytes", "longer lines are counted, not kept (default: 64 MiB)", "N"),
    Flag("--webhook", "audit.webhook.listen", "serve the audit webhook of API servers (path /v1/audit)", "HOST:PORT"),
    Flag("--webhook-tls-cert", "audit.webhook.tls_cert", "its certificate chain, PEM", "FILE"),
    Flag("--webhook-tls-key", "audit.webhook.tls_key", "its key, PEM", "FILE"),
    Flag("--webhook-client-ca", "audit.webhook.client_ca", "CA of the client certificates to ask for", "FILE"),
    Flag("--webhook-token-file", "audit.webhook.token_file", "bearer token that callers must show", "FILE"),
    Flag("--webhook-anonymous", "audit.webhook.anonymous", "serve callers that prove nothing", fixed=True),
    Flag("--webhook-max-body-bytes", "audit.webhook.max_body_bytes", "refuse larger requests (default: 64 MiB)", "N"),
    Flag("--webhook-spool-bytes", "audit.webhook.spool_bytes", "acknowledged and unread, on disk (1 GiB)", "N"),
    Flag("--audit-bus", "audit.bus.addresses", "read the event bus of another process", "HOST:PORT,...", many=True),
    Flag("--audit-bus-consumer", "audit.bus.consumer", "as which consumer (default: the one operator enabled)", "NAME"),
    Flag("--audit-bus-ca", "audit.bus.ca", "CA of its certificate, PEM (default: the machine's)", "FILE"),
    Flag("--audit-bus-token-file", "audit.bus.token_file", "bearer token to show", "FILE"),
    Flag("--audit-bus-cert", "audit.bus.tls_cert", "certificate to show, PEM", "FILE"),
    Flag("--audit-bus-key", "audit.bus.tls_key", "its key, PEM", "FILE"),
    Flag("--audit-bus-plaintext", "audit.bus.plaintext", "no TLS", fixed=True),
    Flag("--bus", "bus.url", "NATS between who takes in audit events and who detects", "tls://HOST:PORT"),
    Flag("--bus-stream", "bus.stream", "its stream (default: UGALLU-AUDIT)", "NAME"),
    Flag("--bus-reader", "bus.reader", "the durable consumer to read as (default: ugallu)", "NAME"),
    Flag("--bus-stream-bytes", "bus.stream_bytes", "what a new stream holds (default: 8 GiB)", "N"),
    Flag("--bus-stream-seconds", "bus.stream_seconds", "how long it holds an event (default: a day)", "S"),
    Flag("--bus-credentials", "bus.credentials", "its .creds file", "FILE"),
    Flag("--bus-token-file", "bus.token_file", "token to show", "FILE"),
    Flag("--bus-ca", "bus.ca", "CA of its certificate, PEM (default: the machine's)", "FILE"),
    Flag("--bus-cert", "bus.tls_cert", "certificate to show, PEM", "FILE"),
    Flag("--bus-key", "bus.tls_key", "its key, PEM", "FILE"),
    Flag("--bus-plaintext", "bus.plaintext", "no TLS", fixed=True),
    Flag("--fold-window-seconds", "emit.fold_window_seconds", "equal findings this close become one event (600)", "S"),
    Flag("--objects-per-hour", "emit.objects_per_hour", "budget of events below high (default: 20000)", "N"),
    Flag(
        "--creates-per-second",
        "emit.creates_per_second",
        "pace of creates, 0 unpaced (default: 50 on Kubernetes)",
        "N",
    ),
    Flag("--reserved-share", "emit.reserved_share", "share of the pace for high and critical (default: 0.5)", "SHARE"),
    Flag("--max-age-seconds", "emit.max_age_seconds", "give up a create after this long (default: a day)", "S"),
    Flag("--journal-bytes", "emit.journal_bytes", "size of the journal on disk (default: 1 GiB)", "N"),
    Flag("--backpressure-capacity-bytes", "backpressure.capacity_bytes", "size of a full etcd (default: 8 GiB)", "N"),
    Flag("--backpressure-events", "backpressure.events", "security events thought bearable (default: 100000)", "N"),
    Flag("--backpressure-yellow-at", "backpressure.yellow_at", "fill from which on the pace is halved (0.7)", "SHARE"),
    Flag("--backpressure-red-at", "backpressure.red_at", "fill from which on only high severities pass (0.9)", "SHARE"),
    Flag("--backpressure-recover-at", "backpressure.recover_at", "fill below which all passes again (0.5)", "SHARE"),
    Flag("--backpressure-poll-seconds", "backpressure.poll_seconds", "between two looks (default: 30)", "S"),
    Flag("--health", "listen.health", "address of the probes, '' for none (default: 127.0.0.1:8081)", "HOST:PORT"),
    Flag("--metrics", "listen.metrics", "address of /metrics, '' for none (default: 127.0.0.1:9090)", "HOST:PORT"),
    Flag("--log-level", "log.level", "debug, info, warning or error (default: info)", "LEVEL"),
    Flag("--log-format", "log.format", "json, console or auto (default)", "FORMAT"),
)


_COMMAS: Final = frozenset({"enable", "audit.bus.addresses"})
"""Settings whose flag takes several values at once."""


def add(parser: argparse.ArgumentParser, settings: Iterable[str] | None = None) -> None:
    """Add the flags of these settings, all of them by default."""
    wanted = None if settings is None else set(settings)
    for flag in FLAGS:
        if wanted is not None and flag.setting not in wanted:
            continue
        dest = f"set {flag.setting}"
        if flag.fixed is not None:
            parser.add_argument(flag.option, action="store_const", const=flag.fixed, dest=dest, help=flag.help)
        else:
            action = "append" if flag.many else "store"
            parser.add_argument(flag.option, action=action, metavar=flag.metavar, dest=dest, help=flag.help)


def overrides(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was given, nested as `settings.load` takes it."""
    found: dict[str, Any] = {}
    for flag in FLAGS:
        value = getattr(args, f"set {flag.setting}", None)
        if value is None:
            continue
        if flag.setting in _COMMAS:
            value = [name for part in value for name in part.split(",") if name]
        *groups, name = flag.setting.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return found
