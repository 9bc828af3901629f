"""The verifier: is this bundle what it claims to be? Pure, no I/O, no network, no clock.

Used three times: by the attestor before it calls a bundle sealed, by the command line, and by whoever doubts the
other two. Nothing in the bundle is believed: every part is rebuilt from another part or checked under a key that
came from elsewhere.
"""

import enum
import functools
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from ugallu.errors import PermanentError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import keys, rekor
from ugallu.evidence import statement as statements
from ugallu.evidence.dsse import pae
from ugallu.evidence.logs import merkle, note
from ugallu.evidence.ports import STATEMENT_MEDIA_TYPE, Envelope, LogEntry, PublicKey
from ugallu.evidence.trusted_root import LogKey, TrustedRoot

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
    "bundle": "the file is a well-formed Sigstore bundle v0.3",
    "key": "the bundle names the key that the reader trusts",
    "signature": "that key signed the statement",
    "statement": "the statement is an in-toto v1 statement of a known type",
    "subject": "the statement is about the bytes given",
    "log": "the entry comes from a log that the reader trusts",
    "entry": "the log entry holds this signature over this statement, and nothing else",
    "inclusion": "the entry is in the log's tree",
    "checkpoint": "the log signed that tree",
    "time": "no time is claimed that nobody signed",
}


class Report(msgspec.Struct, frozen=True):
    """All checks of one bundle, and what can be said of it."""

    checks: tuple[Check, ...]
    statement: statements.Statement | None = None
    """The signed statement; believe it only if `ok`."""
    log_index: int = -1

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
    key: PublicKey,
    root: TrustedRoot,
    subject: bytes | None = None,
    predicate_types: frozenset[str] = frozenset({statements.EVENT_PREDICATE, statements.RESPONSE_PREDICATE}),
) -> Report:
    """Check a key bundle against the reader's own key and trusted root, and `subject` bytes if there are any."""
    run = _Run()
    bundle = run.check("bundle", lambda: bundles.read(content))
    if bundle is None:
        return run.report()
    envelope = msgspec.structs.replace(bundle.envelope, key=key)
    run.check("key", lambda: _key(bundle, key))
    run.check("signature", lambda: _signature(envelope, key))
    parsed = run.check("statement", lambda: _statement(envelope, predicate_types))
    if parsed is not None and subject is not None:
        run.check("subject", lambda: _subject(parsed, subject))
    entry = run.check("log", lambda: _one_entry(bundle, root))
    if entry is not None:
        log = root.logs[entry.log_id]
        run.check("entry", lambda: _entry(entry, envelope))
        run.check("inclusion", lambda: _inclusion(entry))
        run.check("checkpoint", lambda: _checkpoint(entry, log))
        run.check("time", lambda: _time(bundle, entry))
    return run.report(parsed, entry.log_index if entry is not None else -1)


def verify_entry(entry: LogEntry, envelope: Envelope, log: LogKey) -> None:
    """Check a fresh entry before it is kept; raises `PermanentError` with the first thing that does not hold."""
    _entry(entry, envelope)
    _inclusion(entry)
    _checkpoint(entry, log)


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

    def report(self, parsed: statements.Statement | None = None, log_index: int = -1) -> Report:
        """Return all checks in order, those that never ran as skipped."""
        done = tuple(self._done.get(name, Check(name, Outcome.SKIPPED, CHECKS[name])) for name in CHECKS)
        return Report(done, parsed, log_index)


def _key(bundle: bundles.Bundle, key: PublicKey) -> None:
    if bundle.envelope.certificate:
        raise PermanentError("signed with a certificate, not with a key", fix="this reader checks key bundles")
    if bundle.hint != key.hint:
        raise PermanentError("signed with another key", fix="pass the ugallu.pub that belongs to this bundle")


def _signature(envelope: Envelope, key: PublicKey) -> None:
    if not keys.verifies(key.spki, envelope.signature, pae(envelope.payload_type, envelope.payload)):
        raise PermanentError("the signature does not hold under the key given")


def _statement(envelope: Envelope, predicate_types: frozenset[str]) -> statements.Statement:
    if envelope.payload_type != STATEMENT_MEDIA_TYPE:
        raise PermanentError(f"payload type {envelope.payload_type[:80]!r} is not {STATEMENT_MEDIA_TYPE}")
    parsed = statements.parse(envelope.payload)
    if parsed.predicate_type not in predicate_types:
        raise PermanentError(f"predicate type {parsed.predicate_type[:80]!r} is not one that the reader expects")
    return parsed


def _subject(parsed: statements.Statement, content: bytes) -> None:
    if not parsed.attests(content):
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


def _entry(entry: LogEntry, envelope: Envelope) -> None:
    if (entry.kind, entry.version) != (rekor.KIND, rekor.VERSION):
        raise PermanentError(f"kind {entry.kind[:40]!r} {entry.version[:20]!r} is not {rekor.KIND} {rekor.VERSION}")
    if entry.body != rekor.body(envelope):
        raise PermanentError("the entry does not hold this envelope")


def _inclusion(entry: LogEntry) -> None:
    leaf = merkle.leaf_hash(entry.body)
    if merkle.root_of_inclusion(leaf, entry.log_index, entry.tree_size, entry.hashes) != entry.root_hash:
        raise PermanentError("the proof does not lead to the root")


def _checkpoint(entry: LogEntry, log: LogKey) -> None:
    signed = signed_checkpoint(entry.checkpoint, log)
    if signed.origin != log.origin:
        raise PermanentError(f"origin {signed.origin[:80]!r} is not {log.origin}")
    if (signed.size, signed.root) != (entry.tree_size, entry.root_hash):
        raise PermanentError("the checkpoint is about another tree")


def _time(bundle: bundles.Bundle, entry: LogEntry) -> None:
    """Rekor v2 signs no time, so neither may a bundle claim one; timestamps of an authority need its certificate."""
    if entry.integrated_time or entry.promise:
        raise PermanentError("a time of integration that the log did not sign")
    if bundle.timestamps:
        raise PermanentError("timestamps of an authority that the trusted root does not name")
