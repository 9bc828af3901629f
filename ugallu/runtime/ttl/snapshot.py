"""The copy of an object that is kept when the object goes: its bytes, and its key in the evidence store. Pure.

JSON with sorted keys, which every YAML reader reads. Left out is what the copying itself changes: the object's version,
ttl's own annotations, and the phase of an event: it is Attested before and Archived after.
"""

import datetime as dt
from typing import Final

import msgspec

from ugallu.api.event import SecurityEvent
from ugallu.evidence.canonical import digest
from ugallu.evidence.seal import place_of
from ugallu.runtime.ttl.marks import Whole
from ugallu.runtime.ttl.notes import BOOKKEEPING

MEDIA_TYPE: Final = "application/vnd.k8s.cr+yaml"
FOLDER: Final = "cr-snapshots"
_ARCHIVING: Final = ("phase", "archivedAt")


def snapshot(item: Whole) -> bytes:
    """Return the bytes to keep of an object; the same before and after it is said to be archived."""
    metadata = msgspec.to_builtins(item.metadata)
    for left_out in ("resourceVersion", "generation"):
        metadata.pop(left_out, None)
    annotations = {key: text for key, text in item.metadata.annotations.items() if key not in BOOKKEEPING}
    metadata.pop("annotations", None)
    if annotations:
        metadata["annotations"] = annotations
    kind = type(item).kind_info
    document = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": metadata}
    if item.spec is not None:
        document["spec"] = item.spec
    status = item.status
    if kind == SecurityEvent.kind_info and isinstance(status, dict):
        status = {key: value for key, value in status.items() if key not in _ARCHIVING}
    if status:
        document["status"] = status
    return msgspec.json.encode(document, order="sorted") + b"\n"


def key_of(item: Whole, cluster_id: str, content: bytes, *, again: bool = False) -> str:
    """Return where the copy is kept; `again`: beside an earlier copy of the same object that differs."""
    born = item.metadata.creation_timestamp or dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    suffix = f"-{digest(content).removeprefix('sha256:')[:12]}" if again else ""
    return f"{FOLDER}/{place_of(cluster_id)}/{born.astimezone(dt.UTC):%Y/%m}/{item.metadata.uid}{suffix}.yaml"
