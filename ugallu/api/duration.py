"""Durations of the API: Go's form (`1h30m`), which is also what is written; `d`, `w` and `y` are read as well.

A day has 24 hours and a year 365 days. No duration here is negative, and none is beyond what Go can hold (292 years).
"""

import re
from typing import Final

from ugallu.errors import PermanentError

_SECOND: Final = 10**9
_UNITS: Final = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # U+00B5, the micro sign
    "μs": 10**3,  # U+03BC, the letter, which Go reads too
    "ms": 10**6,
    "s": _SECOND,
    "m": 60 * _SECOND,
    "h": 3600 * _SECOND,
    "d": 86_400 * _SECOND,
    "w": 7 * 86_400 * _SECOND,
    "y": 365 * 86_400 * _SECOND,
}
_GREATEST: Final = 2**63 - 1
_MAX_TEXT: Final = 128
_piece = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h|d|w|y)", re.ASCII)


def nanoseconds_of(text: str, *, where: str = "") -> int:
    """Return the nanoseconds of a duration. Raises `PermanentError` for what is none, negative or too long."""
    rest = text.removeprefix("+")
    if rest == "0":
        return 0
    at, total = 0, 0
    while at < len(rest) <= _MAX_TEXT and (found := _piece.match(rest, at)) is not None:
        whole, _, fraction = found[1].partition(".")
        total += int(whole or 0) * _UNITS[found[2]] + int(fraction or 0) * _UNITS[found[2]] // 10 ** len(fraction)
        at = found.end()
    if not rest or at < len(rest):
        sign = ", and none may be negative" if text.startswith("-") else ""
        raise PermanentError(f"{text[:_MAX_TEXT]!r} is no duration{sign}", where=where, fix="write 90s, 10m or 1h30m")
    if total > _GREATEST:
        raise PermanentError(f"{text!r} is too long", where=where, fix="at most 292 years can be written")
    return total


def seconds_of(text: str, *, where: str = "", default: float = 0.0) -> float:
    """Return the seconds of a duration, `default` for an empty one; see `nanoseconds_of`."""
    return nanoseconds_of(text, where=where) / _SECOND if text else default


def duration_of(nanoseconds: int) -> str:
    """Return a duration as Go writes it: `1h30m0s`, `1.5s`, `2ms`, `0s`."""
    if not 0 <= nanoseconds <= _GREATEST:
        raise PermanentError(f"{nanoseconds} ns is no duration", fix="from 0 to 2^63 - 1")
    if nanoseconds < _SECOND:
        unit = next((unit for unit in ("ms", "µs", "ns") if nanoseconds >= _UNITS[unit]), "s")
        return f"{_decimal(nanoseconds, _UNITS[unit])}{unit}"
    minutes, rest = divmod(nanoseconds, _UNITS["m"])
    hours, minutes = divmod(minutes, 60)
    seconds = f"{_decimal(rest, _SECOND)}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    places = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{places}" if places else str(whole)
