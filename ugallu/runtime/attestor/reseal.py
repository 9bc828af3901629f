"""Bundle to evidence: one stage after the other, each persisted before the next begins.

    statement ─> sign ─> log ─> archive ─> Sealed ─> event Attested
        └─ outputs are staged in the evidence store, then named in the bundle's status

A crash anywhere resumes at the first stage that the status does not name. The log is asked with the very envelope
that was staged, and answers with the entry it has, so nothing is logged twice.
"""

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from ugallu.api.bundle import AttestationBundle, AttestationBundleStatus, BundlePhase, PipelineFailure
from ugallu.api.event import SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.meta import Condition, utc_seconds, with_condition
from ugallu.clock import Clock
from ugallu.cluster.port import Cluster, ForbiddenError, Key, NotFoundError, Preconditions, UnavailableError, View
from ugallu.errors import ConflictError, PermanentError, UgalluError
from ugallu.evidence import statement
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import IntegrityError, reason_of
from ugallu.evidence.seal import LONGEST_DELAY, PATIENCE, Keys, Stage, next_stage, retry_delay
from ugallu.metrics import Metrics
from ugallu.operator.contract import After
from ugallu.runtime.attestor import said
from ugallu.runtime.attestor.enqueue import CLUSTER_ANNOTATION
from ugallu.runtime.attestor.gate import ShutError
from ugallu.runtime.attestor.parent import ParentGoneError, attest, find, is_attested, is_told, statement_of
from ugallu.runtime.attestor.proof import confirm_in
from ugallu.runtime.attestor.stages import Draft, Stages

CLUSTER_ERRORS: Final = (ConflictError, UnavailableError, ForbiddenError)
"""The cluster's own: nothing failed in sealing, and there is nowhere to write that it did."""
HELD: Final = frozenset({Stage.STATEMENT, Stage.LOG})
"""Stages whose outcome the status names together with that of the next one, or with its failure.

A statement that nobody signed is nothing yet: after a crash another one is frozen. An entry is staged with its
envelope, and a pass after a crash finds it there. But a signature is named before the log is asked: of two processes
that both believe to be the only one, one fails there, before there is a second entry.
"""
EMPTY: Final[Mapping[str, Any]] = MappingProxyType({})

Made = tuple[Draft, dict[str, Any]]
"""What a stage returns: the draft grown by its output, and the changes of the bundle's status."""


class Sharing(Protocol):
    """Seals many bundles in one statement."""

    async def takes(self, mark: BundleMark, busy: int, /) -> bool:
        """Tell whether it has this bundle or will; `busy` are those being sealed alone."""
        ...


class Reseal:
    """A Reconciler of AttestationBundles."""

    watches = BundleMark
    at_once = 64

    def __init__(
        self,
        stages: Stages,
        cluster: Cluster,
        events: View[EventMark],
        *,
        attestor: statement.Attestor,
        again: Callable[[Key], Awaitable[None]],
        alarm: Callable[[str, UgalluError], Awaitable[None]],
        under_way: set[str],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """`under_way` are the uids of bundles being sealed alone, by whichever Parts of this process."""
        self.stages = stages
        self._under_way = under_way
        self.share: Sharing | None = None
        """Who seals bursts, if anybody does."""
        self._busy = 0
        self._cluster = cluster
        self._events = events
        self._attestor = attestor
        self._again = again
        self._alarm = alarm
        self._clock = clock
        self._metrics = metrics
        self._steps: dict[Stage, Callable[[AttestationBundle, Draft], Awaitable[Made]]] = {
            Stage.STATEMENT: self._freeze,
            Stage.SIGN: self._sign,
            Stage.LOG: self._enter,
            Stage.ARCHIVE: self._archive,
        }

    async def reconcile(self, mark: BundleMark) -> After | None:
        """Bring the bundle as far as it goes; `After` when a stage failed and is to be tried again."""
        if mark.status.phase is BundlePhase.SEALED and is_told(self._events, mark):
            return None
        try:
            taken = self.share is not None and await self.share.takes(mark, self._busy)
        except UgalluError as error:
            return await self._unknown(mark, error)
        return None if taken else await self.alone(mark)

    async def _unknown(self, mark: BundleMark, error: UgalluError) -> After | None:
        """Say that nobody knows yet who is in a statement already."""
        try:
            bundle = await self._cluster.get(AttestationBundle, mark.metadata.name)
        except NotFoundError:
            return None
        if (wait := self._wait(bundle)) > 0.0:
            return After(wait)
        return await self.failed(bundle, next_stage(bundle.status), error)

    async def alone(self, mark: BundleMark) -> After | None:
        """As `reconcile`, for a bundle that has its statement for itself."""
        uid = mark.metadata.uid
        if uid in self._under_way:
            # Two at once would stage two statements under one name.
            return After(1.0)
        self._under_way.add(uid)
        self._busy += 1
        try:
            return await self._look(mark)
        finally:
            self._busy -= 1
            self._under_way.discard(uid)

    async def _look(self, mark: BundleMark) -> After | None:
        try:
            bundle = await self._cluster.get(AttestationBundle, mark.metadata.name)
        except NotFoundError:
            return None
        return await self._advance(bundle)

    async def _advance(self, bundle: AttestationBundle) -> After | None:
        if (wait := self._wait(bundle)) > 0.0:
            return After(wait)
        draft: Draft | None = None
        sealed_here = False
        held: dict[str, Any] = {}
        while (stage := next_stage(bundle.status)) is not Stage.DONE:
            began = self._clock.monotonic()
            try:
                if stage is Stage.ARCHIVE and bundle.status.sealed_at is not None:
                    changes = await self._reseal(bundle)
                else:
                    if draft is None:
                        draft = Draft() if stage is Stage.STATEMENT else await self._staged(bundle)
                    draft, changes = await self._steps[stage](bundle, draft)
            except CLUSTER_ERRORS:
                raise
            except UgalluError as error:
                if "statementDigest" in held:
                    held = await self._kept(bundle, draft, held)
                return await self.failed(bundle, stage, error, held)
            held |= changes
            if stage in HELD:
                bundle = _as_if_written(bundle, changes)
            else:
                try:
                    bundle = await self.write(bundle, held)
                    held = {}
                except NotFoundError:
                    return None
            if stage is not Stage.STATEMENT:
                self._metrics.observe(
                    "ugallu_attestor_stage_duration_seconds", self._clock.monotonic() - began, stage=stage
                )
            if bundle.status.phase is BundlePhase.SEALED:
                self.count(bundle, "sealed")
                sealed_here = True
        return await self._settle(bundle, proven=sealed_here)

    def _wait(self, bundle: AttestationBundle) -> float:
        """Return the seconds until the bundle's next try is due, 0 when it is."""
        due = bundle.status.next_attempt_at
        wait = (due - self._clock.now()).total_seconds() if due is not None else 0.0
        # Longer than we ever wait: the clock was put back since.
        return wait if 0.0 < wait <= LONGEST_DELAY else 0.0

    async def gone(self, key: Key) -> None:
        """Evidence and log entry stay; an event that still waits for its evidence gets another bundle."""
        await self._again(key)

    async def _freeze(self, bundle: AttestationBundle, draft: Draft) -> Made:
        """Fix what will be signed, time included; kept with its signature, or when there is none."""
        parent = await find(self._cluster, bundle)
        spec = statement.spec_bytes(parent)
        draft = Draft(spec, statement_of(parent, self._attestor, self._clock.now(), spec))
        return draft, {"phase": BundlePhase.PENDING, "statementDigest": digest(draft.payload)}

    async def _sign(self, bundle: AttestationBundle, draft: Draft) -> Made:
        # Staged already, when the store's answer to that or the cluster's to what follows was lost.
        if not draft.legs:
            draft = await self.stages.sign(draft)
            await self.stages.stage(_draft_key(bundle), draft)
        changes = said.signed(draft, self.stages.mode, self._now())
        reason, message = said.signer(self.stages.mode), f"signed by {changes['signature'].key_id}"
        return draft, {**changes, "conditions": self.conditions(bundle, "Signed", reason, message)}

    async def _enter(self, bundle: AttestationBundle, draft: Draft) -> Made:
        if any(leg.entry is None for leg in _signed(draft, bundle).legs):
            draft = await self.stages.enter(draft, _draft_key(bundle))
        else:
            await self.stages.recall(draft)
        entry = draft.legs[0].entry
        assert entry is not None
        message = f"entry {entry.index} of {self.stages.origin(entry)}"
        # Named again: a log that was away for long takes another signature than the one that was named before.
        signature = said.signed(draft, self.stages.mode, self._now())["signature"]
        conditions = self.conditions(bundle, "Logged", "LoggerOK", message)
        return draft, {**said.logged(draft), "signature": signature, "conditions": conditions}

    async def _archive(self, bundle: AttestationBundle, draft: Draft) -> Made:
        if any(leg.entry is None for leg in _signed(draft, bundle).legs):
            raise _unstaged(bundle)
        cluster_id = bundle.metadata.annotations.get(CLUSTER_ANNOTATION, "")
        archived = await self.stages.archive(draft, Keys(bundle.metadata.uid), cluster_id)
        changes = said.sealed(archived, archived.subject, self._now())
        return draft, {**changes, "conditions": self.conditions(bundle, "Archived", *said.kept(archived))}

    async def _reseal(self, bundle: AttestationBundle) -> dict[str, Any]:
        """Seal again what was sealed and failed a check since: its draft is gone, its evidence may be back."""
        await self._confirm(bundle)
        conditions = self.conditions(bundle, "Archived", "ReadBack", "read back and verified again")
        return {"phase": BundlePhase.SEALED, "nextAttemptAt": None, "conditions": conditions}

    async def _confirm(self, bundle: AttestationBundle) -> None:
        await confirm_in(self.stages.store, lambda b, s: self.stages.ports.check(b, subject=s), bundle)

    async def _settle(self, bundle: AttestationBundle, *, proven: bool) -> After | None:
        """Tell the event; a bundle that was sealed before a crash is settled by the pass after it, and proven anew.

        Staging goes first: while the event is not attested, somebody still comes by here.
        """
        if is_told(self._events, bundle):
            await self._clear(bundle)
            return None
        try:
            event = await find(self._cluster, bundle)
        except ParentGoneError:
            return None
        if not isinstance(event, SecurityEvent) or is_attested(event):
            return None
        if not proven:
            try:
                await self._confirm(bundle)
            except UgalluError as error:
                return await self.failed(bundle, Stage.ARCHIVE, error)
        await self._clear(bundle)
        await attest(self._cluster, bundle, bundle.status.statement_digest, event)
        return None

    async def doubt(self, bundle: AttestationBundle, error: UgalluError) -> None:
        """Take back that a bundle is sealed: its evidence was looked at again, and does not hold. That was told."""
        if bundle.status.phase is BundlePhase.SEALED:
            await self.failed(bundle, Stage.ARCHIVE, error, told=True)

    async def failed(
        self,
        bundle: AttestationBundle,
        stage: Stage,
        error: UgalluError,
        held: Mapping[str, Any] = EMPTY,
        *,
        told: bool = False,
    ) -> After | None:
        """Write down what failed, when it will be tried again, and what was made before and not said yet."""
        final = isinstance(error, ParentGoneError)
        status = bundle.status
        if isinstance(error, ShutError) and status.attempts and not held:
            # Nobody was asked, and the status says already what is wrong.
            return After(error.retry_after or LONGEST_DELAY)
        reason = reason_of(error)
        if final and status.phase is BundlePhase.FAILED and status.failures[-1].reason == reason:
            return None
        self._metrics.count("ugallu_attestor_stage_failures_total", stage=stage, reason=reason)
        if not told:
            await self._alarm(stage, error)
        attempts = status.attempts + 1
        delay = retry_delay(attempts)
        failure = PipelineFailure(stage=stage, reason=reason, detail=str(error)[:1024], timestamp=self._now())
        changes: dict[str, Any] = {
            **held,
            "failures": said.bounded((*status.failures, failure)),
            "attempts": attempts,
            "conditions": self.conditions(
                bundle, said.CONDITION.get(stage, "Archived"), reason, str(error)[:1024], holds=False
            ),
        }
        if final:
            await self._clear(bundle)
            changes |= {"phase": BundlePhase.FAILED, "nextAttemptAt": None}
        else:
            changes["nextAttemptAt"] = self._now() + dt.timedelta(seconds=delay)
            # What is sealed stays so while the store is only away.
            patient = attempts >= PATIENCE and status.phase is not BundlePhase.SEALED
            if isinstance(error, PermanentError) or patient:
                changes["phase"] = BundlePhase.FAILED
        if changes.get("phase") is BundlePhase.FAILED and status.phase is not BundlePhase.FAILED:
            self.count(bundle, "failed")
        try:
            await self.write(bundle, changes)
        except NotFoundError:
            return None
        return None if final else After(delay)

    async def write(self, bundle: AttestationBundle, changes: Mapping[str, Any]) -> AttestationBundle:
        """Patch the status of exactly the bundle that was read."""
        when = Preconditions(uid=bundle.metadata.uid, resource_version=bundle.metadata.resource_version)
        patch = msgspec.to_builtins(changes)
        return await self._cluster.patch_status(AttestationBundle, bundle.metadata.name, patch, when=when)

    async def _kept(self, bundle: AttestationBundle, draft: Draft | None, held: dict[str, Any]) -> dict[str, Any]:
        """Stage a statement that nobody has signed; return what the status may say of it, nothing where that fails."""
        assert draft is not None
        try:
            await self.stages.stage(_draft_key(bundle), draft)
        except UgalluError:
            return {}
        return held

    async def _clear(self, bundle: AttestationBundle) -> None:
        await self.stages.clear(_draft_key(bundle))

    async def _staged(self, bundle: AttestationBundle) -> Draft:
        return await self.stages.staged(_draft_key(bundle), bundle.status.statement_digest)

    def conditions(
        self, bundle: AttestationBundle, kind: str, reason: str, message: str, *, holds: bool = True
    ) -> tuple[Condition, ...]:
        """Return the conditions of a bundle with this one as it is from now on."""
        now, generation = self._now(), bundle.metadata.generation
        condition = said.condition(kind, reason, message, holds=holds, now=now, generation=generation)
        return with_condition(bundle.status.conditions, condition)

    def count(self, bundle: AttestationBundle | BundleMark, outcome: str) -> None:
        """Count what became of a bundle."""
        kind = bundle.spec.attested_for.kind
        self._metrics.count("ugallu_attestor_bundles_total", kind=kind, mode=self.stages.mode, outcome=outcome)

    def _now(self) -> dt.datetime:
        return utc_seconds(self._clock.now())


def _as_if_written(bundle: AttestationBundle, changes: Mapping[str, Any]) -> AttestationBundle:
    """Return the bundle as it will be once the status names these changes."""
    fields = {_FIELDS[name]: value for name, value in changes.items()}
    return msgspec.structs.replace(bundle, status=msgspec.structs.replace(bundle.status, **fields))


_FIELDS: Final = {field.encode_name: field.name for field in msgspec.structs.fields(AttestationBundleStatus)}


def _draft_key(bundle: AttestationBundle) -> str:
    return Keys(bundle.metadata.uid).draft


def _signed(draft: Draft, bundle: AttestationBundle) -> Draft:
    if not draft.legs:
        raise _unstaged(bundle)
    return draft


def _unstaged(bundle: AttestationBundle) -> IntegrityError:
    return IntegrityError("the status names a stage whose output is not staged", where=bundle.metadata.name)
