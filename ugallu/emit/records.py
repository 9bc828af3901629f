"""What the outbox's journal holds: findings ready to become events, and everything else that decides about them.

Whatever could make a second run decide otherwise (the end of a stream, a create that failed for good, a change of
level) is a record too: decisions then depend on the journal alone. MessagePack, one tagged Struct a record.
"""

import datetime as dt

import msgspec

from ugallu.api.event import ClusterIdentity, SecurityEventSpec, SourceRef
from ugallu.api.observation import Checkpoint
from ugallu.errors import PermanentError


class Submitted(msgspec.Struct, frozen=True, tag_field="_", tag="f", omit_defaults=True):
    """A finding that passed every check. `fold` is what equal findings share; `at` the wall time in Unix seconds."""

    name: str
    fold: bytes
    component: str
    spec: SecurityEventSpec
    at: float
    stream: str = ""
    """The source whose time this finding follows."""
    experimental: bool = False


class Refused(msgspec.Struct, frozen=True, tag_field="_", tag="r", omit_defaults=True):
    """Findings that broke a rule, or (`observations`) things seen that never reached a detector; `counts` by type."""

    component: str
    reason: str
    counts: dict[str, int]
    at: dt.datetime
    source: SourceRef
    cluster: ClusterIdentity
    observations: bool = False


class Mark(msgspec.Struct, frozen=True, tag_field="_", tag="m", omit_defaults=True):
    """How far a subscriber has come, and how many findings stand before this record in the same append."""

    checkpoint: Checkpoint
    findings: int = 0


class Settled(msgspec.Struct, frozen=True, tag_field="_", tag="s", omit_defaults=True):
    """An event that will never be created: `item` is its id, `reason` why."""

    item: int
    name: str
    type: str
    reason: str
    component: str
    at: dt.datetime
    source: SourceRef
    cluster: ClusterIdentity
    what: str = ""
    summary: bool = False
    report: bool = False


class Closed(msgspec.Struct, frozen=True, tag_field="_", tag="c", omit_defaults=True):
    """No more will come for windows last touched up to this sequence number (0: for any), nor for open `reports`."""

    upto: int = 0
    reports: bool = True


class Pressed(msgspec.Struct, frozen=True, tag_field="_", tag="p"):
    """The backpressure level changed."""

    level: str


Entry = Submitted | Refused | Mark | Settled | Closed | Pressed

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Entry] = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """Return the record's bytes. A text that is no valid Unicode raises `UnicodeEncodeError`."""
    return _encoder.encode(entry)


def decode(data: bytes, seq: int) -> Entry:
    """Return the record, or raise `PermanentError` naming it."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PermanentError(
            f"not a record of this version: {error}", where=f"journal record {seq}", fix="was the journal downgraded?"
        ) from error
