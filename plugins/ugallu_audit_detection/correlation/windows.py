"""The window of one group, pure: matches by event time go in, a crossing comes out when the condition holds.

A window ends with a match and reaches back by the timespan, both ends included. A match asks about the window that it
ends; one that comes late also about the later ones that it falls into. Once the condition holds at some end, nothing up
to there counts again, and the group is silent for one timespan from there: no match is part of two crossings.

The state of a group is bytes: it is what a checkpoint keeps, and a group costs little more than its matches.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from struct import Struct
from typing import Final, NamedTuple, Protocol

LATE: Final = 60.0
"""Seconds that a match may come late and still take its place in time."""
MAX_RECENT: Final = 64
"""Matches of an ordered group that may still change their order."""

Mark = bytes
"""16 bytes that stand for the audit id of a match: see `mark_of`."""

_moment = Struct("<d").unpack_from
_head = Struct("<d").pack
_AFTER_HEAD: Final = 8
NEW: Final = _head(-math.inf)
"""The state of a group that nothing is known of: when it last crossed, then its matches in order of time."""


class Crossing(NamedTuple):
    """The condition holds for a window of `size` matches (values, rules) that ends at `end`, seconds of event time."""

    end: float
    size: int
    more: bool
    """Whether there may be more, because no window counts any further."""
    since: float
    first: Mark
    last: Mark


class Window(Protocol):
    """What the groups of one correlation have in common."""

    def take(
        self, state: bytes, at: float, tags: Sequence[int], mark: Mark, floor: float
    ) -> tuple[bytes, Crossing | None]:
        """Return the state with this match in it; `floor` is before every match that may still come."""
        ...

    def last(self, state: bytes) -> float:
        """Return the time of the newest thing that the state remembers."""
        ...


def mark_of(audit_id: str) -> Mark:
    """Return what is kept of an audit id: a UUID whole, of other text, which a client chose, 16 characters."""
    if len(audit_id) == 36:
        try:
            packed = bytes.fromhex(audit_id.replace("-", ""))
        except ValueError:
            pass
        else:
            # The variant of a UUID is no ASCII, so that it is never taken for a text.
            if len(packed) == 16 and packed[8] & 0xC0 == 0x80:
                return packed
    return audit_id[:16].encode("ascii", "backslashreplace")[:16].ljust(16, b"\0")


def audit_id_of(mark: Mark) -> str:
    """Return the audit id, or how it begins and an ellipsis."""
    if mark[8] & 0x80:
        text = mark.hex()
        return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    text = mark.rstrip(b"\0").decode("ascii", "replace")
    return f"{text}…" if len(text) == 16 else text


class Counting:
    """How many matches (`event_count`)."""

    _entry = Struct("<d16s")

    def __init__(self, span: float, holds: Callable[[int, int], bool], wanted: int) -> None:
        self._span = span
        self._holds = holds
        self._wanted = wanted
        self._most = wanted + 2
        """No condition tells more of them apart."""

    def take(
        self, state: bytes, at: float, tags: Sequence[int], mark: Mark, floor: float
    ) -> tuple[bytes, Crossing | None]:
        """See `Window`; the tags do not matter."""
        del tags
        (crossed,) = _moment(state)
        if at <= crossed:
            return state, None
        size = self._entry.size
        place = _place(state, at, size)
        state = _put(state, place, self._entry.pack(at, mark))
        excess = len(state) - _AFTER_HEAD - self._most * size
        cut = max(excess, 0)
        while _moment(state, _AFTER_HEAD + cut)[0] < floor - self._span:
            cut += size
        if cut:
            state = state[:_AFTER_HEAD] + state[_AFTER_HEAD + cut :]
            place = max(place - cut, _AFTER_HEAD)
        for end, start, stop in _windows(state, place, at, size, self._span):
            if end <= crossed + self._span:
                continue
            count = (stop - start) // size
            if self._holds(count, self._wanted):
                since, first = self._entry.unpack_from(state, start)
                last = self._entry.unpack_from(state, stop - size)[1]
                found = Crossing(end, count, count == self._most, since, first, last)
                return _head(end) + state[stop:], found
        return state, None

    def last(self, state: bytes) -> float:
        """See `Window`."""
        return _newest(state, _AFTER_HEAD, self._entry.size)


class Distinct:
    """How many different tags (`value_count`), or which of them (`temporal`)."""

    _entry = Struct("<d16sQ")
    _tag = Struct("<Q")

    def __init__(self, span: float, holds: Callable[[Collection[bytes]], bool], *, least: int, most: int) -> None:
        self._span = span
        self._holds = holds
        self._least = least
        """A window of fewer matches is not asked."""
        self._most = max(64, 4 * most)

    def take(
        self, state: bytes, at: float, tags: Sequence[int], mark: Mark, floor: float
    ) -> tuple[bytes, Crossing | None]:
        """See `Window`; each tag is a match of its own."""
        (crossed,) = _moment(state)
        if at <= crossed:
            return state, None
        size = self._entry.size
        for tag in tags:
            state = self._thinned(_put(state, _place(state, at, size), self._entry.pack(at, mark, tag)), tag)
        cut = max(len(state) - _AFTER_HEAD - self._most * size, 0)
        while _AFTER_HEAD + cut < len(state) and _moment(state, _AFTER_HEAD + cut)[0] < floor - self._span:
            cut += size
        if cut:
            state = state[:_AFTER_HEAD] + state[_AFTER_HEAD + cut :]
        if len(state) < _AFTER_HEAD + self._least * size:
            return state, None
        place = _first_at(state, at, size)
        for end, start, stop in _windows(state, place, at, size, self._span):
            if end <= crossed + self._span or stop - start < self._least * size:
                continue
            seen = {state[offset + 24 : offset + size] for offset in range(start, stop, size)}
            if self._holds(seen):
                since, first, _ = self._entry.unpack_from(state, start)
                last = self._entry.unpack_from(state, stop - size)[1]
                found = Crossing(end, len(seen), stop - start == self._most * size, since, first, last)
                return _head(end) + state[stop:], found
        return state, None

    def last(self, state: bytes) -> float:
        """See `Window`."""
        return _newest(state, _AFTER_HEAD, self._entry.size)

    def _thinned(self, state: bytes, tag: int) -> bytes:
        """Leave out what no window needs: of three matches with one tag inside a timespan, the one in the middle."""
        size, wanted = self._entry.size, self._tag.pack(tag)
        same: list[int] = []
        found = state.find(wanted, _AFTER_HEAD + 24)
        while found >= 0:
            if (found - _AFTER_HEAD - 24) % size == 0:
                same.append(found - 24)
                found += size - 1
            found = state.find(wanted, found + 1)
        if len(same) < 3:
            return state
        times = [_moment(state, offset)[0] for offset in same]
        for middle in range(len(same) - 2, 0, -1):
            if times[middle + 1] - times[middle - 1] <= self._span:
                offset = same[middle]
                state = state[:offset] + state[offset + size :]
                del times[middle], same[middle]
        return state


class Chain(NamedTuple):
    """Tags in the order in which they must come, and tags that may not be in the window at all."""

    steps: tuple[int, ...]
    absent: frozenset[int] = frozenset()


class Ordered:
    """Matches with the tags of a chain, one after the other (`temporal_ordered`); any of several chains will do.

    What is older than every match to come is settled: of it only the latest start of each begun chain is kept.
    """

    _entry = Struct("<d16sQ")
    _start = Struct("<d16s")

    def __init__(self, span: float, chains: Sequence[Chain]) -> None:
        self._span = span
        self._chains = tuple(chains)
        self._absent = tuple(sorted(frozenset().union(*(chain.absent for chain in chains))))
        self._starts = sum(len(chain.steps) - 1 for chain in chains)
        # Up to when all is settled, where begun chains start, newest of what must be absent; then what is unsettled.
        self._begin = _AFTER_HEAD + 8 + self._starts * self._start.size + len(self._absent) * 8

    def take(
        self, state: bytes, at: float, tags: Sequence[int], mark: Mark, floor: float
    ) -> tuple[bytes, Crossing | None]:
        """See `Window`; the tags are those of one event, which is one step of a chain and never two."""
        (crossed,) = _moment(state)
        if len(state) == _AFTER_HEAD:
            state += self._packed(crossed, self._nothing(), dict.fromkeys(self._absent, -math.inf))
        (settled,) = _moment(state, _AFTER_HEAD)
        if at <= crossed or at < settled:
            return state, None
        size = self._entry.size
        place = _place(state, at, size, begin=self._begin)
        state = _put(state, place, self._entry.pack(at, mark, sum(1 << tag for tag in set(tags))))
        recent = list(self._entry.iter_unpack(state[self._begin :]))
        starts, newest = self._settled(state)
        fold, folded = 0, b""
        for index, (end, last, seen) in enumerate(recent):
            for tag in self._absent:
                if seen >> tag & 1:
                    newest[tag] = end
            for chain, begun in zip(self._chains, starts, strict=True):
                start = self._step(chain, begun, end, last, seen)
                if start is None or index < (place - self._begin) // size or start[0] < end - self._span:
                    continue
                if end <= crossed + self._span or self._spoilt(chain, newest, recent[index + 1 :], end):
                    continue
                rest = state[_first_after(state, end, size, begin=self._begin) :]
                found = Crossing(end, len(chain.steps), more=False, since=start[0], first=start[1], last=last)
                nothing = self._packed(end, self._nothing(), dict.fromkeys(self._absent, -math.inf))
                return _head(end) + nothing + rest, found
            if index == fold < len(recent) - 1 and (end < floor or len(recent) - fold > MAX_RECENT):
                fold += 1
                folded = self._packed(end, starts, newest)
        if fold:
            state = state[:_AFTER_HEAD] + folded + state[self._begin + fold * size :]
        return state, None

    def last(self, state: bytes) -> float:
        """See `Window`."""
        return _newest(state, self._begin, self._entry.size)

    @staticmethod
    def _step(
        chain: Chain, begun: list[tuple[float, Mark]], end: float, mark: Mark, seen: int
    ) -> tuple[float, Mark] | None:
        """Let one event take each chain one step further; return the latest start of a chain that it ends."""
        done = None
        final = len(chain.steps) - 1
        for position in range(final, -1, -1):
            if not seen >> chain.steps[position] & 1:
                continue
            start = begun[position - 1] if position else (end, mark)
            if start[0] == -math.inf:
                continue
            if position == final:
                done = start
            else:
                begun[position] = start
        return done

    def _spoilt(
        self, chain: Chain, newest: dict[int, float], later: Sequence[tuple[float, Mark, int]], end: float
    ) -> bool:
        """Whether the window that ends here holds what may not be in it, be it the same moment's next match."""
        if any(newest[tag] >= end - self._span for tag in chain.absent):
            return True
        return any(moment == end and any(seen >> tag & 1 for tag in chain.absent) for moment, _, seen in later)

    def _nothing(self) -> list[list[tuple[float, Mark]]]:
        """Return the starts of chains of which none has begun."""
        return [[(-math.inf, b"")] * (len(chain.steps) - 1) for chain in self._chains]

    def _packed(self, settled: float, starts: list[list[tuple[float, Mark]]], newest: dict[int, float]) -> bytes:
        return b"".join(
            (
                _head(settled),
                *(self._start.pack(*start) for begun in starts for start in begun),
                *(_head(newest[tag]) for tag in self._absent),
            )
        )

    def _settled(self, state: bytes) -> tuple[list[list[tuple[float, Mark]]], dict[int, float]]:
        offset = _AFTER_HEAD + 8
        starts: list[list[tuple[float, Mark]]] = []
        for chain in self._chains:
            begun = []
            for _ in chain.steps[1:]:
                begun.append(self._start.unpack_from(state, offset))
                offset += self._start.size
            starts.append(begun)
        newest = {tag: _moment(state, offset + 8 * number)[0] for number, tag in enumerate(self._absent)}
        return starts, newest


# Matches in a state: entries of one size that begin with their time, oldest first


def _put(state: bytes, place: int, entry: bytes) -> bytes:
    return state + entry if place == len(state) else state[:place] + entry + state[place:]


def _place(state: bytes, at: float, size: int, *, begin: int = _AFTER_HEAD) -> int:
    """Return where a match at this time belongs: behind all that are not later."""
    place = len(state)
    while place > begin and _moment(state, place - size)[0] > at:
        place -= size
    return place


def _first_at(state: bytes, moment: float, size: int) -> int:
    """Return where the first match stands that is not before this moment."""
    if _moment(state, _AFTER_HEAD)[0] >= moment:
        return _AFTER_HEAD
    count = (len(state) - _AFTER_HEAD) // size
    return _AFTER_HEAD + size * bisect_left(
        range(count), moment, key=lambda index: _moment(state, _AFTER_HEAD + index * size)[0]
    )


def _first_after(state: bytes, moment: float, size: int, *, begin: int) -> int:
    offset = begin
    while offset < len(state) and _moment(state, offset)[0] <= moment:
        offset += size
    return offset


def _windows(state: bytes, place: int, at: float, size: int, span: float) -> Iterator[tuple[float, int, int]]:
    """Yield the windows that a match at this time is in: when each ends, where its matches begin and end."""
    while place < len(state):
        (end,) = _moment(state, place)
        if end - span > at:
            return
        stop = place + size
        while stop < len(state) and _moment(state, stop)[0] == end:
            stop += size
        yield end, _first_at(state, end - span, size), stop
        place = stop


def _newest(state: bytes, begin: int, size: int) -> float:
    moment: float = _moment(state, len(state) - size)[0] if len(state) >= begin + size else _moment(state)[0]
    return moment
