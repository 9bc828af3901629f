"""The three ports of sealing, and the values that pass through them."""

import datetime as dt
import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

import msgspec

from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError

if TYPE_CHECKING:
    from ugallu.evidence.x509 import Identity

BUNDLE_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT_MEDIA_TYPE = "application/vnd.in-toto+json"


class IntegrityError(PermanentError):
    """Stored or logged bytes are not the ones that were written: evidence may have been tampered with."""

    reason: ClassVar[str] = "IntegrityViolation"


class ElsewhereError(PermanentError):
    """What a URL names lies in another store than the one in use: nothing is wrong with it, but it is not here."""

    reason: ClassVar[str] = "Elsewhere"


class UnprovenError(RefusedError):
    """The store has not proven that it keeps what it is given, so nothing is given to it."""

    reason: ClassVar[str] = "LockNotProven"


class FullError(TransientError):
    """There is no room left, or none that we may use; it passes once somebody makes some."""

    reason: ClassVar[str] = "StoreFull"


class KeyGoneError(PermanentError):
    """The key that is to sign is not there any more; nothing else signs in its place."""

    reason: ClassVar[str] = "SigningKeyGone"


class TokenEndedError(TransientError):
    """Our own token has ended, and nobody has replaced it; who does is the kubelet."""

    reason: ClassVar[str] = "TokenExpired"


class CredentialsError(RefusedError):
    """A service does not accept our credentials: missing, wrong, expired, or not allowed to do this."""

    reason: ClassVar[str] = "CredentialsRefused"


def reason_of(error: UgalluError) -> str:
    """Return the one word under which conditions and metrics name an error of sealing."""
    return str(getattr(error, "reason", error.category))


class PublicKey(msgspec.Struct, frozen=True):
    """A verification key: SubjectPublicKeyInfo DER, and the id under which status objects name it."""

    spki: bytes
    key_id: str

    @property
    def hint(self) -> str:
        """`publicKey.hint` of a bundle: base64 of SHA-256 over the SPKI DER (Sigstore bundle v0.3)."""
        import base64
        import hashlib

        return base64.b64encode(hashlib.sha256(self.spki).digest()).decode()


class Envelope(msgspec.Struct, frozen=True):
    """A DSSE envelope with its one signature. `signature` is over PAE(payload_type, payload), raw bytes."""

    payload_type: str
    payload: bytes
    signature: bytes
    key: PublicKey | None = None
    certificate: bytes = b""
    """DER of the leaf for keyless signatures; exactly one of key and certificate is set."""

    @property
    def key_id(self) -> str:
        """Who signed, as status objects name it: the key, or the name in the certificate and which certificate."""
        if self.key is not None:
            return self.key.key_id
        import hashlib

        from ugallu.evidence import x509

        name = x509.identity(x509.load(self.certificate)).name
        return f"fulcio:{name}:{hashlib.sha256(self.certificate).hexdigest()[:16]}"


class LogEntry(msgspec.Struct, frozen=True):
    """A transparency-log entry with everything that an offline verifier needs; digests are raw bytes."""

    log_id: bytes
    log_index: int
    kind: str
    version: str
    body: bytes
    """The canonicalised body: the leaf."""
    tree_size: int
    root_hash: bytes
    hashes: tuple[bytes, ...]
    checkpoint: str
    integrated_time: int = 0
    promise: bytes = b""
    """The log's signature over body, index and `integrated_time`, where it gives one (Rekor v1)."""
    uuid: str = ""
    global_index: int = -1
    """The index that the log shows when it has several trees; `log_index` is that in the tree of the proof."""

    @property
    def index(self) -> int:
        """The index under which the log shows the entry."""
        return self.log_index if self.global_index < 0 else self.global_index


class Lock(enum.StrEnum):
    """Who enforces a retention date."""

    STORE = "store"
    """The store itself refuses to delete or shorten, to everybody."""
    RIGHTS = "rights"
    """The store refuses all who have no right to bypass its locks."""
    PROCESS = "process"
    """Only our own code refuses; whoever owns the disk can delete."""


class Stored(msgspec.Struct, frozen=True):
    """A stored blob. `sha256` is `sha256:<hex>`, `size` in bytes, `until` when the retention ends."""

    url: str
    sha256: str
    size: int
    media_type: str
    until: dt.datetime | None = None
    lock: Lock = Lock.PROCESS
    held: bool = False
    """Under legal hold: not dropped, whatever the date, until the hold is lifted."""


class Signer(Protocol):
    """Signs DSSE payloads under one key or identity."""

    @property
    def mode(self) -> str:
        """The signing mode as `AttestationBundle.status.signature.mode` names it."""
        ...

    async def sign(self, payload_type: str, payload: bytes) -> Envelope:
        """Return a signed envelope. Raises `TransientError` when the key service is away, `RefusedError` on rights."""
        ...

    async def public_key(self) -> PublicKey | None:
        """Return the verification key, None for keyless signing."""
        ...

    @property
    def signs_as(self) -> "tuple[PublicKey | Identity, ...]":
        """Return every key and identity under which this signer's signatures hold, those of the past included."""
        ...


@dataclass(frozen=True, slots=True)
class Leg:
    """One of the signatures that each statement gets, in a bundle and a log entry of its own.

    `role` names the bundle: `primary`, or in dual mode `fulcio` and `openbao`.
    """

    role: str
    signer: Signer


class TransparencyLog(Protocol):
    """An append-only log with public proofs."""

    async def add(self, envelope: Envelope) -> LogEntry:
        """Log the envelope and return its entry with proof; logging the same envelope again returns the same entry."""
        ...

    async def remembers(self, size: int, root: bytes, origin: str = "") -> bool:
        """Tell whether the log's first `size` entries still make this root.

        A tree that was signed as another `origin` than the one of now is no past of it: nothing contradicts it.
        """
        ...

    @property
    def trusted_root(self) -> dict[str, object]:
        """The `tlogs[]` element of a Sigstore trusted root for this log."""
        ...


@runtime_checkable
class DatingLog(TransparencyLog, Protocol):
    """A log that signs when it took an entry: what it takes after a certificate has ended was signed in vain."""

    async def has(self, envelope: Envelope) -> bool:
        """Tell whether the envelope was logged before; nothing is added."""
        ...


class TimestampAuthority(Protocol):
    """Signs when it saw a signature (RFC 3161)."""

    async def stamp(self, signature: bytes) -> bytes:
        """Return a reply (`TimeStampResp`, DER) about these raw signature bytes, already checked.

        Raises `TransientError` when the authority is away, `IntegrityError` for a reply that does not hold.
        """
        ...


class EvidenceStore(Protocol):
    """Create-only storage with retention."""

    @property
    def endpoint(self) -> str:
        """What the store is, as status shows it: `s3://bucket`, `file:///dir`."""
        ...

    @property
    def lock(self) -> Lock:
        """Who enforces retention here."""
        ...

    def key(self, url: str) -> str:
        """Return the key behind a URL that `put` answered with, or of a part of it (`stores/parts.py`).

        Raises `PermanentError` when it is not of such a store.
        """
        ...

    async def put(self, key: str, content: bytes, *, media_type: str, until: dt.datetime | None) -> Stored:
        """Store once. The same content again is success; other content under the key raises `IntegrityError`.

        `until` None is allowed for keys below `staging/` only; those may also be replaced and dropped.
        """
        ...

    async def get(self, key: str) -> bytes:
        """Return the content after checking it against the recorded digest; `IntegrityError` when it differs.

        A missing key raises `PermanentError`.
        """
        ...

    async def read(self, key: str) -> tuple[Stored, bytes]:
        """Return what is recorded of a key as it is now, retention included, and its content; errors as of `get`."""
        ...

    async def stat(self, key: str) -> Stored | None:
        """Return what is recorded of the key, or None when there is nothing."""
        ...

    async def extend(self, key: str, until: dt.datetime) -> Stored:
        """Keep a key until this date at least; an earlier date than the recorded one changes nothing.

        A missing key raises `PermanentError`, so does a staging key.
        """
        ...

    async def hold(self, key: str, *, on: bool) -> Stored:
        """Put a key under legal hold, or lift it; the same again changes nothing. Errors as of `extend`."""
        ...

    async def drop(self, key: str) -> None:
        """Remove a staging key or one whose retention has ended; `RefusedError` while it, or a legal hold, stands."""
        ...


@runtime_checkable
class SucceedingStore(EvidenceStore, Protocol):
    """A store that took the place of others, which can still be read."""

    def of(self, url: str) -> EvidenceStore:
        """Return the store that a URL is of; raises `ElsewhereError` when it is of none of them."""
        ...

    async def left(self, key: str) -> bytes | None:
        """Return what was left under a staging key in a store before this one, None when nothing was."""
        ...
