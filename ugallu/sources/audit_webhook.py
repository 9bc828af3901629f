"""The API server's audit webhook: `AuditReceiver` takes events in, `AuditWebhook` publishes them.

    POST ─ events ─ spool, one fsync for all who wait ─ 200          AuditReceiver
                      └─ repeats out ─ AuditRecords ─ batches        AuditWebhook

An API server is told 200 once its events are on disk, all of them or none, and from there nothing is lost. What is
acknowledged waits in the spool for the slowest reader; only a full spool or a broken disk is an API server's business:
503, and it tries again. Two sources, so that reading again from an earlier checkpoint shuts no door.
"""

import datetime as dt
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec

from ugallu.api.audit import AuditRecord
from ugallu.api.observation import Batch, Checkpoint
from ugallu.bus.port import Publish
from ugallu.clock import Clock
from ugallu.errors import PermanentError, TransientError, UgalluError
from ugallu.journal.files import Files
from ugallu.journal.port import FullError, Record
from ugallu.logs import Logger
from ugallu.metrics import Metrics
from ugallu.pace import TokenBucket
from ugallu.settings import WebhookSettings
from ugallu.sources import spool as spools
from ugallu.sources.audit_decode import AuditDecoder, Rejected
from ugallu.sources.audit_list import listed, searched
from ugallu.sources.lines import EDGE_BYTES, Oversize
from ugallu.sources.seen import Seen
from ugallu.sources.spool import Place, Spool

if TYPE_CHECKING:
    from ugallu.net.http import Answer, Body

PATH: Final = "/v1/audit"
NAME: Final = "audit-webhook"
DIRECTORY: Final = "audit-webhook"
BATCH: Final = 512
BATCH_BYTES: Final = 4 << 20
RELEASE_SECONDS: Final = 2.0
_RETRY_SECONDS: Final = "2"
"""What a full spool asks for. An API server gives up a batch after five tries, some of them seconds apart."""
_OUTCOMES: Final = {
    200: "acknowledged",
    400: "no audit events",
    401: "unauthorized",
    408: "too slow",
    413: "too large",
    503: "busy",
    0: "cut",
    -1: "no connection",
}
_COUNTED: Final = {
    "rejected": "ugallu_audit_webhook_parse_errors_total",
    "duplicate": "ugallu_audit_duplicate_total",
}


class Nothing(msgspec.Struct, frozen=True):
    """What the receiver observes: the events are the other source's. All that it publishes is that it listens."""

    seen_at: dt.datetime

    def correlation(self, cluster_id: str) -> str:
        """Return what identifies it: there never is one."""
        return cluster_id


class AuditReceiver:
    """The HTTPS server; a source in name, so that it is started, restarted and stopped as one."""

    name = f"{NAME}-receiver"
    observes = Nothing

    def __init__(self, settings: WebhookSettings, spool: Spool, clock: Clock, metrics: Metrics, log: Logger) -> None:
        """Check what was asked for; raises `PermanentError` for what contradicts itself or lets everybody in."""
        check(settings)
        self.port = 0
        """Where it listens, once it does."""
        self._settings = settings
        self._spool = spool
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(source=self.name)
        self._complaints = TokenBucket(rate=0.1, burst=3)

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:  # noqa: ARG002 - nothing of it is kept
        """Serve until cancelled; what has begun by then is answered.

        Raises `PermanentError` for an address, certificate or token that cannot be used, `TransientError` when the disk
        refuses.
        """
        from ugallu.net.bearer import BearerToken
        from ugallu.net.http import HttpsServer, Limits
        from ugallu.net.tls import ServerTls

        settings = self._settings
        tls = ServerTls(
            Path(settings.tls_cert), Path(settings.tls_key), Path(settings.client_ca) if settings.client_ca else None
        )
        token = BearerToken(Path(settings.token_file)) if settings.token_file else None
        if token is None and not settings.client_ca:
            self._log.warning("callers need not prove who they are: anybody who reaches it can forge audit events")
        async with self._spool.opened(), anyio.create_task_group() as tg:
            server = HttpsServer(
                settings.listen,
                tls,
                {PATH: self._take},
                token=token,
                limits=Limits(body_bytes=settings.max_body_bytes),
                clock=self._clock,
                log=self._log,
                told=self._told,
            )
            self.port = await tg.start(lambda *, task_status: server.serve(task_status=task_status))
            self._log.info("the audit webhook listens", address=settings.listen, path=PATH)
            # That it works again, should it have failed before.
            await publish(Batch(self.name, 0, ()))

    async def _take(self, body: "Body") -> "Answer":
        """Make a request's events durable, then say so."""
        from ugallu.net.http import Answer

        began = self._clock.monotonic()
        try:
            events = listed(body.data) if body.whole else None
            if events is None:
                events = await anyio.to_thread.run_sync(partial(searched, body.data, whole=body.whole))
        except PermanentError as error:
            self._complain("refused what is no list of audit events", error=str(error))
            return Answer(400, f"{error}\n")
        body.data.clear()  # the events are copies: of a large body there is no room for a second one
        if events:
            try:
                await self._spool.append(events)
            except UgalluError as error:
                self._complain("events not acknowledged", error=str(error), events=str(len(events)))
                self._metrics.count("ugallu_audit_webhook_backpressure_total")
                why = "the spool is full" if isinstance(error, FullError) else "the disk refuses"
                return Answer(503, f"{why}\n", {"Retry-After": _RETRY_SECONDS})
        self._metrics.count("ugallu_audit_webhook_events_total", len(events))
        self._metrics.gauge("ugallu_audit_webhook_spool_bytes", self._spool.size)
        if not body.whole:
            limit = self._settings.max_body_bytes
            self._complain("a request over the limit; its complete events are kept", bytes=str(limit))
            return Answer(413, f"larger than {limit} bytes: let the API server send smaller batches\n", close=True)
        self._metrics.observe("ugallu_audit_webhook_ack_seconds", self._clock.monotonic() - began)
        return Answer(200)

    def _told(self, status: int) -> None:
        self._metrics.count("ugallu_audit_webhook_requests_total", outcome=_OUTCOMES.get(status, "wrong"))
        if status == 401:
            self._metrics.count("ugallu_audit_webhook_auth_failures_total")

    def _complain(self, event: str, **about: str) -> None:
        if self._complaints.take(self._clock.monotonic()):
            self._log.warning(event, **about)


class AuditWebhook:
    """The spool as a source: it can be rewound to any checkpoint that somebody still stands at."""

    name = NAME
    observes = AuditRecord

    def __init__(self, spool: Spool, max_event_bytes: int, clock: Clock, metrics: Metrics, log: Logger) -> None:
        """Publish what the spool has; of an event over `max_event_bytes` only the metadata."""
        self._spool = spool
        self._max = max_event_bytes
        self._clock = clock
        self._metrics = metrics
        self._log = log.bind(source=self.name)
        self._decoder = AuditDecoder(self.name)
        self._told: dict[str, int] = {}
        # One run at a time: one that was cancelled may still be closing what the next one opens.
        self._turn = anyio.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """The source's books so far."""
        return dict(self._decoder.counts)

    @property
    def quarantine(self) -> Sequence[Rejected]:
        """The last few events that became no record, without their content."""
        return tuple(self._decoder.quarantine)

    async def run(self, publish: Publish, start: Checkpoint | None) -> None:
        """Publish from `start` on, as events come, until cancelled.

        Raises `PermanentError` when another process has the spool, `TransientError` when the disk refuses.
        """
        async with self._turn, self._spool.opened() as spool:
            place = spool.place(start)
            seen = await spool.seen(place)
            self._decoder = AuditDecoder(self.name)
            self._decoder.counts.update(place.counts)
            self._told = dict(self._decoder.counts)
            async with anyio.create_task_group() as tg:
                tg.start_soon(self._release, spool, seen)
                # Where it begins, so that a checkpoint stands there before the first event.
                await publish(Batch(self.name, place.next, (), spools.encode(place), dict(place.counts)))
                while True:
                    events = await spool.read(place.seq)
                    while events:
                        part, events = _cut(events)
                        place = await self._publish(publish, place, part, seen)

    async def _publish(self, publish: Publish, place: Place, events: Sequence[Record], seen: Seen) -> Place:
        held: list[AuditRecord] = []
        for event in events:
            if seen.repeats(event.seq, event.data):
                self._decoder.repeated()
            elif (record := self._decode(event.data)) is not None:
                held.append(record)
        counts = dict(self._decoder.counts)
        behind = Place(place.spool, events[-1].seq, place.next + len(held), counts)
        self._tell(counts, held, behind)
        await publish(Batch(self.name, place.next, held, spools.encode(behind), counts))
        await anyio.lowlevel.checkpoint()
        return behind

    def _decode(self, event: bytes) -> AuditRecord | None:
        if len(event) > self._max:
            return self._decoder.oversize(Oversize(event[:EDGE_BYTES], event[-EDGE_BYTES:], len(event)))
        return self._decoder.item(event)

    def _tell(self, counts: dict[str, int], held: Sequence[AuditRecord], place: Place) -> None:
        for name, metric in _COUNTED.items():
            fresh = counts.get(name, 0) - self._told.get(name, 0)
            if fresh:
                self._metrics.count(metric, fresh)
        self._told = counts
        if held:
            newest = held[-1].seen_at.timestamp()
            self._metrics.gauge("ugallu_audit_last_event_timestamp_seconds", newest, source=self.name)
            late = max(0.0, self._clock.now().timestamp() - newest)
            self._metrics.gauge("ugallu_audit_source_lag_seconds", late, source=self.name)
        self._metrics.gauge("ugallu_audit_source_lag_bytes", self._spool.behind(place.seq), source=self.name)

    async def _release(self, spool: Spool, seen: Seen) -> None:
        """Make room in the spool as checkpoints get on."""
        while True:
            await self._clock.sleep(RELEASE_SECONDS)
            try:
                await spool.release(seen)
            except TransientError as error:
                self._log.warning("the spool cannot be emptied; trying again", error=str(error))
            self._metrics.gauge("ugallu_audit_webhook_spool_bytes", spool.size)


def audit_webhook(
    settings: WebhookSettings,
    state: Path,
    *,
    max_event_bytes: int,
    checkpoints: Callable[[str], Sequence[Checkpoint]],
    clock: Clock,
    metrics: Metrics,
    log: Logger,
    files: Files | None = None,
) -> "tuple[AuditWebhook, AuditReceiver]":
    """Return the webhook's sources, which share a spool under `state`.

    `checkpoints` returns, by source, those of everybody who must not miss anything. Raises `PermanentError` for
    settings that cannot work.
    """
    spool = Spool(
        state / DIRECTORY,
        settings.spool_bytes,
        checkpoints=lambda: checkpoints(NAME),
        clock=clock,
        log=log,
        files=files,
    )
    receiver = AuditReceiver(settings, spool, clock, metrics, log)
    return AuditWebhook(spool, max_event_bytes, clock, metrics, log), receiver


def check(settings: WebhookSettings) -> None:
    """Raise `PermanentError` for settings that contradict themselves, or that would let everybody in unasked."""
    where = f"audit webhook {settings.listen}"
    if not settings.tls_cert or not settings.tls_key:
        raise PermanentError(
            "needs a certificate and its key", where=where, fix="give --webhook-tls-cert and --webhook-tls-key"
        )
    proven = bool(settings.client_ca or settings.token_file)
    if not proven and not settings.anonymous:
        raise PermanentError(
            "would serve callers that prove nothing",
            where=where,
            fix="give --webhook-token-file or --webhook-client-ca or both, or say --webhook-anonymous",
        )
    if proven and settings.anonymous:
        raise PermanentError(
            "asks callers for proof and does not", where=where, fix="leave out --webhook-anonymous, or the token and CA"
        )
    if settings.spool_bytes < 2 * settings.max_body_bytes:
        raise PermanentError(
            f"a spool of {settings.spool_bytes} bytes has no room for two requests of {settings.max_body_bytes}",
            where=where,
            fix="give more --webhook-spool-bytes, or fewer --webhook-max-body-bytes",
        )


def _cut(events: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
    """Cut off a batch: so many events or so many bytes, at least one."""
    size = 0
    for count, event in enumerate(events):
        size += len(event.data)
        if count == BATCH or (count and size > BATCH_BYTES):
            return events[:count], events[count:]
    return events, ()
