"""Collects the objects of one kind: looks when their time is over, archives, and deletes what is still what was copied.

Each step reads the object anew and judges it again; each write names its uid, each deletion its version as well.
"""

import datetime as dt

import msgspec

from ugallu.api.bundle import AttestationBundle
from ugallu.api.event import EventPhase, SecurityEvent
from ugallu.api.meta import Condition, Resource, utc_seconds, with_condition
from ugallu.cluster.port import ForbiddenError, Key, NotFoundError, OutdatedError, Preconditions, UnavailableError
from ugallu.errors import ConflictError, TransientError, UgalluError
from ugallu.evidence.canonical import digest
from ugallu.evidence.copies import Entry
from ugallu.evidence.ports import IntegrityError
from ugallu.operator.contract import After
from ugallu.runtime.ttl import notes
from ugallu.runtime.ttl.desk import Desk, Safe
from ugallu.runtime.ttl.evidence import Unsealed, keys_of, prove
from ugallu.runtime.ttl.expiry import SETTLE, Archive, Delete, Facts, Keep, Reason, Seal, Stay, Verdict, judge
from ugallu.runtime.ttl.facts import facts, parent_of, severity_of
from ugallu.runtime.ttl.marks import Bundle, Event, Response, Result, Run, Whole, whole
from ugallu.runtime.ttl.snapshot import snapshot

RELOOK = 3600.0
"""Longest pause between two looks at an object: clocks, windows and relatives change without a word."""
SOON = 5.0
CONDITION = "Collected"
"""On events, responses and bundles that somebody must look at: False, and why they cannot go."""


class Collect:
    """A Reconciler of one kind; `watches` is how ttl sees it."""

    def __init__(self, watches: type[Resource], desk: Desk) -> None:
        self.watches = watches
        self.at_once = desk.windows.workers
        self._kind = watches.kind_info
        self._whole = whole(watches.kind_info)
        self._desk = desk
        self._overdue: set[Key] = set()

    async def reconcile(self, item: Resource) -> After | None:
        """Bring an object nearer to its end, or say on it why it stays."""
        if item.metadata.deletion_timestamp is not None:
            return None
        await self._desk.families.synced()
        held = self._desk.families.held_by(item)
        if await self._note_parent(item):
            return After(SOON)
        verdict = self._judge(item, held)
        self._count_overdue(item, over=not isinstance(verdict, Keep))
        try:
            await self._desk.hold_in_store(item, on=bool(held))
            if isinstance(verdict, Keep | Stay):
                await self._desk.keep_in_store(item)
        except (ConflictError, UnavailableError, ForbiddenError):
            raise
        except UgalluError as error:
            return await self._not_kept(item, Reason.HOLD_FAILED if held else Reason.ARCHIVE_FAILED, error)
        if isinstance(verdict, Keep):
            await self._clear(item)
            return After(self._until_parted(item) if verdict.until is None else self._pause(verdict.until))
        if isinstance(verdict, Stay):
            return await self._stay(item, verdict)
        if self._desk.safe.vault.missing:
            return await self._stay(item, Stay(Reason.STORE_MISSING, "no evidence store is configured"))
        if isinstance(verdict, Delete) and (wait := self._desk.settling(verdict.at)) > 0:
            return After(wait)
        await self._desk.pace()
        return await self._advance(item, self._desk.safe)

    async def gone(self, key: Key) -> None:
        """Nothing to do: its copy stays."""
        self._overdue.discard(key)
        self._desk.metrics.gauge("ugallu_ttl_overdue", len(self._overdue), kind=self._kind.name)

    # Judging

    def _judge(self, item: Resource, held: str) -> Verdict:
        now = self._desk.now()
        found = facts(item, self._desk.families, self._desk.windows, now.line, held)
        verdict = judge(found, now, dry_run=self._desk.windows.dry_run)
        if isinstance(verdict, Archive) and not self._leaves_something(found):
            return Stay(Reason.NOT_COPIED, "snapshots are switched off, and nothing else would be left of it")
        return verdict

    def _leaves_something(self, found: Facts) -> bool:
        return self._desk.windows.snapshots or found.seal is Seal.SEALED

    async def _note_parent(self, item: Resource) -> bool:
        """Write down what will be needed of a parent once it is gone; tell whether there was something to write."""
        desk, annotations = self._desk, item.metadata.annotations
        changes: dict[str, str | None] = {}
        if isinstance(item, Response):
            severity = severity_of(item, desk.families)
            event = desk.families.event(item.spec.security_event_ref.uid)
            if event is not None and severity is not None and annotations.get(notes.PARENT_SEVERITY) != severity.value:
                changes[notes.PARENT_SEVERITY] = severity.value
                changes[notes.PARENT_CLUSTER] = event.spec.cluster_identity.cluster_id or "unknown"
        elif (
            isinstance(item, Bundle)
            and parent_of(item, desk.families) is None
            and notes.moment(annotations.get(notes.PARENT_ENDED, "")) is None
        ):
            # Somebody else deleted it: the grace counts from when that was seen.
            changes[notes.PARENT_ENDED] = notes.written(desk.now().line)
        if changes:
            await desk.annotate(item, changes)
        return bool(changes)

    @staticmethod
    def _until_parted(item: Resource) -> float:
        """Return when to look again at what has no end yet: soon at a bundle whose event is about to go."""
        return SETTLE if isinstance(item, Bundle) and notes.PARENT_ENDED in item.metadata.annotations else RELOOK

    def _pause(self, until: dt.datetime) -> float:
        return max(1.0, min(RELOOK, self._desk.after(until)))

    def _count_overdue(self, item: Resource, *, over: bool) -> None:
        key = Key(item.metadata.namespace, item.metadata.name)
        if over is (key in self._overdue):
            return
        (self._overdue.add if over else self._overdue.discard)(key)
        self._desk.metrics.gauge("ugallu_ttl_overdue", len(self._overdue), kind=self._kind.name)

    # Staying

    async def _stay(self, item: Resource, verdict: Stay) -> After:
        """Write the reason on the object, once; a try in vain is counted, put off, and told of in the end."""
        found = notes.read(item.metadata.annotations)
        if verdict.tried:
            return await self._in_vain(item, verdict.reason, verdict.why)
        # Who postponed it has written until when; after a try in vain the reason stands there already.
        if verdict.reason is not Reason.POSTPONED and found.reason != verdict.text:
            self._count_stay(verdict.reason)
            await self._desk.annotate(item, {notes.REASON: verdict.text})
        return After(RELOOK if verdict.until is None else self._pause(verdict.until))

    async def _not_kept(self, item: Resource, reason: Reason, error: UgalluError) -> After:
        """Say on an object that the store does not hold or keep its evidence; nothing happens to it before that does.

        What may pass by itself is told of when it is there at the next look.
        """
        self._count_failure("hold" if reason is Reason.HOLD_FAILED else "precondition")
        self._count_stay(reason)
        before, text = notes.read(item.metadata.annotations).reason, Stay(reason, str(error)).text[:1024]
        if before != text:
            await self._desk.annotate(item, {notes.REASON: text})
        if not isinstance(error, TransientError) or before.startswith(reason.value):
            await self._escalate(item, reason, str(error))
        return After(min(RELOOK, self._desk.windows.delay(1)))

    async def _in_vain(self, item: Resource, reason: Reason, why: str) -> After:
        desk = self._desk
        attempts = notes.read(item.metadata.annotations).attempts + 1
        delay = desk.windows.delay(attempts)
        self._count_stay(reason)
        changes: dict[str, str | None] = {
            notes.ATTEMPTS: str(attempts),
            notes.POSTPONE: notes.written(desk.now().low + dt.timedelta(seconds=delay)),
            notes.REASON: Stay(reason, why).text[:1024],
        }
        await desk.annotate(item, changes)
        if attempts >= desk.windows.patience:
            await self._escalate(item, reason, why)
        return After(min(RELOOK, delay))

    async def _escalate(self, item: Resource, reason: Reason, why: str) -> None:
        """Tell somebody, by an event and by a condition where the kind has any."""
        await self._desk.tell(self._kind.name, reason, why)
        if not isinstance(item, Event | Response | Bundle):
            return
        try:
            seen = await self._desk.cluster.get(self._whole, item.metadata.name)
        except NotFoundError:
            return
        before = _conditions(seen)
        now = self._desk.now().low
        new = Condition(
            type=CONDITION,
            status="False",
            reason=reason.value,
            message=why[:1024],
            last_transition_time=utc_seconds(now),
        )
        after = with_condition(before, new)
        if seen.metadata.uid == item.metadata.uid and after != before:
            when = Preconditions(uid=seen.metadata.uid, resource_version=seen.metadata.resource_version)
            changes = {"conditions": msgspec.to_builtins(after)}
            await self._desk.cluster.patch_status(self._whole, item.metadata.name, changes, when=when)

    async def _clear(self, item: Resource) -> None:
        """Take back what was said of an object whose time is not over any more: a window grew, a clock was mended."""
        found = notes.read(item.metadata.annotations)
        if found.reason or found.attempts:
            await self._desk.annotate(item, {notes.REASON: None, notes.ATTEMPTS: None})

    def _count_stay(self, reason: Reason) -> None:
        labels = {"kind": self._kind.name, "reason": reason.value}
        self._desk.metrics.count("ugallu_ttl_postponed_total", 1.0, **labels)

    # Going

    async def _advance(self, item: Resource, safe: Safe) -> After | None:
        """Archive or delete, by the object as it is in the cluster now; what fails is a try in vain."""
        desk = self._desk
        began = desk.clock.monotonic()
        try:
            seen = await desk.cluster.get(self._whole, item.metadata.name, item.metadata.namespace)
        except NotFoundError:
            return None
        if seen.metadata.uid != item.metadata.uid or seen.metadata.deletion_timestamp is not None:
            return None
        fresh = msgspec.convert(msgspec.to_builtins(seen), self.watches)
        verdict = self._judge(fresh, self._desk.families.held_by(fresh))
        stage = "precondition"
        try:
            if isinstance(verdict, Archive):
                await self._prove(fresh, seen, safe)
                stage = "snapshot"
                await self._archive(seen, safe)
                desk.metrics.observe(
                    "ugallu_ttl_archive_duration_seconds", desk.clock.monotonic() - began, kind=self._kind.name
                )
                return After(SETTLE)
            if not isinstance(verdict, Delete) or desk.settling(verdict.at) > 0:
                return After(SOON)
            keys = await self._prove(fresh, seen, safe)
            stage = "snapshot"
            if not await self._still_copied(seen, safe):
                return After(SOON)
            await safe.archive.keep(keys | self._copy_of(seen), least=dt.timedelta(seconds=desk.windows.grace))
            stage = "delete"
            return await self._delete(fresh, seen, safe)
        except (ConflictError, UnavailableError, ForbiddenError):
            # The cluster's own: nothing was in vain, and there may be nowhere to write it.
            self._count_failure(stage)
            raise
        except Unsealed:
            return await self._in_vain(fresh, Reason.BUNDLE_NOT_SEALED, "no sealed bundle attests it")
        except UgalluError as error:
            self._count_failure(stage)
            if isinstance(error, IntegrityError):
                await desk.tell(self._kind.name, Reason.EVIDENCE_INVALID, str(error))
            reason = Reason.EVIDENCE_INVALID if stage == "precondition" else Reason.ARCHIVE_FAILED
            return await self._in_vain(fresh, reason, str(error))

    async def _prove(self, fresh: Resource, seen: Whole, safe: Safe) -> set[str]:
        """Verify the evidence of an object, unless it has none to have or somebody who may has waived it."""
        desk = self._desk
        if isinstance(fresh, Run | Result) or notes.read(fresh.metadata.annotations).force:
            return set()
        if isinstance(fresh, Bundle):
            bundle = await desk.cluster.get(AttestationBundle, fresh.metadata.name)
            await safe.vault.confirm(bundle)
            return set(keys_of(safe.vault, bundle))
        bundles = tuple(desk.families.bundles_of(fresh.metadata.uid))
        return await prove(desk.cluster, safe.vault, seen, bundles, desk.clock.now())

    async def _archive(self, seen: Whole, safe: Safe) -> None:
        desk = self._desk
        key = ""
        if desk.windows.snapshots:
            key = await safe.archive.save(seen, self._cluster_of(seen))
            safe.chain.lists(self._entry(seen, key))
        now = desk.now().line
        changes: dict[str, str | None] = {
            notes.ARCHIVED_AT: notes.written(now),
            notes.SNAPSHOT: key or None,
            notes.REASON: None,
            notes.ATTEMPTS: None,
        }
        marked = await desk.annotate(seen, changes, version=seen.metadata.resource_version)
        if marked is None:
            return
        if self._kind == SecurityEvent.kind_info:
            when = Preconditions(uid=seen.metadata.uid, resource_version=marked.metadata.resource_version)
            status = {"phase": EventPhase.ARCHIVED, "archivedAt": utc_seconds(now)}
            await desk.cluster.patch_status(self._whole, seen.metadata.name, msgspec.to_builtins(status), when=when)
        labels = {"kind": self._kind.name, "severity": self._severity_of(seen)}
        desk.metrics.count("ugallu_ttl_archived_total", 1.0, **labels)

    async def _still_copied(self, seen: Whole, safe: Safe) -> bool:
        """Tell whether the copy can be read back, is this very object, and is listed; else see to that."""
        if not self._desk.windows.snapshots:
            return True
        key = notes.read(seen.metadata.annotations).snapshot
        there = await safe.vault.store.stat(key) if key else None
        if there is None or there.sha256 != digest(snapshot(seen)):
            # It has changed since, or somebody else wrote that it was archived: copy what it is now.
            await self._desk.annotate(seen, {notes.ARCHIVED_AT: None})
            return False
        await safe.archive.compare(key, seen)
        return safe.chain.lists(self._entry(seen, key))

    def _copy_of(self, seen: Whole) -> set[str]:
        return {notes.read(seen.metadata.annotations).snapshot} - {""} if self._desk.windows.snapshots else set()

    async def _delete(self, fresh: Resource, seen: Whole, safe: Safe) -> After | None:
        desk = self._desk
        meta = seen.metadata
        if isinstance(fresh, Bundle) and await self._parent_is_there(fresh):
            return After(SOON)
        if isinstance(fresh, Event | Response):
            if isinstance(fresh, Response) and await self._parent_holds(fresh):
                return After(SOON)
            key = notes.read(meta.annotations).snapshot
            for bundle in tuple(desk.families.bundles_of(meta.uid)):
                ended = {notes.PARENT_ENDED: notes.written(desk.now().line), notes.PARENT_SNAPSHOT: key or None}
                await desk.annotate(bundle, ended)
        when = Preconditions(uid=meta.uid, resource_version=meta.resource_version)
        try:
            await desk.cluster.delete(self._whole, meta.name, meta.namespace, when=when)
        except NotFoundError:
            return None
        except OutdatedError:
            # It changed since it was compared: what it is now has to be copied first.
            return After(SOON)
        safe.chain.forget(notes.read(meta.annotations).snapshot)
        desk.metrics.count("ugallu_ttl_deleted_total", kind=self._kind.name)
        return None

    async def _parent_is_there(self, bundle: Bundle) -> bool:
        """Ask the cluster, not the cache: a bundle never goes before what it attests."""
        wanted = bundle.spec.attested_for
        kind = next((kind for kind in (Event, Response) if kind.kind_info.name == wanted.kind), Event)
        try:
            found = await self._desk.cluster.get(kind, wanted.name)
        except NotFoundError:
            return False
        return found.metadata.uid == wanted.uid

    async def _parent_holds(self, response: Response) -> bool:
        """Ask the cluster whether the event was put under legal hold just now."""
        wanted = response.spec.security_event_ref
        try:
            found = await self._desk.cluster.get(Event, wanted.name)
        except NotFoundError:
            return False
        return found.metadata.uid == wanted.uid and found.metadata.annotations.get(notes.FROZEN) == "true"

    def _entry(self, seen: Whole, key: str) -> Entry:
        meta = seen.metadata
        name = f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
        return Entry(key, digest(snapshot(seen)), self._kind.name, name, meta.uid)

    def _cluster_of(self, seen: Whole) -> str:
        """Return whose copy it is: of the cluster where the fact was observed."""
        if self._kind == SecurityEvent.kind_info and isinstance(seen.spec, dict):
            identity = seen.spec.get("clusterIdentity")
            found = identity.get("clusterID", "") if isinstance(identity, dict) else ""
        else:
            found = seen.metadata.annotations.get(notes.PARENT_CLUSTER, "")
        return found or self._desk.cluster_id

    def _severity_of(self, seen: Whole) -> str:
        if self._kind == SecurityEvent.kind_info and isinstance(seen.spec, dict):
            return str(seen.spec.get("severity", "unknown"))
        if self._kind == Response.kind_info:
            return seen.metadata.annotations.get(notes.PARENT_SEVERITY, "unknown")
        return ""

    def _count_failure(self, stage: str) -> None:
        self._desk.metrics.count("ugallu_ttl_failures_total", 1.0, kind=self._kind.name, stage=stage)


def _conditions(seen: Whole) -> tuple[Condition, ...]:
    listed = seen.status.get("conditions", []) if isinstance(seen.status, dict) else []
    try:
        return msgspec.convert(listed, tuple[Condition, ...])
    except msgspec.ValidationError:
        return ()
