"""The pump from the journal to the cluster: reads records in order, decides, creates events, remembers where it stands.

A finding is durable before it comes here, and leaves only by being created, folded, or dropped for a reason that the
books name. What the pump knows (position, fold, gate, ledger, what is pending) is one value, saved as one; after a
crash the records behind it are decided again with the same result, and a create that had worked is recognised by its
annotation. Creates are tried by severity, several at a time, each on a schedule of its own.
"""

import secrets
from array import array
from collections import deque
from collections.abc import Iterator, Sequence

import anyio
import anyio.abc
import msgspec

from ugallu.api.event import SecurityEvent, SecurityEventSpec
from ugallu.api.observation import Checkpoint
from ugallu.clock import Clock
from ugallu.cluster.port import AlreadyExistsError, Cluster, InvalidError, View
from ugallu.emit.decisions import ANNOTATION_EMISSION, Decisions, Item, from_record, item_of, place_of, record_of
from ugallu.emit.fold import Fold
from ugallu.emit.gate import REPORT_SECONDS, Gate, Level
from ugallu.emit.identity import same_fact, suffixed
from ugallu.emit.ledger import Accounts, Ledger, Totals
from ugallu.emit.patience import Appender
from ugallu.emit.pending import URGENT, Pending
from ugallu.emit.pressure import Follower, PressureMap
from ugallu.emit.records import Closed, Entry, Mark, Pressed, Settled, Submitted, decode, encode
from ugallu.errors import PermanentError, RefusedError, TransientError, UgalluError
from ugallu.journal.port import Cursor, Journal, Record
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.pace import Backoff, TokenBucket
from ugallu.settings import EmitSettings

READER = "outbox"
_CHUNK = 512
_REREAD = 128
_SAVE_SECONDS = 1.0
_MAX_DERIVED = 8192
_MAX_SUFFIX = 99
_MAX_SUFFIXES = 4096
_DEAD_LETTERS = 64
_SUSPECTS = 8
"""When so many different items have failed in a row it is the cluster that fails."""
_DOUBT_SECONDS = 600.0
"""An item is not given up before it has failed this long in this process: wall clocks jump."""


class DeadLetter(msgspec.Struct, frozen=True):
    """An event that was never created, and why."""

    name: str
    type: str
    component: str
    reason: str
    what: str


class _Snapshot(msgspec.Struct):
    journal: str
    """Random, once per journal: no other journal's events pass for ours."""
    position: int = 0
    fold: bytes = b""
    gate: bytes = b""
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    findings: bytes = b""
    """Ids of pending findings, as an array of unsigned 64-bit integers."""
    summaries: list[Item] = []
    suffixes: dict[int, int] = {}
    dead: list[DeadLetter] = []


_snapshot = msgspec.msgpack.Decoder(_Snapshot)


class _Failing(msgspec.Struct):
    since: float
    backoff: Backoff


class Outbox:
    """One pump per journal. Call `recover` before sources start, `run` beside them, `drain` at the end of a replay.

    `live`: windows also close when nothing comes for as long as they last, by the wall clock; a replay leaves that to
    `drain`. `in_flight` creates are under way at a time (0: what suits the cluster); `held` findings are kept whole in
    memory, and `windows` are open at most; the cursor is saved every second and every `save_every` records.
    """

    def __init__(  # noqa: PLR0917 - what every part takes, in the order in which every part takes it
        self,
        journal: Journal,
        cluster: Cluster,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        settings: EmitSettings,
        *,
        live: bool = False,
        in_flight: int = 0,
        held: int = 1024,
        windows: int = 4096,
        save_every: int = 8192,
    ) -> None:
        self.dead_letters: deque[DeadLetter] = deque(maxlen=_DEAD_LETTERS)
        self._journal = journal
        self._reader = journal.reader(READER)
        self._appender = Appender(journal, clock, log)
        self._cluster = cluster
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._settings = settings
        self._live = live
        # The embedded cluster commits what waits together: one fsync for all of them.
        self._in_flight = in_flight or (64 if cluster.embedded else 8)
        self._save_every = save_every
        self._pending = Pending(held=held)
        self._decisions = Decisions(
            Fold(settings.fold_window_seconds, capacity=windows), Gate(settings.objects_per_hour), Ledger()
        )
        self._id = ""
        self._position = 0
        self._unsaved = 0
        self._saved_bytes = 0
        self._may_read = True
        self._failing: dict[int, _Failing] = {}
        self._suffixes: dict[int, int] = {}
        """The suffix of findings that were not stored under their plain name, 0 for those that never were."""
        self._suspects: set[int] = set()
        self._outage = Backoff(first=0.5, ceiling=30.0)
        self._resume = 0.0
        self._burials: list[Settled] = []
        self._closing = False
        self._running = False
        self._follower: Follower | None = None
        self._told_early = 0
        self._save_refused = ""
        self._unreadable = ""
        self._refusal = ""
        """Why the cluster took no event since the last one that it took: what a person has to mend."""
        self._woken = anyio.Event()
        self._buried = anyio.Event()
        self._saving = anyio.Lock()
        self._moved = anyio.Event()
        share = min(max(settings.reserved_share, 0.0), 0.9)
        rate = settings.creates_per_second or 0.0
        # The smallest burst that still lets a low severity through beside the reserve, at half pace.
        burst = max(rate, 2.0 / (1.0 - share))
        self._bucket = TokenBucket(rate, burst) if rate > 0 else None
        self._reserve = burst * share

    # What others ask

    @property
    def idle(self) -> bool:
        """Whether everything in the journal is decided and created."""
        return self._position >= self._journal.last and not len(self._pending) and not self._burials

    @property
    def pending(self) -> int:
        """Events decided but not yet created."""
        return len(self._pending)

    @property
    def open(self) -> bool:
        """Whether the end of the stream would bring more events: windows are open, or reports are due."""
        return self._decisions.open

    @property
    def closed_early(self) -> int:
        """Windows closed before their time because the table of them was full."""
        return self._decisions.fold.early

    def books(self) -> Totals:
        """Return the ledger as it stands."""
        return self._decisions.ledger.totals(self._pending.findings)

    def accounts(self) -> Accounts:
        """Return the ledger as it stands, and the books of each source."""
        return Accounts(self.books(), self._decisions.ledger.by_source())

    @property
    def ledger(self) -> Ledger:
        """The raw counts behind `books`."""
        return self._decisions.ledger

    def ready(self) -> str:
        """Return what keeps events from being created, empty when nothing does."""
        if not self._running:
            return "outbox is not running"
        if trouble := self._appender.refusing or self._save_refused or self._unreadable or self._refusal:
            return trouble
        return "cluster does not answer" if self._resume > self._clock.monotonic() else ""

    # Life

    async def recover(self) -> dict[tuple[str, str], Checkpoint]:
        """Take up where the last run stopped; return the latest checkpoint by (source, subscriber).

        Raises `PermanentError` for a snapshot of another version.
        """
        state = self._reader.cursor.state
        if state:
            self._restore(state)
        else:
            # Saved before anything is created, so that every event bears this id whatever happens next.
            self._id = secrets.token_hex(8)
            backoff = Backoff(first=0.1, ceiling=10.0)
            while not self.save():
                await self._clock.sleep(backoff.next())
        latest = {
            (source, subscriber): account.checkpoint
            for source, subscribers in self.ledger.accounts.items()
            for subscriber, account in subscribers.items()
        }
        if self._position > self._journal.last:
            # Damage on the disk took records that were decided; new ones may bear their numbers and must be seen.
            self._log.error("the journal ends before the outbox", last=self._journal.last, outbox=self._position)
            self._position = self._journal.last
        async for record in self._journal.records(self._position):
            entry = self._decode(record)
            if isinstance(entry, Mark):
                latest[entry.checkpoint.source, entry.checkpoint.subscriber] = entry.checkpoint
            elif isinstance(entry, Settled):
                self._pending.condemn(entry.item)
        if state:
            self._reload(_snapshot.decode(state))
        return latest

    async def run(self) -> None:
        """Pump until cancelled, or until `close` was called and nothing is left to do."""
        if not self._id:
            await self.recover()
        self._running = True
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._decide)
                group.start_soon(self._bury)
                group.start_soon(self._save_often)
                if self._follower is not None:
                    group.start_soon(self._follower.run)
                if self._live:
                    group.start_soon(self._watch_idle)
                await self._create(group)
                group.cancel_scope.cancel()
            self.save()
        except anyio.get_cancelled_exc_class():
            self.save()
            raise
        finally:
            self._running = False

    def close(self) -> None:
        """No more findings will come: `run` ends once everything is created. Open windows stay for the next run."""
        self._closing = True
        self._wake()

    async def drain(self) -> None:
        """End of stream: close every window, wait until everything is created, save. `run` must be under way."""
        while True:
            seq = await self._appender.append([encode(Closed())])
            while self._position < seq or not self.idle:
                await self._moved.wait()
            if not self.open:
                break
        backoff = Backoff(first=0.1, ceiling=10.0)
        while not await self._store():
            await self._clock.sleep(backoff.next())

    def obey(self, view: View[PressureMap]) -> None:
        """Follow the backpressure level that is said there, from the next `run` on."""
        self._follower = Follower(view, self.press, lambda: self._decisions.gate.level, self._clock, self._log)

    async def press(self, level: Level) -> None:
        """Set the backpressure level, durably and in order with the findings."""
        await self._appender.append([encode(Pressed(level.value))])

    def save(self) -> bool:
        """Save where the pump stands; tell whether the disk took it."""
        cursor, unsaved = self._stand(), self._unsaved
        try:
            self._reader.save(cursor)
        except UgalluError as error:
            return self._not_saved(error)
        return self._saved(cursor, unsaved)

    async def _store(self) -> bool:
        """As `save`, while the pump goes on: what is saved is where it stood when this began."""
        async with self._saving:
            cursor, unsaved = self._stand(), self._unsaved
            try:
                await self._reader.store(cursor)
            except UgalluError as error:
                return self._not_saved(error)
            return self._saved(cursor, unsaved)

    def _saved(self, cursor: Cursor, unsaved: int) -> bool:
        self._save_refused = ""
        self._unsaved -= unsaved
        self._saved_bytes = len(cursor.state)
        return True

    def _not_saved(self, error: UgalluError) -> bool:
        self._save_refused = f"outbox cannot save: {error}"
        self._log.error("outbox cannot save; it would decide again after a crash", error=str(error))
        return False

    def _stand(self) -> Cursor:
        """Return where the pump stands, as one value."""
        findings, summaries = self._pending.snapshot()
        decisions = self._decisions
        state = msgspec.msgpack.encode(
            _Snapshot(
                journal=self._id,
                position=self._position,
                fold=decisions.fold.snapshot(),
                gate=decisions.gate.snapshot(),
                ledger=decisions.ledger,
                findings=array("Q", findings).tobytes(),
                summaries=summaries,
                suffixes=self._suffixes,
                dead=list(self.dead_letters),
            )
        )
        # Records that are still needed to make pending events stay unread for the journal's retention.
        done = min(self._position, record_of(findings[0]) - 1) if findings else self._position
        return Cursor(seq=done, state=state)

    def _restore(self, state: bytes) -> None:
        try:
            saved = _snapshot.decode(state)
        except msgspec.DecodeError as error:
            raise PermanentError(
                f"not a snapshot of this version: {error}", where="outbox", fix="was the state directory downgraded?"
            ) from error
        self._id = saved.journal
        self._position = saved.position
        self._decisions.ledger = saved.ledger
        if saved.fold:
            self._decisions.fold.restore(saved.fold)
        if saved.gate:
            self._decisions.gate.restore(saved.gate)
        self._told_early = self.closed_early
        self._suffixes = saved.suffixes
        self.dead_letters.extend(saved.dead)

    def _reload(self, saved: _Snapshot) -> None:
        """Enter what was pending: findings from their records, in order, and summaries as they were saved."""
        ids = array("Q")
        ids.frombytes(saved.findings)
        by_record = {record_of(item_id): item_id for item_id in ids}
        for record in self._between(min(by_record, default=0) - 1, max(by_record, default=0)):
            item_id = by_record.pop(record.seq, None)
            if item_id is not None:
                entry = self._decode(record)
                if isinstance(entry, Submitted):
                    self._pending.add(item_of(item_id, entry))
                else:
                    self.ledger.drop("journal_lost")
        for _ in by_record:
            self.ledger.drop("journal_lost")
        for item in saved.summaries:
            self._pending.add(item)

    def _between(self, after: int, upto: int) -> Iterator[Record]:
        while after < upto:
            records = self._reader.read(after, limit=_CHUNK)
            if not records:
                return
            yield from records
            after = records[-1].seq

    # Deciding

    async def _decide(self) -> None:
        while True:
            if self._pending.derived >= _MAX_DERIVED:
                # Summaries live in memory only until they are created; the journal keeps what would make more of them.
                await self._moved.wait()
                continue
            try:
                records = self._reader.read(self._position, limit=_CHUNK)
            except TransientError as error:
                self._unreadable = f"outbox cannot read: {error}"
                self._log.error("the journal cannot be read; findings wait", error=str(error))
                await self._clock.sleep(_SAVE_SECONDS)
                continue
            self._unreadable = ""
            if not records:
                if not await self._reader.wait(self._position):
                    return
                continue
            self._take(records)
            self._wake()
            self._step()
            if self._unsaved >= max(self._save_every, self._saved_bytes >> 10):
                await self._store()
            await anyio.lowlevel.checkpoint()

    def _take(self, records: Sequence[Record]) -> None:
        at = self._clock.now().timestamp()
        for record in records:
            missing = record.seq - self._position - 1
            if missing > 0:
                self.ledger.lose("journal_lost", missing)
                self._log.error("the journal lost unread records", count=missing, before=record.seq)
            entry = self._decode(record)
            if entry is None:
                self.ledger.unreadable += 1
            elif not isinstance(entry, Settled) or self._buried_now(entry):
                for item in self._decisions.take(record.seq, entry, at):
                    self._pending.add(item)
            self._position = record.seq
            self._unsaved += 1
        self._report()

    def _decode(self, record: Record) -> Entry | None:
        try:
            return decode(record.data, record.seq)
        except PermanentError as error:
            self._log.error("unreadable record skipped", error=str(error))
            return None

    def _buried_now(self, entry: Settled) -> bool:
        """Forget an item that was given up; False when that was done before."""
        if entry.item not in self._pending:
            return False
        self._note_suffix(entry.item, 0)
        self._pending.settle(entry.item, entry.name)
        self._failing.pop(entry.item, None)
        self.dead_letters.append(DeadLetter(entry.name, entry.type, entry.component, entry.reason, entry.what))
        return True

    def _report(self) -> None:
        """Bring the metrics up to date with the last chunk."""
        for type_, count in self._decisions.folded.items():
            self._metrics.count("ugallu_emitter_folded_total", count, type=type_)
        for reason, count in self._decisions.refused.items():
            self._metrics.count("ugallu_emitter_dropped_total", count, reason=reason)
        if fresh := self.closed_early - self._told_early:
            self._told_early += fresh
            self._metrics.count("ugallu_emitter_windows_closed_early_total", fresh)
        self._decisions.folded.clear()
        self._decisions.refused.clear()
        self._metrics.gauge("ugallu_emitter_buffer_depth", len(self._pending))
        for level in Level:
            here = level is self._decisions.gate.level
            self._metrics.gauge("ugallu_emitter_backpressure_level", float(here), level=level.value)

    # Creating

    async def _create(self, group: anyio.abc.TaskGroup) -> None:
        while not (self._closing and self.idle):
            if self._woken.is_set():
                self._woken = anyio.Event()
            item_id, wait = self._choose()
            if item_id is not None:
                group.start_soon(self._try, item_id)
            elif wait == float("inf"):
                await self._woken.wait()
            else:
                await self._nap(wait)

    def _choose(self) -> tuple[int | None, float]:
        """Return the item to try now, or for how many seconds there is none."""
        now = self._clock.monotonic()
        if self._pending.flying >= self._in_flight:
            return None, float("inf")
        if now < self._resume:
            return None, self._resume - now
        rank = self._pending.ready(now)
        if rank < 0:
            return None, self._pending.due() - now
        if self._bucket is not None:
            urgent = rank >= URGENT
            cost = 2.0 if self._decisions.gate.level is Level.YELLOW and not urgent else 1.0
            reserve = 0.0 if urgent else self._reserve
            if not self._bucket.take(now, cost, reserve=reserve):
                return None, self._bucket.wait(now, cost, reserve=reserve)
        return self._pending.next(rank), 0.0

    async def _nap(self, seconds: float) -> None:
        """Sleep until something happens, `seconds` at most."""
        async with anyio.create_task_group() as group:

            async def alarm() -> None:
                await self._clock.sleep(seconds)
                group.cancel_scope.cancel()

            group.start_soon(alarm)
            await self._woken.wait()
            group.cancel_scope.cancel()

    async def _try(self, item_id: int) -> None:
        try:
            item = self._pending.item(item_id) or self._again(item_id)
        except TransientError as error:
            self._log.error("a finding cannot be read again; it waits", error=str(error))
            self._pending.later(item_id, self._clock.monotonic() + _SAVE_SECONDS)
            self._wake()
            return
        if item is None:
            self.ledger.drop("journal_lost")
            self._note_suffix(item_id, 0)
            self._pending.settle(item_id, self._pending.name(item_id))
        else:
            await self._attempt(item)
        self._unsaved += 1
        self._wake()
        self._step()

    async def _attempt(self, item: Item) -> None:
        """Create an item, or decide from the error whether to try again or to give up."""
        try:
            await self._place(item)
        except InvalidError as error:
            # Only this is about the event. A kind that is not served yet, rights that are being changed, a token that
            # is late, a disk that became read-only: all of that is about the cluster, and ends.
            self._outcome(item.spec, "error")
            self._condemn(item, type(error).__name__.removesuffix("Error").lower(), error)
        except (UgalluError, OSError) as error:
            self._fail(item, error)

    def _again(self, item_id: int) -> Item | None:
        """Read a finding again that was not kept, and keep those behind it; None when the journal has lost it."""
        found = None
        for record in self._reader.read(record_of(item_id) - 1, limit=_REREAD):
            for wanted in self._pending.wanted(record.seq):
                entry = self._decode(record)
                if isinstance(entry, Submitted):
                    item = item_of(wanted, entry)
                    if wanted == item_id:
                        found = item
                    else:
                        self._pending.hold(item)
        return found

    async def _place(self, item: Item) -> None:
        """Create the event under its name, or under the first suffix that no different fact has taken."""
        item = self._linked(item)
        emission = f"{self._id}/{record_of(item.id)}.{place_of(item.id)}"
        for number in range(1, _MAX_SUFFIX + 1):
            event = item.event(suffixed(item.name, number), emission)
            try:
                await self._cluster.create(event)
            except AlreadyExistsError:
                there = await self._stored(event.metadata.name)
                if there is None:
                    self._created(item, number, "conflict_idempotent", ours=True)
                    return
                if same_fact(there.spec, item.spec):
                    ours = there.metadata.annotations.get(ANNOTATION_EMISSION) == emission
                    self._created(item, number, "conflict_idempotent", ours=ours)
                    return
            else:
                self._created(item, number, "ok", ours=True)
                return
        raise InvalidError(f"{_MAX_SUFFIX} different facts have this name", where=item.name)

    def _linked(self, item: Item) -> Item:
        """Return the item with its parent called as it is stored, without one that never was."""
        number = self._suffixes.get(item.after)
        if number is None:
            return item
        parents = [msgspec.structs.replace(p, name=suffixed(p.name, number)) for p in item.spec.parents if number]
        return msgspec.structs.replace(item, spec=msgspec.structs.replace(item.spec, parents=tuple(parents)))

    def _note_suffix(self, item_id: int, number: int) -> None:
        if item_id and from_record(item_id) and not place_of(item_id):
            self._suffixes[item_id] = number
            if len(self._suffixes) > _MAX_SUFFIXES:
                del self._suffixes[next(iter(self._suffixes))]

    async def _stored(self, name: str) -> SecurityEvent | None:
        """Return the event that has the name, None where we may not read: names are made so that it must be equal."""
        if not self._may_read:
            return None
        try:
            return await self._cluster.get(SecurityEvent, name)
        except RefusedError:
            self._may_read = False
            return None

    def _created(self, item: Item, number: int, outcome: str, *, ours: bool) -> None:
        ledger = self.ledger
        spec = item.spec
        if outcome == "conflict_idempotent":
            ledger.conflict_idempotent += 1
        if number > 1:
            ledger.conflict_real += 1
            self._outcome(spec, "conflict_real")
        if ours and item.summary:
            ledger.summaries += 1
        elif ours:
            ledger.emitted += 1
        elif not item.summary:
            # Another emission made this very event: the finding is one more occurrence of a fact that is told.
            ledger.folded += 1
            self._metrics.count("ugallu_emitter_folded_total", type=spec.type)
        if number > 1:
            self._note_suffix(item.id, number)
        self._suffixes.pop(item.after, None)
        self._pending.settle(item.id, item.name)
        self._failing.pop(item.id, None)
        self._suspects.clear()
        self._outage.reset()
        self._refusal = ""
        self._outcome(spec, outcome)
        if ours:
            labels = {"class": spec.class_.value, "type": spec.type, "severity": spec.severity.value}
            self._metrics.count("ugallu_emitter_emitted_total", 1.0, **labels)
            self._metrics.observe("ugallu_emitter_emit_latency_seconds", self._clock.now().timestamp() - item.at)

    def _outcome(self, spec: SecurityEventSpec, outcome: str) -> None:
        labels = {"class": spec.class_.value, "outcome": outcome}
        self._metrics.count("ugallu_emitter_emits_total", 1.0, **labels)

    def _fail(self, item: Item, error: UgalluError | OSError) -> None:
        """Schedule the next try of one item; when every try fails, whoever it is for, pause them all."""
        now = self._clock.monotonic()
        failing = self._failing.setdefault(item.id, _Failing(now, Backoff(first=0.5, ceiling=30.0)))
        self._outcome(item.spec, "error")
        if isinstance(error, PermanentError | RefusedError):
            if not self._refusal:
                self._log.error("the cluster refuses an event; it is tried again", name=item.name, error=str(error))
            self._refusal = f"cluster refuses events: {error}"
        patience = self._settings.max_age_seconds
        tried = now - failing.since
        aged = self._clock.now().timestamp() - item.at >= patience and tried >= min(patience, _DOUBT_SECONDS)
        if aged or tried >= patience:
            self._condemn(item, "retry_exhausted", error)
            return
        wish = getattr(error, "retry_after", None) or 0.0
        self._pending.later(item.id, now + max(failing.backoff.next(), min(wish, 60.0)))
        self._suspects.add(item.id)
        if len(self._suspects) >= min(self._in_flight, _SUSPECTS):
            self._resume = now + self._outage.next()
            self._suspects.clear()
            self._log.warning("the cluster does not take events; they wait", error=str(error), pending=self.pending)

    # Giving up

    def _condemn(self, item: Item, reason: str, error: UgalluError | OSError) -> None:
        self._log.error("event not created", name=item.name, type=item.spec.type, reason=reason, error=str(error))
        self._pending.condemn(item.id)
        self._burials.append(
            Settled(
                item=item.id,
                name=item.name,
                type=item.spec.type,
                reason=reason,
                component=item.component,
                at=item.spec.detected_at,
                source=item.spec.source,
                cluster=item.spec.cluster_identity,
                what=str(error)[:512],
                summary=item.summary,
                report=item.report,
            )
        )
        self._buried.set()

    async def _bury(self) -> None:
        """Journal what was given up; the decision to drop it is then read back like any other."""
        while True:
            if not self._burials:
                if self._buried.is_set():
                    self._buried = anyio.Event()
                await self._buried.wait()
            batch = self._burials[:]
            await self._appender.append([encode(entry) for entry in batch])
            del self._burials[: len(batch)]
            self._wake()
            self._step()

    # Time

    async def _save_often(self) -> None:
        while True:
            # A large snapshot (a long outage) is written less often: a second for each mebibyte.
            await self._clock.sleep(max(_SAVE_SECONDS, self._saved_bytes / (1 << 20)))
            if self._unsaved:
                await self._store()

    async def _watch_idle(self) -> None:
        """Close windows that nothing has touched for as long as they last, by our own clock, through the journal."""
        span = max(1.0, self._settings.fold_window_seconds)
        seen: deque[tuple[float, int]] = deque()
        reported = self._clock.monotonic()
        while True:
            await self._clock.sleep(span / 4)
            now = self._clock.monotonic()
            upto = 0
            while seen and seen[0][0] <= now - span:
                upto = seen.popleft()[1]
            seen.append((now, self._position))
            reports = self._decisions.gate.reporting and now - reported >= REPORT_SECONDS
            if upto and (reports or self._decisions.fold.stale(upto)):
                reported = now if reports else reported
                await self._appender.append([encode(Closed(upto, reports))])

    def _wake(self) -> None:
        self._woken.set()

    def _step(self) -> None:
        """Let whoever waits for progress look again."""
        self._moved.set()
        self._moved = anyio.Event()
