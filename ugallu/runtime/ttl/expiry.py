"""Whether an object has had its time, and what becomes of it then. Pure: facts and a time in, a verdict out.

window over? ─> free to go? ─> evidence safe? ─> archived? ─> deleted
                   │              └─ no: postponed, ever longer, with a reason on the object
                   └─ a legal hold on anyone of the family holds everyone
"""

import datetime as dt
import enum

import msgspec

from ugallu.runtime.ttl.notes import Notes

SETTLE = 30.0
"""Seconds between archiving and deletion: in which a hold that was just set is still seen."""
TOLERANCE = 60.0
"""Seconds by which clocks may differ without anybody doubting them."""


class Reason(enum.StrEnum):
    """Why an object is there beyond its time: the first word of its annotation, and a label of the metrics."""

    HELD = "Held"
    """It, or another one of its family, is under legal hold."""
    HOLD_FAILED = "HoldFailed"
    """The store does not take the legal hold of its family, or does not lift it."""
    POSTPONED = "Postponed"
    """Somebody wrote until when it is to stay, or a try in vain did."""
    UNFINISHED = "Unfinished"
    """A response or a run that has not come to its end."""
    BUNDLE_NOT_SEALED = "BundleNotSealed"
    EVIDENCE_INVALID = "EvidenceInvalid"
    """What the bundle names does not verify, or is not about this object."""
    STORE_MISSING = "StoreMissing"
    """No evidence store is configured."""
    ARCHIVE_FAILED = "ArchiveFailed"
    CLOCK_DOUBT = "ClockDoubt"
    """By one clock its time is over, by another it is not."""
    DRY_RUN = "DryRun"
    NOT_COPIED = "NotCopied"
    """Nothing else would be left of it: snapshots are switched off, and no bundle attests it."""


class Seal(enum.Enum):
    """What stands between an object and its end."""

    SEALED = "sealed"
    NONE = "none"
    NOT_NEEDED = "not needed"


class Now(msgspec.Struct, frozen=True):
    """The time as far as it is certain: never before `low`, and perhaps as late as `high`.

    `line` is one of the two, the one that no jump moves: what a moment is written down by.
    """

    low: dt.datetime
    high: dt.datetime
    line: dt.datetime

    @property
    def doubtful(self) -> bool:
        """Whether that is too far apart to be the usual difference of clocks."""
        return (self.high - self.low).total_seconds() > TOLERANCE


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """One object as its end is judged."""

    begins: dt.datetime
    """When its window begins."""
    window: float | None
    """Seconds; None for ever."""
    notes: Notes
    seal: Seal = Seal.NOT_NEEDED
    finished: bool = True
    held_by: str = ""
    """Who of the family is under legal hold, as `Kind/name`; empty for nobody."""
    parent: str = ""
    """What must go first, as `Kind/name`; empty for nothing."""


class Keep(msgspec.Struct, frozen=True):
    """Its time is not over; None: it never is."""

    until: dt.datetime | None


class Stay(msgspec.Struct, frozen=True):
    """Its time is over and it stays. `tried`: a try in vain, to be counted and put off."""

    reason: Reason
    why: str = ""
    until: dt.datetime | None = None
    tried: bool = False

    @property
    def text(self) -> str:
        """The annotation: one word for programs, then a sentence. The same for the same cause."""
        return f"{self.reason.value}: {self.why}" if self.why else self.reason.value


class Archive(msgspec.Struct, frozen=True):
    """Copy it, and read the copy back."""


class Delete(msgspec.Struct, frozen=True):
    """Its copy is there: delete it then, if it is still what was copied."""

    at: dt.datetime


Verdict = Keep | Stay | Archive | Delete


def due(facts: Facts) -> dt.datetime | None:
    """Return when its time is over; None: never."""
    window = facts.notes.ttl if facts.notes.ttl is not None else facts.window
    if window is None:
        return None
    try:
        return facts.begins + dt.timedelta(seconds=window)
    except OverflowError:
        return None


def judge(facts: Facts, now: Now, *, dry_run: bool = False) -> Verdict:
    """Return what is to become of an object."""
    over = due(facts)
    if facts.parent:
        # Its window begins when its parent goes, so it cannot be over.
        return Keep(None)
    if over is None or over > now.high or (over > now.low and not now.doubtful):
        return Keep(over)
    stays = _stays(facts, now, over)
    if stays is not None:
        return stays
    if dry_run:
        return Stay(Reason.DRY_RUN, "would be archived and deleted")
    archived = facts.notes.archived_at
    # A time that is still to come was written under a clock that was wrong.
    if archived is None or archived > now.line:
        return Archive()
    return Delete(archived + dt.timedelta(seconds=SETTLE))


def _stays(facts: Facts, now: Now, over: dt.datetime) -> Stay | None:
    notes = facts.notes
    if facts.held_by:
        return Stay(Reason.HELD, f"legal hold on {facts.held_by}")
    if over > now.low:
        return Stay(Reason.CLOCK_DOUBT, "the clock jumped; its time is over by one reckoning only", until=over)
    if notes.postponed is not None and notes.postponed > now.low:
        return Stay(Reason.POSTPONED, until=notes.postponed)
    if not facts.finished:
        return Stay(Reason.UNFINISHED, "it has not come to its end")
    if facts.seal is Seal.NONE and not notes.force:
        return Stay(Reason.BUNDLE_NOT_SEALED, "no sealed bundle attests it", tried=True)
    return None
