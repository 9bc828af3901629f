"""Columns of text, as kubectl lays them out, and its way of writing an age."""

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Final

from ugallu.cli.markup import printable

GAP: Final = 3


def rows(lines: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines with their columns aligned, three blanks apart; no trailing blanks."""
    cells = [[_one_line(cell) for cell in line] for line in lines]
    widths = [max(len(cell) for cell in column) + GAP for column in zip(*cells, strict=True)]
    return ["".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def age(since: dt.datetime | None, now: dt.datetime) -> str:
    """Return a duration in two units at most, coarser the longer it is (`HumanDuration` of apimachinery)."""
    if since is None:
        return "<unknown>"
    seconds = int((now - since).total_seconds())
    if seconds < 0:
        return "0s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    if days < 730:
        return f"{days}d"
    return f"{days // 365}y{days % 365}d" if days < 8 * 365 else f"{days // 365}y"


def _one_line(cell: str) -> str:
    return printable(cell).replace("\n", "\\n")
