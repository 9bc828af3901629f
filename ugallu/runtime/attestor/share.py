"""Bursts: events that come faster than they can be sealed one by one share a Statement, and with it one log entry.

What comes while few are under way is sealed alone, at once. The rest gathers; each of a few lanes takes what has
gathered, up to 1,024 events, and seals it as one. So statements grow with the backlog, and nobody waits for company.

A lane has a place in the evidence store, where what it is doing is staged: first who is in, then the statement with its
signature, then its entry. The next process finishes what it finds there before it begins anything, so an event that is
in a statement is never put into another one.

A statement that can never be sealed, or a place that cannot be read, holds no lane: it is set aside in the store, and
whoever was in it is sealed alone.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Final, TypeVar

import anyio
import msgspec
import structlog

from ugallu.api.bundle import AttestationBundle, BundlePhase
from ugallu.api.event import SecurityEvent
from ugallu.api.marks import BundleMark, EventMark
from ugallu.api.meta import Metadata, utc_seconds
from ugallu.clock import Clock
from ugallu.cluster.fence import NotLeadingError
from ugallu.cluster.port import Cluster, Key, NotFoundError, OutdatedError, Preconditions
from ugallu.errors import PermanentError, RefusedError, UgalluError
from ugallu.evidence import statement
from ugallu.evidence.canonical import digest
from ugallu.evidence.ports import IntegrityError, Stored
from ugallu.evidence.seal import PATIENCE, Keys, Stage, retry_delay, shared_name
from ugallu.evidence.share import Facts, Member, fitting, pack
from ugallu.evidence.statement import MAX_SUBJECTS
from ugallu.evidence.stores.parts import Part
from ugallu.metrics import Metrics
from ugallu.pace import Backoff
from ugallu.runtime.attestor import said
from ugallu.runtime.attestor.enqueue import CLUSTER_ANNOTATION
from ugallu.runtime.attestor.parent import EVENT, attest, find
from ugallu.runtime.attestor.reseal import CLUSTER_ERRORS, Reseal
from ugallu.runtime.attestor.stages import Archived, Draft, Stages

T = TypeVar("T")

LANES: Final = 2
"""Statements under way at once: one is signed and stored while the other's events are told."""
ALONE: Final = 2
"""Events sealed one by one at the same time; more than that is a burst.

Few: a lane takes what has come for little more than the price of one, and at 200 events a second half are sealed within
60 ms where twelve at a time take 180 (a bucket: 250 instead of 1,600).
"""
AT_ONCE: Final = 64
"""Members of a statement read or told at once."""
HOPELESS: Final = 6
"""Errors in a row that will not pass after which a statement is set aside: about half a minute."""
ASIDE: Final = "staging/shared/set-aside"
STUCK: Final = 8
"""Tries to empty a lane's place that the store refuses."""


class SetAsideError(PermanentError):
    """A shared statement that cannot be sealed."""

    reason: ClassVar[str] = "StatementSetAside"


class Turns:
    """What all Parts of this process share, those that come and those that go: who is being sealed, and the lanes."""

    def __init__(self) -> None:
        self.lanes = tuple(anyio.Lock() for _ in range(LANES))
        self.taken: set[str] = set()
        """Uids of bundles that a lane has."""
        self.had: tuple[dict[str, BundleMark], ...] = tuple({} for _ in range(LANES))
        """Whom each lane took last: should it end before a statement has them, the next one there begins with them."""
        self.alone: set[str] = set()
        """Uids of bundles that are being sealed alone."""


class Share:
    """A Service; `Reseal` hands it what it cannot seal at once."""

    name = "share"

    def __init__(
        self,
        stages: Stages,
        reseal: Reseal,
        cluster: Cluster,
        turns: Turns,
        *,
        attestor: statement.Attestor,
        again: Callable[[Key], Awaitable[None]],
        clock: Clock,
        metrics: Metrics,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._log = log
        self._stages = stages
        self._reseal = reseal
        self._cluster = cluster
        self._turns = turns
        self._attestor = attestor
        self._again = again
        self._clock = clock
        self._metrics = metrics
        self._pool: dict[str, BundleMark] = {}
        self._news = anyio.Event()
        self._loading = anyio.Lock()
        self._known = False
        """Whether the lanes' places were looked into."""

    async def takes(self, mark: BundleMark, busy: int) -> bool:
        """Tell whether a lane has this bundle or will take it; `busy` are those being sealed alone."""
        await self._know()
        uid = mark.metadata.uid
        if uid in self._turns.taken or uid in self._pool:
            return True
        fresh = mark.status.phase is None and mark.spec.attested_for.kind == EVENT
        if not fresh or (busy < ALONE and not self._pool):
            return False
        self._wait(mark)
        return True

    def _wait(self, mark: BundleMark) -> None:
        """Let one wait for a lane."""
        self._pool.setdefault(mark.metadata.uid, mark)
        self._news.set()

    async def run(self) -> None:
        """Finish what was left, then seal what gathers, until cancelled."""
        await self._know()
        async with anyio.create_task_group() as tg:
            for lane in range(LANES):
                tg.start_soon(self._lane, lane)

    async def _know(self) -> None:
        """Learn once who was left in the lanes by an earlier process, so that nobody begins anew with them."""
        if not self._known:
            async with self._loading:
                await self._look()

    async def _look(self) -> None:
        if self._known:
            return
        for lane, lock in enumerate(self._turns.lanes):
            if lock.locked():
                continue  # Parts on their way out are at work in it: whom they have is known
            try:
                left = await self._staged(lane)
            except IntegrityError as error:
                # Whoever was in there is sealed anew: a second entry in the log, but nobody is left out.
                self._log.error("what a lane holds is damaged, and set aside", lane=lane, error=str(error))
                await self._evict(lane)
                continue
            if left is not None:
                self._turns.taken.update(member.bundle_uid for member in left[0].members)
        self._known = True

    async def _evict(self, lane: int) -> None:
        """Set aside what lies in a lane's place, as far as it can be read at all."""
        for key in (_draft_key(lane), _facts_key(lane)):
            try:
                content = await self._stages.draft(key)
            except IntegrityError:
                continue  # other bytes than were put there
            if content is not None:
                await self._stages.keep(f"{ASIDE}/{digest(content).removeprefix('sha256:')[:32]}", content)
        await self._clear(lane)

    async def _lane(self, lane: int) -> None:
        async with self._turns.lanes[lane]:
            left = await self._staged(lane)
            self._reclaim(lane, left[0].members if left is not None else ())
            if left is not None:
                await self._finish(lane, *left, kept=True)
            else:
                await self._clear(lane)  # who was to be in a statement that was never made
        while True:
            while not self._pool:
                if self._news.is_set():
                    # Another lane was faster; only a used event is replaced: others may wait for this one.
                    self._news = anyio.Event()
                await self._news.wait()
            async with self._turns.lanes[lane]:
                if marks := self._take(lane):
                    await self._seal(lane, marks)

    def _reclaim(self, lane: int, members: Sequence[Member]) -> None:
        """Put back whom a service had that ended here, except those whose statement it left."""
        had = self._turns.had[lane]
        for uid in had.keys() - {member.bundle_uid for member in members}:
            self._turns.taken.discard(uid)
            self._wait(had[uid])
        had.clear()

    def _take(self, lane: int) -> list[BundleMark]:
        """Take the longest waiting, all of one cluster: its id is in the place where evidence lies."""
        marks: list[BundleMark] = []
        for mark in self._pool.values():
            if len(marks) == MAX_SUBJECTS:
                break
            if not marks or _cluster_id(mark) == _cluster_id(marks[0]):
                marks.append(mark)
        for mark in marks:
            del self._pool[mark.metadata.uid]
        self._turns.taken.update(mark.metadata.uid for mark in marks)
        self._turns.had[lane].update((mark.metadata.uid, mark) for mark in marks)
        return marks

    async def _seal(self, lane: int, marks: list[BundleMark]) -> None:
        """Seal these in one statement; who cannot be in it is left to be sealed alone."""
        inside: set[str] = set()
        try:
            events = await self._events(marks)
            ready = [(mark, *events[mark.metadata.uid]) for mark in marks if mark.metadata.uid in events]
            ready = ready[: fitting([len(content) for _, _, content in ready])]
            if len(ready) > 1:
                inside = {mark.metadata.uid for mark, _, _ in ready}
                await self._begin(lane, ready)
        finally:
            outside = [mark for mark in marks if mark.metadata.uid not in inside]
            self._turns.taken.difference_update(mark.metadata.uid for mark in outside)
        for mark in outside:
            await self._by_itself(mark, crowded=mark.metadata.uid in events and len(ready) > 1)
        self._turns.had[lane].clear()

    async def _by_itself(self, mark: BundleMark, *, crowded: bool) -> None:
        """Seal one alone, or put it back when it was only one too many; what fails of it comes back by its status."""
        if crowded:
            self._wait(mark)
            return
        try:
            await self._reseal.alone(mark)
        except UgalluError:
            # Nothing was written, so nobody would come back to it but us.
            await self._clock.sleep(1.0)
            self._wait(mark)

    async def _events(self, marks: Sequence[BundleMark]) -> dict[str, tuple[SecurityEvent, bytes]]:
        """Return the events of these bundles and their bytes, by the bundle's uid; who has none is left out."""
        found: dict[str, tuple[SecurityEvent, bytes]] = {}

        async def look(mark: BundleMark) -> None:
            try:
                # The cache may be behind: what a lane has just sealed would be sealed, and logged, a second time.
                bundle = await self._cluster.get(AttestationBundle, mark.metadata.name)
                if bundle.metadata.uid != mark.metadata.uid or not _untouched(bundle):
                    return
                event = await find(self._cluster, bundle)
                if isinstance(event, SecurityEvent):
                    found[mark.metadata.uid] = event, statement.spec_bytes(event)
            except UgalluError:
                return

        await _each(marks, look)
        return found

    async def _begin(self, lane: int, ready: Sequence[tuple[BundleMark, SecurityEvent, bytes]]) -> None:
        payload = statement.shared_statement(
            [(event, content) for _, event, content in ready], self._attestor, self._clock.now()
        )
        content, parts = pack([content for _, _, content in ready])
        members = tuple(
            Member(mark.metadata.name, mark.metadata.uid, event.metadata.name, event.metadata.uid, *part)
            for (mark, event, _), part in zip(ready, parts, strict=True)
        )
        facts = Facts(digest(payload), _cluster_id(ready[0][0]), members, content)
        await self._finish(lane, facts, Draft(payload=payload), kept=False)

    async def _finish(self, lane: int, facts: Facts, draft: Draft, *, kept: bool) -> None:
        """Bring a statement through all stages, as often as it takes, and tell every member; or set it aside."""
        left = kept
        attempts = hopeless = 0
        stage = Stage.STATEMENT
        archived: Archived | None = None
        while archived is None:
            try:
                if not kept:
                    await self._keep(lane, facts)
                    kept = True
                if not draft.legs:
                    stage = Stage.SIGN
                    draft = await self._grown(lane, await self._stages.sign(draft))
                stage = Stage.LOG
                if any(leg.entry is None for leg in draft.legs):
                    draft = await self._stages.enter(draft, _draft_key(lane))
                elif left:
                    await self._stages.recall(draft)
                stage = Stage.ARCHIVE
                whole, keys = msgspec.structs.replace(draft, spec=facts.content), Keys(shared_name(facts.digest))
                archived = await self._stages.archive(whole, keys, facts.cluster_id, lines=True)
            except NotLeadingError:
                await self._clock.sleep(1.0)  # somebody else decides now, and these Parts are about to end
            except UgalluError as error:
                attempts += 1
                hopeless = hopeless + 1 if isinstance(error, PermanentError) else 0
                if hopeless >= HOPELESS and await self._set_aside(lane, facts, draft, stage, error):
                    return
                if attempts in (1, PATIENCE) or isinstance(error, PermanentError):
                    await self._say_failed(facts, stage, error)
                await self._clock.sleep(retry_delay(attempts))
        await self._tell(facts, draft, archived, left=left)
        await self._clear(lane)
        self._turns.taken.difference_update(member.bundle_uid for member in facts.members)

    async def _set_aside(self, lane: int, facts: Facts, draft: Draft, stage: Stage, error: UgalluError) -> bool:
        """Keep what can never be sealed beside the lanes, and let its members be sealed alone; False if it is not kept.

        What was logged of it stays in the log, and is of no use: the draft that is kept names the entries.
        """
        place = f"{ASIDE}/{shared_name(facts.digest)}"
        try:
            await self._stages.keep(f"{place}.facts", msgspec.msgpack.encode(facts))
            await self._stages.stage(f"{place}.json", draft)
        except UgalluError:
            return False  # a store that takes nothing would not take the members' own either
        entries = [leg.entry.index for leg in draft.legs if leg.entry is not None]
        self._log.error(
            "a shared statement cannot be sealed: it is set aside, and its events are sealed one by one",
            statement=facts.digest,
            events=len(facts.members),
            entries=entries,
            place=place,
            error=str(error),
        )
        await self._clear(lane)
        self._turns.taken.difference_update(member.bundle_uid for member in facts.members)
        useless = f", entry {', '.join(map(str, entries))} of the log is of no use" if entries else ""
        why = SetAsideError(f"the shared statement was set aside{useless}: {error}", where=place, fix="none is needed")
        # Last: what is written brings everyone back, to be sealed alone.
        await _each(facts.members, lambda member: self._patiently(lambda: self._say_one_failed(member, stage, why)))
        return True

    async def _grown(self, lane: int, draft: Draft) -> Draft:
        """Stage what a stage has made."""
        await self._stages.stage(_draft_key(lane), draft)
        return draft

    async def _keep(self, lane: int, facts: Facts) -> None:
        """Stage who is in; before there is a statement beside it, signed, nobody is."""
        await self._stages.keep(_facts_key(lane), msgspec.msgpack.encode(facts))

    async def _staged(self, lane: int) -> tuple[Facts, Draft] | None:
        """Return what is under way in a lane; `IntegrityError` when it does not fit together."""
        if await self._stages.draft(_draft_key(lane)) is None:
            return None
        content = await self._stages.draft(_facts_key(lane))
        if content is None:
            raise IntegrityError("nobody is named who is in the statement", where=_facts_key(lane))
        try:
            facts = msgspec.msgpack.decode(content, type=Facts)
        except msgspec.DecodeError as error:
            raise IntegrityError("what was staged cannot be read", where=_facts_key(lane)) from error
        return facts, await self._stages.staged(_draft_key(lane), facts.digest)

    async def _clear(self, lane: int) -> None:
        """Let the lane's place be empty: first the statement, without which the rest means nothing.

        What the store refuses to let go is left: it was told of, and makes room for what comes next.
        """
        pause = Backoff()
        refused = 0
        while refused < STUCK:
            try:
                await self._stages.clear(_draft_key(lane))
                await self._stages.clear(_facts_key(lane))
            except UgalluError as error:
                refused += isinstance(error, PermanentError | RefusedError)
                await self._clock.sleep(pause.next())
            else:
                return
        self._log.error("the store does not let a lane's place be emptied", lane=lane)

    async def _tell(self, facts: Facts, draft: Draft, archived: Archived, *, left: bool) -> None:
        """Write into every member's bundle what was made of it, and into its event that it is attested.

        Of what an earlier process `left`, some may know already.
        """
        now = utc_seconds(self._clock.now())
        signed = said.signed(draft, self._stages.mode, now)
        entry = draft.legs[0].entry
        assert entry is not None
        company = f"in a statement shared by {len(facts.members)} events"
        reason, message = said.kept(archived)
        words = (
            ("Signed", said.signer(self._stages.mode), f"signed by {signed['signature'].key_id}, {company}"),
            ("Logged", "LoggerOK", f"entry {entry.index} of {self._stages.origin(entry)}, {company}"),
            ("Archived", reason, f"{message}, {company}"),
        )
        conditions = [said.condition(*word, holds=True, now=now, generation=1) for word in words]
        common = {"statementDigest": facts.digest, **signed, **said.logged(draft), "conditions": conditions}

        # What is said to all is made once: there are a thousand of them.
        whole = msgspec.to_builtins({**common, **said.sealed(archived, archived.subject, now)})

        async def tell(member: Member) -> None:
            subject = said.sealed(archived, _part(archived.subject, facts, member), now)["subjectRef"]
            changes = {**whole, "subjectRef": msgspec.to_builtins(subject)}
            await self._patiently(lambda: self._tell_one(member, changes, left=left))

        await _each(facts.members, tell)

    async def _tell_one(self, member: Member, changes: dict[str, Any], *, left: bool) -> None:
        when = Preconditions(uid=member.bundle_uid)
        try:
            bundle = await self._cluster.get(BundleMark, member.bundle) if left else None
            known = bundle is not None and bundle.metadata.uid == member.bundle_uid
            if bundle is None or not known or bundle.status.phase is not BundlePhase.SEALED:
                bundle = await self._cluster.patch_status(BundleMark, member.bundle, changes, when=when)
        except (NotFoundError, OutdatedError):
            # Deleted meanwhile: its event, if it still waits, gets another one.
            await self._again(Key("", member.bundle))
            return
        self._reseal.count(bundle, "sealed")
        self._metrics.count("ugallu_attestor_shared_events_total")
        event = EventMark(metadata=Metadata(name=member.event, uid=member.event_uid))
        await attest(self._cluster, bundle, changes["statementDigest"], event)

    async def _say_failed(self, facts: Facts, stage: Stage, error: UgalluError) -> None:
        async def say(member: Member) -> None:
            try:
                await self._say_one_failed(member, stage, error)
            except CLUSTER_ERRORS:
                return  # said by the next failure, if there is one

        await _each(facts.members, say)

    async def _say_one_failed(self, member: Member, stage: Stage, error: UgalluError) -> None:
        try:
            bundle = await self._cluster.get(AttestationBundle, member.bundle)
        except NotFoundError:
            return
        if bundle.metadata.uid == member.bundle_uid and bundle.status.phase is not BundlePhase.SEALED:
            await self._reseal.failed(bundle, stage, error)

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what must be done, however long the cluster takes."""
        pause = Backoff()
        while True:
            try:
                await work()
            except CLUSTER_ERRORS:
                await self._clock.sleep(pause.next())
            else:
                return


def _part(stored: Stored, facts: Facts, member: Member) -> Stored:
    return Part(member.first, member.last).of(stored, facts.content)[0]


def _untouched(bundle: AttestationBundle) -> bool:
    return bundle.status.phase is None and not bundle.status.statement_digest


def _cluster_id(mark: BundleMark) -> str:
    return mark.metadata.annotations.get(CLUSTER_ANNOTATION, "")


def _draft_key(lane: int) -> str:
    return f"staging/shared/{lane}.json"


def _facts_key(lane: int) -> str:
    return f"staging/shared/{lane}.facts"


async def _each(items: Sequence[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for each item, some at a time."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    async with anyio.create_task_group() as tg:
        for _ in range(min(AT_ONCE, len(items))):
            tg.start_soon(worker)
