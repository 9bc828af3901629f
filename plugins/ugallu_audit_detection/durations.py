"""Durations as people write them on this API: Go's form, plus days and weeks."""

import re
from typing import Final

from ugallu.sdk import PermanentError

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86_400.0,
    "w": 604_800.0,
}
_piece = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h|d|w)", re.ASCII)


def seconds_of(text: str, *, where: str) -> float:
    """Return the seconds in `1h30m`; empty is 0. Raises `PermanentError` for anything else."""
    at, total = 0, 0.0
    while at < len(text):
        found = _piece.match(text, at)
        if found is None:
            raise PermanentError(f"{text!r} is no duration", where=where, fix="write 90s, 10m or 1h30m")
        total += float(found.group(1)) * _UNITS[found.group(2)]
        at = found.end()
    return total
