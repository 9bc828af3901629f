"""Bundle to evidence: one stage after the other, each persisted before the next begins.

    statement ─> sign ─> log ─> archive ─> Sealed ─> event Attested
        └─ outputs are staged in the evidence store, then named in the bundle's status

A crash anywhere resumes at the first stage that the status does not name. The log is asked with the very envelope
that was staged, and answers with the entry it has, so nothing is logged twice.
"""

import datetime as dt
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import anyio
import msgspec

from ugallu.api.bundle import (
    AttestationBundle,
    BundleArchive,
    BundlePhase,
    InclusionProof,
    PipelineFailure,
    RekorEntry,
    SignatureInfo,
    SigningMode,
)
from ugallu.api.event import EvidenceRef, SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.meta import Condition, utc_seconds, with_condition
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, ForbiddenError, Key, NotFoundError, Preconditions, UnavailableError, View
from ugallu.errors import ConflictError, PermanentError, UgalluError
from ugallu.evidence import bundle as bundles
from ugallu.evidence import statement, verify
from ugallu.evidence.canonical import digest
from ugallu.evidence.logs import merkle
from ugallu.evidence.ports import (
    BUNDLE_MEDIA_TYPE,
    STATEMENT_MEDIA_TYPE,
    Envelope,
    IntegrityError,
    Lock,
    LogEntry,
    Stored,
)
from ugallu.evidence.seal import LONGEST_DELAY, MAX_FAILURES, PATIENCE, RETENTION, Keys, Stage, next_stage, retry_delay
from ugallu.metrics import Metrics
from ugallu.operator.contract import After
from ugallu.runtime.attestor.choose import Ports
from ugallu.runtime.attestor.enqueue import CLUSTER_ANNOTATION
from ugallu.runtime.attestor.parent import ParentGoneError, attest, find, is_attested, says_attested
from ugallu.runtime.attestor.proof import confirm

PARENT_GONE = "ParentGone"
JSON = "application/json"
MSGPACK = "application/vnd.msgpack"
ENVELOPE_LINE = "application/vnd.in-toto+json"


EMPTY: Mapping[str, Any] = MappingProxyType({})

T = TypeVar("T")


class Draft(msgspec.Struct, frozen=True, array_like=True):
    """What the stages have made so far; staged after each, so that a later pass goes on where this one ended."""

    spec: bytes = b""
    payload: bytes = b""
    """The Statement until it is signed; then the envelope has it."""
    envelope: Envelope | None = None
    entry: LogEntry | None = None


class Blob(NamedTuple):
    """Something to archive; `kind` is its class in the metrics."""

    kind: str
    key: str
    content: bytes
    media_type: str


Made = tuple[Draft, dict[str, Any]]
"""What a stage returns: the draft grown by its output, and the changes of the bundle's status."""


class Reseal:
    """A Reconciler of AttestationBundles."""

    watches = BundleMark
    at_once = 64

    def __init__(
        self,
        ports: Ports,
        cluster: Cluster,
        events: View[EventMark],
        *,
        attestor: statement.Attestor,
        again: Callable[[Key], Awaitable[None]],
        checkpoints: Callable[[], Iterable[str]],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._ports = ports
        self._signer = ports.signer
        self._log = ports.log
        self._store = ports.store
        self._key = ports.key
        self._root = ports.root
        self._cluster = cluster
        self._events = events
        self._attestor = attestor
        self._again = again
        self._checkpoints = checkpoints
        self._remembered = False
        self._clock = clock
        self._metrics = metrics
        self._stages = {
            Stage.STATEMENT: self._freeze,
            Stage.SIGN: self._sign,
            Stage.LOG: self._enter,
            Stage.ARCHIVE: self._archive,
        }

    async def reconcile(self, mark: BundleMark) -> After | None:
        """Bring the bundle as far as it goes; `After` when a stage failed and is to be tried again."""
        if mark.status.phase is BundlePhase.SEALED and says_attested(self._events, mark):
            return None
        try:
            bundle = await self._cluster.get(AttestationBundle, mark.metadata.name)
        except NotFoundError:
            return None
        return await self._advance(bundle)

    async def _advance(self, bundle: AttestationBundle) -> After | None:
        if bundle.spec.attested_for.kind != SecurityEvent.kind_info.name:
            raise PermanentError(
                f"cannot attest a {bundle.spec.attested_for.kind[:63]!r}",
                where=f"AttestationBundle/{bundle.metadata.name} spec.attestedFor.kind",
                fix="only SecurityEvents are attested so far",
            )
        due = bundle.status.next_attempt_at
        wait = (due - self._clock.now()).total_seconds() if due is not None else 0.0
        # Longer than we ever wait: the clock was put back since.
        if 0.0 < wait <= LONGEST_DELAY:
            return After(wait)
        draft: Draft | None = None
        sealed_here = False
        held: dict[str, Any] = {}
        while (stage := next_stage(bundle.status)) is not Stage.DONE:
            began = self._clock.monotonic()
            try:
                if draft is None:
                    draft = Draft() if stage is Stage.STATEMENT else await self._staged(bundle)
                draft, changes = await self._stages[stage](bundle, draft)
            except (ConflictError, UnavailableError, ForbiddenError):
                # The cluster's own errors: nothing failed here, and there is nowhere to write that it did.
                raise
            except UgalluError as error:
                return await self._failed(bundle, stage, error, held)
            if stage is Stage.STATEMENT:
                # Staged, so it is safe; said together with its signature, which is seldom long in coming. Should a
                # crash come between, nobody knows of the statement and another one is frozen.
                held = changes
                frozen = msgspec.structs.replace(bundle.status, statement_digest=changes["statementDigest"])
                bundle = msgspec.structs.replace(bundle, status=frozen)
                continue
            try:
                bundle = await self._write(bundle, held | changes)
                held = {}
            except NotFoundError:
                return None
            self._metrics.observe(
                "ugallu_attestor_stage_duration_seconds", self._clock.monotonic() - began, stage=stage
            )
            if bundle.status.phase is BundlePhase.SEALED:
                self._count(bundle, "sealed")
                sealed_here = True
        return await self._settle(bundle, proven=sealed_here)

    async def gone(self, key: Key) -> None:
        """Evidence and log entry stay; an event that still waits for its evidence gets another bundle."""
        await self._again(key)

    async def _freeze(self, bundle: AttestationBundle, draft: Draft) -> Made:
        """Fix what will be signed, time included, and keep it."""
        event = await find(self._cluster, bundle)
        spec = statement.spec_bytes(event)
        payload = statement.event_statement(event, self._attestor, self._clock.now(), content=spec)
        draft = Draft(spec, payload)
        await self._stage(bundle, draft)
        return draft, {"phase": BundlePhase.PENDING, "statementDigest": digest(draft.payload)}

    async def _sign(self, bundle: AttestationBundle, draft: Draft) -> Made:
        envelope = await self._signer.sign(STATEMENT_MEDIA_TYPE, draft.payload)
        draft = msgspec.structs.replace(draft, payload=b"", envelope=envelope)
        await self._stage(bundle, draft)
        key_id = envelope.key.key_id if envelope.key is not None else ""
        return draft, {
            "phase": BundlePhase.SIGNED,
            "signature": SignatureInfo(mode=SigningMode(self._signer.mode), key_id=key_id),
            "signedAt": self._now(),
            "conditions": self._conditions(bundle, "Signed", "SignerOK", f"signed by {key_id}"),
        }

    async def _enter(self, bundle: AttestationBundle, draft: Draft) -> Made:
        """Log the staged envelope, and believe the entry only once its proof was checked."""
        envelope = _present(draft.envelope, bundle)
        if not self._remembered:
            await self._compare_history()
            self._remembered = True
        entry = await self._log.add(envelope)
        log = self._root.logs.get(entry.log_id)
        if log is None:
            raise IntegrityError("the log answers under another id than its trusted root", where=bundle.metadata.name)
        verify.verify_entry(entry, envelope, log)
        draft = msgspec.structs.replace(draft, entry=entry)
        await self._stage(bundle, draft)
        return draft, {
            "phase": BundlePhase.LOGGED,
            "rekorEntry": _entry_status(entry),
            "conditions": self._conditions(bundle, "Logged", "LoggerOK", f"entry {entry.log_index} of {log.origin}"),
        }

    async def _compare_history(self) -> None:
        """Refuse a log that forgot what it signed for earlier bundles: an old copy, put back, would sign a second past.

        Its own witness may have been put back with it.
        """
        for text in self._checkpoints():
            for log in self._root.logs.values():
                try:
                    signed = verify.signed_checkpoint(text, log)
                except PermanentError:
                    continue  # no checkpoint of this log, whatever the status says
                if not await self._log.remembers(signed.size, signed.root):
                    raise IntegrityError(
                        f"the log has forgotten a tree of {signed.size} entries that it signed",
                        where=log.origin,
                        fix="put back the newest copy of the log; never an older one",
                    )
                return

    async def _archive(self, bundle: AttestationBundle, draft: Draft) -> Made:
        """Put bundle, subject and bare envelope under retention, read them back, and verify what was read."""
        keys = Keys(bundle.metadata.uid)
        envelope, entry = _present(draft.envelope, bundle), _present(draft.entry, bundle)
        at = statement.attested_at(statement.parse(envelope.payload))
        cluster_id = bundle.metadata.annotations.get(CLUSTER_ANNOTATION, "")
        line = msgspec.json.encode(bundles.envelope_json(envelope)) + b"\n"
        until = at + RETENTION
        (stored, written), (subject, written_spec), _ = await self._put_all(
            until,
            Blob("bundle", keys.bundle(cluster_id, at), bundles.write(envelope, entry), BUNDLE_MEDIA_TYPE),
            Blob("subject", keys.subject(cluster_id, at), draft.spec, JSON),
            Blob("envelope", keys.envelope_line(cluster_id, at), line, ENVELOPE_LINE),
        )
        report = verify.verify(written, key=self._key, root=self._root, subject=written_spec)
        if not report.ok:
            raise IntegrityError(f"the archived bundle does not verify: {report.reason}", where=stored.url)
        assert bundle.status.signature is not None
        return draft, {
            "phase": BundlePhase.SEALED,
            "wormRef": _evidence(stored),
            "subjectRef": _evidence(subject),
            "bundles": (_archived(stored, bundle.status.signature.key_id),),
            "sealedAt": self._now(),
            "nextAttemptAt": None,
            "conditions": self._conditions(bundle, "Archived", *_kept(stored, until)),
        }

    async def _settle(self, bundle: AttestationBundle, *, proven: bool) -> After | None:
        """Tell the event; a bundle that was sealed before a crash is settled by the pass after it, and proven anew.

        Staging goes first: while the event is not attested, somebody still comes by here.
        """
        if says_attested(self._events, bundle):
            return None
        try:
            event = await find(self._cluster, bundle)
        except ParentGoneError:
            return None
        if is_attested(event):
            return None
        if not proven:
            try:
                await confirm(self._ports, bundle)
            except UgalluError as error:
                return await self._failed(bundle, Stage.ARCHIVE, error)
        await self._clear(bundle)
        await attest(self._cluster, bundle, event)
        return None

    async def _failed(
        self, bundle: AttestationBundle, stage: Stage, error: UgalluError, held: Mapping[str, Any] = EMPTY
    ) -> After | None:
        """Write down what failed, when it will be tried again, and what was made before and not said yet."""
        final = isinstance(error, ParentGoneError)
        reason = PARENT_GONE if final else error.category
        status = bundle.status
        if final and status.phase is BundlePhase.FAILED and status.failures[-1].reason == PARENT_GONE:
            return None
        self._metrics.count("ugallu_attestor_stage_failures_total", stage=stage, reason=reason)
        attempts = status.attempts + 1
        delay = retry_delay(attempts)
        failure = PipelineFailure(stage=stage, reason=reason, detail=str(error)[:1024], timestamp=self._now())
        changes: dict[str, Any] = {
            **held,
            "failures": _bounded((*status.failures, failure)),
            "attempts": attempts,
            "conditions": self._conditions(bundle, _CONDITION[stage], reason, str(error)[:1024], holds=False),
        }
        if final:
            await self._clear(bundle)
            changes |= {"phase": BundlePhase.FAILED, "nextAttemptAt": None}
        else:
            changes["nextAttemptAt"] = self._now() + dt.timedelta(seconds=delay)
            if isinstance(error, PermanentError) or attempts >= PATIENCE:
                changes["phase"] = BundlePhase.FAILED
        if changes.get("phase") is BundlePhase.FAILED and status.phase is not BundlePhase.FAILED:
            self._count(bundle, "failed")
        try:
            await self._write(bundle, changes)
        except NotFoundError:
            return None
        return None if final else After(delay)

    async def _write(self, bundle: AttestationBundle, changes: Mapping[str, Any]) -> AttestationBundle:
        """Patch the status of exactly the bundle that was read."""
        when = Preconditions(uid=bundle.metadata.uid, resource_version=bundle.metadata.resource_version)
        patch = msgspec.to_builtins(changes)
        return await self._cluster.patch_status(AttestationBundle, bundle.metadata.name, patch, when=when)

    async def _clear(self, bundle: AttestationBundle) -> None:
        await self._store.drop(Keys(bundle.metadata.uid).draft)

    async def _stage(self, bundle: AttestationBundle, draft: Draft) -> None:
        key = Keys(bundle.metadata.uid).draft
        await self._store.put(key, msgspec.msgpack.encode(draft), media_type=MSGPACK, until=None)

    async def _staged(self, bundle: AttestationBundle) -> Draft:
        """Return what was staged; `IntegrityError` when it is not what the status says was frozen."""
        key = Keys(bundle.metadata.uid).draft
        try:
            draft = msgspec.msgpack.decode(await self._store.get(key), type=Draft)
        except msgspec.DecodeError as error:
            raise IntegrityError("what was staged cannot be read", where=key) from error
        payload = draft.envelope.payload if draft.envelope is not None else draft.payload
        if bundle.status.statement_digest != digest(payload):
            raise IntegrityError("what was staged is not the statement that was frozen", where=key)
        return draft

    async def _put_all(self, until: dt.datetime, *blobs: Blob) -> list[tuple[Stored, bytes]]:
        """Put, read back, compare content and retention; returns what the store holds, blob by blob."""
        outcomes: dict[str, tuple[Stored, bytes] | UgalluError] = {}

        async def put(blob: Blob) -> None:
            # An error is kept, not raised: a task group would wrap it.
            try:
                outcomes[blob.kind] = await self._put(blob, until)
            except UgalluError as error:
                outcomes[blob.kind] = error

        async with anyio.create_task_group() as tg:
            for blob in blobs:
                tg.start_soon(put, blob)
        done: list[tuple[Stored, bytes]] = []
        for blob in blobs:
            outcome = outcomes[blob.kind]
            word = "failed" if isinstance(outcome, UgalluError) else "stored"
            self._metrics.count("ugallu_worm_put_total", 1.0, **{"class": blob.kind, "outcome": word})
            if isinstance(outcome, UgalluError):
                raise outcome
            self._metrics.count("ugallu_worm_bytes_total", len(blob.content), **{"class": blob.kind})
            done.append(outcome)
        return done

    async def _put(self, blob: Blob, until: dt.datetime) -> tuple[Stored, bytes]:
        stored = await self._store.put(blob.key, blob.content, media_type=blob.media_type, until=until)
        held = await self._store.get(blob.key)
        if held != blob.content or stored.sha256 != digest(held):
            raise IntegrityError("the store does not hold what was put", where=blob.key)
        if stored.until is None or stored.until < until:
            raise IntegrityError("the store keeps it for less long than asked", where=blob.key)
        return stored, held

    def _conditions(
        self, bundle: AttestationBundle, kind: str, reason: str, message: str, *, holds: bool = True
    ) -> tuple[Condition, ...]:
        condition = Condition(
            type=kind,
            status="True" if holds else "False",
            reason=reason,
            message=message,
            last_transition_time=self._now(),
            observed_generation=bundle.metadata.generation,
        )
        return with_condition(bundle.status.conditions, condition)

    def _count(self, bundle: AttestationBundle, outcome: str) -> None:
        kind = bundle.spec.attested_for.kind
        self._metrics.count("ugallu_attestor_bundles_total", kind=kind, mode=self._signer.mode, outcome=outcome)

    def _now(self) -> dt.datetime:
        return utc_seconds(self._clock.now())


def _present(part: T | None, bundle: AttestationBundle) -> T:
    if part is None:
        raise IntegrityError("the status names a stage whose output is not staged", where=bundle.metadata.name)
    return part


_CONDITION = {Stage.STATEMENT: "Signed", Stage.SIGN: "Signed", Stage.LOG: "Logged", Stage.ARCHIVE: "Archived"}


def _entry_status(entry: LogEntry) -> RekorEntry:
    return RekorEntry(
        log_index=entry.log_index,
        uuid=entry.uuid or merkle.leaf_hash(entry.body).hex(),
        inclusion_proof=InclusionProof(
            tree_size=entry.tree_size,
            log_index=entry.log_index,
            root_hash=entry.root_hash.hex(),
            hashes=tuple(value.hex() for value in entry.hashes),
        ),
        log_id=entry.log_id.hex(),
        integrated_time=entry.integrated_time,
        api_version=entry.version,
        kind=entry.kind,
        checkpoint=entry.checkpoint,
    )


def _evidence(stored: Stored) -> EvidenceRef:
    return EvidenceRef(media_type=stored.media_type, url=stored.url, sha256=stored.sha256, size=stored.size)


def _archived(stored: Stored, key_id: str) -> BundleArchive:
    return BundleArchive(
        role="primary",
        media_type=stored.media_type,
        url=stored.url,
        sha256=stored.sha256,
        size=stored.size,
        key_id=key_id,
    )


def _kept(stored: Stored, until: dt.datetime) -> tuple[str, str]:
    """Return reason and message of the condition Archived: true about who keeps the evidence from being deleted."""
    day = f"read back and verified, kept until {until:%Y-%m-%d}"
    if stored.lock is Lock.STORE:
        return "WORMUploaded", f"{day}, locked by the store"
    return "StoredUnlocked", f"{day} by ugallu itself: the operating system does not enforce it"


def _bounded(failures: tuple[PipelineFailure, ...]) -> tuple[PipelineFailure, ...]:
    if len(failures) <= MAX_FAILURES:
        return failures
    return (failures[0], *failures[-(MAX_FAILURES - 1) :])
