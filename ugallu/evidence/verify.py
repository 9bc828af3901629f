"""The verifier: is this bundle what it claims to be? Pure, no I/O, no network, no clock.

Used three times: by the attestor before it calls a bundle sealed, by the command line, and by whoever doubts the
other two. Nothing in the bundle is believed: every part is rebuilt from another part or checked under a key that
came from elsewhere. It refuses whatever cosign, sigstore-python or @sigstore/verify refuses; where they differ, all
that a bundle holds must hold (docs/evidence.md).
"""

import datetime as dt
import enum
import functools
import hashlib
import hmac
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import keys, rekor, sct, timestamp, x509
from ugallu.evidence import statement as statements
from ugallu.evidence.dsse import pae
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, LogEntry, PublicKey
from ugallu.evidence.trusted_root import LogKey, TrustedRoot
from ugallu.evidence.x509 import Identity

T = TypeVar("T")


class Outcome(enum.StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """The caller did not give what the check needs, or an earlier check failed that it builds on."""


class Check(msgspec.Struct, frozen=True):
    """One check: its name, what came of it, and why."""

    name: str
    outcome: Outcome
    detail: str = ""


CHECKS: Final = {
    # Every check, in order, with what it proves.
    "bundle": "the file is a well-formed Sigstore bundle",
    "key": "the bundle names the key that the reader trusts",
    "certificate": "an authority that the reader trusts certified the signer, who signed while that was valid",
    "certificate-log": "the certificate is in a certificate log that the reader trusts",
    "identity": "the certificate is about the identity that the reader expects",
    "signature": "that key signed the statement",
    "statement": "the statement is an in-toto v1 statement of a known type",
    "subject": "the statement is about the bytes given",
    "log": "the entry comes from a log that the reader trusts",
    "entry": "the log entry holds this signature over this statement, and nothing else",
    "inclusion": "the entry is in the log's tree",
    "checkpoint": "the log signed that tree",
    "time": "no time is claimed that nobody signed",
}
_OF_KEYS: Final = frozenset({"key"})
_OF_CERTIFICATES: Final = frozenset({"certificate", "certificate-log", "identity"})
_OF_LOGS: Final = frozenset({"log", "entry", "inclusion", "checkpoint"})


class Policy(msgspec.Struct, frozen=True):
    """What a reader demands; the defaults are those of stock verifiers, and none of them is weaker."""

    predicate_types: frozenset[str] = frozenset({statements.EVENT_PREDICATE, statements.RESPONSE_PREDICATE})
    """Types of statements that the reader expects; empty: any."""
    log: bool = True
    """An entry in a transparency log that the reader trusts."""
    certificate_log: bool = True
    """A certificate was logged before it was used."""
    timestamps: int = 0
    """So many different authorities signed the time."""
    bare_files: bool = False
    """A signature over a file, without a statement, will do."""


POLICY: Final = Policy()


class Report(msgspec.Struct, frozen=True):
    """All checks of one bundle, and what can be said of it."""

    checks: tuple[Check, ...]
    statement: statements.Statement | None = None
    """The signed statement; believe it only if `ok`."""
    log_index: int = -1
    signer: PublicKey | Identity | None = None
    """Whose key or name the signature holds under; believe it only if `ok`."""
    times: tuple[dt.datetime, ...] = ()
    """When the signature was seen, by whoever signed that."""

    @property
    def ok(self) -> bool:
        """Nothing failed; skipped can only be `subject`, when no bytes were given."""
        return all(
            check.outcome is Outcome.PASSED or (check.name == "subject" and check.outcome is Outcome.SKIPPED)
            for check in self.checks
        )

    @property
    def reason(self) -> str:
        """The first failure in one line, empty when there is none."""
        return next((f"{c.name}: {c.detail}" for c in self.checks if c.outcome is Outcome.FAILED), "")


def verify(
    content: bytes,
    *,
    key: PublicKey | Sequence[PublicKey] = (),
    identity: Identity | None = None,
    root: TrustedRoot,
    subject: bytes | None = None,
    digest: bytes | None = None,
    policy: Policy = POLICY,
) -> Report:
    """Check a bundle against the reader's own keys or expected identity, and trusted root.

    `key` is one key, or all that the signer has ever had: the bundle names one of them. `identity` is who a
    certificate must be about; a bundle of the kind that was not asked for is refused. `subject` are the attested
    bytes, or `digest` their SHA-256, if there are any.
    """
    run = _Run()
    bundle = run.check("bundle", lambda: _read(content, policy))
    if bundle is None:
        return run.report(CHECKS.keys() - (_OF_KEYS if identity is not None else _OF_CERTIFICATES))
    if digest is None and subject is not None:
        digest = hashlib.sha256(subject).digest()
    known = (key,) if isinstance(key, PublicKey) else tuple(key)
    entry = run.check("log", lambda: _one_entry(bundle, root)) if policy.log else None
    signature = bundle.signed.signature
    times = run.check("time", lambda: _times(bundle, signature, entry, root, policy))
    signer: PublicKey | Identity | None = None
    if identity is None and not bundle.certificate:
        signer = run.check("key", lambda: _key(bundle, known))
        verifier = signer or (known[0] if len(known) == 1 else None)
    else:
        verifier = None
        if run.check("certificate", lambda: _certificate(bundle, times, root, certified=identity is not None)):
            signer = run.check("identity", lambda: _identity(bundle, identity))
        if policy.certificate_log:
            run.check("certificate-log", lambda: _certificate_log(bundle, times, root))
    signed = run.check("signature", lambda: _signature(bundle, verifier, digest))
    parsed = None
    if isinstance(bundle.signed, Envelope):
        envelope = bundle.signed
        parsed = run.check("statement", lambda: _statement(envelope, policy.predicate_types))
        if parsed is not None and digest is not None:
            attested, wanted = parsed, digest
            run.check("subject", lambda: _subject(attested, wanted))
    if entry is not None:
        log = root.logs[entry.log_id]
        if signed is not None:
            held = signed
            run.check("entry", lambda: rekor.check(entry, held))
        run.check("inclusion", lambda: _inclusion(entry))
        run.check("checkpoint", lambda: _checkpoint(entry, log))
    expected = set(CHECKS) - (_OF_CERTIFICATES if identity is None and not bundle.certificate else _OF_KEYS)
    if not policy.log:
        expected -= _OF_LOGS
    if not policy.certificate_log:
        expected.discard("certificate-log")
    if not isinstance(bundle.signed, Envelope):
        expected -= {"statement", "subject"}
    return run.report(expected, parsed, entry.index if entry is not None else -1, signer, times or ())


def verify_entry(entry: LogEntry, envelope: Envelope, log: LogKey) -> None:
    """Check a fresh entry before it is kept; raises `PermanentError` with the first thing that does not hold."""
    rekor.check(entry, rekor.signed_of(envelope))
    _inclusion(entry)
    _checkpoint(entry, log)
    _promise(entry, log)


@functools.lru_cache(maxsize=64)
def signed_checkpoint(text: str, log: LogKey) -> note.Checkpoint:
    """Read a checkpoint; raises `PermanentError` unless the log signed it. Kept: entries logged together share one."""
    signed = note.read(text)
    if keys.details(log.spki) != log.key_details:
        raise PermanentError(f"the log's key is no {log.key_details[:40]!r}, as the trusted root has it")
    # Witnesses may add lines of their own; the log's own line must be there once, and hold.
    own = [line for line in signed.signatures if line.name == log.origin and line.key_hint == log.log_id[:4]]
    if len(own) != 1 or not keys.verifies(log.spki, own[0].signature, signed.body.encode()):
        raise PermanentError("not signed by the log's key")
    return signed


class _Run:
    """Collects outcomes by name."""

    def __init__(self) -> None:
        self._done: dict[str, Check] = {}

    def check(self, name: str, look: Callable[[], T]) -> T | None:
        """Run one check; returns what it found, None when it failed."""
        try:
            found = look()
        except PermanentError as error:
            self._done[name] = Check(name, Outcome.FAILED, str(error))
            return None
        self._done[name] = Check(name, Outcome.PASSED, CHECKS[name])
        return found

    def report(
        self,
        expected: AbstractSet[str],
        parsed: statements.Statement | None = None,
        log_index: int = -1,
        signer: PublicKey | Identity | None = None,
        times: tuple[dt.datetime, ...] = (),
    ) -> Report:
        """Return the checks that were expected, in order, those that never ran as skipped."""
        done = tuple(
            self._done.get(name, Check(name, Outcome.SKIPPED, CHECKS[name])) for name in CHECKS if name in expected
        )
        return Report(done, parsed, log_index, signer, times)


def _read(content: bytes, policy: Policy) -> bundles.Bundle:
    bundle = bundles.read(content)
    if not policy.bare_files:
        bundle.envelope  # noqa: B018 - raises for a bare file
    return bundle


def _key(bundle: bundles.Bundle, known: Sequence[PublicKey]) -> PublicKey:
    for key in known:
        if bundle.hint == key.hint:
            return key
    raise PermanentError("signed with another key", fix="pass the key that belongs to this bundle")


def _certificate(
    bundle: bundles.Bundle, times: Sequence[dt.datetime] | None, root: TrustedRoot, *, certified: bool
) -> bool:
    if not bundle.certificate:
        raise PermanentError("signed with a key, not with a certificate", fix="pass the key")
    if not certified:
        raise PermanentError("signed with a certificate, not with a key", fix="say whose: pass identity and issuer")
    if not times:
        raise PermanentError("nobody signed a time at which the certificate could have been valid")
    leaf = x509.load(bundle.certificate)
    x509.check_leaf(leaf, x509.CODE_SIGNING)
    if keys.details(x509.spki(leaf)) != keys.KEY_DETAILS:
        raise PermanentError("a certificate for another key than one of P-256, which stock verifiers refuse")
    for behind in bundle.chain:
        x509.load(behind)
    for at in times:
        x509.issuer_of(bundle.certificate, at, root.authorities)
    return True


def _certificate_log(bundle: bundles.Bundle, times: Sequence[dt.datetime] | None, root: TrustedRoot) -> None:
    if not bundle.certificate or not times:
        raise PermanentError("there is no certificate that is known to have been valid")
    issuer = x509.issuer_of(bundle.certificate, times[0], root.authorities)
    sct.check(x509.load(bundle.certificate), issuer, root.certificate_logs)


def _identity(bundle: bundles.Bundle, expected: Identity | None) -> Identity:
    found = x509.identity(x509.load(bundle.certificate))
    if found != expected:
        raise PermanentError(f"signed by {found.name[:200]!r}, for whom {found.issuer[:200]!r} vouches")
    return found


def _signature(bundle: bundles.Bundle, key: PublicKey | None, digest: bytes | None) -> rekor.Signed:
    """Return what was signed by whom, once the signature holds."""
    if key is None and not bundle.certificate:
        raise PermanentError("there is no key to check it with")
    spki = key.spki if key is not None else x509.spki(x509.load(bundle.certificate))
    if isinstance(bundle.signed, Envelope):
        envelope = msgspec.structs.replace(bundle.signed, key=key)
        if not keys.verifies(spki, envelope.signature, pae(envelope.payload_type, envelope.payload)):
            raise PermanentError("the signature does not hold under the signer's key")
        return rekor.signed_of(envelope)
    message = bundle.signed
    if digest is None:
        raise PermanentError("a signature over a file can only be checked with the file, or its digest")
    if not hmac.compare_digest(digest, message.digest):
        raise PermanentError("the bundle is about another file")
    if not keys.verifies_digest(spki, message.signature, digest):
        raise PermanentError("the signature does not hold under the signer's key")
    return rekor.Signed(digest, message.signature, key=key, certificate=bundle.certificate)


def _statement(envelope: Envelope, predicate_types: frozenset[str]) -> statements.Statement:
    if envelope.payload_type != STATEMENT_MEDIA_TYPE:
        raise PermanentError(f"payload type {envelope.payload_type[:80]!r} is not {STATEMENT_MEDIA_TYPE}")
    parsed = statements.parse(envelope.payload)
    if predicate_types and parsed.predicate_type not in predicate_types:
        raise PermanentError(f"predicate type {parsed.predicate_type[:80]!r} is not one that the reader expects")
    return parsed


def _subject(parsed: statements.Statement, digest: bytes) -> None:
    if all(subject.digest.get("sha256") != digest.hex() for subject in parsed.subject):
        raise PermanentError("the bytes given are none of the statement's subjects")


def _one_entry(bundle: bundles.Bundle, root: TrustedRoot) -> LogEntry:
    if len(bundle.entries) != 1:
        raise PermanentError(f"{len(bundle.entries)} log entries instead of one")
    entry = bundle.entries[0]
    if entry.log_id not in root.logs:
        raise PermanentError(
            "the log is not in the trusted root", fix="pass the trusted-root.json of this installation"
        )
    return entry


def _inclusion(entry: LogEntry) -> None:
    leaf = merkle.leaf_hash(entry.body)
    if merkle.root_of_inclusion(leaf, entry.log_index, entry.tree_size, entry.hashes) != entry.root_hash:
        raise PermanentError("the proof does not lead to the root")


def _checkpoint(entry: LogEntry, log: LogKey) -> None:
    signed = signed_checkpoint(entry.checkpoint, log)
    origin, dash, tree = signed.origin.partition(" - ")
    # A Rekor v1 names its tree behind its host; a v2 has one tree.
    if origin != log.origin or bool(dash) is not _is_v1(entry) or (dash and not (tree.isascii() and tree.isdigit())):
        raise PermanentError(f"origin {signed.origin[:80]!r} is not {log.origin}")
    if dash and len(signed.signatures) != 1:
        raise PermanentError("a signature besides that of the log, which in a Rekor v1's checkpoint stands alone")
    if (signed.size, signed.root) != (entry.tree_size, entry.root_hash):
        raise PermanentError("the checkpoint is about another tree")


def _is_v1(entry: LogEntry) -> bool:
    return (entry.kind, entry.version) != (rekor.KIND, rekor.VERSION)


def _promise(entry: LogEntry, log: LogKey) -> dt.datetime | None:
    """Return when a Rekor v1 says that it took the entry; a v2 signs no time, so neither may an entry claim one."""
    if not _is_v1(entry):
        if entry.integrated_time or entry.promise:
            raise PermanentError("a time of integration that the log did not sign")
        return None
    if not keys.verifies(log.spki, entry.promise, rekor.promised(entry)):
        raise PermanentError("the log's promise (SET) does not hold under its key")
    try:
        at = dt.datetime.fromtimestamp(entry.integrated_time, dt.UTC)
    except (OverflowError, ValueError, OSError) as error:
        raise PermanentError("a time of integration that does not exist") from error
    if not log.counts_at(at):
        raise PermanentError("the log's key did not count when it promised")
    return at


def _times(
    bundle: bundles.Bundle, signature: bytes, entry: LogEntry | None, root: TrustedRoot, policy: Policy
) -> tuple[dt.datetime, ...]:
    """Return the times that somebody signed whom the reader trusts; whatever claims to be one must hold."""
    found: list[dt.datetime] = []
    stamped: set[bytes] = set()
    for one in bundle.timestamps:
        authority, at = timestamp.checked(one, signature, root.timestamp_authorities)
        if authority in stamped:
            raise PermanentError("two timestamps of one authority")
        stamped.add(authority)
        found.append(at)
    if len(stamped) < policy.timestamps:
        raise PermanentError(f"{len(found)} timestamps instead of {policy.timestamps}")
    if entry is not None:
        log = root.logs[entry.log_id]
        promised = _promise(entry, log)
        if promised is not None:
            found.append(promised)
        elif not all(log.counts_at(at) for at in found):
            raise PermanentError("the log's key did not count at the time of the signature")
    elif any(one.promise or one.integrated_time for one in bundle.entries):
        raise PermanentError("a time of integration that the log did not sign")
    return tuple(found)
