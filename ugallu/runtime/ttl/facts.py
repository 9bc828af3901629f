"""From an object, and who belongs to it, to the facts by which its end is judged. Pure but for the cache."""

import datetime as dt
from typing import Final

from ugallu.api.bundle import BundlePhase
from ugallu.api.catalog import Severity
from ugallu.api.event import EventPhase
from ugallu.api.meta import Resource
from ugallu.api.response import ResponsePhase
from ugallu.api.run import RunPhase
from ugallu.runtime.ttl import notes
from ugallu.runtime.ttl.expiry import Facts, Seal
from ugallu.runtime.ttl.family import Families
from ugallu.runtime.ttl.marks import RESULT_OF, Bundle, Event, Response, Result, Run
from ugallu.runtime.ttl.windows import Windows

_OVER: Final = frozenset({ResponsePhase.SUCCEEDED, ResponsePhase.FAILED, ResponsePhase.CANCELLED})
_DONE: Final = frozenset({RunPhase.SUCCEEDED, RunPhase.FAILED})


def facts(item: Resource, families: Families, windows: Windows, now: dt.datetime, held: str) -> Facts:
    """Return the facts about an object; `now` stands for a time that nobody wrote down, `held` is whose hold it is."""
    if isinstance(item, Event):
        return _event(item, families, windows, now, held)
    if isinstance(item, Response):
        return _response(item, families, windows, now, held)
    if isinstance(item, Bundle):
        return _bundle(item, families, windows, now, held)
    if isinstance(item, Run):
        return _run(item, windows, now, held)
    assert isinstance(item, Result)
    return _result(item, families, windows, now, held)


def _event(event: Event, families: Families, windows: Windows, now: dt.datetime, held: str) -> Facts:
    # What an event says of itself is no proof; it says whether looking for one is worth while.
    said = event.status.phase in (EventPhase.ATTESTED, EventPhase.ARCHIVED)
    return Facts(
        begins=_born(event, now),
        window=windows.event(event.spec.severity),
        notes=notes.read(event.metadata.annotations),
        seal=Seal.SEALED if said or _sealed(families, event.metadata.uid) else Seal.NONE,
        held_by=held,
    )


def _response(response: Response, families: Families, windows: Windows, now: dt.datetime, held: str) -> Facts:
    window = windows.responses
    if window is None:
        window = windows.event(severity_of(response, families))
    return Facts(
        begins=_born(response, now),
        window=window,
        notes=notes.read(response.metadata.annotations),
        seal=Seal.SEALED if _sealed(families, response.metadata.uid) else Seal.NONE,
        finished=response.status.phase in _OVER,
        held_by=held,
    )


def severity_of(response: Response, families: Families) -> Severity | None:
    """Return the severity of the event that is answered, from what was noted of it once it is gone."""
    event = families.event(response.spec.security_event_ref.uid)
    if event is not None:
        return event.spec.severity
    try:
        return Severity(response.metadata.annotations.get(notes.PARENT_SEVERITY, ""))
    except ValueError:
        return None


def _bundle(bundle: Bundle, families: Families, windows: Windows, now: dt.datetime, held: str) -> Facts:
    ended = notes.moment(bundle.metadata.annotations.get(notes.PARENT_ENDED, ""))
    sealed_at = bundle.status.sealed_at or _born(bundle, now)
    parent = parent_of(bundle, families)
    return Facts(
        begins=max(sealed_at, ended or now),
        window=windows.grace,
        notes=notes.read(bundle.metadata.annotations),
        seal=Seal.SEALED if bundle.status.phase is BundlePhase.SEALED else Seal.NONE,
        held_by=held,
        parent="" if parent is None else f"{parent.kind_info.name}/{parent.metadata.name}",
    )


def parent_of(bundle: Bundle, families: Families) -> Resource | None:
    """Return what a bundle attests, if it is still there."""
    uid = bundle.spec.attested_for.uid
    return families.event(uid) or families.response(uid)


def _run(run: Run, windows: Windows, now: dt.datetime, held: str) -> Facts:
    return Facts(
        begins=run.status.completion_time or _born(run, now),
        window=windows.runs[run.kind_info.name],
        notes=notes.read(run.metadata.annotations),
        finished=run.status.phase in _DONE,
        held_by=held,
    )


def _result(result: Result, families: Families, windows: Windows, now: dt.datetime, held: str) -> Facts:
    """A result goes with its run: by the run's time, and by what is written on the run if nothing is on itself."""
    run = families.run_of(result)
    kind = next(kind for kind, made in RESULT_OF.items() if made is not None and isinstance(result, made))
    own = notes.read(result.metadata.annotations)
    window = windows.runs[kind.kind_info.name]
    if run is None:
        return Facts(begins=_born(result, now), window=window, notes=own, held_by=held)
    asked = notes.read(run.metadata.annotations).ttl
    return Facts(
        begins=run.status.completion_time or _born(result, now),
        window=window if asked is None else asked,
        notes=own,
        finished=run.status.phase in _DONE,
        held_by=held,
    )


def _sealed(families: Families, uid: str) -> bool:
    return any(bundle.status.phase is BundlePhase.SEALED for bundle in families.bundles_of(uid))


def _born(item: Resource, now: dt.datetime) -> dt.datetime:
    return item.metadata.creation_timestamp or now
