"""Keywords: values without a field, which any text of the event may hold.

A body may hold a million texts and a rule hundreds of keywords, so nobody asks each of each: one search over all texts,
joined, tells that most keywords are nowhere. What is then asked text by text is bounded for each event: a search that
runs out of room has found nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from ugallu_audit_detection.sigma.pattern import Pattern, TextTest, any_pattern, folded
from ugallu_audit_detection.sigma.values import body_of
from ugallu_audit_detection.sigma.view import RecordView

MAX_VALUES: Final = 1 << 21
"""JSON values of one event that are looked at; more than fit into the largest request that an API server takes."""
MAX_TEXT: Final = 4 << 20
"""Characters of one event that are searched."""
ROOM: Final = 400 << 20
"""Characters that all keywords together may search for one event: about half a second."""
_CALL: Final = 600
_EXPRESSION: Final = 2000
"""What a search costs however short its text, in characters: a plain one, and one by an expression."""


class Haystack:
    """All texts of one event."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        self._joined = ""
        self._folded: Haystack | None = None

    @property
    def joined(self) -> str:
        """All texts in one: what is not in here is in none of them, what is may also span two."""
        if not self._joined:
            self._joined = "\n".join(self.texts)
        return self._joined

    @property
    def folded(self) -> "Haystack":
        """The same without regard to case."""
        if self._folded is None:
            self._folded = Haystack([text.casefold() for text in self.texts])
        return self._folded


def haystack(view: RecordView) -> Haystack:
    """Return the event's texts, collected once for all rules."""
    if view.haystack is None:
        view.haystack = Haystack(_collected(view))
    return view.haystack


def any_keyword(patterns: Sequence[Pattern], *, fold: bool) -> Callable[[RecordView], bool]:
    """Return whether some text matches one of the patterns, each of which must begin and end with any run."""
    tests = [any_pattern([folded(pattern) if fold else pattern]) for pattern in patterns if not _plain(pattern)]
    if plain := [folded(pattern) if fold else pattern for pattern in patterns if _plain(pattern)]:
        tests.insert(0, any_pattern(plain))

    def holds(view: RecordView) -> bool:
        hay = haystack(view)
        if fold:
            hay = hay.folded
        return any(_spend(view, len(hay.joined)) and test(hay.joined) and _any(test, hay.texts, view) for test in tests)

    return holds


def any_text(test: TextTest) -> Callable[[RecordView], bool]:
    """Return whether some text passes the test, of which nothing is known for texts joined."""
    return lambda view: _any(test, haystack(view).texts, view, call=_EXPRESSION)


def _plain(pattern: Pattern) -> bool:
    return sum(isinstance(part, str) for part in pattern.parts) == 1 and len(pattern.parts) == 3


def _any(test: TextTest, texts: Sequence[str], view: RecordView, *, call: int = _CALL) -> bool:
    for text in texts:
        if not _spend(view, len(text), call):
            return False
        if test(text):
            return True
    return False


def _spend(view: RecordView, length: int, call: int = _CALL) -> bool:
    if view.searched > ROOM:
        return False
    view.searched += length + call
    return True


def _collected(view: RecordView) -> list[str]:
    """Every text in the record, values not keys; those that the API server itself wrote come first."""
    record, ref = view.record, view.ref
    pending: list[Any] = [
        body_of(raw)[1]
        for raw in (
            record.response_object,
            record.request_object,
            record.authentication_metadata,
            record.annotations,
            record.response_status,
            record.source_ips,
            record.impersonated_user,
            record.user,
        )
        if raw
    ]
    pending += [getattr(ref, name) for name in ref.__struct_fields__]
    pending += [
        record.stage_timestamp, record.request_received_timestamp, record.user_agent, record.request_uri,
        record.audit_id, record.level, record.stage, record.verb,
    ]  # fmt: skip
    texts: list[str] = []
    room = MAX_TEXT
    budget = MAX_VALUES
    while pending and budget and room > 0:
        budget -= 1
        value = pending.pop()
        if isinstance(value, str):
            if value:
                texts.append(value[:room])
                room -= len(value)
        elif isinstance(value, list):
            pending.extend(reversed(value))
        elif isinstance(value, dict):
            pending.extend(reversed(value.values()))
    return texts
