"""`Engine`: all armed rules as one detector. From audit events to findings, with every match accounted for.

    match ─> stage ─> exception, filter ─> dedupe ─> rate ─> finding
                             └> what it hides is evidence (`exceptions`)
                                        └> correlations ─> dedupe ─> rate ─> finding
    A request is one fact for a rule: once its ResponseStarted was reported, its ResponseComplete is not a second one.
    RequestReceived, whose outcome nobody knows yet, counts only for a rule that asks for that stage.

Decisions go by the events' own time and by what `snapshot` keeps, so that the same events give the same findings,
however they are cut into batches and whenever the process dies.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from ugallu.sdk import (
    CATALOGUE,
    AuditRecord,
    ExternalKind,
    Finding,
    Metrics,
    PermanentError,
    Severity,
    Subject,
    external,
)
from ugallu_audit_detection.arming import RECEIVED, Armed
from ugallu_audit_detection.context import Context
from ugallu_audit_detection.correlation.correlator import Correlated, Correlator
from ugallu_audit_detection.correlation.groups import Kept
from ugallu_audit_detection.correlation.report import group_key, signals_of
from ugallu_audit_detection.correlation.trial import failure
from ugallu_audit_detection.exceptions import EXPIRED, GROWN, IDLE, Event, Exceptions, Report
from ugallu_audit_detection.exceptions import Kept as KeptException
from ugallu_audit_detection.levels import Levels
from ugallu_audit_detection.limiter import Limiter, Owned
from ugallu_audit_detection.memory import Recent, digest
from ugallu_audit_detection.pulse import Pulse
from ugallu_audit_detection.seen import Seen
from ugallu_audit_detection.sightings import Sightings
from ugallu_audit_detection.sigma.budget import Budget
from ugallu_audit_detection.sigma.match import Matcher
from ugallu_audit_detection.sigma.questions import Surroundings
from ugallu_audit_detection.sigma.view import Callers, part
from ugallu_audit_detection.signals import base_of, shown
from ugallu_audit_detection.subjects import identity_of, subject_of
from ugallu_audit_detection.tallies import Tallies, Tally

RATE: Final = "rule_rate_limit"
EXCEPTION: Final = "exception"
DEDUPE: Final = "dedupe"
SLOW_RULE: Final = "rule_held_back"
SEVERITIES: Final = {EXPIRED: Severity.LOW, IDLE: Severity.INFO, GROWN: Severity.MEDIUM}
"""How bad it is that an exception is not what it was."""
COUNTED: Final = "correlated"
"""Matches of rules that report nothing themselves, and only count in a correlation."""

_UNFINISHED: Final = frozenset({RECEIVED, "ResponseStarted"})
_FORMATS: Final = (1, 2)
"""States that can be read: the first had no correlations."""
_MAX_ACTOR: Final = 256


class State(msgspec.Struct, frozen=True, array_like=True):
    """What a checkpoint keeps of the engine; the first field is the format."""

    format: int
    matched: int
    dropped: dict[str, int]
    tallies: dict[str, Tally]
    buckets: dict[str, tuple[float, float, float, float]]
    reported: tuple[bytes, list[float]]
    started: tuple[bytes, list[float]]
    counted: tuple[bytes, list[float]] = (b"", [])
    correlations: dict[str, Kept] = {}
    exceptions: tuple[float | None, list[KeptException]] = (None, [])
    context: bytes = b""
    owned: Owned = (b"", [])


class Case(Seen):
    """One matched event; what all rules on it share is worked out once."""

    def __init__(self, record: AuditRecord, callers: Callers | None = None, around: Surroundings | None = None) -> None:
        super().__init__(record, callers, around)
        self.seen_at = record.seen_at
        self.now = self.seen_at.timestamp()

    @part
    def about(self) -> Subject:
        """Its subject."""
        return subject_of(self)

    @part
    def base(self) -> dict[str, str]:
        """The signals that do not depend on the rule."""
        return base_of(self)

    @part
    def request(self) -> str:
        """What all stages of one request share, and no other request does."""
        return self.record.correlation("")

    @part
    def evidence(self) -> Event:
        """What exceptions keep of it."""
        about = self.about
        caller = _actor(self.acting_as.username or self.user.username)
        return Event(self.now, self.record.audit_id, caller, about.kind, about.namespace, about.name)

    @part
    def _who(self) -> tuple[str, ...]:
        outcome = "refused" if self.response.code >= 400 else ""
        return _actor(self.user.username), _actor(self.acting_as.username), outcome, identity_of(self.about)

    def key(self, rule: str) -> str:
        """Return what makes a fact of this rule this fact: rule, actor, whom it acts as, and whether it was refused.

        The object is the subject's own part of the identity, except outside the cluster, where things of different
        sorts may share a name. A refusal and a success must never fold into one event.
        """
        return msgspec.json.encode((rule, *self._who)).decode()


def _actor(name: str) -> str:
    return name if len(name) <= _MAX_ACTOR else digest(name).hex()


class Engine:
    """The detector. Rules are armed and disarmed by name; the matcher is rebuilt once, at the next batch."""

    name = "rules"
    observes = AuditRecord

    def __init__(
        self,
        metrics: Metrics | None = None,
        *,
        budget: Budget | None = None,
        holding: bool = False,
        tried: bool = False,
    ) -> None:
        """Make one without rules.

        `holding`: a rule that is slow again and again is held back from heavy events, as only a live stream may ask.
        `tried`: correlations need not pass their tests here, which run in such an engine.
        """
        self.correlator = Correlator(None if tried else failure, excepted=self._excepted)
        self.tallies = Tallies()
        self.exceptions = Exceptions()
        self.context = Context()
        self.budget = budget or Budget(time.perf_counter, exact=time.thread_time, holding=holding)
        self.levels = Levels()
        self.sightings = Sightings()
        self.pulse = Pulse()
        self._metrics = metrics
        self._armed: dict[str, Armed] = {}
        self._matcher: Matcher | None = None
        self._limiter = Limiter()
        self._reported = Recent()
        self._started = Recent()
        self._counted = Recent()
        self._asides: list[Finding] = []
        """What is to be told beside the findings of rules."""
        self._cut = 0
        self._matched = 0
        self._dropped: dict[str, int] = {RATE: 0, EXCEPTION: 0, DEDUPE: 0, COUNTED: 0}

    # Rules

    def arm(self, rule: Armed) -> None:
        """Let this version serve from the next batch on, in the place of an earlier one."""
        self._limiter.adopt(rule.name, rule.spec.rate_limit)
        self.budget.forget(rule.name)
        self.sightings.watch(rule.compiled)
        self.correlator.arm(rule)
        self._armed[rule.name] = rule
        self._matcher = None

    def disarm(self, name: str) -> None:
        """Stop serving this rule; its bucket and counts stay, in case it returns."""
        if self._armed.pop(name, None) is not None:
            self._matcher = None
            self.sightings.forget(name)
            self.correlator.disarm(name)

    def forget(self, name: str) -> None:
        """The rule is gone, and so is everything kept for it."""
        self.disarm(name)
        self.correlator.forget(name)
        self._limiter.forget(name)
        self.budget.forget(name)
        self.exceptions.forget(name)
        self.tallies.forget(name)

    def serving(self, name: str) -> Armed | None:
        """Return the version that serves."""
        return self._armed.get(name)

    @property
    def rules(self) -> Sequence[str]:
        """Names of the rules that serve, in order."""
        return sorted(self._armed)

    # Detection

    def inspect(self, record: AuditRecord) -> Iterable[Finding]:
        """Return what this event proves."""
        return [finding for _, finding in self.inspect_batch((record,))]

    def inspect_batch(self, records: Sequence[AuditRecord]) -> Iterator[tuple[int, Finding]]:
        """Yield what each event proves, in order."""
        matcher = self._matcher
        if matcher is None:
            # Sorted, so that two rules on one event speak in the same order on every machine.
            compiled = [self._armed[name].compiled for name in sorted(self._armed)]
            self.context.ask(asking for armed in self._armed.values() for asking in armed.asking)
            context = None if self.context.idle else self.context
            matcher = self._matcher = Matcher(compiled, budget=self.budget, context=context)
        self.pulse.beat(records)
        self.levels.note(records)
        self.sightings.note(records)
        for index, rules in matcher.match_batch(records):
            case = Case(records[index], matcher.callers, matcher.context)
            counted: list[str] = []
            for rule in rules:
                finding = self._judge(self._armed[rule.name], case, counted)
                if finding is not None:
                    yield index, finding
            if counted:
                for proven in self.correlator.feed(case, case.now, counted):
                    finding = self._correlated(proven, case)
                    if finding is not None:
                        yield index, finding
            if self.exceptions.due(case.now):
                self._look(case)
            if self._asides:
                yield from self._told(index)
        if self.budget.words:
            self._held_back()
            yield from self._told(len(records) - 1)
        if self._metrics is not None:
            self.tallies.publish(self._metrics)
            self.correlator.publish(self._metrics)
            for level, count in self.levels.seen.items():
                self._metrics.count("ugallu_audit_events_total", count, level=level)
            self.levels.seen.clear()
            if cut := self.levels.cut - self._cut:
                self._metrics.count("ugallu_audit_truncated_total", cut)
                self._cut += cut

    def _judge(self, rule: Armed, case: Case, counted: list[str]) -> Finding | None:
        """Decide about one match; put the rule among the counted when correlations are to hear of it."""
        record = case.record
        fact = b""
        if record.stage == RECEIVED and not rule.early:
            return None
        if len(self._started) or len(self._counted) or record.stage in _UNFINISHED:
            fact = digest(rule.name, case.request)
            if self._started.knows(fact):
                if record.stage not in _UNFINISHED:
                    self._started.forget(fact)
                return None
        self._matched += 1
        now = case.now
        open_fact = fact if record.stage in _UNFINISHED else b""
        if self._excepted(rule, case):
            self._dropped[EXCEPTION] += 1
            self._settle(open_fact, now)
            return None
        links = self.correlator.links
        if rule.name in links.filters and self._filtered(rule, case):
            self._dropped[EXCEPTION] += 1
            self._settle(open_fact, now)
            return None
        if rule.name in links.feeds and not self._counted.knows(fact):
            counted.append(rule.name)
        if rule.name in links.silent:
            self._dropped[COUNTED] += 1
            self._settle(open_fact, now)
            return None
        if record.stage not in _UNFINISHED:
            self._counted.forget(fact)
        elif rule.name in links.feeds:
            self._counted.note(fact, now)
        return self._said(rule, case, case.key(rule.name), self._base(rule, case), open_fact)

    def _correlated(self, proven: Correlated, case: Case) -> Finding | None:
        self._matched += 1
        if proven.armed.name in self.correlator.links.silent:
            self._dropped[COUNTED] += 1
            return None
        base = {**case.base, **signals_of(proven)}
        return self._said(proven.armed, case, group_key(proven), base)

    def _said(
        self, rule: Armed, case: Case, key: str, base: Mapping[str, str], open_fact: bytes = b""
    ) -> Finding | None:
        """Return the finding, unless it repeats one or the rule has said enough."""
        now = case.now
        repeat = b""
        if rule.window:
            repeat = digest(rule.name, *([read(case) for read in rule.same] or [key, case.about.key]))
            if self._reported.within(repeat, now, rule.window):
                self._dropped[DEDUPE] += 1
                self._settle(open_fact, now)
                return None
        tally = self.tallies.of(rule.name)
        # Whom the API server has authenticated: an impersonator may be anybody, and so have any number of buckets.
        actor, critical = _actor(case.user.username), rule.spec.emit.severity is Severity.CRITICAL
        if not self._limiter.allows(rule.name, actor, now, critical=critical):
            self._dropped[RATE] += 1
            count, actors = tally.limit(now, actor)
            return self._limited(rule, case, count, actors) if count else None
        finding = Finding(
            type=rule.type,
            about=case.about,
            key=key,
            severity=rule.spec.emit.severity,
            event_class=rule.spec.emit.class_,
            signals=rule.signals.of(case, base),
            detected_at=case.seen_at,
            experimental=rule.experimental,
        )
        # From here on nothing can fail: what is counted and spent stands for a finding that leaves.
        self._limiter.take(rule.name, actor, now, critical=critical)
        tally.hit(case.seen_at)
        if repeat:
            self._reported.note(repeat, now)
        self._settle(open_fact, now)
        return finding

    def _base(self, rule: Armed, case: Case) -> dict[str, str]:
        """Return the base signals, and whether something that nobody knows had a part in this match."""
        if rule.compiled.asks:
            case.unsure = False
            rule.compiled.holds(case)
            if case.unsure:
                return {**case.base, "context": "unknown"}
        return case.base

    # Exceptions, and what is told of them

    def _excepted(self, rule: Armed, case: Seen) -> bool:
        """Whether an exception hides this match of the rule. It is kept as evidence; one that has lapsed is told."""
        if not rule.exempt:
            return False
        assert isinstance(case, Case)
        exempt = rule.exempted(case, case.now)
        if exempt is not None:
            one = exempt.exception
            self._report(self.exceptions.hide(rule.name, one.name, one.owner, case.evidence), case)
            return True
        for lapsed in rule.lapsed(case, case.now):
            self._report(self.exceptions.lapsed(rule.name, lapsed.exception, case.evidence), case)
        return False

    def _filtered(self, rule: Armed, case: Case) -> bool:
        """Whether a filter takes this match of the rule away. It is kept as evidence; one that has lapsed is told."""
        for name, own in self.correlator.hiding(rule.name, case):
            if case.now < own.until:
                self.tallies.of(name).hit(case.seen_at)
                self._report(self.exceptions.hide(name, name, own.promise.owner, case.evidence), case)
                return True
            self._report(self.exceptions.lapsed(name, own.promise, case.evidence), case)
        return False

    def _look(self, case: Case) -> None:
        """See whether some exception is of no use any more."""
        in_force = [
            (name, exempt.exception.name, exempt.exception.owner)
            for name in sorted(self._armed)
            for exempt in self._armed[name].exempt
            if case.now < exempt.until
        ]
        filters = {name for some in self.correlator.links.filters.values() for name in some}
        for name in sorted(filters):
            own = self.correlator.filter(name)
            if own is not None and case.now < own.until:
                in_force.append((name, name, own.promise.owner))
        for report in self.exceptions.look(case.now, in_force):
            self._report(report, case)

    def _report(self, report: Report | None, case: Case) -> None:
        if report is not None:
            self._aside(
                "BehaviorBaselineDeviation",
                (report.reason, report.rule, report.exception),
                report.signals,
                case.record,
                severity=SEVERITIES[report.reason],
            )

    def _held_back(self) -> None:
        """Tell which rules are not shown everything, because they are too slow."""
        words, self.budget.words = self.budget.words, []
        for word in words:
            signals = {
                "reason": SLOW_RULE,
                "dropped": str(word.passed),
                "limited.rule": word.rule,
                "weight.bytes": str(word.weight),
                "audit.id": Case(word.record).base.get("audit.id", ""),
                "user": Case(word.record).base.get("user", ""),
            }
            self._aside("SourceRateLimited", (SLOW_RULE, word.rule), signals, word.record)
            if self._metrics is not None:
                self._metrics.count("ugallu_audit_rule_passed_over_total", word.passed, rule=word.rule)

    def _aside(
        self, kind: str, key: tuple[str, ...], signals: dict[str, str], record: AuditRecord, *,
        severity: Severity | None = None,
    ) -> None:  # fmt: skip
        self._asides.append(
            Finding(
                type=CATALOGUE[kind],
                about=external(ExternalKind.ENDPOINT, "ugallu-audit-detection", source="ugallu"),
                key=msgspec.json.encode(key).decode(),
                severity=severity,
                signals=signals,
                detected_at=record.seen_at,
            )
        )

    def _told(self, index: int) -> Iterator[tuple[int, Finding]]:
        """Yield what is to be told beside findings; like them it is counted."""
        asides, self._asides = self._asides, []
        for finding in asides:
            self._matched += 1
            yield index, finding

    def _settle(self, open_fact: bytes, now: float) -> None:
        """Remember that this request, which goes on, was judged; one that the limiter dropped gets a second look."""
        if open_fact:
            self._started.note(open_fact, now)

    def _limited(self, rule: Armed, case: Case, count: int, actors: Mapping[str, int]) -> Finding:
        """A limiter that drops in silence would hide whoever floods a noisy rule: it says so, and is counted too."""
        self._matched += 1
        return Finding(
            type=CATALOGUE["SourceRateLimited"],
            about=external(ExternalKind.ENDPOINT, "ugallu-audit-detection", source="ugallu"),
            key=msgspec.json.encode((RATE, rule.name)).decode(),
            signals={
                "reason": RATE,
                "dropped": str(count),
                "limited.rule": rule.name,
                "limited.type": rule.type.name,
                "limited.actors": shown(", ".join(f"{name} ({dropped})" for name, dropped in actors.items())),
                "audit.id": case.base.get("audit.id", ""),
            },
            detected_at=case.seen_at,
        )

    # What a restart must not lose

    def snapshot(self) -> bytes:
        """Return books, counts, buckets and memories."""
        return msgspec.msgpack.encode(
            State(
                format=2,
                matched=self._matched,
                dropped=self._dropped,
                tallies=self.tallies.snapshot(),
                buckets=self._limiter.snapshot(),
                reported=self._reported.snapshot(),
                started=self._started.snapshot(),
                counted=self._counted.snapshot(),
                correlations=self.correlator.snapshot(),
                exceptions=self.exceptions.snapshot(),
                context=self.context.snapshot(),
                owned=self._limiter.owned(),
            )
        )

    def restore(self, state: bytes) -> None:
        """Become what `snapshot` saw; the rules that serve stay those that serve now."""
        try:
            kept = msgspec.msgpack.decode(state, type=State)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PermanentError(f"unreadable state: {error}", where="audit-detection rules") from error
        if kept.format not in _FORMATS:
            raise PermanentError(f"state of format {kept.format}", where="audit-detection rules", fix="update ugallu")
        self._matched = kept.matched
        self._dropped = {**dict.fromkeys(self._dropped, 0), **kept.dropped}
        self.tallies.restore(kept.tallies)
        self._limiter.restore(kept.buckets, kept.owned)
        self._reported.restore(kept.reported)
        self._started.restore(kept.started)
        self._counted.restore(kept.counted)
        self.correlator.restore(kept.correlations)
        self.exceptions.restore(kept.exceptions)
        self.context.restore(kept.context)
        self._asides = []

    def books(self) -> Mapping[str, int]:
        """Return `matched` (rule and request, whatever the stage; reports of limiters too) and `dropped.<reason>`."""
        return {"matched": self._matched, **{f"dropped.{why}": count for why, count in self._dropped.items()}}
