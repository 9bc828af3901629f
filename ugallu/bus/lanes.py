"""Who gets which events: filters, caps, what no cap may drop, and the numbers of what passes. Pure.

`Lane` is what one consumer is to get, whichever of its streams reads it. Whatever passes its filter has a number, also
what its cap drops: so a gap is told to the event.
"""

import enum
import fnmatch
import re
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final, NamedTuple

from ugallu.api.audit import AuditObject, AuditRecord
from ugallu.api.detection import AuditDetectionConsumer, AuditDetectionConsumerFilter, AuditDetectionPriority
from ugallu.errors import PermanentError
from ugallu.pace import TokenBucket

STAGES: Final = ("ResponseStarted", "ResponseComplete", "Panic")
"""What a consumer gets that asks for no stage: a request when it is decided, a long one also at its start."""
_STAGES: Final = ("RequestReceived", *STAGES)
HISTORY: Final = 1 << 16
"""Events of a consumer whose numbers are kept at least."""
RATE: Final = "rate"
BUFFER: Final = "buffer"
SIZE: Final = "size"
"""Why a consumer lost an event: its cap, its slowness, the event's own size."""
MAX_GLOBS: Final = 256
MAX_GLOB: Final = 512
MAX_STARS: Final = 8
_REMEMBERED: Final = 4096

Passes = Callable[[AuditRecord], bool]
Urgent = Callable[[AuditObject], bool]


class Verdict(enum.Enum):
    """What is to become of an event for one consumer."""

    FILTERED = "filtered"
    DROPPED = "dropped"
    KEPT = "kept"
    PRECIOUS = "precious"
    """Kept, and not to be pushed out by others."""


class Place(NamedTuple):
    """An event's sequence, and its number among all that passed the consumer's filter."""

    sequence: int
    ordinal: int


class Lane:
    """Decides over one event after the other, and remembers where those lie that are kept."""

    def __init__(self, consumer: AuditDetectionConsumer, sequence: int) -> None:
        """Begin behind `sequence`; raises `PermanentError` for a filter that cannot work."""
        self.dropped: Counter[str] = Counter()
        """Events lost to the consumer, by reason: cumulative."""
        self._hints: dict[Hashable, Urgent] = {}
        self._floor = Place(sequence, 0)
        self._ordinal = 0
        self._first = 0
        self._sequences = array("Q")
        self._ordinals = array("Q")
        self._bucket: TokenBucket | None = None
        self._reserve: TokenBucket | None = None
        self.configure(consumer)

    def configure(self, consumer: AuditDetectionConsumer) -> None:
        """Go on with these settings; what of the cap is used up stays so."""
        self._passes = passes(consumer.filter or AuditDetectionConsumerFilter(), consumer.name)
        self._urgent = urgent(consumer.priority, f"consumer {consumer.name}: priority")
        self._bucket, self._reserve = _paced(self._bucket, consumer.cap), _paced(self._reserve, consumer.cap)
        self.consumer = consumer

    @property
    def first(self) -> int:
        """The index of the oldest place that is remembered."""
        return self._first

    @property
    def end(self) -> int:
        """The index behind the newest place."""
        return self._first + len(self._sequences)

    @property
    def ordinal(self) -> int:
        """The number of the newest event that passed the filter, kept or dropped."""
        return self._ordinal

    def judge(self, record: AuditRecord, now: float) -> Verdict:
        """Decide over the next event; `now` is monotonic. The precious have a cap of their own besides."""
        if not self._passes(record):
            return Verdict.FILTERED
        self._ordinal += 1
        ref = record.object_ref
        precious = ref is not None and (self._urgent(ref) or any(hint(ref) for hint in self._hints.values()))
        if self._bucket is None or self._reserve is None:
            return Verdict.PRECIOUS if precious else Verdict.KEPT
        if precious and self._reserve.take(now):
            return Verdict.PRECIOUS
        if self._bucket.take(now):
            return Verdict.PRECIOUS if precious else Verdict.KEPT
        self.dropped[RATE] += 1
        return Verdict.DROPPED

    def keep(self, sequence: int) -> None:
        """Note where the event lies that was judged last."""
        self._sequences.append(sequence)
        self._ordinals.append(self._ordinal)
        if len(self._sequences) >= 2 * HISTORY:
            self._forget(HISTORY)

    def rest(self, sequence: int) -> None:
        """Nobody listens: what comes from here on is not counted until the next event is judged."""
        self._forget(len(self._sequences))
        self._floor = Place(sequence, self._ordinal)

    def place(self, index: int) -> Place:
        """Return the place at an index from `first` to `end`."""
        at = index - self._first
        return Place(self._sequences[at], self._ordinals[at])

    def behind(self, sequence: int) -> tuple[int, int | None]:
        """Return the index of the first place behind a sequence, and the number of the event before; None: unknown."""
        at = bisect_right(self._sequences, sequence)
        if at:
            return self._first + at, self._ordinals[at - 1]
        return self._first, self._floor.ordinal if sequence >= self._floor.sequence else None

    def since(self, sequence: int) -> tuple[int, int]:
        """Return the index of the first place at or behind a sequence, and the number just before it."""
        at = bisect_left(self._sequences, sequence)
        return self._first + at, self._ordinals[at] - 1 if at < len(self._ordinals) else self._ordinal

    def hint(self, who: Hashable, priority: Sequence[AuditDetectionPriority]) -> None:
        """Let a stream say what is precious to it; an empty list takes it back. Raises `PermanentError` as `urgent`."""
        self._hints.pop(who, None)
        if priority:
            self._hints[who] = urgent(priority, "priority")

    def _forget(self, count: int) -> None:
        if count:
            self._floor = Place(self._sequences[count - 1], self._ordinals[count - 1])
            del self._sequences[:count]
            del self._ordinals[:count]
            self._first += count


def passes(wanted: AuditDetectionConsumerFilter, where: str = "") -> Passes:
    """Return the filter as a function; raises `PermanentError` for patterns that cannot work."""
    stages = frozenset(wanted.stages or STAGES)
    verbs = frozenset(wanted.verb_allowlist)
    denied = frozenset(wanted.namespace_denylist)
    resources = globs(map(_full, wanted.resource_allowlist), f"consumer {where}: filter.resourceAllowlist")
    namespaced = wanted.object_ref_has_namespace

    def check(record: AuditRecord) -> bool:
        if record.stage and record.stage not in stages:
            return False
        if verbs and record.verb not in verbs:
            return False
        ref = record.object_ref
        if ref is None:
            return not namespaced and resources is None
        if (namespaced and not ref.namespace) or ref.namespace in denied:
            return False
        return resources is None or resources(f"{ref.api_group}/{ref.resource}")

    return check


def urgent(priority: Sequence[AuditDetectionPriority], where: str) -> Urgent:
    """Return whether a request is about any of these objects; one that names none may be about each of them.

    Raises `PermanentError` for patterns that cannot work, or too many of them.
    """
    if len(priority) > MAX_GLOBS:
        raise PermanentError(f"{len(priority)} entries", where=where, fix=f"give at most {MAX_GLOBS}")
    wanted = [
        (globs(map(_full, each.resources), where), globs(each.namespaces, where), globs(each.names, where))
        for each in priority
    ]

    def check(ref: AuditObject) -> bool:
        return any(
            (resources is None or resources(f"{ref.api_group}/{ref.resource}"))
            and (namespaces is None or not ref.namespace or namespaces(ref.namespace))
            and (names is None or not ref.name or names(ref.name))
            for resources, namespaces, names in wanted
        )

    return check


def globs(patterns: Iterable[str], where: str) -> Callable[[str], bool] | None:
    """Return whether a text matches any of the patterns, None when there are none.

    Raises `PermanentError` for patterns that are empty, long, many, or have many stars.
    """
    found = list(patterns)
    for pattern in found:
        if not pattern or len(pattern) > MAX_GLOB or pattern.count("*") > MAX_STARS:
            raise PermanentError(
                f"the pattern {pattern[:64]!r}", where=where, fix=f"1 to {MAX_GLOB} characters, {MAX_STARS} `*` at most"
            )
    if len(found) > MAX_GLOBS:
        raise PermanentError(f"{len(found)} patterns", where=where, fix=f"give at most {MAX_GLOBS}")
    if not found:
        return None
    # Brackets are no wildcards here.
    match = re.compile("|".join(fnmatch.translate(pattern.replace("[", "[[]")) for pattern in found)).match
    known: dict[str, bool] = {}

    def check(text: str) -> bool:
        verdict = known.get(text)
        if verdict is None:
            if len(known) >= _REMEMBERED:
                known.clear()
            verdict = known[text] = match(text) is not None
        return verdict

    return check


def _full(pattern: str) -> str:
    """Read `pods` as a resource of the core group."""
    return pattern if "/" in pattern or pattern == "*" or not pattern else f"/{pattern}"


def _paced(bucket: TokenBucket | None, cap: int) -> TokenBucket | None:
    if not cap:
        return None
    if bucket is None:
        return TokenBucket(rate=cap, burst=cap)
    bucket.rate, bucket.burst, bucket.tokens = cap, cap, min(bucket.tokens, cap)
    return bucket


def check_consumer(consumer: AuditDetectionConsumer) -> None:
    """Raise `PermanentError` naming the field of a consumer that cannot work."""
    wanted = consumer.filter or AuditDetectionConsumerFilter()
    unknown = sorted(set(wanted.stages) - set(_STAGES))
    if unknown:
        raise PermanentError(
            f"no stage: {unknown[0]!r}",
            where=f"consumer {consumer.name}: filter.stages",
            fix=f"write {', '.join(_STAGES)}",
        )
    Lane(consumer, 0)
