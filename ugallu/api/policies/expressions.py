"""Pieces that several policies share, as CEL text."""

from collections.abc import Iterable
from typing import Final

from ugallu.api.meta import GROUP, VERSION
from ugallu.api.policies.policy import Condition, Rule, Validation, Variable

WRITES: Final = ("CREATE", "UPDATE")

USER: Final = "request.userInfo.username"
SUBRESOURCE: Final = "request.?subResource.orValue('')"

NEW_SPEC: Final = Condition("spec-is-new", "request.operation == 'CREATE' || object.?spec != oldObject.?spec")
"""What was stored before a rule came may still be labelled and finalised."""
ALIVE: Final = Condition("not-being-deleted", "!has(object.metadata.deletionTimestamp)")
GUARDS: Final = (NEW_SPEC, ALIVE)


def ours(operations: Iterable[str], *resources: str) -> Rule:
    """Return a rule on resources of our own group."""
    return Rule(tuple(operations), resources, GROUP, VERSION)


def text(value: str) -> str:
    """Return a string literal."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def texts(values: Iterable[str]) -> str:
    """Return a list of string literals."""
    return f"[{', '.join(map(text, values))}]"


def words(values: Iterable[str]) -> str:
    """Return a text of words, which an engine holds where it would build a list anew for every object."""
    return text(f" {' '.join(values)} ")


def is_word(value: str, of: str) -> str:
    """Tell whether a string is one of the words of a text."""
    return f"{of}.contains(' ' + {value} + ' ') && !{value}.contains(' ')"


MAX_LIST: Final = 1024
"""Entries of a list that a policy looks through: either engine can, and nobody writes more by hand."""


def short(path: str, limit: int = MAX_LIST) -> Validation:
    """Refuse a list of the spec that is longer, before an engine gives up on it."""
    return Validation(
        f"size(variables.spec.?{path}.orValue([])) <= {limit}", f"spec.{path.replace('?', '')}: at most {limit} entries"
    )


def users(name: str, values: Iterable[str]) -> Variable:
    """Return a variable that lists users."""
    return Variable(name, texts(values))


_UNITS: Final = (("ns", 15), ("us", 12), ("\u00b5s", 12), ("\u03bcs", 12), ("ms", 9), ("s", 7), ("m", 6), ("h", 5))
"""Digits that a number of each unit may have: six such parts are below what a duration can hold."""
DURATION: Final = "^(" + "|".join(f"[0-9]{{1,{n}}}([.][0-9]{{1,9}})?{unit}" for unit, n in _UNITS) + "){1,6}$"


def is_duration(value: str) -> str:
    """Tell whether a string is a duration as we write it: `1h30m`, no sign, no days."""
    return f"{value}.matches({text(DURATION)})"


def duration(value: str) -> str:
    """Return the duration of a string that `is_duration`."""
    return f"duration({value}.replace('\u00b5', 'u').replace('\u03bc', 'u'))"


def within(value: str, limit: str) -> str:
    """Tell whether a string is a duration above zero and at most `limit`."""
    return f"{is_duration(value)} && {duration(value)} > duration('0s') && {duration(value)} <= duration('{limit}')"
