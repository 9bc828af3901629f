"""From where we run to the ports that seal. A port that is missing is an error, never a fallback to a weaker one."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ugallu.api.meta import Condition, with_condition
from ugallu.api.platform import WORMConfig, WORMConfigSpec
from ugallu.clock import Clock
from ugallu.errors import PermanentError, TransientError, UgalluError
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.files import make_directory, remove_strays, write_durably
from ugallu.evidence.kit import KEY_FILE, ROOT_FILE
from ugallu.evidence.logs.tiles import TileLog
from ugallu.evidence.ports import EvidenceStore, Leg, PublicKey, TimestampAuthority, TransparencyLog
from ugallu.evidence.roll import Roll
from ugallu.evidence.signers.local import open_key
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.stores.retention import DEFAULT_RETENTION, Retention
from ugallu.evidence.trust import Trust
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.verify import Report
from ugallu.evidence.x509 import Identity
from ugallu.operator.contract import Service
from ugallu.operator.platform import Platform
from ugallu.operator.shared import Lent
from ugallu.runtime.attestor.configs import MissingFileError, Opened, Place, Wanted, gather, open_all
from ugallu.runtime.attestor.live import Live, LiveAuthority, LiveLog, LiveSigner, LiveStore
from ugallu.runtime.attestor.publish import Publisher
from ugallu.runtime.attestor.rotate import SIGNERS, RotatingSigner

if TYPE_CHECKING:
    from ugallu.evidence.stores.s3 import S3Store

FOLDER = "evidence"
NOTHING: Final = Wanted()


@dataclass(frozen=True, slots=True)
class Known:
    """What a verifier must trust, and how long evidence is kept; both may change while ports live."""

    root: TrustedRoot
    retention: Retention = DEFAULT_RETENTION


@dataclass(frozen=True, slots=True)
class Ports:
    """The three ports, and what a verifier must trust to check their work."""

    legs: tuple[Leg, ...]
    """Who signs; two in dual mode, and then every statement has two bundles."""
    log: TransparencyLog
    store: EvidenceStore
    known: Callable[[], Known]
    close: Callable[[], None] = lambda: None
    authority: TimestampAuthority | None = None
    """Who signs the time of each signature, if anybody does; its replies go into the bundle."""
    require_all: bool = False
    """What two bundles are worth (`spec.dualMode.requireAll`): both must hold, or one is enough."""
    services: tuple[Service, ...] = ()
    """What must run for the ports to work."""
    ready: Callable[[], str] = lambda: ""
    """What keeps them from working, empty when nothing does."""
    past: Callable[[], tuple[PublicKey | Identity, ...]] = tuple
    """Who signed here before these did."""

    @property
    def mode(self) -> str:
        """The signing mode, as status names it."""
        return self.legs[0].signer.mode if len(self.legs) == 1 else "dual"

    @property
    def root(self) -> TrustedRoot:
        """What evidence is checked against."""
        return self.known().root

    @property
    def retention(self) -> Retention:
        """How long each class of evidence is locked."""
        return self.known().retention

    @property
    def signers(self) -> tuple[PublicKey | Identity, ...]:
        """Every key and identity that signs here, or ever did."""
        now = (who for leg in self.legs for who in leg.signer.signs_as)
        return tuple(dict.fromkeys((*now, *self.past())))

    def check(self, content: bytes, *, subject: bytes | None = None) -> Report:
        """Verify a bundle as one of ours."""
        return Trust(self.root, self.signers).check(content, subject=subject)


def choose(platform: Platform, wanted: Wanted = NOTHING) -> Ports:
    """Return the ports for this platform: those that an AttestorConfig asks for, or else the embedded ones.

    Raises `PermanentError` where no adapter fits, `TransientError` for a file that is not there yet, `RefusedError`
    for a key that others may read or a log that another process has open, `IntegrityError` for a log that was
    tampered with.
    """
    if wanted != NOTHING:
        return configured(wanted, platform)
    if not _seals_here(platform):
        raise PermanentError(
            "sealing on a Kubernetes cluster needs a signer, a log and a store that outlive the Pod; "
            "none is configured, and none is ever chosen by default",
            where="operator attestor",
            fix="create AttestorConfig/default and WORMConfig/default (docs/operators/attestor.md), or pass --evidence "
            "local to seal in --state (on a volume that lasts), or run without the attestor",
        )
    return local(platform.state / FOLDER, platform)


def configured(wanted: Wanted, platform: Platform) -> Ports:
    """Return the ports that an AttestorConfig and WORMConfig ask for; they follow what changes."""
    from ugallu.net.client import HttpClient

    folder = platform.state / FOLDER
    place = Place(
        secrets=Path(platform.settings.secrets),
        account=Path(platform.settings.kubernetes.account),
        state=folder,
        clock=platform.clock,
        metrics=platform.metrics,
        connect=HttpClient,
    )
    try:
        files = gather(wanted, place.secrets)
        opened = open_all(wanted, files, place)
    except MissingFileError as error:
        # Mounted when the Pod is told to, a minute later: worth another try.
        raise TransientError(error.what, where=error.where, fix=error.fix) from error
    roll = Roll(folder / SIGNERS)
    before = published(folder)
    roll.add(*before.signers)

    def told(these: Opened) -> None:
        roll.add(*(who for leg in these.legs for who in leg.signer.signs_as))

    told(opened)
    lent = directory(folder, platform) if _seals_here(platform) else None
    live = Live(
        wanted,
        files,
        opened,
        place,
        worm=platform.cache.view(WORMConfig, namespace=platform.namespace),
        say=partial(_say, platform),
        open_store=lambda spec: bucket(spec, place.secrets, place.clock),
        log=platform.log,
        store=lent.value if lent is not None else None,
        told=told,
    )

    dual = wanted.dual_mode
    ports = Ports(
        legs=tuple(Leg(leg.role, LiveSigner(live, at)) for at, leg in enumerate(opened.legs)),
        log=LiveLog(live),
        store=LiveStore(live, lambda: live.earlier),
        known=lambda: Known(merged(live.root, before.root), live.retention),
        close=lent.give_back if lent is not None else lambda: None,
        authority=LiveAuthority(live) if opened.authority is not None else None,
        require_all=dual is not None and dual.require_all,
        services=(live, Publisher(LiveStore(live), lambda: ports.signers, clock=platform.clock, log=platform.log)),
        ready=lambda: live.reason,
        past=lambda: roll.known,
    )
    return ports


async def _say(platform: Platform, found: WORMConfig, ready: Condition) -> None:
    """Say on a WORMConfig under a wrong name what that means; what cannot be written is logged."""
    after = with_condition(found.status.conditions, ready)
    if after == tuple(found.status.conditions):
        return
    status = {"conditions": msgspec.to_builtins(after)}
    try:
        await platform.cluster.patch_status(WORMConfig, found.metadata.name, status, found.metadata.namespace)
    except UgalluError as error:
        platform.log.warning("status of a WORMConfig not written", error=str(error))


def _seals_here(platform: Platform) -> bool:
    """Tell whether what no config names may lie in the state directory."""
    return platform.cluster.embedded or platform.settings.evidence == "local"


class Published(NamedTuple):
    """What the keys and the log of this directory published, before a config took their place."""

    root: TrustedRoot
    signers: tuple[PublicKey | Identity, ...] = ()


def published(folder: Path) -> Published:
    """Return what lies in a directory for verifiers, nothing where nothing was ever sealed in it."""
    key, root = folder / KEY_FILE, folder / ROOT_FILE
    if not key.exists() or not root.exists():
        return Published(TrustedRoot({}))
    now = keys.from_pem(key.read_bytes(), where=str(key))
    return Published(trusted_root.read(root.read_bytes()), (now, *Roll(folder / SIGNERS).known))


def merged(now: TrustedRoot, before: TrustedRoot) -> TrustedRoot:
    """Return the root of now, with the logs of before: what they hold must verify for as long as it is kept."""
    return msgspec.structs.replace(now, logs={**before.logs, **now.logs})


def bucket(spec: WORMConfigSpec, secrets: Path, clock: Clock) -> "S3Store":
    """Return the store that a WORMConfig describes, with credentials that are mounted below `secrets`."""
    from ugallu.evidence.stores.s3 import from_folder, open_store

    ref = spec.credentials_secret_ref
    credentials = from_folder(secrets / ref.name) if ref is not None and ref.name else _of_the_machine
    return open_store(spec, credentials, clock)


async def _of_the_machine() -> None:
    """Credentials are those of the machine: an instance role, or a web identity."""


def local(folder: Path, platform: Platform) -> Ports:
    """Return the embedded ports: `keys/` (made on first use), `log/`, `store/`, and what verifiers need beside them."""
    signer = RotatingSigner(folder, platform.clock, platform.log)
    log_key = open_key(folder / "keys" / "log.key")
    log = TileLog(folder / "log", log_key, folder / "keys" / "log.witness", platform.clock)
    with contextlib.ExitStack() as undo:
        undo.callback(log.close)
        # Whoever has the log is alone here: what lies around is a dead process's, and may be a key.
        remove_strays(folder)
        remove_strays(folder / "keys")
        signer.look()
        lent = directory(folder, platform)
        undo.callback(lent.give_back)
        root = trusted_root.write([log.trusted_root])
        make_directory(folder)
        write_durably(folder / ROOT_FILE, root)
        write_durably(folder / KEY_FILE, keys.to_pem(signer.signs_as[0]))
        close = undo.pop_all().close
    known = Known(trusted_root.read(root))
    return Ports((Leg("primary", signer),), log, lent.value, lambda: known, close, services=(signer,))


def directory(folder: Path, platform: Platform) -> Lent[DirectoryStore]:
    """Return the store below `folder`, which all operators of this process write through one door.

    Raises `RefusedError` when another process writes to it, `TransientError` when the disk refuses.
    """

    def opened() -> DirectoryStore:
        store = DirectoryStore(folder / "store", platform.clock)
        store.open()
        return store

    return platform.shared.take(f"store {folder}", opened, DirectoryStore.close)
