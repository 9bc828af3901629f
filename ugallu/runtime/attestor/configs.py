"""From AttestorConfig to who signs, who signs the time, and who logs. Everything that is missing is an error by name.

Nothing is asked of anybody here: adapters ask when they are used. Secrets are mounted, a folder each; what they held
when they were read is part of `Files`, so that whoever compares two readings knows whether to open everything anew.
"""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from ugallu.api.bundle import SigningMode
from ugallu.api.k8s import SecretKeySelector
from ugallu.api.platform import (
    AttestorConfigSpec,
    FulcioConfig,
    OpenBaoConfig,
    OpenBaoKeyType,
    RekorConfig,
    SecretReference,
)
from ugallu.clock import Clock
from ugallu.errors import PermanentError
from ugallu.evidence import trusted_root
from ugallu.evidence.ports import Leg, Signer, TimestampAuthority, TransparencyLog
from ugallu.evidence.trusted_root import LogKey, TrustedRoot
from ugallu.metrics import Metrics
from ugallu.net.ask import Peer, Reply

if TYPE_CHECKING:
    from ugallu.evidence.logs.succession import Held
from ugallu.operator.contract import TokenVolume

FULCIO_TOKEN: Final = "/var/run/secrets/ugallu/fulcio/token"  # noqa: S105 - a path
ROOT_SECRET: Final = "ugallu-trusted-root"  # noqa: S105 - a name
ROOT_KEY: Final = "trusted-root.json"
CA_KEY: Final = "ca.crt"
SECRETS: Final = (
    # What is mounted without a word more, each optional; another Secret must be mounted by whoever names it.
    ROOT_SECRET,
    "ugallu-fulcio-ca",
    "ugallu-openbao-ca",
    "ugallu-rekor-ca",
    "ugallu-timestamp-ca",
    "ugallu-worm-credentials",
)
FULCIO_VOLUME: Final = TokenVolume("fulcio", "sigstore")
MAX_BYTES: Final = 1 << 20
WHERE: Final = "AttestorConfig/default"

P = TypeVar("P", FulcioConfig, OpenBaoConfig)

Files = Mapping[str, bytes]
"""What was read, by `<secret>/<key>`."""


class Wanted(AttestorConfigSpec, frozen=True, kw_only=True):
    """The spec of an AttestorConfig; all defaults, where there is none."""

    rekor: RekorConfig | None = None  # type: ignore[assignment]  # an object without it cannot be stored


class MissingFileError(PermanentError):
    """A file that a config names is not there, or cannot be read: it may be mounted any moment."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Adapters that belong together, and the clients behind them, to be closed when others take over."""

    legs: tuple[Leg, ...]
    log: TransparencyLog
    authority: TimestampAuthority | None
    root: TrustedRoot
    clients: tuple["Closing", ...]


@runtime_checkable
class Closing(Protocol):
    """Something with connections."""

    async def aclose(self) -> None:
        """Let go of them."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process has what adapters need."""

    secrets: Path
    account: Path
    state: Path
    clock: Clock
    metrics: Metrics
    connect: Callable[..., "Connection"]


class Connection(Peer, Closing, Protocol):
    """A server that is asked, until closed."""


def gather(wanted: AttestorConfigSpec, secrets: Path) -> Files:
    """Read every file that the config names; raises `PermanentError` for one that is not there."""
    named: list[tuple[str, str]] = [_root_ref(wanted)]
    parts = (wanted.fulcio, wanted.openbao, wanted.rekor, wanted.timestamp_authority)
    named += [(part.ca_bundle_secret.name, CA_KEY) for part in parts if part and part.ca_bundle_secret]
    return {f"{name}/{key}": _read(secrets, name, key) for name, key in named}


def open_all(wanted: AttestorConfigSpec, files: Files, place: Place) -> Opened:
    """Return the adapters that the config asks for.

    Raises `PermanentError` for a part that is missing or does not fit another, `IntegrityError` for what is remembered
    and cannot be.
    """
    if wanted.rekor is None:
        raise PermanentError("no log is named", where=f"{WHERE} spec.rekor")
    root = _trusted_root(wanted, files)
    opening = _Opening(wanted, files, place, root)
    legs = opening.legs()
    log = opening.log()
    authority = opening.authority()
    _fit(wanted, root)
    return Opened(legs, log, authority, root, tuple(opening.clients))


class _Opening:
    """Opens one part after the other."""

    def __init__(self, wanted: AttestorConfigSpec, files: Files, place: Place, root: TrustedRoot) -> None:
        self._wanted = wanted
        self._files = files
        self._place = place
        self._root = root
        self.clients: list[Closing] = []

    def legs(self) -> tuple[Leg, ...]:
        mode = self._wanted.signing_mode.canonical
        if mode is SigningMode.FULCIO_KEYLESS:
            return (Leg("primary", self._fulcio()),)
        if mode is SigningMode.OPENBAO_TRANSIT:
            return (Leg("primary", self._openbao()),)
        if mode is SigningMode.DUAL:
            return Leg("fulcio", self._fulcio()), Leg("openbao", self._openbao())
        if mode is SigningMode.ED25519_DEV:
            from ugallu.evidence.signers.ed25519 import open_development

            return (Leg("primary", open_development(self._place.state / "keys" / "dev.key")),)
        raise PermanentError(
            f"{mode} is the mode of a process without a config",
            where=f"{WHERE} spec.signingMode",
            fix="delete the AttestorConfig, or name fulcio-keyless, openbao-transit or dual",
        )

    def log(self) -> TransparencyLog:
        from ugallu.evidence.logs.rekor_v1 import RekorV1
        from ugallu.evidence.logs.rekor_v2 import RekorV2
        from ugallu.evidence.logs.succession import Held
        from ugallu.evidence.logs.witness import Witness

        config = self._wanted.rekor
        if not config.enabled:
            raise PermanentError(
                "evidence is always logged", where=f"{WHERE} spec.rekor.enabled", fix="name a log, and enable it"
            )
        now, seen = self._place.clock.now(), self._place.state / "witness"
        # What is remembered of keys that have ended is left alone.
        lasting = (key for key in _log_at(config.url, self._root) if key.end is None or key.end >= now)
        held = [Held(key, Witness(key, seen / f"{key.log_id.hex()[:16]}.json")) for key in lasting]
        (key, witness), *others = _in_use_first(held, now, config.url)
        client = self._client(config.url, config.ca_bundle_secret, api=f"rekor-v{config.api_version}", secret=False)
        if config.api_version == 1:
            return RekorV1(client, key, witness, self._place.clock, others)
        if config.api_version != 2:
            raise PermanentError("there are generations 1 and 2", where=f"{WHERE} spec.rekor.apiVersion")
        tiles = client
        if config.read_url:
            tiles = self._client(config.read_url, config.ca_bundle_secret, api="rekor-v2-tiles", secret=False)
        return RekorV2(client, tiles, key, witness, others)

    def authority(self) -> TimestampAuthority | None:
        from ugallu.evidence.authority import TimestampService

        config = self._wanted.timestamp_authority
        if config is None:
            return None
        if not self._root.timestamp_authorities:
            raise PermanentError("the trusted root names no timestamp authority", where=f"{WHERE} spec.trustedRootRef")
        client = self._client(config.url, config.ca_bundle_secret, api="timestamps", secret=False)
        return TimestampService(client, self._root.timestamp_authorities, self._place.clock)

    def _fulcio(self) -> Signer:
        from ugallu.evidence.signers.fulcio import FulcioSigner
        from ugallu.evidence.signers.token import TokenFile

        config = _part(self._wanted.fulcio, "fulcio")
        client = self._client(
            config.fulcio_url, config.ca_bundle_secret, api="fulcio", verify=not config.insecure_skip_verify
        )
        metrics = self._place.metrics
        token = Path(config.oidc_token_path or FULCIO_TOKEN)
        if not token.exists():
            raise MissingFileError(
                "there is no token", where=str(token), fix="project a ServiceAccount token with audience sigstore"
            )
        return FulcioSigner(
            client,
            TokenFile(token),
            self._root,
            self._place.clock,
            issuer=config.issuer,
            told=lambda ends: metrics.gauge("ugallu_attestor_cert_not_after_timestamp_seconds", ends.timestamp()),
        )

    def _openbao(self) -> Signer:
        from ugallu.evidence.signers.openbao import Login, Session, TransitSigner
        from ugallu.evidence.signers.token import TokenFile

        config = _part(self._wanted.openbao, "openbao")
        if config.key_type is OpenBaoKeyType.RSA_PSS_2048:
            raise PermanentError(
                "no stock verifier takes a PSS signature from a PEM key, and no Rekor logs one",
                where=f"{WHERE} spec.openbao.keyType",
                fix="make an ecdsa-p256 key",
            )
        client = self._client(
            config.address, config.ca_bundle_secret, api="openbao", verify=not config.insecure_skip_verify
        )
        login = Login(config.auth_mount.strip("/"), config.auth_role, TokenFile(self._place.account / "token"))
        mount = config.transit_mount.strip("/")
        return TransitSigner(
            client,
            Session(client, login, self._place.clock),
            self._place.clock,
            mount=mount,
            key=config.key_name,
            key_type=config.key_type.value,
            kept=self._place.state / "transit" / f"{_plain(mount)}.{_plain(config.key_name)}.json",
        )

    def _client(
        self, url: str, ca: SecretReference | None, *, api: str, verify: bool = True, secret: bool = True
    ) -> Peer:
        bundle = self._files[f"{ca.name}/{CA_KEY}"] if ca is not None else b""
        client = self._place.connect(url, ca=bundle, verify=verify, secret=secret)
        self.clients.append(client)
        return Counted(client, api, self._place.metrics)


class Counted:
    """A `Peer` whose answers are counted by what is asked and how it went."""

    def __init__(self, peer: Peer, api: str, metrics: Metrics) -> None:
        self._peer = peer
        self._api = api
        self._metrics = metrics

    @property
    def host(self) -> str:
        """Who it is."""
        return self._peer.host

    async def ask(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """Ask, and count."""
        code = "error"
        try:
            reply = await self._peer.ask(method, path, body, headers)
            code = str(reply.status)
        finally:
            if self._api == "timestamps":
                self._metrics.count("ugallu_attestor_tsa_requests_total", code=code)
            else:
                name = "rekor" if self._api.startswith("rekor") else "signer"
                self._metrics.count(f"ugallu_attestor_{name}_requests_total", api=self._api, code=code)
        return reply


def _fit(wanted: AttestorConfigSpec, root: TrustedRoot) -> None:
    """Refuse parts that cannot make evidence together."""
    mode = wanted.signing_mode.canonical
    certified = mode in (SigningMode.FULCIO_KEYLESS, SigningMode.DUAL)
    v2 = wanted.rekor.api_version == 2
    if certified and not (root.authorities and root.certificate_logs):
        raise PermanentError(
            "the trusted root names no certificate authority with its certificate log",
            where=f"{WHERE} spec.trustedRootRef",
        )
    if certified and v2 and wanted.timestamp_authority is None:
        raise PermanentError(
            "a log of generation 2 signs no time, and a certificate is worth nothing without one",
            where=f"{WHERE} spec.timestampAuthority",
            fix="name a timestamp authority, or a log of generation 1",
        )
    keyed = wanted.openbao is not None and wanted.openbao.key_type is OpenBaoKeyType.ED25519
    ed25519 = mode is SigningMode.ED25519_DEV or (mode in (SigningMode.OPENBAO_TRANSIT, SigningMode.DUAL) and keyed)
    if ed25519 and v2:
        raise PermanentError(
            "a log of generation 2 takes no Ed25519 signatures",
            where=f"{WHERE} spec.openbao.keyType",
            fix="make an ecdsa-p256 key, or name a log of generation 1",
        )


def _trusted_root(wanted: AttestorConfigSpec, files: Files) -> TrustedRoot:
    name, key = _root_ref(wanted)
    try:
        return trusted_root.read(files[f"{name}/{key}"])
    except PermanentError as error:
        fix = "docs/operators/attestor.md says how to make it"
        raise PermanentError(error.what, where=f"Secret/{name} {key}", fix=fix) from error


def _root_ref(wanted: AttestorConfigSpec) -> tuple[str, str]:
    ref = wanted.trusted_root_ref or SecretKeySelector(name=ROOT_SECRET, key=ROOT_KEY)
    return ref.name or ROOT_SECRET, ref.key


def _log_at(url: str, root: TrustedRoot) -> list[LogKey]:
    """Return the keys that the trusted root has for the log at this URL: same host, same port."""
    wanted = _address(url)
    found = [log for log in root.logs.values() if _address(log.url) == wanted]
    if not found:
        # A log is often reached by another name inside of a cluster than the one that it signs with.
        hosts = ", ".join(sorted(log.url for log in root.logs.values())) or "none"
        if len(root.logs) != 1:
            raise PermanentError(
                f"the trusted root names no log at {url}, but {hosts}",
                where=f"{WHERE} spec.rekor.url",
                fix="name the log as the trusted root does",
            )
        found = list(root.logs.values())
    return found


def _in_use_first(held: list["Held"], now: dt.datetime, url: str) -> list["Held"]:
    """Return keys that have not ended, the one in use first: of those that count, the newest that was seen in use.

    One that is prepared for a rotation may count already, or be to come.
    """
    if not any(one.log.counts_at(now) for one in held):
        raise PermanentError(
            f"no key that the trusted root has for the log at {url} counts today",
            where=f"{WHERE} spec.trustedRootRef",
            fix="add the key that the log signs with",
        )
    return sorted(held, key=lambda one: (one.log.counts_at(now), one.witness.size > 0, one.log.start), reverse=True)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    return "localhost" if host in ("127.0.0.1", "::1") else host, parts.port or (443 if parts.scheme == "https" else 80)


def _read(secrets: Path, name: str, key: str) -> bytes:
    if not name or "/" in name or name.startswith(".") or not key or "/" in key or key.startswith("."):
        raise PermanentError(f"{name}/{key} names no Secret and key", where=WHERE)
    path = secrets / name / key
    fix = f"create the Secret {name} with the key {key}, mounted at {secrets / name}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise MissingFileError(f"cannot be read: {error.strerror}", where=str(path), fix=fix) from error
    if len(content) > MAX_BYTES:
        raise PermanentError(f"larger than {MAX_BYTES} bytes", where=str(path))
    return content


def _part(part: P | None, name: str) -> P:
    if part is None:
        raise PermanentError("this mode needs it", where=f"{WHERE} spec.{name}", fix="add it, or choose another mode")
    return part


def _plain(name: str) -> str:
    return name.replace("/", "_")
