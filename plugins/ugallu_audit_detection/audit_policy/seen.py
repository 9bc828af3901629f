"""What an API server audits, concluded from what it wrote, for whoever has no policy file at hand."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ugallu_audit_detection.arming import Armed
from ugallu_audit_detection.audit_policy.coverage import LEARNS, Coverage, Gap, Sort, Verdict, learned, needed, sorts
from ugallu_audit_detection.audit_policy.document import Level, level_named, rank, request_of
from ugallu_audit_detection.audit_policy.sight import Event, record_of

MAX_SORTS: Final = 20_000
"""Sorts of requests that are remembered: a client may invent resources."""


def seen(recording: Iterable[bytes]) -> dict[Sort, Level]:
    """Return the deepest level at which each sort of requests stands in a recording; a policy may show some less."""
    levels: dict[Sort, Level] = {}
    for line in recording:
        try:
            record = record_of(msgspec.json.decode(line, type=Event))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        request = request_of(record)
        sort = Sort(request.verb, request.group, request.resource, request.subresource)
        level = level_named(record.level)
        if rank(level) > rank(levels.get(sort, "None")) and (sort in levels or len(levels) < MAX_SORTS):
            levels[sort] = level
    return levels


def coverage_by(armed: Armed, levels: Mapping[Sort, Level]) -> Coverage:
    """Return what the recording lets one say of a rule; of what it shows nothing, nothing can be said."""
    need = needed(armed)
    about = [sort for sort in levels if _about(armed, sort)]
    gaps = tuple(
        Gap(str(sort), levels[sort], need.of(sort))
        for sort in sorted(about)
        if rank(levels[sort]) < rank(need.of(sort))
    )
    untaught = tuple(
        Gap(str(sort), levels[sort], LEARNS, learns=True)
        for sort in learned(armed)
        if sort in levels and rank(levels[sort]) < rank(LEARNS)
    )
    verdict: Verdict = "partly"
    if not about:
        verdict = "unseen"
    elif len(gaps) == len(about):
        verdict = "cannot"
    elif not gaps and not untaught:
        verdict = "can"
    return Coverage(armed.name, verdict, need.deepest(sorts(armed)), gaps + untaught, ())


def _about(armed: Armed, sort: Sort) -> bool:
    asked = armed.compiled.dispatch
    pairs = (
        (asked.verbs, sort.verb),
        (asked.groups, sort.group),
        (asked.resources, sort.resource),
        (asked.subresources, sort.subresource),
    )
    return all(wanted is None or value.casefold() in wanted for wanted, value in pairs)
