"""`Settings`: where this process runs. Flags, then `UGALLU_*` variables, then defaults; built once, never changed.

Nobody else reads the environment. What an operator does is not here but in its config object, which is live.
"""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec

from ugallu.errors import PermanentError

S = TypeVar("S")

Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
MIN_LINE: Final = 1024
MIN_JOURNAL: Final = 1 << 20


class Secret(Generic[S]):
    """A value that no repr, log or error shows; `reveal()` is easy to find in review."""

    __slots__ = ("_value",)

    def __init__(self, value: S) -> None:
        self._value = value

    def reveal(self) -> S:
        """Return the value itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the API server's audit webhook calls; no address: it is not served."""

    listen: str = ""
    """`HOST:PORT` of the HTTPS server; the path is /v1/audit."""
    tls_cert: str = ""
    tls_key: str = ""
    """PEM files, read again when they change."""
    client_ca: str = ""
    """CA of the client certificates that are asked for."""
    token_file: str = ""
    """File with the bearer token that callers must show. With neither this nor `client_ca` the server refuses to
    start, unless `anonymous` says otherwise."""
    anonymous: bool = False
    max_body_bytes: Annotated[int, msgspec.Meta(ge=MIN_LINE)] = 64 << 20
    """Larger requests are refused with 413."""
    spool_bytes: Annotated[int, msgspec.Meta(ge=MIN_JOURNAL)] = 1 << 30
    """What may lie on disk, acknowledged and not yet read; when it is full, callers get 503 and Retry-After."""


class RelaySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The event bus of an audit-detection in another process, read as one more source; no address: none."""

    addresses: tuple[str, ...] = ()
    """`HOST:PORT`; of a name every address that it has, which is every replica behind a headless Service."""
    consumer: str = ""
    """The consumer that AuditDetectionConfig declares; empty: the one operator that is enabled."""
    ca: str = ""
    """CA of the servers' certificate, PEM; empty: the machine's own."""
    token_file: str = ""
    """File with the bearer token to show; read again for every connection."""
    tls_cert: str = ""
    tls_key: str = ""
    """Certificate to show, PEM; read again for every connection."""
    plaintext: bool = False
    """No TLS: anybody on the way reads along, and may pass for the server."""


class NatsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stream of NATS between those who take in audit events and those who detect; no URL: none."""

    url: str = ""
    """`tls://HOST:PORT`; without credentials, which have files of their own."""
    stream: str = "UGALLU-AUDIT"
    """Made where there is none; one that somebody made is left as it is."""
    reader: str = "ugallu"
    """The durable consumer that this process reads as; who shares one, shares its place."""
    stream_bytes: Annotated[int, msgspec.Meta(ge=MIN_JOURNAL)] = 8 << 30
    stream_seconds: Annotated[float, msgspec.Meta(gt=0)] = 24 * 3600.0
    """What a stream of our making holds: the oldest events go first, and readers are told."""
    credentials: str = ""
    """A .creds file, as NATS accounts have it."""
    token_file: str = ""
    ca: str = ""
    """CA of the server's certificate, PEM; empty: the machine's own."""
    tls_cert: str = ""
    tls_key: str = ""
    plaintext: bool = False
    """No TLS: anybody on the way reads along."""

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where audit events come from."""

    files: tuple[str, ...] = ()
    """Log files to read; `-` is stdin. Empty: the operator waits without a source and says so."""
    follow: bool = True
    """Keep reading as the file grows and rotates; off for a replay, which ends with the input."""
    from_start: bool = False
    """Without a checkpoint, start at the oldest rotated file instead of the end of the current one."""
    max_line_bytes: Annotated[int, msgspec.Meta(ge=MIN_LINE)] = 64 << 20
    """Longer lines are counted, not kept."""
    webhook: WebhookSettings = WebhookSettings()
    bus: RelaySettings = RelaySettings()


class EmitSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How findings become objects."""

    fold_window_seconds: Seconds = 600.0
    """Equal findings this close together, by their own time, become one event and one closing event."""
    objects_per_hour: Count = 20_000
    """Object budget by event time; past it only high and critical become objects, the rest is counted and reported."""
    creates_per_second: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """Pace of creates; 0 is unpaced. Not given: 50 on Kubernetes, unpaced in the embedded cluster. Pacing delays, and
    never drops."""
    reserved_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """Part of the pace that only high and critical may use."""
    max_age_seconds: Seconds = 24 * 3600.0
    """A create that keeps failing is given up, counted and reported after this long; never after a number of tries."""
    journal_bytes: Annotated[int, msgspec.Meta(ge=MIN_JOURNAL)] = 1 << 30
    """Size of the journal on disk."""


class BackpressureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the cluster's store counts as full."""

    capacity_bytes: Annotated[int, msgspec.Meta(ge=MIN_JOURNAL)] = 8 << 30
    """Of one etcd (its quota), or of the embedded cluster's file."""
    events: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    """Security events that are thought bearable."""
    yellow_at: Share = 0.70
    """From here on the pace of what is neither high nor critical is halved."""
    red_at: Share = 0.90
    """From here on only high and critical become objects; left again 0.05 below."""
    recover_at: Share = 0.50
    """Below this everything passes again."""
    poll_seconds: Annotated[float, msgspec.Meta(ge=1, le=30)] = 30.0
    """Readers believe a word for 90 s."""


class ListenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where probes and metrics answer; an empty address switches one off."""

    health: str = "127.0.0.1:8081"
    metrics: str = "127.0.0.1:9090"


class KubernetesSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which Kubernetes cluster, and how to reach it."""

    kubeconfig: str = ""
    """A kubeconfig file: the process works on that cluster instead of the embedded one."""
    context: str = ""
    """Its context; empty: the current one."""
    namespace: str = ""
    """Where this process has its Leases; empty: the Pod's own, or ugallu-system."""
    server: str = ""
    """`HOST:PORT` of the API server around this Pod; empty: what Kubernetes put into its environment."""
    account: str = "/var/run/secrets/kubernetes.io/serviceaccount"
    """Where the Pod's token, CA and namespace are mounted."""


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log lines go to stderr."""

    level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    format: Literal["json", "console", "auto"] = "auto"
    """auto: console on a terminal, else json."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that needs a restart to change."""

    enable: tuple[str, ...] = ()
    """Names of the operators to run; empty: all that can run here."""
    state: str = ""
    """Directory of everything durable: embedded cluster, journal, key, log, evidence."""
    cluster: Literal["", "embedded", "kubernetes"] = ""
    """Where objects are; empty: on Kubernetes with a kubeconfig or in a Pod, else in the embedded cluster."""
    cluster_id: str = ""
    """Part of every event's name: two clusters never share one. Empty: `local` for the embedded cluster, the uid of
    the namespace kube-system on Kubernetes."""
    cluster_name: str = ""
    """Empty: as the id."""
    instance: str = msgspec.field(default_factory=socket.gethostname)
    grace_seconds: Seconds = 25.0
    """From SIGTERM to the end; below the 30 s that Kubernetes grants."""
    secrets: str = "/etc/ugallu/secrets"
    """Directory with a folder for each Secret that a config object names, a file for each of its keys."""
    seal: bool = True
    """Sign, log and archive events; off for `replay --no-seal`."""
    evidence: Literal["", "local"] = ""
    """`local`: sign, log and archive in the state directory also on a Kubernetes cluster. Never chosen by default
    there: evidence must outlive the Pod."""
    kubernetes: KubernetesSettings = KubernetesSettings()
    audit: AuditSettings = AuditSettings()
    bus: NatsSettings = NatsSettings()
    emit: EmitSettings = EmitSettings()
    backpressure: BackpressureSettings = BackpressureSettings()
    listen: ListenSettings = ListenSettings()
    log: LogSettings = LogSettings()

    @property
    def on_kubernetes(self) -> bool:
        """Whether objects are in a Kubernetes cluster."""
        if self.cluster:
            return self.cluster == "kubernetes"
        return bool(self.kubernetes.kubeconfig or self.kubernetes.server)

    @property
    def state_dir(self) -> Path:
        """`state` as a path; raises `PermanentError` when the command gave none."""
        if not self.state:
            raise PermanentError("no state directory given", where="settings", fix="pass --state DIR")
        return Path(self.state)


def load(overrides: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Build the settings: `overrides` (from flags; nested as the Struct) win over `UGALLU_*`, which win over defaults.

    Where no server is given, the one that Kubernetes tells its Pods of is taken.
    `UGALLU_STATE=/x`, `UGALLU_AUDIT_FILES=/a,/b`, `UGALLU_EMIT_OBJECTS_PER_HOUR=100`: the path of the field, upper
    case, lists with commas. Raises `PermanentError` naming the variable or flag that does not fit.
    """
    env = os.environ if environ is None else environ  # noqa: TID251 - the one reader of the environment
    raw = _from_environment(Settings, env, "UGALLU_")
    if host := env.get("KUBERNETES_SERVICE_HOST"):
        host = f"[{host}]" if ":" in host else host
        _default(raw, "kubernetes", "server", f"{host}:{env.get('KUBERNETES_SERVICE_PORT', '443')}")
    _merge(raw, overrides)
    try:
        return msgspec.convert(raw, Settings, strict=False)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`").partition("[")[0]
        variable = f"UGALLU_{name.replace('.', '_').upper()}"
        where = f"setting {name} ({variable})" if name else "settings"
        raise PermanentError(what, where=where, fix="see `ugallu run --help`") from error


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what a program that the user names gets of our environment, as from a shell: all but our own settings."""
    env = os.environ if environ is None else environ  # noqa: TID251 - the one reader of the environment
    return {name: value for name, value in env.items() if not name.startswith("UGALLU_")}


def _from_environment(cls: type[msgspec.Struct], env: Mapping[str, str], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(cls):
        name = f"{prefix}{field.name.upper()}"
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            nested = _from_environment(field.type, env, f"{name}_")
            if nested:
                found[field.name] = nested
        elif name in env:
            is_list = field.type == tuple[str, ...]
            found[field.name] = [part for part in env[name].split(",") if part] if is_list else env[name]
    return found


def _default(into: dict[str, Any], group: str, name: str, value: str) -> None:
    into.setdefault(group, {}).setdefault(name, value)


def _merge(into: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping):
            _merge(into.setdefault(key, {}), value)
        elif value is not None:
            into[key] = value
