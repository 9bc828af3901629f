"""The window of one group, pure: matches by event time go in, a crossing comes out when the condition holds.

A window ends with a match and reaches back by the timespan, both ends included. A match asks about the window that it
ends; one that comes late also about the later ones that it falls into. Once the condition holds at some end, nothing up
to there counts again, and the group is silent for one timespan from there: no match is part of two crossings.

The state of a group is bytes: it is what a checkpoint keeps, and a group costs little more than its matches.
"""

import math
from binascii import unhexlify
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, Final, NamedTuple, Protocol

LATE: Final = 60.0
"""Seconds that a match may come late and still take its place in time."""
MAX_RECENT: Final = 64
"""Matches of an ordered group that may still change their order."""
MAX_MOVES: Final = 1024
"""Sets of tags whose steps are remembered; an event has one tag, or as many as rules that it matches."""

Mark = bytes
"""16 bytes that stand for the audit id of a match: see `mark_of`."""

_moment = Struct("<d").unpack_from
_moments = Struct("<dd").unpack_from
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
            packed = unhexlify(audit_id.replace("-", ""))
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

    def __init__(self, span: float, holds: Callable[[int, int], bool], wanted: int, *, least: int) -> None:
        self._span = span
        self._holds = holds
        self._wanted = wanted
        self._least = _AFTER_HEAD + least * self._entry.size
        """A state that is smaller holds fewer matches than any window must."""
        self._most = wanted + 2
        """No condition tells more of them apart."""
        self._full = _AFTER_HEAD + self._most * self._entry.size

    def take(
        self, state: bytes, at: float, tags: Sequence[int], mark: Mark, floor: float
    ) -> tuple[bytes, Crossing | None]:
        """See `Window`; the tags do not matter."""
        del tags
        crossed = _moment(state)[0]
        if at <= crossed:
            return state, None
        size = self._entry.size
        state = _kept(_put(state, at, self._entry.pack(at, mark)), self._full, floor - self._span, size)
        if len(state) < self._least:
            return state, None
        for end, start, stop in _windows(state, at, size, self._span, crossed + self._span):
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
    _tags = Struct("<24xQ")

    def __init__(
        self,
        span: float,
        holds: Callable[[Collection[tuple[int]]], bool],
        *,
        least: int,
        most: int,
        grows: bool = False,
    ) -> None:
        """Make one; `grows`: more tags never make the condition fail, so one that is there already changes nothing."""
        self._span = span
        self._holds = holds
        self._grows = grows
        self._least = least * self._entry.size
        """A window of fewer matches is not asked; neither is one of a state that is smaller than `_enough`."""
        self._enough = _AFTER_HEAD + self._least
        self._most = max(64, 4 * most)
        self._full = _AFTER_HEAD + self._most * self._entry.size

    def take(
        self, state: bytes, at: float, tags: Sequence[int], mark: Mark, floor: float
    ) -> tuple[bytes, Crossing | None]:
        """See `Window`; each tag is a match of its own."""
        crossed = _moment(state)[0]
        if at <= crossed:
            return state, None
        size, silent, same = self._entry.size, crossed + self._span, self._grows
        for tag in tags:
            state, known = self._with(state, at, mark, tag, silent)
            same = same and known
        state = _kept(state, self._full, floor - self._span, size)
        if same or len(state) < self._enough:
            return state, None
        for end, start, stop in _windows(state, at, size, self._span, silent):
            if stop - start < self._least:
                continue
            seen = set(self._tags.iter_unpack(state[start:stop]))
            if self._holds(seen):
                since, first, _ = self._entry.unpack_from(state, start)
                last = self._entry.unpack_from(state, stop - size)[1]
                found = Crossing(end, len(seen), stop - start == self._most * size, since, first, last)
                return _head(end) + state[stop:], found
        return state, None

    def last(self, state: bytes) -> float:
        """See `Window`."""
        return _newest(state, _AFTER_HEAD, self._entry.size)

    def _with(self, state: bytes, at: float, mark: Mark, tag: int, silent: float) -> tuple[bytes, bool]:
        """Return the state with a match more, and whether the window before, which was asked, had this tag.

        What no window needs is left out: of three matches with one tag inside a timespan, the one in the middle.
        """
        size, entry, end = self._entry.size, self._entry.pack(at, mark, tag), len(state)
        wanted = entry[24:]
        newest = _moment(state, end - size)[0] if end > _AFTER_HEAD else -math.inf
        if newest > at:
            return self._thinned(_put(state, at, entry), wanted), False
        last = _same(state, wanted, end, size)
        if last < 0 or at - _moment(state, last)[0] > self._span:
            return state + entry, False
        first = _same(state, wanted, last, size)
        if first >= 0 and at - _moment(state, first)[0] <= self._span:
            state = state[:last] + state[last + size :]
        return state + entry, newest > silent

    def _thinned(self, state: bytes, wanted: bytes) -> bytes:
        size, same, offset = self._entry.size, list[int](), len(state)
        while (offset := _same(state, wanted, offset, size)) >= 0:
            same.append(offset)
        # From the newest to the oldest, so that what is left out moves none of those still to be looked at.
        times = [_moment(state, offset)[0] for offset in same]
        middle = 1
        while middle < len(same) - 1:
            if times[middle - 1] - times[middle + 1] <= self._span:
                state = state[: same[middle]] + state[same[middle] + size :]
                del times[middle], same[middle]
            else:
                middle += 1
        return state


class Chain(NamedTuple):
    """Tags in the order in which they must come, and tags that may not be in the window at all."""

    steps: tuple[int, ...]
    absent: frozenset[int] = frozenset()


class _End(NamedTuple):
    """How a chain ends: its length, where in the progress what spoils it stands, and the tags of that."""

    length: int
    spoilers: Sequence[int]
    spoiling: int


class Ordered:
    """Matches with the tags of a chain, one after the other (`temporal_ordered`); any of several chains will do.

    Of what is older than every match to come only the latest start of each begun chain is kept, and so it is for all
    that came: a match that comes in order takes one step, one that comes late has the unsettled ones taken again.
    """

    _entry = Struct("<d16sQ")

    def __init__(self, span: float, chains: Sequence[Chain]) -> None:
        self._span = span
        absent = tuple(sorted(frozenset().union(*(chain.absent for chain in chains))))
        starts = sum(len(chain.steps) - 1 for chain in chains)
        self._progress = Struct("<" + "d16s" * starts + "d" * len(absent))
        """Where begun chains start, and the newest of each match that must be absent."""
        self._nothing = self._progress.pack(*(-math.inf, b"") * starts, *(-math.inf,) * len(absent))
        self._newest = [(1 << tag, 2 * starts + place) for place, tag in enumerate(absent)]
        self._steps: list[tuple[int, int, int, _End]] = []
        """Of each chain from the last step to the first, so that no event is two: tag, whence, where to, the chain."""
        self._moves: dict[int, list[tuple[int, int, _End]]] = {}
        """What of that an event with these tags does."""
        offset = 0
        for chain in chains:
            places = [offset + 2 * step for step in range(len(chain.steps) - 1)]
            spoilers = [2 * starts + absent.index(tag) for tag in chain.absent]
            end = _End(len(chain.steps), spoilers, sum(1 << tag for tag in chain.absent))
            steps = zip((1 << tag for tag in chain.steps), (-1, *places), (*places, -1), strict=True)
            self._steps += [(tag, before, after, end) for tag, before, after in reversed(list(steps))]
            offset += 2 * len(places)
        # Head, up to when all is settled, progress as settled, progress as of now, matches that are not settled.
        self._settled = _AFTER_HEAD + 8
        self._now = self._settled + self._progress.size
        self._begin = self._now + self._progress.size

    def take(
        self, state: bytes, at: float, tags: Sequence[int], mark: Mark, floor: float
    ) -> tuple[bytes, Crossing | None]:
        """See `Window`; the tags are those of one event, which is one step of a chain and never two."""
        if len(state) == _AFTER_HEAD:
            state += state + self._nothing + self._nothing
        crossed, settled = _moments(state)
        if at <= crossed or at < settled:
            return state, None
        size, end = self._entry.size, len(state)
        mask = 1 << tags[0] if len(tags) == 1 else sum(1 << tag for tag in set(tags))
        entry = self._entry.pack(at, mark, mask)
        if end == self._begin or _moment(state, end - size)[0] <= at:
            progress = list(self._progress.unpack_from(state, self._now))
            for count, since, start in self._step(progress, at, mark, mask, b""):
                if at > crossed + self._span:
                    return self._anew(at, b""), Crossing(at, count, more=False, since=since, first=start, last=mark)
            state = b"".join((state[: self._now], self._progress.pack(*progress), state[self._begin :], entry))
        else:
            state, found = self._late(_put(state, at, entry, self._begin), at, crossed)
            if found is not None:
                return state, found
        oldest = _moment(state, self._begin)[0]
        if oldest < floor or len(state) > self._begin + MAX_RECENT * size:
            state = self._fold(state, floor)
        return state, None

    def last(self, state: bytes) -> float:
        """See `Window`."""
        return _newest(state, self._begin, self._entry.size)

    def _late(self, state: bytes, at: float, crossed: float) -> tuple[bytes, Crossing | None]:
        """Take all unsettled steps again, one of which came late and is in its place; return what `take` does."""
        size = self._entry.size
        progress = list(self._progress.unpack_from(state, self._settled))
        for offset in range(self._begin, len(state), size):
            end, last, seen = self._entry.unpack_from(state, offset)
            for count, since, start in self._step(progress, end, last, seen, state[offset + size :]):
                if end >= at and end > crossed + self._span:
                    rest = state[_first_after(state, end, size, begin=self._begin) :]
                    return self._anew(end, rest), Crossing(end, count, more=False, since=since, first=start, last=last)
        return state[: self._now] + self._progress.pack(*progress) + state[self._begin :], None

    def _step(
        self, progress: list[Any], end: float, mark: Mark, seen: int, later: bytes
    ) -> Sequence[tuple[int, float, Mark]]:
        """Let one event take each chain one step further; return the chains that it ends: length, start, its mark."""
        for tag, place in self._newest:
            if seen & tag:
                progress[place] = end
        ended: list[tuple[int, float, Mark]] = []
        moves = self._moves.get(seen)
        if moves is None:
            if len(self._moves) >= MAX_MOVES:
                self._moves.clear()
            moves = self._moves[seen] = [step[1:] for step in self._steps if seen & step[0]]
        for before, after, chain in moves:
            # A chain that has not begun starts at -inf.
            since, start = (progress[before], progress[before + 1]) if before >= 0 else (end, mark)
            if after >= 0:
                progress[after], progress[after + 1] = since, start
            elif since >= end - self._span and not self._spoilt(chain, progress, end, later):
                ended.append((chain.length, since, start))
        return ended

    def _spoilt(self, chain: "_End", progress: Sequence[Any], end: float, later: bytes) -> bool:
        """Whether a match that must be absent is in the window, or follows at the moment when it ends."""
        if not chain.spoiling:
            return False
        return any(progress[place] >= end - self._span for place in chain.spoilers) or any(
            moment == end and seen & chain.spoiling for moment, _, seen in self._entry.iter_unpack(later)
        )

    def _fold(self, state: bytes, floor: float) -> bytes:
        """Settle what is before the floor, or too much to be kept unsettled; the newest match stays."""
        size = self._entry.size
        progress = list(self._progress.unpack_from(state, self._settled))
        (settled,), offset = _moment(state, _AFTER_HEAD), self._begin
        while offset + size < len(state):
            end, mark, seen = self._entry.unpack_from(state, offset)
            if end >= floor and len(state) - offset <= MAX_RECENT * size:
                break
            self._step(progress, end, mark, seen, b"")
            settled, offset = end, offset + size
        begun = self._progress.pack(*progress)
        return state[:_AFTER_HEAD] + _head(settled) + begun + state[self._now : self._begin] + state[offset:]

    def _anew(self, end: float, rest: bytes) -> bytes:
        """Return the state after a crossing: only the matches behind it are left."""
        progress = list(self._progress.unpack(self._nothing))
        for moment, mark, seen in self._entry.iter_unpack(rest):
            self._step(progress, moment, mark, seen, b"")
        return _head(end) + _head(end) + self._nothing + self._progress.pack(*progress) + rest


# Matches in a state: entries of one size that begin with their time, oldest first


def _put(state: bytes, at: float, entry: bytes, begin: int = _AFTER_HEAD) -> bytes:
    """Return the state with an entry of this time behind all that are not later."""
    place, size = len(state), len(entry)
    while place > begin and _moment(state, place - size)[0] > at:
        place -= size
    return state + entry if place == len(state) else state[:place] + entry + state[place:]


def _kept(state: bytes, full: int, oldest: float, size: int) -> bytes:
    """Return the state without the matches that no window needs: those before `oldest`, and what is more than full."""
    cut = len(state) - full if len(state) > full else 0
    while _moment(state, _AFTER_HEAD + cut)[0] < oldest:
        cut += size
    return state[:_AFTER_HEAD] + state[_AFTER_HEAD + cut :] if cut else state


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


def _windows(state: bytes, at: float, size: int, span: float, silent: float) -> Iterable[tuple[float, int, int]]:
    """Return the windows that a match at this time is in and that end after the silence.

    That is when each ends, and where its matches begin and end.
    """
    if _moment(state, len(state) - size)[0] > at:
        return _later_windows(state, at, size, span, silent)
    if at <= silent:
        return ()
    return ((at, _first_at(state, at - span, size), len(state)),)


def _later_windows(state: bytes, at: float, size: int, span: float, silent: float) -> Iterator[tuple[float, int, int]]:
    place = _first_at(state, at, size)
    while place < len(state):
        (end,) = _moment(state, place)
        if end - span > at:
            return
        stop = place + size
        while stop < len(state) and _moment(state, stop)[0] == end:
            stop += size
        if end > silent:
            yield end, _first_at(state, end - span, size), stop
        place = stop


def _same(state: bytes, tag: bytes, before: int, size: int) -> int:
    """Return where the last match before an offset stands that ends in this tag, -1 where none does."""
    found = state.rfind(tag, _AFTER_HEAD, before)
    while found >= 0 and (found + len(tag) - _AFTER_HEAD) % size:
        found = state.rfind(tag, _AFTER_HEAD, found + len(tag) - 1)
    return found + len(tag) - size if found >= 0 else -1


def _newest(state: bytes, begin: int, size: int) -> float:
    moment: float = _moment(state, len(state) - size)[0] if len(state) >= begin + size else _moment(state)[0]
    return moment
