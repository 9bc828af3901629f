"""What an API server's metrics say about the pressure on it: lines of text to numbers between empty and full. Pure.

Only a few names are read of a page that may have a hundred thousand lines; what is no sample of them is skipped.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

STORAGE: Final = (
    "apiserver_storage_size_bytes",
    "apiserver_storage_db_total_size_in_bytes",
    "etcd_db_total_size_in_bytes",
)
"""Physical size: of each back end, then its older names, of which each member of one etcd reports its own."""
IN_USE: Final = "etcd_mvcc_db_total_size_in_use_in_bytes"
"""What is left once free pages are taken off; few servers show it."""
OBJECTS: Final = ("apiserver_resource_objects", "apiserver_storage_objects")
REJECTED: Final = "apiserver_flowcontrol_rejected_requests_total"
STARTED: Final = "process_start_time_seconds"
"""Tells one API server from another behind the same address."""
EVENTS: Final = "securityevents"
MAX_LINE: Final = 4096

_NAMES: Final = frozenset({*STORAGE, IN_USE, *OBJECTS, REJECTED, STARTED})
_SAMPLE: Final = re.compile(rb"([a-z_]+)(?:\{(.*)\})? ([0-9.eE+-]+)(?: [0-9]+)?")
_LABEL: Final = re.compile(rb'([a-z_]+)="((?:[^"\\]|\\.)*)"')


class Sample(NamedTuple):
    """One series."""

    name: str
    labels: dict[str, str]
    value: float


def samples(page: bytes) -> Iterator[Sample]:
    """Yield the series of the names that matter; values that are negative or no number are left out."""
    for line in page.split(b"\n"):
        if len(line) > MAX_LINE or not line.startswith((b"apiserver_", b"etcd_", b"process_start")):
            continue
        found = _SAMPLE.fullmatch(line.rstrip(b"\r"))
        if found is None or (name := found[1].decode()) not in _NAMES:
            continue
        try:
            value = float(found[3])
        except ValueError:
            continue
        if math.isfinite(value) and value >= 0:
            labels = {key.decode(): text.decode(errors="replace") for key, text in _LABEL.findall(found[2] or b"")}
            yield Sample(name, labels, value)


class Page(NamedTuple):
    """One look at a server."""

    used: int | None
    """Bytes of the fullest back end; None when the server does not say."""
    events: int | None
    """Security events stored."""
    rejected: float
    """Requests rejected since the server started."""
    server: float
    """When it started: which one it is."""


def look(found: Iterable[Sample]) -> Page:
    """Return what a page says: the fullest of several back ends, never their sum."""
    by_name: dict[str, list[Sample]] = {}
    for sample in found:
        by_name.setdefault(sample.name, []).append(sample)
    sized = next((name for name in (IN_USE, *STORAGE) if name in by_name), None)
    used = int(max(sample.value for sample in by_name[sized])) if sized is not None else None
    counted = [
        sample.value
        for name in OBJECTS
        for sample in by_name.get(name, ())
        if sample.labels.get("resource", "").partition(".")[0] == EVENTS
    ]
    return Page(
        used=used,
        events=int(max(counted)) if counted else None,
        rejected=sum(sample.value for sample in by_name.get(REJECTED, ())),
        server=max((sample.value for sample in by_name.get(STARTED, ())), default=0.0),
    )
