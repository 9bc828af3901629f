"""From where we run to the ports that seal. A port that is missing is an error, never a fallback to a weaker one."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ugallu.errors import PermanentError
from ugallu.evidence import keys, trusted_root
from ugallu.evidence.files import make_directory, remove_strays, write_durably
from ugallu.evidence.kit import KEY_FILE, ROOT_FILE
from ugallu.evidence.logs.tiles import TileLog
from ugallu.evidence.ports import EvidenceStore, Leg, PublicKey, Signer, TimestampAuthority, TransparencyLog
from ugallu.evidence.signers.local import KeyFile, LocalSigner, open_key
from ugallu.evidence.stores.directory import DirectoryStore
from ugallu.evidence.stores.retention import DEFAULT_RETENTION, Retention
from ugallu.evidence.trust import Trust
from ugallu.evidence.trusted_root import TrustedRoot
from ugallu.evidence.verify import Report
from ugallu.operator.platform import Platform
from ugallu.operator.shared import Lent

FOLDER = "evidence"


@dataclass(frozen=True, slots=True)
class Ports:
    """The three ports, and what a verifier must trust to check their work."""

    signer: Signer
    log: TransparencyLog
    store: EvidenceStore
    key: PublicKey
    root: TrustedRoot
    close: Callable[[], None] = lambda: None
    legs: tuple[Leg, ...] = ()
    """Who signs; two in dual mode, and then every statement has two bundles."""
    authority: TimestampAuthority | None = None
    """Who signs the time of each signature, if anybody does; its replies go into the bundle."""
    require_all: bool = False
    """What two bundles are worth (`spec.dualMode.requireAll`): both must hold, or one is enough."""

    retention: Retention = DEFAULT_RETENTION
    """How long each class of evidence is locked."""

    @property
    def mode(self) -> str:
        """The signing mode, as status names it."""
        return self.signer.mode

    def check(self, content: bytes, *, subject: bytes | None = None) -> Report:
        """Verify a bundle as one of ours: under any key or identity that signs here, or ever did."""
        signers = tuple(who for leg in self.legs for who in leg.signer.signs_as)
        return Trust(self.root, signers).check(content, subject=subject)


def choose(platform: Platform) -> Ports:
    """Return the ports for this platform.

    Raises `PermanentError` where no adapter fits, `RefusedError` for a key that others may read or a log that another
    process has open, `IntegrityError` for a log that was tampered with.
    """
    if not platform.cluster.embedded and platform.settings.evidence != "local":
        raise PermanentError(
            "sealing on a Kubernetes cluster needs a signer, a log and a store that outlive the Pod; "
            "none is configured, and none is ever chosen by default",
            where="operator attestor",
            fix="pass --evidence local to seal in --state (on a volume that lasts), or run without the attestor",
        )
    return local(platform.state / FOLDER, platform)


def local(folder: Path, platform: Platform) -> Ports:
    """Return the embedded ports: `keys/` (made on first use), `log/`, `store/`, and what verifiers need beside them."""
    key = _signing_key(folder)
    log_key = open_key(folder / "keys" / "log.key")
    log = TileLog(folder / "log", log_key, folder / "keys" / "log.witness", platform.clock)
    with contextlib.ExitStack() as undo:
        undo.callback(log.close)
        # Whoever has the log is alone here: what lies around is a dead process's, and may be a key.
        remove_strays(folder)
        remove_strays(folder / "keys")
        lent = directory(folder, platform)
        undo.callback(lent.give_back)
        root = trusted_root.write([log.trusted_root])
        make_directory(folder)
        write_durably(folder / ROOT_FILE, root)
        write_durably(folder / KEY_FILE, keys.to_pem(key.public))
        close = undo.pop_all().close
    signer = LocalSigner(key)
    return Ports(
        signer=signer,
        log=log,
        store=lent.value,
        key=key.public,
        root=trusted_root.read(root),
        close=close,
        legs=(Leg("primary", signer),),
    )


def directory(folder: Path, platform: Platform) -> Lent[DirectoryStore]:
    """Return the store below `folder`, which all operators of this process write through one door.

    Raises `RefusedError` when another process writes to it, `TransientError` when the disk refuses.
    """

    def opened() -> DirectoryStore:
        store = DirectoryStore(folder / "store", platform.clock)
        store.open()
        return store

    return platform.shared.take(f"store {folder}", opened, DirectoryStore.close)


def _signing_key(folder: Path) -> KeyFile:
    """Open the key, or make it, but never a second one: what the first has signed would verify under neither."""
    path, published = folder / "keys" / "attestor.key", folder / KEY_FILE
    if published.exists():
        known = keys.from_pem(published.read_bytes(), where=str(published))
        found = open_key(path) if path.exists() else None
        if found is None or found.public != known:
            raise PermanentError(
                f"the key {known.key_id} that signed the evidence here is {'gone' if found is None else 'another'}",
                where=str(path),
                fix=f"put it back; to begin anew with another key, move {folder} away",
            )
        return found
    return open_key(path)
