"""Where a reader stands in a log that rotates, as it travels in `Batch.resume`."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ugallu.errors import PermanentError
from ugallu.sources.rotation import Sibling
from ugallu.sources.streams import PREFIX_BYTES, PlainFile, prefix_of


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Behind the last line that is accounted for. A log is known by its first bytes; by its inode while it has none."""

    file: int = 0
    """Which of the files of a replay, from 0."""
    device: int = 0
    inode: int = 0
    offset: int = 0
    """Start of the first line not yet accounted for, in plain bytes; items of that line, an EventList, may be."""
    skip: int = 0
    prefix: int = 0
    digest: str = ""
    behind: str = ""
    """Key of the newest rotated file that is older than this log."""
    documents: bool = False
    """This file's documents span lines."""


class Resume(msgspec.Struct, frozen=True):
    """All that a new process needs to go on as if there had been no old one."""

    next: int
    place: Place
    counts: dict[str, int]
    version: int = 1


_decoder = msgspec.json.Decoder(Resume)
_encoder = msgspec.json.Encoder()


def encode(resume: Resume) -> bytes:
    """Return the opaque bytes of `Batch.resume`."""
    return _encoder.encode(resume)


def decode(data: bytes, source: str) -> Resume:
    """Read them again. Raises `PermanentError` for bytes of another source or version."""
    try:
        resume = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise PermanentError(
            f"the checkpoint cannot be read: {error}", where=source, fix="use a new --state"
        ) from error
    if resume.version != 1:
        raise PermanentError(
            f"the checkpoint has version {resume.version}, not 1", where=source, fix="run the version that wrote it"
        )
    return resume


def digest_of(prefix: bytes) -> str:
    """Name a log by its first bytes."""
    return hashlib.sha256(prefix).hexdigest()[:32] if prefix else ""


def is_at(place: Place, prefix: bytes) -> bool:
    """Tell whether a log that begins with `prefix` (cut to `place.prefix`) is the one of this place."""
    return len(prefix) == place.prefix and digest_of(prefix) == place.digest


def prefix_length(offset: int) -> int:
    """Return how many first bytes can name a log that is read up to `offset`: only those no longer change."""
    return min(PREFIX_BYTES, offset)


def known(place: Place) -> bool:
    """Tell whether something of a certain log is accounted for; at its start, only what lies behind matters."""
    return bool(place.offset or place.skip)


def stands_in(place: Place, log: PlainFile) -> bool:
    """Tell whether the open log is the one of this place, neither cut nor replaced."""
    status = log.status()
    if status.st_size < place.offset:
        return False
    if place.prefix:
        return is_at(place, log.head(place.prefix))
    return (status.st_dev, status.st_ino) == (place.device, place.inode)


def find(place: Place, older: Sequence[Sibling]) -> int | None:
    """Return the index of the rotated file that this place is in, None when it is gone.

    A rename keeps the inode; compression and copytruncate keep only the content.
    """
    same = [(s.device, s.inode) == (place.device, place.inode) for s in older]
    for index, sibling in enumerate(older):
        if same[index] and is_at(place, prefix_of(sibling.path, place.prefix)):
            return index
    if place.prefix:
        for index, sibling in enumerate(older):
            if not same[index] and is_at(place, prefix_of(sibling.path, place.prefix)):
                return index
    return None


def is_copy(sibling: Sibling, current: PlainFile) -> bool:
    """Tell whether a rotated file is the copy that copytruncate is just making: the log itself has it all."""
    head = current.head(PREFIX_BYTES)
    return bool(head) and head.startswith(prefix_of(sibling.path, len(head)))


def end_of(path: Path, behind: str) -> Place:
    """Return the place behind the last whole line of a plain log; at its start when there is no log yet."""
    try:
        log = PlainFile.open(path)
    except FileNotFoundError:
        return Place(behind=behind)
    try:
        status = log.status()
        offset = log.last_newline() + 1
        prefix = log.head(prefix_length(offset))
        return Place(
            device=status.st_dev,
            inode=status.st_ino,
            offset=offset,
            prefix=len(prefix),
            digest=digest_of(prefix),
            behind=behind,
        )
    finally:
        log.close()
