"""The picture of an incident: one lane a tactic, one dot an event, long silences folded to give bursts room."""

import datetime as dt
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ugallu.cli.markup import Html, join, tag, void
from ugallu.cli.report.story import Entry

WIDTH = 1080
LEFT = 168
RIGHT = 24
LANE = 34
TOP = 40
RADIUS = 7.5
OTHER = "No technique named"


class Axis(NamedTuple):
    """Where moments stand: `x` of each, ascending, and the folded silences as (x of the mark, seconds)."""

    at: dict[dt.datetime, float]
    folds: list[tuple[float, float]]


def axis(moments: Sequence[dt.datetime], width: float) -> Axis:
    """Spread moments over `width` at true distances, but draw a silence that dwarfs the rest short, and mark it."""
    ordered = sorted(set(moments))
    gaps = [(later - earlier).total_seconds() for earlier, later in pairwise(ordered)]
    longest = _fold_above(gaps)
    drawn = [min(gap, longest) for gap in gaps]
    total = sum(drawn) or 1.0
    at, folds, x = {}, [], 0.0
    for index, moment in enumerate(ordered):
        at[moment] = x * width / total if gaps else width / 2
        if index < len(gaps):
            if gaps[index] > longest:
                folds.append(((x + drawn[index] / 2) * width / total, gaps[index]))
            x += drawn[index]
    return Axis(at, folds)


def _fold_above(gaps: Sequence[float]) -> float:
    """Return the longest silence to draw at its true length."""
    kept = sorted(gaps)
    while len(kept) > 1 and kept[-1] > max(sum(kept[:-1]) / 4, 1.0) * 2:
        kept.pop()
    rest = sum(kept)
    return max(kept[-1], rest / 6) if kept else 1.0


def draw(entries: Sequence[Entry]) -> Html:
    """Return the picture as inline SVG."""
    lanes: dict[str, list[Entry]] = {}
    for entry in entries:
        tactic = next((known.tactic for known in entry.techniques if known.tactic), OTHER)
        lanes.setdefault(tactic, []).append(entry)
    if OTHER in lanes:
        lanes[OTHER] = lanes.pop(OTHER)
    spread = axis([entry.at for entry in entries], WIDTH - LEFT - RIGHT - 2 * RADIUS)
    height = TOP + LANE * len(lanes) + 8
    return tag(
        "svg",
        tag("title", f"{len(entries)} events by ATT&CK tactic and time"),
        _folds(spread, height),
        join(_lane(tactic, rows, index, spread) for index, (tactic, rows) in enumerate(lanes.items())),
        _times(spread),
        viewBox=f"0 0 {WIDTH} {height}",
        class_="timeline",
        role="img",
    )


def _lane(tactic: str, rows: Sequence[Entry], index: int, spread: Axis) -> Html:
    y = TOP + LANE * index + LANE / 2
    places: dict[float, list[Entry]] = {}
    for entry in rows:
        x = LEFT + RADIUS + spread.at[entry.at]
        near = next((other for other in places if abs(other - x) < RADIUS), x)
        places.setdefault(near, []).append(entry)
    dots = [_dot(together, x, y) for x, together in places.items()]
    return join(
        tag("text", tactic, x=str(LEFT - 14), y=_n(y + 4), class_="lane", text_anchor="end"),
        void("line", x1=str(LEFT), x2=str(WIDTH - RIGHT), y1=_n(y), y2=_n(y), class_="rail"),
        dots,
    )


def _dot(together: Sequence[Entry], x: float, y: float) -> Html:
    """One dot for what happened at one moment: the gravest gives the colour, the number stands inside."""
    gravest = max(together, key=lambda entry: entry.severity.rank)
    told = "\n".join(
        f"{e.at:%H:%M:%S} {e.event.spec.type} ({e.severity.value}): {e.actor} → {e.subject}" for e in together[:12]
    )
    radius = RADIUS + min(len(together) - 1, 4) * 0.8
    circle = tag("circle", tag("title", told), cx=_n(x), cy=_n(y), r=_n(radius), class_=f"dot {gravest.severity.value}")
    count = tag("text", str(len(together)), x=_n(x), y=_n(y + 3.7), class_="count", text_anchor="middle")
    return tag("a", circle, count if len(together) > 1 else None, href=f"#{gravest.event.metadata.name}")


def _folds(spread: Axis, height: float) -> Html:
    marks = []
    for x, seconds in spread.folds:
        middle = LEFT + RADIUS + x
        marks.append(
            join(
                void("line", x1=_n(middle), x2=_n(middle), y1=str(TOP - 10), y2=_n(height - 4), class_="fold"),
                tag("text", f"{span(seconds)} quiet", x=_n(middle), y="14", class_="quiet", text_anchor="middle"),
            )
        )
    return join(marks)


def _times(spread: Axis) -> Html:
    labels, last = [], -1e9
    for moment, x in spread.at.items():
        if x - last >= 68:
            labels.append(
                tag("text", f"{moment:%H:%M:%S}", x=_n(LEFT + RADIUS + x), y="30", class_="time", text_anchor="middle")
            )
            last = x
    return join(labels)


def span(seconds: float) -> str:
    """Return a length of time in the words of a person: `8 s`, `2 min 38 s`, `3 h 5 min`, `2 d`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d"


def _n(value: float) -> str:
    return f"{value:.1f}"
