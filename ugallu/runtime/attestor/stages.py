"""The stages of sealing, each from a draft to a larger draft; of whom the draft is about they know nothing.

    sign (and have the time signed) ─> log ─> archive

Every statement is signed by each leg and has a bundle and a log entry for each. What a stage returns is to be staged
before the next one begins: the log is asked with the very envelope that was staged, and answers with the entry it has.
"""

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeVar

import anyio
import msgspec

from ugallu.clock import Clock
from ugallu.cluster.fence import NotLeadingError
from ugallu.errors import PermanentError, UgalluError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import statement, trusted_root, verify, x509
from ugallu.evidence.canonical import digest
from ugallu.evidence.logs import note
from ugallu.evidence.ports import (
    BUNDLE_MEDIA_TYPE,
    STATEMENT_MEDIA_TYPE,
    DatingLog,
    Envelope,
    IntegrityError,
    LogEntry,
    Stored,
    SucceedingStore,
)
from ugallu.evidence.seal import Keys
from ugallu.evidence.stores.retention import Class
from ugallu.evidence.trusted_root import LogKey
from ugallu.metrics import Metrics
from ugallu.runtime.attestor.choose import Ports
from ugallu.runtime.attestor.gate import Gate

JSON: Final = "application/json"
JSON_LINES: Final = "application/jsonl"
MSGPACK: Final = "application/vnd.msgpack"
ENVELOPE_LINE: Final = "application/vnd.in-toto+json"

SIGN_AT_ONCE: Final = 32
LOG_AT_ONCE: Final = 64
STORE_AT_ONCE: Final = 96
FRESH: Final = 30.0
"""Seconds for which a signature is surely in time: its certificate lives for a minute yet, a log takes half of it."""

T = TypeVar("T")


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """What one leg has made."""

    role: str
    envelope: Envelope
    timestamps: tuple[bytes, ...] = ()
    entry: LogEntry | None = None


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """What the stages have made so far; staged after each, so that a later pass goes on where this one ended."""

    spec: bytes = b""
    """The attested bytes; those of several facts are lines."""
    payload: bytes = b""
    """The Statement until it is signed; then the envelopes have it."""
    legs: tuple[Signed, ...] = ()

    @property
    def statement(self) -> bytes:
        """The Statement's bytes."""
        return self.legs[0].envelope.payload if self.legs else self.payload


class Archived(NamedTuple):
    """What is in the archive: each leg's bundle, and the attested bytes."""

    bundles: tuple[tuple[Signed, Stored], ...]
    subject: Stored
    until: dt.datetime


class _Blob(NamedTuple):
    """Something to archive; `kind` is its class in the metrics."""

    kind: str
    key: str
    content: bytes
    media_type: str


class Stages:
    """The stages over one set of ports."""

    def __init__(
        self, ports: Ports, checkpoints: Callable[[], AsyncIterator[str]], clock: Clock, metrics: Metrics
    ) -> None:
        self.ports = ports
        self.store = ports.store
        self.log = ports.log
        self._checkpoints = checkpoints
        self._clock = clock
        self._metrics = metrics
        self.leads: Callable[[], bool] = lambda: True
        """Whether this process is the one that seals; a log and a store do not know."""
        self._compared: LogKey | None = None
        """The log whose past was compared with what it signed."""
        self._fresh = _Fresh(clock)
        self._at_signer = Gate("signer", SIGN_AT_ONCE, clock, metrics)
        self._at_log = Gate("log", LOG_AT_ONCE, clock, metrics)
        self._at_store = Gate("store", STORE_AT_ONCE, clock, metrics)

    @property
    def mode(self) -> str:
        """The signing mode, as status names it."""
        return self.ports.mode

    async def sign(self, draft: Draft) -> Draft:
        """Have every leg sign the statement, and the time of each signature signed where there is an authority."""
        legs = tuple([await self._signed(leg.role, leg.signer.sign, draft.payload) for leg in self.ports.legs])
        return Draft(draft.spec, b"", legs)

    async def _signed(self, role: str, sign: Callable[[str, bytes], Awaitable[Envelope]], payload: bytes) -> Signed:
        envelope = await self._at_signer.call(lambda: sign(STATEMENT_MEDIA_TYPE, payload))
        if envelope.certificate:
            self._fresh.add(envelope.signature)
        authority = self.ports.authority
        if authority is None:
            return Signed(role, envelope)
        return Signed(role, envelope, (await self._at_signer.call(lambda: authority.stamp(envelope.signature)),))

    async def enter(self, draft: Draft, key: str) -> Draft:
        """Log every leg's envelope, and believe an entry only once its proof was checked; staged under `key`."""
        log = self._log_of_now
        if log != self._compared:
            await self._compare_history(log)
            self._compared = log
        draft = await self._logged(await self._in_time(draft, key))
        if any(_is_late(leg) for leg in draft.legs):
            # The log took longer than any should, and says so itself.
            draft = await self._logged(await self._in_time(draft, key))
        await self.stage(key, draft)
        return draft

    async def _in_time(self, draft: Draft, key: str) -> Draft:
        """Sign anew what a log takes, or has taken, after the certificate has ended, and stage it.

        What the log took before, when only its answer was lost, is good.
        """
        legs = list(draft.legs)
        for at, leg in enumerate(legs):
            signer = next((one.signer for one in self.ports.legs if one.role == leg.role), None)
            if signer is not None and (_is_late(leg) or await self._is_too_late(leg)):
                legs[at] = await self._signed(leg.role, signer.sign, draft.statement)
        if legs == list(draft.legs):
            return draft
        draft = msgspec.structs.replace(draft, legs=tuple(legs))
        await self.stage(key, draft)
        return draft

    async def _is_too_late(self, leg: Signed) -> bool:
        """Tell whether a log would perhaps date it after its certificate, and has not taken it yet.

        No wall clock is asked: it may be wrong, and then there would be a second entry.
        """
        if leg.entry is not None or not leg.envelope.certificate or leg.envelope.signature in self._fresh:
            return False
        return not await self._had(leg.envelope)

    async def _had(self, envelope: Envelope) -> bool:
        log = self.log
        return not isinstance(log, DatingLog) or await self._at_log.call(lambda: log.has(envelope))

    async def _logged(self, draft: Draft) -> Draft:
        legs = [leg if leg.entry is not None else await self._entered(leg) for leg in draft.legs]
        return msgspec.structs.replace(draft, legs=tuple(legs))

    def _lead(self) -> None:
        if not self.leads():
            raise NotLeadingError("leadership has ended, so nothing is logged or staged", where="attestor")

    async def _entered(self, leg: Signed) -> Signed:
        self._lead()
        entry = await self._at_log.call(lambda: self.log.add(leg.envelope))
        log = self.ports.root.logs.get(entry.log_id)
        if log is None:
            raise IntegrityError("the log answers under another id than its trusted root", where=self._log_name)
        try:
            verify.verify_entry(entry, leg.envelope, log)
        except PermanentError as error:
            raise IntegrityError(f"the log's entry does not hold: {error.what}", where=log.origin) from error
        return msgspec.structs.replace(leg, entry=entry)

    def origin(self, entry: LogEntry) -> str:
        """Return the name of the log that an entry is of."""
        log = self.ports.root.logs.get(entry.log_id)
        if log is None:
            raise IntegrityError(
                "an entry of a log that is not trusted any more",
                where=note.read(entry.checkpoint).origin,
                fix="keep the logs of the past in the trusted root",
            )
        return log.origin

    @property
    def _log_name(self) -> str:
        return ", ".join(log.origin for log in self.ports.root.logs.values())

    @property
    def _log_of_now(self) -> LogKey:
        """The log that is in use, as it is trusted; evidence of others before it counts as long as it is kept."""
        found = self.ports.root.logs.get(trusted_root.id_of(self.log.trusted_root))
        if found is None:
            raise IntegrityError("the trusted root does not name the log in use", where=self._log_name)
        return found

    async def _compare_history(self, log: LogKey) -> None:
        """Refuse a log that forgot what it signed for earlier bundles: an old copy, put back, would sign a second past.

        Its own witness may have been put back with it. Of every tree of this log the tallest is compared.
        """
        tallest: dict[str, note.Checkpoint] = {}
        async for text in self._checkpoints():
            try:
                signed = verify.signed_checkpoint(text, log)
            except PermanentError:
                continue  # no checkpoint of this log, whatever the status says
            if signed.origin not in tallest or signed.size > tallest[signed.origin].size:
                tallest[signed.origin] = signed
        for signed in tallest.values():
            await self._compare(log.log_id, signed.size, signed.root, signed.origin)

    async def recall(self, draft: Draft) -> None:
        """Refuse a log that forgot an entry of this very draft, which was staged by a pass that ended there."""
        for entry in (leg.entry for leg in draft.legs):
            assert entry is not None
            if entry.log_id == self._log_of_now.log_id:  # another one cannot be asked any more, and need not be
                origin = note.read(entry.checkpoint).origin
                await self._compare(entry.log_id, entry.tree_size, entry.root_hash, origin)

    async def _compare(self, log_id: bytes, size: int, root: bytes, origin: str) -> None:
        remembers = await self._at_log.call(lambda: self.log.remembers(size, root, origin))
        # Its answer may say that it uses another key by now, and then it was asked for the past of another log.
        if not remembers and self._log_of_now.log_id == log_id:
            raise IntegrityError(
                f"the log has forgotten a tree of {size} entries that it signed",
                where=origin,
                fix="put back the newest copy of the log; never an older one",
            )

    async def archive(self, draft: Draft, keys: Keys, cluster_id: str, *, lines: bool = False) -> Archived:
        """Put bundles, attested bytes and bare envelopes under retention, read them back, and verify what was read.

        With `lines` each line of the attested bytes is a fact of its own, and is verified as one.
        """
        at = statement.attested_at(statement.parse(draft.statement))
        until = self.ports.retention.until(Class.BUNDLE, at)
        roles = [leg.role for leg in draft.legs]
        envelopes = b"".join(msgspec.json.encode(bundles.envelope_json(leg.envelope)) + b"\n" for leg in draft.legs)
        subject_key = keys.subjects(cluster_id, at) if lines else keys.subject(cluster_id, at)
        blobs = [
            *(
                _Blob(
                    "bundle",
                    keys.bundle(cluster_id, at, leg.role if len(roles) > 1 else ""),
                    bundles.write(leg.envelope, leg.entry, leg.timestamps),
                    BUNDLE_MEDIA_TYPE,
                )
                for leg in draft.legs
            ),
            _Blob("subject", subject_key, draft.spec, JSON_LINES if lines else JSON),
            _Blob("envelope", keys.envelope_line(cluster_id, at), envelopes, ENVELOPE_LINE),
        ]
        done = await self._put_all(until, blobs)
        subject, held = done[len(roles)]
        for stored, content in done[: len(roles)]:
            self._check(stored, content, held, lines=lines)
        made = tuple((leg, stored) for leg, (stored, _) in zip(draft.legs, done[: len(roles)], strict=True))
        return Archived(made, subject, until)

    def _check(self, stored: Stored, content: bytes, subject: bytes, *, lines: bool) -> None:
        facts = subject.splitlines() if lines else [subject]
        report = self.ports.check(content, subject=facts[0])
        if not report.ok or report.statement is None:
            raise IntegrityError(f"the archived bundle does not verify: {report.reason}", where=stored.url)
        named = [subject.digest["sha256"] for subject in report.statement.subject]
        if named != [digest(fact).removeprefix("sha256:") for fact in facts]:
            raise IntegrityError("the archived bundle is about other facts than those beside it", where=stored.url)

    async def _put_all(self, until: dt.datetime, blobs: Sequence[_Blob]) -> list[tuple[Stored, bytes]]:
        """Put, read back, compare content and retention; returns what the store holds, blob by blob."""
        outcomes: list[tuple[Stored, bytes] | UgalluError | None] = [None] * len(blobs)

        async def put(number: int) -> None:
            # An error is kept, not raised: a task group would wrap it.
            try:
                outcomes[number] = await self._put(blobs[number], until)
            except UgalluError as error:
                outcomes[number] = error

        async with anyio.create_task_group() as tg:
            for number in range(1, len(blobs)):
                tg.start_soon(put, number)
            await put(0)
        done: list[tuple[Stored, bytes]] = []
        failed: UgalluError | None = None
        for blob, outcome in zip(blobs, outcomes, strict=True):
            word = "failed" if isinstance(outcome, UgalluError) else "stored"
            self._metrics.count("ugallu_worm_put_total", 1.0, **{"class": blob.kind, "outcome": word})
            if isinstance(outcome, UgalluError):
                failed = failed or outcome
            elif outcome is not None:
                self._metrics.count("ugallu_worm_bytes_total", len(blob.content), **{"class": blob.kind})
                done.append(outcome)
        if failed is not None:
            raise failed
        return done

    async def _put(self, blob: _Blob, until: dt.datetime) -> tuple[Stored, bytes]:
        stored = await self._at_store.call(
            lambda: self.store.put(blob.key, blob.content, media_type=blob.media_type, until=until)
        )
        found, held = await self._at_store.call(lambda: self.store.read(blob.key))
        if held != blob.content or {stored.sha256, found.sha256} != {digest(held)}:
            raise IntegrityError("the store does not hold what was put", where=blob.key)
        if found.until is None or found.until < until:
            raise IntegrityError("the store keeps it for less long than asked", where=blob.key)
        return found, held

    async def at_store(self, work: Callable[[], Awaitable[T]]) -> T:
        """Ask something else of the store, unless that is hopeless for now."""
        return await self._at_store.call(work)

    async def stage(self, key: str, draft: Draft) -> None:
        """Keep a draft."""
        await self.keep(key, msgspec.msgpack.encode(draft))

    async def keep(self, key: str, content: bytes) -> None:
        """Keep anything under a staging key."""
        self._lead()
        await self._at_store.call(lambda: self.store.put(key, content, media_type=MSGPACK, until=None))

    async def draft(self, key: str) -> bytes | None:
        """Return what lies under a staging key, in the store or in one before it; None if nothing does."""
        if await self._at_store.call(lambda: self.store.stat(key)) is not None:
            return await self._at_store.call(lambda: self.store.get(key))
        store = self.store
        return await store.left(key) if isinstance(store, SucceedingStore) else None

    async def staged(self, key: str, frozen: str) -> Draft:
        """Return what was staged; `IntegrityError` when it is not the statement with the digest that was `frozen`."""
        content = await self.draft(key)
        if content is None:
            raise PermanentError("what was staged is not here any more", where=key)
        try:
            draft = msgspec.msgpack.decode(content, type=Draft)
        except msgspec.DecodeError as error:
            raise IntegrityError("what was staged cannot be read", where=key) from error
        if digest(draft.statement) != frozen:
            raise IntegrityError("what was staged is not the statement that was frozen", where=key)
        return draft

    async def clear(self, key: str) -> None:
        """Let a draft go."""
        self._lead()
        await self._at_store.call(lambda: self.store.drop(key))


class _Fresh:
    """Signatures that were made a moment ago."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: dict[bytes, float] = {}

    def add(self, signature: bytes) -> None:
        self._forget()
        self._made[signature] = self._clock.monotonic()

    def __contains__(self, signature: bytes) -> bool:
        self._forget()
        return signature in self._made

    def _forget(self) -> None:
        # In the order in which they were made.
        while self._made and next(iter(self._made.values())) <= self._clock.monotonic() - FRESH:
            del self._made[next(iter(self._made))]


def _ended(envelope: Envelope, at: dt.datetime) -> bool:
    """Tell whether what certifies the signer has ended then; a key does not."""
    return bool(envelope.certificate) and x509.load(envelope.certificate).not_valid_after_utc <= at


def _is_late(leg: Signed) -> bool:
    """Tell whether the log took it, by its own time, after the certificate had ended."""
    if leg.entry is None or not leg.entry.integrated_time:
        return False
    return _ended(leg.envelope, dt.datetime.fromtimestamp(leg.entry.integrated_time, dt.UTC))
