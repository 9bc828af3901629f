"""Segment bytes: whole batches or none, and no flipped byte unnoticed."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugallu.errors import PermanentError
from ugallu.journal.frames import (
    HEADER_BYTES,
    Header,
    Survey,
    Verdict,
    decode_header,
    encode_frame,
    encode_header,
    frame_at,
    judge,
    records_of,
    survey,
)

BATCHES = [[b"a"], [b"bb", b"", b"ccc"], [b"d" * 50], [b"\xf5UG\xff" * 3], [b"e", b"f"]]


def segment(batches: list[list[bytes]], first: int = 1) -> bytes:
    data = encode_header(Header(first, 1.5))
    for batch in batches:
        data += encode_frame(first, batch, first - 1)
        first += len(batch)
    return data


def contents(data: bytes, found: Survey | Verdict) -> list[list[bytes]]:
    return [[record.data for record in records_of(data, frame, 0, 1000)] for frame in found.frames]


def test_round_trip() -> None:
    """What was encoded is found again, without holes."""
    data = segment(BATCHES)
    found = survey(data)
    assert decode_header(data) == Header(1, 1.5)
    assert contents(data, found) == BATCHES
    assert not found.holes


def test_another_version() -> None:
    """A segment of a later format is refused with a word on what to do, not taken for damage."""
    import zlib

    plain = b"UGJOURN\n" + (2).to_bytes(4, "little") + bytes(16)
    with pytest.raises(PermanentError, match="format 2"):
        decode_header(plain + zlib.crc32(plain).to_bytes(4, "little"))


def test_every_prefix() -> None:
    """Cut anywhere, a last segment yields a prefix of its batches, each whole, and the cut is at a batch's end."""
    data = segment(BATCHES)
    ends = [frame.end for frame in survey(data).frames]
    for cut in range(HEADER_BYTES, len(data) + 1):
        short = data[:cut]
        verdict = judge(survey(short), cut, 1, None)
        whole = sum(end <= cut for end in ends)
        assert contents(short, verdict) == BATCHES[:whole]
        assert verdict.end == ([HEADER_BYTES, *ends][whole])
        assert verdict.torn == cut - verdict.end
        assert not verdict.damage
        assert not verdict.missing


@pytest.mark.parametrize("following", [None, 1 + sum(map(len, BATCHES))], ids=["last", "sealed"])
def test_every_flipped_byte(following: int | None) -> None:
    """A flipped byte costs the batch it is in and no other; it is told as damage, or as a torn tail in the last one."""
    data = segment(BATCHES)
    frames = survey(data).frames
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 0x40
        if at < HEADER_BYTES:
            assert decode_header(bytes(bad)) is None
            continue
        hit = next(index for index, frame in enumerate(frames) if frame.start <= at < frame.end)
        verdict = judge(survey(bytes(bad)), len(bad), 1, following)
        assert contents(bytes(bad), verdict) == BATCHES[:hit] + BATCHES[hit + 1 :]
        if following is None and hit == len(frames) - 1:
            assert verdict.torn == frames[hit].end - frames[hit].start
        else:
            assert verdict.missing == len(BATCHES[hit])
            assert len(verdict.damage) == 1


def test_torn_group() -> None:
    """Of batches that shared a write that never ended, none that follows a torn one counts: nobody was told of it."""
    data = segment(BATCHES[:2])
    settled = 4
    group = [encode_frame(5, [b"x" * 40], settled), encode_frame(6, [b"y"], settled)]
    torn = data + group[0][:-20] + b"\0" * 20 + group[1]
    verdict = judge(survey(torn), len(torn), 1, None)
    assert contents(torn, verdict) == BATCHES[:2]
    assert verdict.end == len(data)
    assert verdict.torn == len(torn) - len(data)


def test_abandoned_tail_is_void() -> None:
    """Frames that claim the numbers of the next segment do not count, and are no damage."""
    data = segment(BATCHES[:2]) + encode_frame(5, [b"refused"], 4) + b"\1\2\3"
    verdict = judge(survey(data), len(data), 1, 5)
    assert contents(data, verdict) == BATCHES[:2]
    assert not verdict.missing
    assert not verdict.damage


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 200), st.booleans())
def test_any_bytes(noise: bytes, at: int, last: bool) -> None:
    """Whatever the bytes are, reading them ends, and yields only frames whose checksum holds."""
    data = segment(BATCHES)
    data = data[: HEADER_BYTES + at] + noise + data[HEADER_BYTES + at :]
    verdict = judge(survey(data), len(data), 1, None if last else 9)
    for frame in verdict.frames:
        assert frame_at(data, frame.start) == frame
        records_of(data, frame, 0, 1000)


def test_hostile_magic_is_bounded() -> None:
    """A file made of frame beginnings that each claim the whole rest is given up in time, not after hours."""
    step = b"\xf5UG\xff" + os.urandom(4)
    data = bytearray(encode_header(Header(1, 0)))
    size = 2 << 20
    while len(data) < size:
        data += step + (size - len(data) - 100 if len(data) < size - 200 else 0).to_bytes(4, "little") + bytes(20)
    found = survey(bytes(data))
    assert not found.frames
