"""Whether the audit stream lives, and whether its clock agrees with ours: reported as events about the cluster."""

import datetime as dt
import hashlib
from collections.abc import Sequence
from typing import Final

from ugallu.sdk import (
    CATALOGUE,
    AuditRecord,
    Clock,
    ClusterIdentity,
    Emitter,
    Finding,
    utc_seconds,
)
from ugallu_audit_detection.replicas import Replicas

SILENCE: Final = 300.0
"""Seconds. An API server is never silent so long: leases alone are renewed every few seconds."""
SKEW: Final = 60.0
"""Seconds that an event may be ahead of our clock. Behind means nothing: a backlog looks the same."""
INTERVAL: Final = 10.0


class Pulse:
    """What the stream has brought so far; the engine beats, the watch listens."""

    def __init__(self) -> None:
        self.events = 0
        self.newest: AuditRecord | None = None

    @property
    def event_time(self) -> float | None:
        """When the newest event was, in seconds since the epoch; None before there was one."""
        return self.newest.seen_at.timestamp() if self.newest is not None else None

    def beat(self, records: Sequence[AuditRecord]) -> None:
        """Take note of a batch."""
        if records:
            self.events += len(records)
            last = records[-1]
            # Its times alone: the record itself would keep its whole line alive.
            self.newest = AuditRecord(
                stage_timestamp=last.stage_timestamp, request_received_timestamp=last.request_received_timestamp
            )


class Watch:
    """Looks at the pulse of a stream that is being followed. One event when it falls silent, one when it runs ahead."""

    name = "stream watch"

    def __init__(
        self,
        pulse: Pulse,
        *,
        emitter: Emitter,
        clock: Clock,
        identity: ClusterIdentity,
        replicas: Replicas | None = None,
    ) -> None:
        """Watch one stream; with `replicas`, one that an API server sends to any of several processes."""
        self._pulse = pulse
        self._replicas = replicas
        self._emitter = emitter
        self._clock = clock
        self._identity = identity
        self._counted = pulse.events
        self._alive_at = clock.monotonic()
        self._since = clock.now()
        self._silent = False
        self._ahead = False

    async def run(self) -> None:
        """Look every few seconds until cancelled."""
        while True:
            await self._clock.sleep(INTERVAL)
            if self._replicas is not None:
                await self._compare(self._replicas)
            findings = self.look()
            if findings:
                await self._emitter.submit(findings)

    def look(self) -> list[Finding]:
        """Return what is wrong since the last look."""
        moved = self._pulse.events != self._counted
        self._counted = self._pulse.events
        if moved:
            self._lives()
            return self._skew()
        if self._silent or self._clock.monotonic() - self._alive_at < SILENCE:
            return []
        self._silent = True
        last = self._pulse.newest.seen_at if self._pulse.newest else None
        return [
            self._finding(
                "AuditLogStreamSilent",
                {
                    "silent.since": _text(self._since),
                    "silent.seconds": str(int(self._clock.monotonic() - self._alive_at)),
                    **({"last.event": _text(last)} if last else {}),
                },
            )
        ]

    async def _compare(self, replicas: Replicas) -> None:
        """Tell the others that the stream is heard here, or learn that it is heard there."""
        if self._pulse.events != self._counted:
            await replicas.tell()
        elif await replicas.heard():
            self._lives()

    def _lives(self) -> None:
        self._alive_at, self._since, self._silent = self._clock.monotonic(), self._clock.now(), False

    def _skew(self) -> list[Finding]:
        newest = self._pulse.newest
        ahead = (newest.seen_at - self._clock.now()).total_seconds() if newest else 0.0
        was, self._ahead = self._ahead, ahead > SKEW
        if was or not self._ahead or newest is None:
            return []
        return [
            self._finding("ClockSkewDetected", {"ahead.seconds": str(int(ahead)), "event.time": _text(newest.seen_at)})
        ]

    def _finding(self, kind: str, signals: dict[str, str]) -> Finding:
        now = self._clock.now()
        return Finding(
            type=CATALOGUE[kind],
            about=self._identity.subject,
            key="audit-stream",
            signals=signals,
            detected_at=now,
            correlation=hashlib.sha256(f"{self._identity.cluster_id}|{kind}|{now.isoformat()}".encode()).hexdigest()[
                :32
            ],
        )


def _text(moment: dt.datetime) -> str:
    return utc_seconds(moment).strftime("%Y-%m-%dT%H:%M:%SZ")
