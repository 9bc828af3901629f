"""The bytes of a segment file: a header, then frames; pure functions from bytes to frames and back.

    header   8s magic · u32 version · u64 first · u64 created (µs since the epoch) · u32 checksum of what precedes
    frame    4s magic · u32 checksum of what follows · u32 length · u32 count · u64 first · u64 settled
             then `count` records, each u32 length and bytes: `length` bytes in all

Little endian. A frame is one atomic batch. `settled` is the last sequence number known durable when the frame was
written: it tells a torn tail (no later frame knew of it) from damage to what was acknowledged. The checksum is
`zlib.crc32`: in the standard library at more than 1 GB/s, and it misses no burst of up to 32 bits. The frame's magic
holds bytes that no UTF-8 text contains, so a record of text cannot look like a frame.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from ugallu.errors import PermanentError
from ugallu.journal.port import Record

VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sIQQI")
_HEADER_MAGIC: Final = b"UGJOURN\n"
_FRAME: Final = struct.Struct("<4sIIIQQ")
_REST: Final = struct.Struct("<IIQQ")
_FRAME_MAGIC: Final = b"\xf5UG\xff"
_LENGTH: Final = struct.Struct("<I")
_CHECKED: Final = 8
"""Where the checksummed part of a frame begins."""

HEADER_BYTES: Final = _HEADER.size
MAX_FRAME_BYTES: Final = 1 << 30
_SEARCH_FACTOR: Final = 8
"""A search for the next frame may checksum so many times the file's size: hostile bytes must not make it quadratic."""


class Header(NamedTuple):
    """What a segment says of itself: the first sequence number it may hold and when it was made, seconds."""

    first: int
    created: float


class Frame(NamedTuple):
    """Where a whole frame stands: records `first` to `following - 1` in bytes `start` to `end`."""

    first: int
    following: int
    settled: int
    start: int
    end: int


class Hole(NamedTuple):
    """Bytes that are no frame, and how many frames come before them."""

    start: int
    end: int
    position: int


class Survey(NamedTuple):
    """All whole frames of a segment in order, and what lies between and behind them."""

    frames: list[Frame]
    holes: list[Hole]


def encode_header(header: Header) -> bytes:
    """Return the first bytes of a segment."""
    plain = _HEADER.pack(_HEADER_MAGIC, VERSION, header.first, int(header.created * 1e6), 0)[: -_LENGTH.size]
    return plain + _LENGTH.pack(zlib.crc32(plain))


def decode_header(data: bytes) -> Header | None:
    """Read a header; None when it is torn or damaged. Raises `PermanentError` for another version."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version, first, created, checksum = _HEADER.unpack_from(data)
    if magic != _HEADER_MAGIC or zlib.crc32(data[: HEADER_BYTES - _LENGTH.size]) != checksum:
        return None
    if version != VERSION:
        raise PermanentError(
            f"journal format {version} is not {VERSION}",
            fix="run the version of ugallu that wrote it, or use a new --state",
        )
    return Header(first, created / 1e6)


def encode_frame(first: int, records: Sequence[bytes], settled: int) -> bytes:
    """Return one batch as a frame. Raises `PermanentError` when it is larger than any segment may be."""
    parts: list[bytes] = []
    for record in records:
        parts.append(_LENGTH.pack(len(record)))
        parts.append(record)
    payload = b"".join(parts)
    if len(payload) > MAX_FRAME_BYTES:
        raise PermanentError(f"a batch of {len(payload)} bytes is over {MAX_FRAME_BYTES}", fix="append smaller batches")
    rest = _REST.pack(len(payload), len(records), first, settled)
    checksum = zlib.crc32(payload, zlib.crc32(rest))
    return b"".join((_FRAME_MAGIC, _LENGTH.pack(checksum), rest, payload))


def frame_at(data: bytes | memoryview, start: int) -> Frame | None:
    """Return the frame that begins at `start`; None unless all of it is there and its checksum holds."""
    if start + _FRAME.size > len(data):
        return None
    magic, checksum, length, count, first, settled = _FRAME.unpack_from(data, start)
    end = start + _FRAME.size + length
    if magic != _FRAME_MAGIC or end > len(data) or count * _LENGTH.size > length:
        return None
    if zlib.crc32(memoryview(data)[start + _CHECKED : end]) != checksum:
        return None
    return Frame(first, first + count, settled, start, end)


def records_of(data: bytes, frame: Frame, after: int, limit: int) -> list[Record]:
    """Return up to `limit` records of a frame behind sequence number `after`; `frame` is relative to `data`."""
    found: list[Record] = []
    offset = frame.start + _FRAME.size
    for seq in range(frame.first, frame.following):
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        if seq > after:
            if len(found) == limit:
                break
            found.append(Record(seq, data[offset : offset + length]))
        offset += length
    return found


def survey(data: bytes) -> Survey:
    """Find every whole frame behind the header, however damaged the bytes between."""
    frames: list[Frame] = []
    holes: list[Hole] = []
    offset = HEADER_BYTES
    budget = _SEARCH_FACTOR * len(data)
    while offset < len(data):
        frame = frame_at(data, offset)
        if frame is not None and _adds_up(data, frame):
            frames.append(frame)
            offset = frame.end
            continue
        resume, budget = _next_frame(data, offset + 1, budget)
        holes.append(Hole(offset, resume, len(frames)))
        offset = resume
    return Survey(frames, holes)


def _next_frame(data: bytes, start: int, budget: int) -> tuple[int, int]:
    while budget > 0:
        start = data.find(_FRAME_MAGIC, start)
        if start < 0 or start + _FRAME.size > len(data):
            break
        (length,) = _LENGTH.unpack_from(data, start + _CHECKED)
        if start + _FRAME.size + length <= len(data):
            budget -= _FRAME.size + length
            frame = frame_at(data, start)
            if frame is not None and _adds_up(data, frame):
                return start, budget
        start += 1
    return len(data), budget


def _adds_up(data: bytes, frame: Frame) -> bool:
    """Tell whether the records fill the frame exactly; a valid checksum proves it only for frames of our own."""
    offset = frame.start + _FRAME.size
    for _ in range(frame.following - frame.first):
        if offset + _LENGTH.size > frame.end:
            return False
        offset += _LENGTH.size + int.from_bytes(data[offset : offset + _LENGTH.size], "little")
    return offset == frame.end


class Verdict(NamedTuple):
    """What a survey means: the frames that count, the holes that are damage, and how many records those cost.

    `end` is where the next frame belongs; bytes behind it were never acknowledged (`torn` of them).
    """

    frames: list[Frame]
    damage: list[Hole]
    missing: int
    end: int
    torn: int


def judge(found: Survey, size: int, first: int, following: int | None) -> Verdict:
    """Weigh a survey of a segment that begins with `first`.

    `following` is the first number of the next segment: what claims that number or a later one here was abandoned
    after a failed write. None for the last segment: its tail is torn from the first hole on that no later frame
    calls settled.
    """
    frames, holes, end = found.frames, found.holes, size
    if following is None:
        for hole in holes:
            before = frames[hole.position - 1] if hole.position else None
            expected = before.following if before else first
            if hole.position == len(frames) or frames[-1].settled < expected:
                frames, holes, end = frames[: hole.position], [h for h in holes if h.start < hole.start], hole.start
                break
    kept: list[Frame] = []
    numbers = [first]
    missing = 0
    expected = first
    for frame in frames:
        if following is not None and frame.following > following:
            numbers.append(following)
            continue
        if frame.first >= expected:
            missing += frame.first - expected
            expected = frame.following
            kept.append(frame)
        numbers.append(expected)
    if following is not None:
        missing += max(0, following - expected)
        holes = [hole for hole in holes if numbers[hole.position] < following]
    return Verdict(kept, holes, missing, end, size - end)
