"""What ttl says about its work, as events: each cause once a day at most, whatever number of objects it is about."""

from collections.abc import Awaitable, Callable
from typing import Final

from ugallu.api.catalog import CATALOGUE, EventClass, EventType, Severity
from ugallu.api.event import EvidenceRef
from ugallu.api.observation import Finding
from ugallu.api.subject import ExternalKind, Subject, external
from ugallu.evidence.ports import Stored
from ugallu.runtime.ttl.chain import Head, last_moment
from ugallu.runtime.ttl.expiry import Now, Reason
from ugallu.runtime.ttl.timekeeper import skew

CONFIG_MISSING: Final = CATALOGUE["TTLConfigMissing"]
INTEGRITY: Final = CATALOGUE["WORMIntegrityViolation"]
CLOCK: Final = CATALOGUE["ClockSkewDetected"]
OVERDUE: Final = EventType(
    "RetentionOverdue", EventClass.ANOMALY, Severity.HIGH, "ttl", "Objects cannot go though their time is over."
)
MANIFEST: Final = EventType(
    "ArchiveManifest",
    EventClass.AUDIT,
    Severity.INFO,
    "ttl",
    "The chain of archived objects, as it was at a day's end.",
)
EMITS: Final = (
    CONFIG_MISSING, INTEGRITY, CLOCK, OVERDUE, MANIFEST,
    CATALOGUE["AttestorUnavailable"], CATALOGUE["AttestorRecovered"],
)  # fmt: skip

_SELF: Final = external(ExternalKind.ENDPOINT, "ugallu-ttl", source="ugallu-ttl")


class Reports:
    """Makes findings of what went wrong, and hands them to the emitter."""

    def __init__(self, submit: Callable[[Finding], Awaitable[None]], now: Callable[[], Now], cluster: str) -> None:
        self._submit = submit
        self._now = now
        self._cluster = Subject(kind="Cluster", name=cluster, unresolved=True)
        self._said: dict[str, str] = {}
        """The last day that each cause was told of."""

    async def overdue(self, kind: str, reason: Reason, why: str) -> None:
        """Objects of a kind cannot go for this reason; `why` is what was said of one of them."""
        type_ = INTEGRITY if reason is Reason.EVIDENCE_INVALID else OVERDUE
        await self._once(type_, _SELF, f"{kind}/{reason.value}", {"kind": kind, "reason": reason.value, "example": why})

    async def config_missing(self) -> None:
        """Nobody configured how long anything is kept."""
        await self._once(CONFIG_MISSING, self._cluster, "default", {"message": "built-in windows are in use"})

    async def clock(self, ahead: float) -> None:
        """The clock is not to be believed."""
        await self._once(CLOCK, _SELF, "jump", skew(ahead))

    async def manifest(self, head: Head, stored: Stored) -> None:
        """The chain as it was at the end of a day: what the attestor signs of this is signed of every copy before."""
        await self._submit(
            Finding(
                MANIFEST,
                _SELF,
                key=head.day,
                signals={"number": str(head.number), "sha256": head.sha256, "day": head.day},
                detected_at=last_moment(head.day),
                correlation=f"archive-{head.day}",
                evidence=(
                    EvidenceRef(media_type=stored.media_type, url=stored.url, sha256=stored.sha256, size=stored.size),
                ),
            )
        )

    async def _once(self, type_: EventType, about: Subject, cause: str, signals: dict[str, str]) -> None:
        now = self._now().low
        day = f"{now:%Y-%m-%d}"
        key = f"{type_.name}/{cause}"
        if self._said.get(key) == day:
            return
        self._said[key] = day
        await self._submit(
            Finding(type_, about, key=cause, signals=signals, detected_at=now, correlation=f"ttl-{_word(cause)}-{day}")
        )


def _word(cause: str) -> str:
    return cause.replace("/", "-").lower()
