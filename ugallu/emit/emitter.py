"""From findings to durable records: check, hydrate, cut to size, name, append. The cluster is somebody else's work."""

import datetime as dt
from collections.abc import Mapping, Sequence

import msgspec

from ugallu.api.catalog import CATALOGUE
from ugallu.api.event import SecurityEventSpec, SourceRef
from ugallu.api.meta import API_VERSION, utc_seconds
from ugallu.api.observation import Checkpoint, Finding
from ugallu.api.subject import Clue, Subject
from ugallu.clock import Clock
from ugallu.emit.identity import Fact
from ugallu.emit.limits import MAX_LIST, MAX_SPEC_BYTES, clean, fit_signals, fit_spec
from ugallu.emit.patience import Appender
from ugallu.emit.port import Hydrator, Origin
from ugallu.emit.records import Mark, Refused, Submitted, encode
from ugallu.emit.subject import HYDRATE_SECONDS, RESOLVER_ERROR, Hydration, bare, finish, known
from ugallu.journal.port import Journal
from ugallu.logs import Logger
from ugallu.metrics import Metrics

UNDECLARED_TYPE = "undeclared_type"
SUBJECT_MISSING = "subject_missing"
UNENCODABLE = "unencodable"


class JournalEmitter:
    """The `Emitter` of one operator over the journal that the process's outbox reads."""

    def __init__(
        self,
        origin: Origin,
        journal: Journal,
        clock: Clock,
        metrics: Metrics,
        log: Logger,
        *,
        hydrator: Hydrator | None = None,
        hydrate_seconds: float = HYDRATE_SECONDS,
    ) -> None:
        self._origin = origin
        self._appender = Appender(journal, clock, log)
        self._clock = clock
        self._log = log
        self._hydration = None if hydrator is None else Hydration(hydrator, clock, metrics, hydrate_seconds)
        self._source = SourceRef(
            api_version=API_VERSION,
            kind="Operator",
            name=origin.component,
            version=origin.version,
            instance=origin.instance,
        )

    @property
    def origin(self) -> Origin:
        """Whose findings these are."""
        return self._origin

    def ready(self) -> str:
        """Return what keeps findings from being accepted, empty when nothing does."""
        return self._appender.refusing

    async def submit(self, findings: Sequence[Finding], checkpoint: Checkpoint | None = None) -> None:
        """Make findings, and how far their source was read, durable as one; return when they are."""
        stream = checkpoint.source if checkpoint else self._origin.component
        subjects = await self._look_up(findings)
        records: list[bytes] = []
        refused: dict[str, Refused] = {}
        for finding in findings:
            reason = self._fault(finding)
            if not reason:
                try:
                    records.append(encode(self._submitted(finding, subjects, stream)))
                except UnicodeEncodeError:
                    reason = UNENCODABLE
            if reason:
                self._refuse(refused, reason, finding)
        records += [encode(entry) for entry in refused.values()]
        if checkpoint:
            records.append(encode(Mark(checkpoint, len(findings))))
        if records:
            await self._appender.append(records)

    async def lost(self, reason: str, counts: Mapping[str, int], at: dt.datetime) -> None:
        """Report observations that never reached a detector, by source: a ring that overflowed."""
        entry = self._refusal(reason, at)
        entry = msgspec.structs.replace(entry, counts=dict(counts), observations=True)
        await self._appender.append([encode(entry)])

    def _fault(self, finding: Finding) -> str:
        name = finding.type.name
        if name not in self._origin.emits:
            return UNDECLARED_TYPE
        return "" if known(finding.about) else SUBJECT_MISSING

    def _refuse(self, refused: dict[str, Refused], reason: str, finding: Finding) -> None:
        """Enter a finding that becomes no event, with the others of its reason."""
        entry = refused.get(reason)
        if entry is None:
            self._log.warning("findings refused", first=finding.type.name, reason=reason)
            entry = refused[reason] = self._refusal(reason, finding.detected_at or self._clock.now())
        name = clean(finding.type.name, 128)
        entry.counts[name] = entry.counts.get(name, 0) + 1

    def _refusal(self, reason: str, at: dt.datetime) -> Refused:
        return Refused(self._origin.component, reason, {}, _utc(at), self._source, self._origin.cluster)

    async def _look_up(self, findings: Sequence[Finding]) -> dict[Clue, tuple[Subject, str]]:
        if self._hydration is None:
            return {}
        clues = [f.about for f in findings if isinstance(f.about, Clue) and f.about.via and f.about.key]
        return await self._hydration.look_up(clues) if clues else {}

    def _submitted(self, finding: Finding, subjects: Mapping[Clue, tuple[Subject, str]], stream: str) -> Submitted:
        own: dict[str, str] = {}
        if isinstance(finding.about, Clue):
            subject, error = subjects.get(finding.about) or (bare(finding.about), "")
            if error:
                own[RESOLVER_ERROR] = clean(error, 512)
        else:
            subject = finding.about
        subject = finish(subject)
        now = self._clock.now()
        detected = _utc(finding.detected_at or now)
        class_ = finding.event_class or finding.type.event_class
        fact = Fact(self._origin.cluster.cluster_id, class_.value, finding.type.name, subject.key, finding.key)
        shared = finding.correlation or fact.correlation(int(detected.timestamp()))
        spec = SecurityEventSpec(
            class_=class_,
            type=finding.type.name,
            severity=finding.severity or finding.type.severity,
            cluster_identity=self._origin.cluster,
            source=self._source,
            subject=subject,
            detected_at=detected,
            signals=fit_signals(finding.signals, own),
            evidence=finding.evidence,
            parents=finding.parents,
            correlation_id=clean(shared),
            traceparent=finding.traceparent,
        )
        if self._large(spec):
            spec = fit_spec(spec)
        return Submitted(
            name=fact.name(shared),
            fold=fact.fold(self._origin.component),
            component=self._origin.component,
            spec=spec,
            at=now.timestamp(),
            stream=stream,
            # A plug-in may declare types of its own; the label is what lets them past the catalogue's policy.
            experimental=finding.experimental or finding.type.name not in CATALOGUE,
        )

    @staticmethod
    def _large(spec: SecurityEventSpec) -> bool:
        if len(spec.evidence) > MAX_LIST or len(spec.parents) > MAX_LIST:
            return True
        return len(msgspec.json.encode(spec)) > MAX_SPEC_BYTES


def _utc(moment: dt.datetime) -> dt.datetime:
    """Return second precision, UTC; a time without a zone is UTC, never the machine's own zone."""
    return utc_seconds(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
